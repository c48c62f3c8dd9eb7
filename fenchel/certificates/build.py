"""Certificates of results: the majorant and the atoms as exact numbers, and a proof that the checker accepts."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from flint import ctx

from fenchel.arrays import Array
from fenchel.certificates.atoms import exact_atoms
from fenchel.certificates.boxes import Problem, grow
from fenchel.certificates.majorant import Majorant, majorant_of
from fenchel.certificates.prove import Limits, prove
from fenchel.certificates.record import Certificate
from fenchel.checker import VERSION, check_record
from fenchel.checker.loss import Excess
from fenchel.checker.loss import Loss as Exact
from fenchel.checker.numbers import exact, exacts, identity, symmetric
from fenchel.errors import CertificateError
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.losses.exact_text import hexes
from fenchel.moments.moment_frame import MomentFrame
from fenchel.results import BiconjugateResult, ConjugateResult, ObjectiveResult

# The certificate's claim may be wider than the result's by this share of max(1, |value|).
_ROUNDING = 1e-12
# The checker's own precision, within which proofs are looked for.
PRECISE = partial(ctx.workprec, 128)


def biconjugate_certificate(
    loss: Loss, result: BiconjugateResult, mean: Array, cov: Array, limits: Limits
) -> Certificate:
    """The certificate of a certified bracket of f** at the moments of N(mean, cov) that ``result.structure`` sees."""
    family = result.structure
    frame = MomentFrame.of(mean, cov, family)
    written = loss.record()
    known = Exact.read(written)
    scale = max(1.0, abs(result.value))
    moments = {"mean": hexes(mean), "covariance": hexes(_seen(cov, family))}
    majorant = majorant_of(loss, result, frame, cov, 2e-14 * scale)
    lower_proof, majorant = prove(loss, known, majorant, result.atoms, 4e-14 * scale, limits)
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
            "curvature": hexes(majorant.curvature),
        },
        "proof": {"lower": lower_proof},
    }
    record |= exact_atoms(known, symmetric(moments["covariance"], mean.size), frame, result, loss)
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
    start = Majorant(np.zeros(loss.dim), inner.value, -lam1, -matrix)
    proof, majorant = prove(loss, Exact.read(written), start, inner.argmax[None, :], 1e-13 * scale, limits)
    record: dict[str, Any] = {
        "version": VERSION,
        "claim": {"quantity": "conjugate"},
        "loss": written,
        "family": family,
        "moments": {"lam1": hexes(lam1), "lam2": hexes(matrix)},
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
    anchors = found.info["maximizers"] / rho
    excess = Excess(known, start.exact(), exacts(hexes(theta), loss.dim), exact(hexes(rho)) * identity(loss.dim))
    problem = Problem(excess, anchors, [{"point": hexes(u)} for u in anchors], sphere=True)
    tree = grow(problem, small=0.0, max_boxes=limits.max_boxes, max_seconds=limits.max_seconds)
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
        "proof": {"lower": {"anchors": problem.records, "tree": tree.nodes}},
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


def _seen(cov: Array, family: str) -> Any:
    """A covariance of which the family sees the same, exactly."""
    if family == "full":
        return cov
    diagonal = [Fraction(float(v)) for v in np.diag(cov)]
    if family == "isotropic":
        diagonal = [sum(diagonal, Fraction(0)) / cov.shape[0]] * cov.shape[0]
    n = range(cov.shape[0])
    return [[diagonal[i] if i == j else Fraction(0) for j in n] for i in n]
