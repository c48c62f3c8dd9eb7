"""Certificates of results: the majorant and the atoms as exact numbers, and a proof that the checker accepts."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from flint import arb, ctx, fmpq
from numpy.typing import NDArray
from scipy.optimize import nnls

from fenchel.certificates.boxes import Open, grow
from fenchel.certificates.record import Certificate
from fenchel.checker import VERSION, check_record
from fenchel.checker.majorant import Excess
from fenchel.checker.majorant import Loss as Exact
from fenchel.checker.moments import Moments
from fenchel.checker.numbers import Refused, above, balls, exact, exacts
from fenchel.errors import CertificateError
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.losses.exact_text import hexes
from fenchel.moments.atoms import moment_error, repair_by_moving
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.white_loss import WhiteLoss
from fenchel.results import BiconjugateResult, ConjugateResult, ObjectiveResult

__all__ = [
    "PRECISE",
    "Limits",
    "biconjugate_certificate",
    "conjugate_certificate",
    "relaxed_bayes_certificate",
    "sam_certificate",
]

Array = NDArray[np.float64]
# The certificate's claim may be wider than the result's by this share of max(1, |value|).
_ROUNDING = 1e-12
_MOST_CONTACTS = 60
# The checker's own precision, within which proofs are looked for.
PRECISE = partial(ctx.workprec, 128)


@dataclass(frozen=True)
class Limits:
    """Of the search for a proof."""

    max_boxes: int = 20_000
    max_seconds: float = 300.0


@dataclass(frozen=True)
class Majorant:
    """Q(theta) = constant + slope.d + d^T curvature d, d = theta - center; curvature (P, P)."""

    center: Array
    constant: float
    slope: Array
    curvature: Array

    def exact(self) -> tuple[list[fmpq], fmpq, list[fmpq], list[list[fmpq]]]:
        """The same in rationals."""
        n = self.center.size
        return (
            exacts(hexes(self.center), n),
            exact(hexes(self.constant)),
            exacts(hexes(self.slope), n),
            exacts(hexes(self.curvature), n, n),
        )


def biconjugate_certificate(
    loss: Loss, result: BiconjugateResult, mean: Array, cov: Array, limits: Limits
) -> Certificate:
    """The certificate of a certified bracket of f** at the moments of N(mean, cov) that ``result.structure`` sees."""
    family = result.structure
    frame = MomentFrame.of(mean, cov, family)
    block = _block(cov, family)
    written = loss.record()
    known = Exact.read(written)
    scale = max(1.0, abs(result.value))
    moments = {"mean": hexes(mean), "covariance": hexes(block)}
    exact_moments = Moments(family, moments, mean.size)
    majorant = _majorant(loss, result, frame, cov, 2e-14 * scale)
    lower_proof, majorant = _prove(loss, known, majorant, result.atoms, 4e-14 * scale, limits)
    record: dict[str, Any] = {
        "version": VERSION,
        "claim": {"quantity": "biconjugate", "lower": hexes(result.lower), "upper": hexes(result.upper)},
        "loss": written,
        "family": family,
        "moments": moments,
        "majorant": {
            "center": hexes(majorant.center),
            "constant": hexes(majorant.constant),
            "slope": hexes(majorant.slope),
            "curvature": hexes(_shape(majorant.curvature, family)),
        },
        "proof": {"lower": lower_proof},
    }
    found = _upper(known, exact_moments, frame, result, loss)
    record["proof"] |= found.pop("proof")
    record |= found
    return _claimed(record, result.lower, result.upper, scale)


def relaxed_bayes_certificate(result: ObjectiveResult, q: Gaussian, prior: Gaussian) -> Certificate:
    """The certificate of -f** + KL(q || prior): that of f**, with both Gaussians."""
    inner = result.info["biconjugate"].certificate().to_dict()
    gaussians = {
        name: {"mean": hexes(g.mean), "covariance": hexes(g.cov)} for name, g in (("gaussian", q), ("prior", prior))
    }
    record = inner | gaussians | {"claim": {"quantity": "relaxed-bayes-objective"}}
    return _claimed(record, result.lower, result.upper, max(1.0, abs(result.value)))


def conjugate_certificate(
    loss: Loss,
    found: ConjugateResult | ObjectiveResult,
    lam1: Array,
    lam2: Array,
    prior: Gaussian | None,
    limits: Limits,
) -> Certificate:
    """The certificate of a certified f*(lam1, lam2), lam2 in its family's shape; with a prior that of Eq. 18."""
    inner = found.info["conjugate"] if isinstance(found, ObjectiveResult) else found
    if inner.argmax is None:
        raise ValueError("an infinite value of f* has no certificate")
    written = loss.record()
    family = ("isotropic", "diagonal", "full")[lam2.ndim]
    matrix = lam2 * np.eye(loss.dim) if lam2.ndim == 0 else np.diag(lam2) if lam2.ndim == 1 else lam2
    scale = max(1.0, abs(inner.value))
    start = Majorant(np.zeros(loss.dim), inner.lower, -lam1, -matrix)
    proof, majorant = _prove(loss, Exact.read(written), start, inner.argmax[None, :], 1e-13 * scale, limits)
    record: dict[str, Any] = {
        "version": VERSION,
        "claim": {"quantity": "conjugate"},
        "loss": written,
        "family": family,
        "moments": {"lam1": hexes(lam1), "lam2": hexes(lam2)},
        "majorant": {"constant": hexes(majorant.constant)},
        "atoms": hexes(inner.argmax[None, :]),
        "weights": hexes([1.0]),
        "proof": {"lower": proof},
    }
    if prior is not None:
        record["claim"] = {"quantity": "proximal-objective"}
        record["prior"] = {"mean": hexes(prior.mean), "covariance": hexes(prior.cov)}
    return _claimed(record, found.lower, found.upper, scale)


