"""The atoms of a certificate, and the correction that makes their moments exact."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from fenchel.certificates.contacts import on_jumps
from fenchel.checker.majorant import Loss as Exact
from fenchel.checker.moments import Moments
from fenchel.checker.numbers import Refused, above
from fenchel.errors import CertificateError
from fenchel.losses import Loss
from fenchel.losses.exact_text import hexes
from fenchel.moments.atoms import moment_error, repair_by_moving
from fenchel.moments.moment_frame import MomentFrame
from fenchel.results import BiconjugateResult

__all__ = ["upper_proof"]

Array = NDArray[np.float64]


def upper_proof(
    known: Exact, moments: Moments, frame: MomentFrame, result: BiconjugateResult, loss: Loss
) -> dict[str, Any]:
    """Atoms, weights and the correction of their moments: as they are, or moved so that their moments fit better."""
    if result.atoms.shape[0] == 0:
        raise CertificateError("the worst case is not attained, so that there are no atoms to certify the upper end")
    keep = result.weights > 0.0
    theta, weights = result.atoms[keep], result.weights[keep]
    x = frame.to_white(theta)
    choices: list[tuple[Any, Array, float]] = [(on_jumps(loss, theta), weights, moment_error(frame, x, weights))]
    moved = repair_by_moving(frame, x, weights)
    if moved is not None:
        choices.append((_placed(frame, moved[0]), moved[1], moment_error(frame, *moved)))
    best: tuple[float, dict[str, Any]] | None = None
    for atoms, mass, residual in choices:
        record = {"atoms": hexes(atoms), "weights": hexes(mass)}
        for more in (1.0, 64.0, 4096.0):
            share = 2.0 ** np.ceil(np.log2(16.0 * frame.dim * (residual + 1e-17) * more))
            if share > 1e-3:
                break
            correction = {"share": hexes(share), "spread": hexes(frame.factor)}
            try:
                points, exact_mass = moments.corrected(record["atoms"], record["weights"], correction)
            except Refused:
                continue
            terms = (arb(w) * known.value(p) for p, w in zip(points, exact_mass, strict=True) if w != 0)
            value = above(-sum(terms, arb(0)))
            if best is None or value < best[0]:
                best = value, record | {"proof": {"upper": correction}}
            break
    if best is None:
        raise CertificateError("the atoms' moments could not be made exact")
    return best[1]


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
