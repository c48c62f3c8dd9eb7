"""Check a certificate: prove its claim again, in ball arithmetic, from the numbers that it holds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from flint import arb, arb_mat, ctx, fmpq

from fenchel.checker.majorant import Loss, nowhere_positive
from fenchel.checker.moments import Moments
from fenchel.checker.numbers import Refused, above, balls, below, exact, exacts, identity, positive, solved

__all__ = ["VERSION", "Checked", "check_record"]

VERSION = 1
_PRECISIONS = (128, 256)
_MALFORMED = (ArithmeticError, LookupError, AttributeError, TypeError, ValueError, RecursionError)


@dataclass(frozen=True)
class Checked:
    """``valid``: the claim is proved. ``lower``, ``upper``: the bracket that is proved, rounded outwards.

    ``message`` says what could not be proved; ``boxes`` how many boxes the proof of the majorant has.
    """

    valid: bool
    lower: float
    upper: float
    message: str = ""
    seconds: float = 0.0
    boxes: int = 0

    def __bool__(self) -> bool:
        return self.valid


def check_record(record: Any) -> Checked:
    """Check one certificate as a dictionary; one that cannot be read is not valid, and the message says why."""
    begin = time.perf_counter()
    if not isinstance(record, dict):
        return Checked(False, -float("inf"), float("inf"), "a certificate is a dictionary")
    before = ctx.prec
    found = Checked(False, -float("inf"), float("inf"), "nothing was checked")
    try:
        for precision in _PRECISIONS:
            ctx.prec = precision
            try:
                found = _checked(record)
            except (Refused, *_MALFORMED) as error:
                text = str(error) if isinstance(error, Refused) else f"the certificate cannot be read ({error!r})"
                found = Checked(False, -float("inf"), float("inf"), text)
            if found.valid:
                break
    finally:
        ctx.prec = before
    return Checked(found.valid, found.lower, found.upper, found.message, time.perf_counter() - begin, found.boxes)


def _checked(record: Any) -> Checked:
    if record.get("version") != VERSION:
        raise Refused(f"version {record.get('version')!r} of the format is not known here")
    claim = record["claim"]
    quantity = claim.get("quantity")
    if quantity not in _QUANTITIES:
        raise Refused(f"nothing is known here about the quantity {quantity!r}")
    lower, upper, boxes = _QUANTITIES[quantity](record, Loss.read(record["loss"]))
    low, high = exact(claim.get("lower")), exact(claim.get("upper"))
    if low > high:
        raise Refused("the claim is empty: its lower end is above its upper")
    message = ""
    if not lower >= low:
        message = f"the lower end {float(low):.17g} is not proved, only {below(lower):.17g}"
    elif not upper <= high:
        message = f"the upper end {float(high):.17g} is not proved, only {above(upper):.17g}"
    return Checked(not message, below(lower), above(upper), message, boxes=boxes)


def _biconjugate(record: Any, loss: Loss) -> tuple[arb, arb, int]:
    """-E[Q] for a quadratic Q >= l, and -E[l] for atoms with q's moments."""
    moments = Moments(record["family"], record["moments"], loss.dim)
    majorant, proof = record["majorant"], record["proof"]
    center = exacts(majorant["center"], loss.dim)
    parts = exact(majorant["constant"]), exacts(majorant["slope"], loss.dim), moments.matrix(majorant["curvature"])
    boxes = nowhere_positive(loss, (center, *parts), proof["lower"])
    points, weights = moments.corrected(record["atoms"], record["weights"], proof["upper"])
    expected = arb(0)
    for point, weight in zip(points, weights, strict=True):
        if weight != 0:
            expected += arb(weight) * loss.value(point)
    return -arb(moments.expected(center, *parts)), -expected, boxes


def _conjugate(record: Any, loss: Loss) -> tuple[arb, arb, int]:
    """l + <lambda', T> at one point, and a constant that it nowhere exceeds."""
    natural, family = record["moments"], record["family"]
    lam1 = exacts(natural["lam1"], loss.dim)
    lam2 = Moments(family, {"mean": ["0"] * loss.dim, "covariance": natural["lam2"]}, loss.dim).matrix(natural["lam2"])
    top = exact(record["majorant"]["constant"])
    zero = [fmpq(0)] * loss.dim
    quadratic = zero, top, [-x for x in lam1], [[-x for x in row] for row in lam2]
    boxes = nowhere_positive(loss, quadratic, record["proof"]["lower"])
    (point,) = exacts(record["atoms"], 1, loss.dim)
    own = sum((a * t for a, t in zip(lam1, point, strict=True)), fmpq(0))
    own += sum((t * lam2[i][j] * s for i, t in enumerate(point) for j, s in enumerate(point)), fmpq(0))
    return loss.value(point) + arb(own), arb(top), boxes