def sam_certificate(
    loss: Loss, found: ObjectiveResult, theta: Array, rho: float, delta: float, limits: Limits
) -> Certificate:
    """The certificate of a certified SAM objective (Eq. 1)."""
    written = loss.record()
    known = Exact.read(written)
    assert found.argmax is not None
    scale = max(1.0, abs(found.value))
    zero = np.zeros(loss.dim)
    start = Majorant(zero, found.upper - 0.5 * delta * float(theta @ theta), zero, np.zeros((loss.dim, loss.dim)))
    basis = rho * np.eye(loss.dim)
    anchors = found.info["maximizers"] / rho
    excess = Excess(known, start.exact(), hexes(theta), hexes(basis), sphere=True)
    records = [{"point": hexes(u)} for u in anchors]
    for record in records:
        excess.add(record)
    tree = grow(excess, anchors, small=0.0, max_boxes=limits.max_boxes, max_seconds=limits.max_seconds)
    point = _inside(theta, found.argmax, rho)
    record = {
        "version": VERSION,
        "claim": {"quantity": "sam-objective"},
        "loss": written,
        "family": "isotropic",
        "moments": {"theta": hexes(theta), "rho": hexes(rho), "delta": hexes(delta)},
        "majorant": {"constant": hexes(start.constant + 0.5 * delta * float(theta @ theta))},
        "atoms": hexes([point]),
        "weights": hexes([1.0]),
        "proof": {"lower": {"anchors": records, "tree": tree.nodes}},
    }
    return _claimed(record, found.lower, found.upper, scale)


def _inside(theta: Array, eps: Array, rho: float) -> Array:
    """theta + eps as floats whose exact distance from theta is at most rho."""
    shrink = 1.0
    for _ in range(60):
        point = theta + shrink * eps
        far = sum(((Fraction(p) - Fraction(t)) ** 2 for p, t in zip(point, theta, strict=True)), Fraction(0))
        if far <= Fraction(rho) ** 2:
            return np.asarray(point)
        shrink -= 2e-16
    raise CertificateError("the worst perturbation lies outside the ball")


def _claimed(record: dict[str, Any], lower: float, upper: float, scale: float) -> Certificate:
    """The result's bracket as the claim, widened by rounding where the exact arithmetic needs it."""
    claim = record["claim"]
    quantity = claim["quantity"]
    record["claim"] = {"quantity": quantity, "lower": hexes(lower - 1e300), "upper": hexes(upper + 1e300)}
    proved = check_record(record)
    if not proved.valid:
        raise CertificateError(f"the proof that was found is not accepted: {proved.message}")
    room = _ROUNDING * scale
    if proved.lower < lower - room or proved.upper > upper + room:
        raise CertificateError(
            f"exact arithmetic proves [{proved.lower:.17g}, {proved.upper:.17g}] only, the result says "
            f"[{lower:.17g}, {upper:.17g}]"
        )
    claim = {"quantity": quantity, "lower": hexes(min(lower, proved.lower)), "upper": hexes(max(upper, proved.upper))}
    return Certificate(record | {"claim": claim})


