"""Check a certificate: prove its claim again, in ball arithmetic, from the numbers that it holds."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from flint import arb, arb_mat, ctx, fmpq, fmpq_mat

from fenchel.checker.cover import nowhere_positive
from fenchel.checker.loss import Excess, Loss, Quadratic
from fenchel.checker.numbers import Refused, above, below, exact, exacts, identity, positive, symmetric

VERSION = 2
_PRECISIONS = (128, 256)
_MALFORMED = (ArithmeticError, LookupError, AttributeError, TypeError, ValueError, RecursionError)


@dataclass(frozen=True)
class Checked:
    """``valid``: the claim is proved. ``lower``, ``upper``: the bracket that is proved, rounded outwards.

    ``message`` says what could not be proved; ``boxes`` how many boxes the proof of the majorant has.
    """

    valid: bool
    lower: float = -float("inf")
    upper: float = float("inf")
    message: str = ""
    seconds: float = 0.0
    boxes: int = 0

    def __bool__(self) -> bool:
        return self.valid


def check_record(record: Any) -> Checked:
    """Check one certificate as a dictionary; one that cannot be read is not valid, and the message says why."""
    begin = time.perf_counter()
    found = Checked(False, message="a certificate is a dictionary")
    for precision in _PRECISIONS if isinstance(record, dict) else ():
        with ctx.workprec(precision):
            try:
                found = _checked(record)
            except Refused as error:
                found = Checked(False, message=str(error))
            except _MALFORMED as error:
                found = Checked(False, message=f"the certificate cannot be read ({error!r})")
        if found.valid:
            break
    return replace(found, seconds=time.perf_counter() - begin)


def _checked(record: Any) -> Checked:
    version = record.get("version")
    if version != VERSION:
        raise Refused(f"the format has version {version!r}, only {VERSION} is known here; make the certificate again")
    claim = record["claim"]
    quantity = claim.get("quantity")
    if quantity not in _QUANTITIES:
        raise Refused(f"nothing is known here about the quantity {quantity!r}")
    lower, upper, boxes = _QUANTITIES[quantity](record, Loss.read(record["loss"]))
    low, high = exact(claim.get("lower")), exact(claim.get("upper"))
    message = ""
    if low > high:
        raise Refused("the claim is empty: its lower end is above its upper")
    if not lower >= low:
        message = f"the lower end {float(low):.17g} is not proved, only {below(lower):.17g}"
    elif not upper <= high:
        message = f"the upper end {float(high):.17g} is not proved, only {above(upper):.17g}"
    return Checked(not message, below(lower), above(upper), message, boxes=boxes)


def _biconjugate(record: Any, loss: Loss) -> tuple[arb, arb, int]:
    """-E[Q] for a quadratic Q >= l, and -E[l] for atoms: both for distributions with the moments of q."""
    dim, family, majorant = loss.dim, record["family"], record["majorant"]
    mean, cov = exacts(record["moments"]["mean"], dim), symmetric(record["moments"]["covariance"], dim)
    curvature = _known_to(family, symmetric(majorant["curvature"], dim))
    center, slope = exacts(majorant["center"], dim), exacts(majorant["slope"], dim)
    q = Quadratic(center, exact(majorant["constant"]), slope, curvature)
    boxes = _nowhere_above(loss, q, record["proof"]["lower"])
    points = [exacts(point, dim) for point in record["atoms"]]
    weights = exacts(record["weights"], len(points)).entries()
    steps = fmpq_mat(len(points), dim, [x for point in points for x in (point - mean).entries()])
    weighted = fmpq_mat(len(points), dim, [w * steps[k, j] for k, w in enumerate(weights) for j in range(dim)])
    if any(w < 0 for w in weights) or sum(weights, fmpq(0)) != 1:
        raise Refused("the weights are not those of a distribution")
    if any(sum(weighted[k, j] for k in range(len(points))) != 0 for j in range(dim)):
        raise Refused("the atoms do not have the mean of q")
    if _seen_by(family, weighted.transpose() * steps) != _seen_by(family, cov):
        raise Refused("the atoms do not have the covariance of q")
    expected = sum((arb(w) * loss.value(point) for w, point in zip(weights, points, strict=True)), arb(0))
    bent = sum((x * y for x, y in zip(curvature.entries(), cov.entries(), strict=True)), fmpq(0))
    return -arb(q.value(mean) + bent), -expected, boxes


def _conjugate(record: Any, loss: Loss) -> tuple[arb, arb, int]:
    """l + <lambda', T> at one point, and a constant that it nowhere exceeds."""
    dim, natural = loss.dim, record["moments"]
    lam1, lam2 = exacts(natural["lam1"], dim), _known_to(record["family"], symmetric(natural["lam2"], dim))
    q = Quadratic(fmpq_mat(dim, 1), exact(record["majorant"]["constant"]), -lam1, -lam2)
    boxes = _nowhere_above(loss, q, record["proof"]["lower"])
    (point,) = (exacts(atom, dim) for atom in record["atoms"])
    return loss.value(point) + arb(q.constant - q.value(point)), arb(q.constant), boxes