def _proximal(record: Any, loss: Loss) -> tuple[arb, arb, int]:
    """f*(lambda') - log Z'(lambda'), Z' the normalizer of prior exp<lambda', T>."""
    lower, upper, boxes = _conjugate(record, loss)
    natural, dim = record["moments"], loss.dim
    mean, cov = _gaussian(record["prior"], dim)
    block = Moments(record["family"], {"mean": ["0"] * dim, "covariance": natural["lam2"]}, dim).matrix(natural["lam2"])
    precision = _inverse(cov)
    first = precision * mean
    shifted = precision - 2 * arb_mat(dim, dim, [arb(x) for row in block for x in row])
    if not positive(shifted):
        raise Refused("the posterior that belongs to lambda' has no positive definite precision")
    total = first + balls(natural["lam1"], dim)
    peak, start = solved(shifted, total), _form(mean, precision)
    constant = ((total.transpose() * peak)[0, 0] - start + (precision.det() / shifted.det()).log()) / 2
    return lower - constant, upper - constant, boxes


def _relaxed_bayes(record: Any, loss: Loss) -> tuple[arb, arb, int]:
    """-f** + KL(q || prior)."""
    lower, upper, boxes = _biconjugate(record, loss)
    mean, cov = _gaussian(record["gaussian"], loss.dim)
    start, spread = _gaussian(record["prior"], loss.dim)
    precision = _inverse(spread)
    trace = sum(((precision * cov)[i, i] for i in range(loss.dim)), arb(0))
    divergence = (trace + _form(mean - start, precision) - loss.dim + (spread.det() / cov.det()).log()) / 2
    if Moments(record["family"], record["moments"], loss.dim).mean != exacts(record["gaussian"]["mean"], loss.dim):
        raise Refused("the moments are not those of q")
    _matching(record, loss.dim)
    return divergence - upper, divergence - lower, boxes


def _matching(record: Any, dim: int) -> None:
    """Refused unless the moments are those that the family sees of the Gaussian."""
    cov = exacts(record["gaussian"]["covariance"], dim, dim)
    moments = Moments(record["family"], record["moments"], dim)
    seen = cov if moments.family == "full" else [cov[i][i] for i in range(dim)]
    if moments.family == "isotropic":
        seen = [sum(seen, fmpq(0)) / dim]
    if seen != moments.second:
        raise Refused("the moments are not those of q")


def _sam(record: Any, loss: Loss) -> tuple[arb, arb, int]:
    """sup of l(theta + eps) over |eps| <= rho, plus delta/2 |theta|^2."""
    setting = record["moments"]
    theta = exacts(setting["theta"], loss.dim)
    rho, delta = exact(setting["rho"]), exact(setting["delta"])
    penalty = delta / 2 * sum((t * t for t in theta), fmpq(0))
    top = exact(record["majorant"]["constant"]) - penalty
    proof = dict(record["proof"]["lower"])
    n = range(loss.dim)
    proof["origin"] = setting["theta"]
    proof["basis"] = [[setting["rho"] if i == j else "0" for j in n] for i in n]
    zero = [fmpq(0)] * loss.dim
    boxes = nowhere_positive(loss, (zero, top, zero, [zero for _ in n]), proof, sphere=True)
    (point,) = exacts(record["atoms"], 1, loss.dim)
    if sum(((p - t) ** 2 for p, t in zip(point, theta, strict=True)), fmpq(0)) > rho * rho:
        raise Refused("the perturbation is longer than rho")
    return loss.value(point) + arb(penalty), arb(top + penalty), boxes


_QUANTITIES = {
    "biconjugate": _biconjugate,
    "conjugate": _conjugate,
    "proximal-objective": _proximal,
    "relaxed-bayes-objective": _relaxed_bayes,
    "sam-objective": _sam,
}


def _gaussian(record: Any, dim: int) -> tuple[arb_mat, arb_mat]:
    mean, cov = balls(record["mean"], dim), balls(record["covariance"], dim, dim)
    if not positive(cov):
        raise Refused("a covariance is not positive definite")
    return mean, cov


def _inverse(matrix: arb_mat) -> arb_mat:
    return solved(matrix, identity(matrix.nrows()))


def _form(x: arb_mat, matrix: arb_mat) -> arb:
    return (x.transpose() * matrix * x)[0, 0]