def _block(cov: Array, family: str) -> Any:
    """The covariance as the family sees it, exactly."""
    if family == "full":
        return cov
    if family == "diagonal":
        return np.diag(cov).copy()
    return sum((Fraction(float(v)) for v in np.diag(cov)), Fraction(0)) / cov.shape[0]


def _shape(matrix: Array, family: str) -> Any:
    if family == "full":
        return matrix
    return np.diag(matrix).copy() if family == "diagonal" else float(matrix[0, 0])


def _majorant(loss: Loss, result: BiconjugateResult, frame: MomentFrame, cov: Array, room: float) -> Majorant:
    """The result's majorant in powers of theta - mean, bent upwards by ``room`` so that no direction is flat."""
    mean, dim = frame.mean, frame.mean.size
    coefficients = result.info.get("coefficients")
    if coefficients is not None:
        inner = WhiteLoss.reduced(loss, frame).frame
        u, v, w = inner.quadratic(coefficients)
        slope = inner.inverse.T @ v + inner.tilt
        curvature = inner.inverse.T @ w @ inner.inverse
    else:
        assert result.natural is not None
        lam1, lam2 = result.natural.lam1, frame.matrix(result.natural.lam2)
        slope = np.array([_dot(lam1[i], lam2[i], mean) for i in range(dim)])
        curvature = -lam2
        u = -result.lower - float(np.sum(curvature * (frame.factor @ frame.factor.T)))
    if frame.structure == "diagonal":
        curvature = np.diag(np.diag(curvature))
    elif frame.structure == "isotropic":
        curvature = float(np.mean(np.diag(curvature))) * np.eye(dim)
    curvature = curvature + room / dim * (frame.inverse.T @ frame.inverse)
    return Majorant(mean, float(u), slope, 0.5 * (curvature + curvature.T))


def _dot(first: float, row: Array, mean: Array) -> float:
    """-(first + 2 row.mean), without cancellation."""
    total = Fraction(float(first))
    for a, m in zip(row, mean, strict=True):
        total += 2 * Fraction(float(a)) * Fraction(float(m))
    return -float(total)


def _prove(
    loss: Loss, known: Exact, majorant: Majorant, atoms: Array, room: float, limits: Limits
) -> tuple[dict[str, Any], Majorant]:
    """The proof that the majorant, moved to ``room`` above the highest contact, lies above the loss everywhere."""
    steep = 2.0 * majorant.curvature - np.asarray(getattr(loss, "H", 0.0))
    bends, axes = np.linalg.eigh(steep)
    if not bends[0] > 0.0:
        raise CertificateError("the majorant is flat in some direction, where exact arithmetic would cross the loss")
    basis = axes / np.sqrt(bends)
    contacts = _contacts(loss, majorant, atoms, basis, 1e-5)
    small = 1e-2
    for _ in range(_MOST_CONTACTS):
        try:
            return _closed(loss, known, majorant, contacts, basis, room, small, limits)
        except Open as missed:
            fresh = _contacts(loss, majorant, (contacts[0] + basis @ missed.point)[None, :], basis, 5.0 * small)
            if _distinct(np.concatenate([contacts, fresh]), basis).shape[0] == contacts.shape[0]:
                small *= 0.1
            else:
                contacts = np.concatenate([contacts, fresh])
    raise CertificateError("the loss touches the majorant at too many points")


