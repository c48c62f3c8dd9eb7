"""The atoms of a certificate: points and weights, as dyadic rationals, that have exactly the moments of q."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from flint import arb, fmpq, fmpq_mat

from fenchel.arrays import Array
from fenchel.certificates.contacts import on_jumps
from fenchel.checker.loss import Loss as Exact
from fenchel.checker.numbers import above, exacts
from fenchel.errors import CertificateError
from fenchel.losses import Loss
from fenchel.losses.exact_text import hexes
from fenchel.moments.atoms import moment_error, repair_by_moving
from fenchel.moments.moment_frame import MomentFrame
from fenchel.results import BiconjugateResult

Points = list[tuple[fmpq_mat, fmpq]]


def exact_atoms(known: Exact, cov: fmpq_mat, frame: MomentFrame, result: BiconjugateResult, loss: Loss) -> Any:
    """ "atoms" and "weights" of the certificate: as they are, or moved so that their moments fit better; the better."""
    if result.atoms.shape[0] == 0:
        raise CertificateError("the worst case is not attained, so that there are no atoms to certify the upper end")
    keep = result.weights > 0.0
    theta, weights = result.atoms[keep], result.weights[keep]
    x = frame.to_white(theta)
    choices: list[tuple[Any, Array, float]] = [(on_jumps(loss, theta), weights, moment_error(frame, x, weights))]
    moved = repair_by_moving(frame, x, weights)
    if moved is not None:
        choices.append((_placed(frame, moved[0]), moved[1], moment_error(frame, *moved)))
    best: tuple[float, Points] | None = None
    for atoms, mass, residual in choices:
        points = [
            (exacts(hexes(atom), frame.dim), exacts(hexes([w]), 1)[0, 0]) for atom, w in zip(atoms, mass, strict=True)
        ]
        for more in (1.0, 64.0, 4096.0):
            share = 2.0 ** np.ceil(np.log2(16.0 * frame.dim * (residual + 1e-17) * more))
            if share > 1e-3:
                break
            found = _corrected(points, frame, cov, fmpq(*float(share).as_integer_ratio()))
            if found is None:
                continue
            value = above(-sum((arb(w) * known.value(p) for p, w in found), arb(0)))
            if best is None or value < best[0]:
                best = value, found
            break
    if best is None:
        raise CertificateError("the atoms' moments could not be made exact")
    return {"atoms": [[str(t) for t in p.entries()] for p, _ in best[1]], "weights": [str(w) for _, w in best[1]]}


def _placed(frame: MomentFrame, x: Array) -> list[list[Fraction]]:
    """mean + factor x, exactly."""
    rows = [[Fraction(float(f)) for f in row] for row in frame.factor]
    mean = [Fraction(float(m)) for m in frame.mean]
    out = []
    for point in x:
        exact_point = [Fraction(float(p)) for p in point]
        out.append(
            [
                m + sum((f * p for f, p in zip(r, exact_point, strict=True)), Fraction(0))
                for m, r in zip(mean, rows, strict=True)
            ]
        )
    return out


def _corrected(points: Points, frame: MomentFrame, cov: fmpq_mat, share: fmpq) -> Points | None:
    """The points with 1 - share of the mass, and points around the mean that mend the moments; None where they cannot.

    In coordinates z, theta = mean + F z, with F dyadic and its inverse too, what is left of the covariance is nearly
    diagonal: M. Points +-(e_i + e_j) or +-(e_i - e_j) carry its other entries, +-a e_i the diagonal and the mean.
    """
    n = range(frame.dim)
    mean = exacts(hexes(frame.mean), frame.dim)
    out = [(point, w * (1 - share)) for point, w in points]
    mass, first, second = fmpq(1), fmpq_mat(frame.dim, 1), cov
    for point, w in out:
        step = point - mean
        mass, first, second = mass - w, first - w * step, second - w * step * step.transpose()
    F, inverse = _dyadic(frame)
    first, M = inverse * first, inverse * second * inverse.transpose()
    if frame.structure == "isotropic":
        even = sum((M[i, i] for i in n), fmpq(0)) / frame.dim
        M = fmpq_mat(frame.dim, frame.dim, [even * int(i == j) for i in n for j in n])
    extra: Points = []
    far = 2 ** int(np.ceil(np.log2(2.0 * np.sqrt(frame.dim))))
    for i in n:
        diagonal = M[i, i]
        for j in n if frame.structure == "full" else ():
            size, sign = abs(M[i, j]), 1 if M[i, j] > 0 else -1
            diagonal -= size if j != i else 0
            if j < i and size > 0:
                for way in (1, -1):
                    extra.append((fmpq_mat(frame.dim, 1, [way * ((k == i) + sign * (k == j)) for k in n]), size / 2))
        for way in (far, -far):
            weight = (diagonal / far + first[i, 0] * (1 if way > 0 else -1)) / (2 * far)
            extra.append((fmpq_mat(frame.dim, 1, [way * (k == i) for k in n]), weight))
    extra.append((fmpq_mat(frame.dim, 1), mass - sum((w for _, w in extra), fmpq(0))))
    if any(w < 0 for _, w in extra):
        return None
    return out + [(mean + F * z, w) for z, w in extra if w != 0]


def _dyadic(frame: MomentFrame) -> tuple[fmpq_mat, fmpq_mat]:
    """F near the frame's factor, of unit lower triangular form times powers of two, and its inverse."""
    scale = np.diag(frame.factor)
    unit = exacts(hexes(np.tril(frame.factor / scale, -1) + np.eye(frame.dim)), frame.dim, frame.dim)
    powers = np.diag(2.0 ** np.round(np.log2(scale)))
    F = unit * exacts(hexes(powers), frame.dim, frame.dim)
    return F, F.inv()