def _proximal(record: Any, loss: Loss) -> tuple[arb, arb, int]:
    """f*(lambda') - log Z'(lambda'), Z' the normalizer of prior exp<lambda', T>."""
    lower, upper, boxes = _conjugate(record, loss)
    mean, cov = _gaussian(record["prior"], loss.dim)
    precision = cov.inv()
    first = exacts(record["moments"]["lam1"], loss.dim) + precision * mean
    shifted = precision - 2 * symmetric(record["moments"]["lam2"], loss.dim)
    if not positive(arb_mat(shifted)):
        raise Refused("the posterior that belongs to lambda' has no positive definite precision")
    square = _form(first, shifted.inv()) - _form(mean, precision)
    constant = (arb(square) + arb(precision.det() / shifted.det()).log()) / 2
    return lower - constant, upper - constant, boxes


def _relaxed_bayes(record: Any, loss: Loss) -> tuple[arb, arb, int]:
    """-f** + KL(q || prior)."""
    lower, upper, boxes = _biconjugate(record, loss)
    dim, moments = loss.dim, record["moments"]
    mean, cov = _gaussian(record["gaussian"], dim)
    start, spread = _gaussian(record["prior"], dim)
    precision = spread.inv()
    own = _seen_by(record["family"], cov)
    if mean != exacts(moments["mean"], dim) or own != _seen_by(record["family"], symmetric(moments["covariance"], dim)):
        raise Refused("the moments are not those of q")
    product = precision * cov
    square = sum((product[i, i] for i in range(dim)), fmpq(0)) + _form(mean - start, precision) - dim
    divergence = (arb(square) + arb(spread.det() / cov.det()).log()) / 2
    return divergence - upper, divergence - lower, boxes


def _sam(record: Any, loss: Loss) -> tuple[arb, arb, int]:
    """sup of l(theta + eps) over |eps| <= rho, plus delta/2 |theta|^2."""
    dim, setting = loss.dim, record["moments"]
    theta, rho, delta = exacts(setting["theta"], dim), exact(setting["rho"]), exact(setting["delta"])
    eye = identity(dim)
    top, penalty = exact(record["majorant"]["constant"]), delta / 2 * _form(theta, eye)
    q = Quadratic(fmpq_mat(dim, 1), top - penalty, fmpq_mat(dim, 1), fmpq_mat(dim, dim))
    boxes = nowhere_positive(Excess(loss, q, theta, rho * eye), record["proof"]["lower"], sphere=True)
    (point,) = (exacts(atom, dim) for atom in record["atoms"])
    if _form(point - theta, eye) > rho * rho:
        raise Refused("the perturbation is longer than rho")
    return loss.value(point) + arb(penalty), arb(top), boxes


_QUANTITIES = {
    "biconjugate": _biconjugate,
    "conjugate": _conjugate,
    "proximal-objective": _proximal,
    "relaxed-bayes-objective": _relaxed_bayes,
    "sam-objective": _sam,
}


def _nowhere_above(loss: Loss, q: Quadratic, proof: Any) -> int:
    origin, basis = exacts(proof["origin"], loss.dim), exacts(proof["basis"], loss.dim, loss.dim)
    return nowhere_positive(Excess(loss, q, origin, basis), proof)


def _seen_by(family: Any, matrix: fmpq_mat) -> list[fmpq]:
    """What T of the family holds of E[d d^T]: all entries, the diagonal, or the trace."""
    diagonal = [matrix[i, i] for i in range(matrix.nrows())]
    if family not in ("full", "diagonal", "isotropic"):
        raise Refused(f"{family!r} is not a family")
    return matrix.entries() if family == "full" else diagonal if family == "diagonal" else [sum(diagonal, fmpq(0))]


def _known_to(family: Any, matrix: fmpq_mat) -> fmpq_mat:
    """The matrix W, refused unless E[d^T W d] depends on what the family sees alone: W is diagonal, a multiple of 1."""
    diagonal, n = _seen_by("diagonal", matrix), range(matrix.nrows())
    if family != "full" and any(matrix[i, j] != 0 for i in n for j in n if i != j):
        raise Refused("a second-order coefficient is not diagonal")
    if family == "isotropic" and any(x != diagonal[0] for x in diagonal):
        raise Refused("a second-order coefficient is not a multiple of the identity")
    return matrix


def _gaussian(record: Any, dim: int) -> tuple[fmpq_mat, fmpq_mat]:
    mean, cov = exacts(record["mean"], dim), symmetric(record["covariance"], dim)
    if not positive(arb_mat(cov)):
        raise Refused("a covariance is not positive definite")
    return mean, cov


def _form(x: fmpq_mat, matrix: fmpq_mat) -> fmpq:
    return (x.transpose() * matrix * x)[0, 0]