def _closed(
    loss: Loss,
    known: Exact,
    majorant: Majorant,
    contacts: Array,
    basis: Array,
    room: float,
    small: float,
    limits: Limits,
) -> tuple[dict[str, Any], Majorant]:
    """`_prove` with these contacts (K, P) as anchors; `Open` where one more may be needed."""
    origin = contacts[0]
    points = np.linalg.solve(basis, (contacts - origin).T).T
    records = [{"point": hexes(u)} for u in points]
    reference = Excess(known, majorant.exact(), hexes(origin), hexes(basis))
    for k, record in enumerate(records):
        slopes = _jump_slopes(loss, reference, contacts[k], points[k])
        if slopes is not None:
            record["jumps"] = hexes(slopes)
    top = max(_height(known, majorant, contact) for contact in contacts)
    lifted = Majorant(majorant.center, majorant.constant + top + room, majorant.slope, majorant.curvature)
    excess = Excess(known, lifted.exact(), hexes(origin), hexes(basis))
    for record in records:
        excess.add(record)
    tree = grow(excess, points, small=small, max_boxes=limits.max_boxes, max_seconds=limits.max_seconds)
    proof = {"origin": hexes(origin), "basis": hexes(basis), "anchors": records, "root": tree.root, "tree": tree.nodes}
    return proof, lifted


def _height(known: Exact, majorant: Majorant, theta: Array) -> float:
    """l - Q at a point, at least the exact value."""
    center, u, v, w = majorant.exact()
    point = exacts(hexes(theta), theta.size)
    n = range(theta.size)
    step = [p - c for p, c in zip(point, center, strict=True)]
    q = (
        u
        + sum((v[i] * step[i] for i in n), fmpq(0))
        + sum((w[i][j] * step[i] * step[j] for i in n for j in n), fmpq(0))
    )
    return above(known.value(point) - arb(q))


def _contacts(loss: Loss, majorant: Majorant, starts: Array, basis: Array, reach: float) -> Array:
    """The starts (K, P), moved uphill on l - Q by Newton's method; those within ``reach`` of jumps onto the jumps.

    ``reach`` is in the coordinates of the proof, in which Q has curvature 1.
    """
    theta = _distinct(starts if starts.shape[0] else majorant.center[None, :], basis)
    on_jumps = [_lowest_on_jumps(loss, majorant, point, basis, reach) for point in theta]
    moved = theta.copy()
    for _ in range(30):
        with np.errstate(all="ignore"):
            step = moved - majorant.center
            slope = (loss._gradient(moved) - majorant.slope - 2.0 * step @ majorant.curvature) @ basis
            hessian = basis.T @ (loss._hessian(moved) - 2.0 * majorant.curvature) @ basis
            if not (np.isfinite(slope).all() and np.isfinite(hessian).all()):
                break
            bends, axes = np.linalg.eigh(hessian)
            turned = np.einsum("kij,ki->kj", axes, slope) / np.maximum(np.abs(bends), 1e-3)
            moved = moved + np.einsum("kij,kj->ki", axes, turned) @ basis.T
    far = np.abs(np.linalg.solve(basis, (moved - theta).T).T).max(axis=1)
    better = np.isfinite(moved).all(axis=1) & (far < 0.1)
    better &= _heights(loss, majorant, moved) >= _heights(loss, majorant, theta) - 1e-9
    smooth = np.where(better[:, None], moved, theta)
    return np.array([smooth[k] if jump is None else jump for k, jump in enumerate(on_jumps)])


def _lowest_on_jumps(loss: Loss, majorant: Majorant, theta: Array, basis: Array, reach: float) -> Array | None:
    """The highest point of (smooth part) - Q on the jumps within ``reach``, without those that hold it back; None
    without jumps. The smooth part counts by its slope at theta."""
    planes = _jumps(loss)
    if planes is None:
        return None
    rows, offsets = planes[0] @ basis, planes[0] @ theta + planes[1]
    near = np.flatnonzero(np.abs(offsets) <= reach * np.linalg.norm(rows, axis=1))
    step = np.zeros(theta.size)
    while near.size:
        slope = -(majorant.slope + 2.0 * majorant.curvature @ (theta - majorant.center)) @ basis
        slope = slope + loss._gradient(theta[None, :])[0] @ basis
        gram = rows[near] @ rows[near].T
        pull = np.linalg.lstsq(gram, -(rows[near] @ slope + offsets[near]), rcond=1e-12)[0]
        if pull.min() >= -1e-12 * np.abs(pull).max():
            step = slope + rows[near].T @ pull
            break
        near = np.delete(near, np.argmin(pull))
    if near.size == 0:
        return None
    return _upwards(planes[0][near], planes[1][near], theta + basis @ step)


def _jumps(loss: Loss) -> tuple[Array, Array] | None:
    """The planes rows.theta + offsets = 0 on which terms jump; None for a continuous loss."""
    linear = loss.in_predictors()
    if linear is None or linear.continuous:
        return None
    groups = [g for g in linear.groups if not g.link.continuous]
    return np.concatenate([g.rows for g in groups]), np.concatenate([g.offsets for g in groups])


def _heights(loss: Loss, majorant: Majorant, theta: Array) -> Array:
    step = theta - majorant.center
    with np.errstate(all="ignore"):
        values = loss._value(theta) - step @ majorant.slope - np.einsum("ki,ij,kj->k", step, majorant.curvature, step)
    return np.asarray(np.where(np.isfinite(values), values, -np.inf), dtype=float)


def _distinct(theta: Array, basis: Array) -> Array:
    """One of every group of points that coincide in the coordinates of the proof."""
    u = np.linalg.solve(basis, theta.T).T
    near = np.abs(u[:, None, :] - u[None, :, :]).max(axis=2) < 1e-6 * (1.0 + np.abs(u).max(axis=1))[:, None]
    return np.asarray(theta[np.argmax(near, axis=1) == np.arange(theta.shape[0])])


def _jump_slopes(loss: Loss, reference: Excess, theta: Array, u: Array) -> Array | None:
    """Slopes >= 0 for the terms that jump at this contact, such that l - Q has none there; None without jumps."""
    planes, linear = _jumps(loss), loss.in_predictors()
    if planes is None or linear is None:
        return None
    rows, offsets = planes
    weights = np.concatenate([g.weights for g in linear.groups if not g.link.continuous])
    touched = np.abs(rows @ theta + offsets) <= 1e-9 * (np.abs(rows) @ np.abs(theta) + np.abs(offsets))
    slopes = np.zeros(touched.size)
    if touched.any():
        at = balls(hexes(u), u.size)
        turned = reference.own[1] + reference.own[2] * at + reference.terms.anchor(at).slope
        slope = np.array([float(x) for x in turned.entries()])
        basis = np.array([[float.fromhex(x) for x in row] for row in reference.axes])
        system = (rows * weights[:, None])[touched] @ basis
        slopes[touched] = nnls(system.T, -slope)[0]
    return slopes


def _upper(known: Exact, moments: Moments, frame: MomentFrame, result: BiconjugateResult, loss: Loss) -> dict[str, Any]:
    """Atoms, weights and the correction of their moments: as they are, or moved so that their moments fit better."""
    if result.atoms.shape[0] == 0:
        raise CertificateError("the worst case is not attained, so that there are no atoms to certify the upper end")
    keep = result.weights > 0.0
    theta, weights = result.atoms[keep], result.weights[keep]
    x = frame.to_white(theta)
    choices: list[tuple[Any, Array, float]] = [(_on_jumps(loss, theta), weights, moment_error(frame, x, weights))]
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


def _on_jumps(loss: Loss, theta: Array) -> Array:
    """Atoms within rounding of a jump, moved onto its upper side."""
    planes = _jumps(loss)
    if planes is None:
        return theta
    size = np.abs(planes[1]) + np.abs(theta) @ np.abs(planes[0].T)
    near = np.abs(theta @ planes[0].T + planes[1]) <= 1e-11 * size
    return np.array([_upwards(planes[0][on], planes[1][on], point) for on, point in zip(near, theta, strict=True)])


def _upwards(rows: Array, offsets: Array, theta: Array) -> Array:
    """The point moved, by units in the last place, to where rows.theta + offsets >= 0 exactly."""
    if rows.shape[0] == 0:
        return theta
    point = theta - np.linalg.pinv(rows) @ np.array(
        [_predictor(r, o, theta) for r, o in zip(rows, offsets, strict=True)]
    )
    inward = np.linalg.pinv(rows) @ (np.abs(rows) @ np.abs(point) + np.abs(offsets))
    for k in range(8):
        if all(_predictor(r, o, point) >= 0.0 for r, o in zip(rows, offsets, strict=True)):
            break
        point = point + 2.0**k * 1e-16 * inward
    return np.asarray(point)


def _predictor(row: Array, offset: float, point: Array) -> float:
    """row.point + offset, rounded once."""
    terms = (Fraction(float(a)) * Fraction(float(t)) for a, t in zip(row, point, strict=True))
    return float(sum(terms, Fraction(float(offset))))
