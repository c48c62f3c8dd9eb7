"""The biconjugate f** (Eqs. 4, 8, 9, 20) of the expected loss, with a bracket that is proved wherever it says so."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import QhullError

from fenchel.certificates import of_biconjugate
from fenchel.checks import check_count, check_problem, check_seconds, check_tolerance, probe_points
from fenchel.closed.closed_forms import closed_form_biconjugate
from fenchel.closed.sums import sum_of_biconjugates
from fenchel.errors import DomainError, SolverError
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.losses.inputs import finite_array
from fenchel.moments.certificate import LowerBound
from fenchel.moments.cutting_plane import Master, cutting_plane
from fenchel.moments.moment_frame import STRUCTURES, MomentFrame
from fenchel.moments.moment_problem import MasterSolution
from fenchel.moments.nested import nested_start
from fenchel.moments.polish import ActiveSet
from fenchel.moments.programs import SolverOptions, reference_master
from fenchel.moments.quadratics import quadratic_moment_problem
from fenchel.moments.rounds import Budget, Outcome, Start, merge
from fenchel.moments.sampled import sampled_biconjugate
from fenchel.moments.white_loss import WhiteLoss
from fenchel.results import BiconjugateResult

__all__ = ["METHODS", "biconjugate"]

Array = NDArray[np.float64]
METHODS = ("cutting-plane", "sampled", "hull", "closed-form")
MASTERS = ("highs", "cvxpy")
_SMALLEST = 1e-150


def biconjugate(
    loss: Loss,
    q: Gaussian,
    method: str = "cutting-plane",
    tol: float = 1e-8,
    *,
    structure: str | None = None,
    warm: BiconjugateResult | Array | None = None,
    max_seconds: float | None = None,
    max_boxes: int = 10_000_000,
    max_rounds: int = 60,
    master: str = "highs",
    num_pieces: int = 100,
    rng: np.random.Generator | int | None = None,
    solver: str | SolverOptions | None = None,
) -> BiconjugateResult:
    """f**(mu) at the moments mu of q: minus the worst-case expected loss over all distributions with these moments.

    Args:
        loss: the total loss l on R^P.
        q: Gaussian whose expectation parameters are mu.
        method: "cutting-plane" (any loss; certified), "closed-form" (`fenchel.closed`, where the loss has one),
            "hull" (P = 1), or "sampled" (the paper's program, Eqs. 32, 33; never certified).
        tol: the bracket is to be no wider than tol * max(1, |f**|).
        structure: "full", "diagonal" or "isotropic" in place of q's family; it then sees q's covariance, its
            diagonal or its trace.
        warm: an earlier result for the same loss and a nearby q, or atoms (K, P), to start from.
        max_seconds, max_boxes, max_rounds: limits (60 seconds by default); the bracket reached is returned, with
            `certified` False if it is wide.
        master: "highs", the built-in linear program, or "cvxpy", the reference program (with ``solver``).
        num_pieces, rng: of the sampled program.
        solver: CVXPY solver (or `SolverOptions`) of the sampled program and of the reference master.

    Returns:
        `BiconjugateResult`. ``lower`` rests on a quadratic above the loss everywhere, ``upper`` on atoms with the
        moments mu. ``value`` is the upper end where the bracket has closed (at least for the local searches), else the
        proved lower end. ``certified``: bracket proved and within tol. ``natural`` = grad f**(mu).
        ``info["majorant_offset"]`` is t with t - <lambda', T(theta)> >= l(theta) proved for all theta. A loss that no
        quadratic majorizes has value -inf, and ``message`` says so.

    Raises:
        TypeError, ValueError: bad input, each with one sentence.
        SolverError: a convex solver is missing or failed.
    """
    family = _checked(loss, q, method, tol, structure, master, num_pieces, max_rounds, max_seconds, max_boxes)
    options = solver if isinstance(solver, SolverOptions) else SolverOptions(solver or "CLARABEL")
    if method == "sampled":
        generator = rng if isinstance(rng, np.random.Generator) else np.random.default_rng(0 if rng is None else rng)
        white = WhiteLoss(loss, MomentFrame.of(q.mean, q.cov, family))
        return sampled_biconjugate(white, num_pieces=num_pieces, rng=generator, options=options)
    budget = Budget(max_rounds, 60.0 if max_seconds is None else float(max_seconds), max_boxes)
    result = _bracket(loss, q, method, family, tol, warm, budget, options if master == "cvxpy" else None)
    loss.examine(np.concatenate([result.atoms, q.mean + np.sqrt(np.diag(q.cov)) * probe_points(loss.dim)]))
    return replace(result, assumes=loss.assumes, evidence=partial(of_biconjugate, loss, q.mean, q.cov))


def _bracket(
    loss: Loss,
    q: Gaussian,
    method: str,
    family: str,
    tol: float,
    warm: Any,
    budget: Budget,
    reference: SolverOptions | None,
) -> BiconjugateResult:
    if method == "hull":
        hull, failure = _hull(loss, q, family, tol, budget.max_seconds)
        if hull is not None and (hull.certified or np.isinf(hull.value)):
            return hull
        found = _bracket(loss, q, "cutting-plane", family, tol, warm, budget, None)
        if hull is not None and hull.gap <= found.gap:
            return hull
        return replace(
            found, message="; ".join(text for text in (f"by cutting planes: {failure}", found.message) if text)
        )
    frame = MomentFrame.of(q.mean, q.cov, family)
    if method == "closed-form":
        return _closed_form(loss, q, frame, tol)
    begin = time.perf_counter()
    if getattr(loss, "quadratic_only", False):
        return _quadratic(loss, frame, tol, begin)
    white = WhiteLoss.reduced(loss, frame)
    frame = white.frame
    start = _start(loss, q, frame, warm)
    if start.active is None:
        start = nested_start(white, start, tol, budget)
    solve = None if reference is None else _reference(frame, reference)
    outcome = cutting_plane(white, tol=tol, start=start, budget=budget, master=solve)
    return _result(frame, outcome, tol, time.perf_counter() - begin)


def _hull(loss: Loss, q: Gaussian, family: str, tol: float, max_seconds: float) -> tuple[BiconjugateResult | None, str]:
    """f** by the hull, and why there is none or why it is not certified."""
    from fenchel.hull.surface import hull_biconjugate

    if q.dim > 1:
        raise ValueError(f"method 'hull' is for losses of one parameter, the loss has P = {q.dim}")
    if np.sqrt(q.cov[0, 0]) < 1e-8 * abs(q.mean[0]):
        return None, "the hull cannot resolve a deviation so small beside the mean"
    try:
        with np.errstate(all="ignore"):
            found = hull_biconjugate(loss, q, tol=tol, structure=family, max_seconds=max_seconds)
    except (ValueError, IndexError, FloatingPointError, QhullError, SolverError) as error:
        return None, f"the hull failed ({type(error).__name__}: {' '.join(str(error).split())[:80]})"
    if np.isnan(found.value) or np.isnan(found.gap):
        return None, "the hull gave no number"
    return found, "the hull's bracket stayed wide"


def _checked(
    loss: Any,
    q: Any,
    method: Any,
    tol: Any,
    structure: Any,
    master: Any,
    num_pieces: Any,
    max_rounds: Any,
    max_seconds: Any,
    max_boxes: Any,
) -> str:
    """The family to use; TypeError or ValueError with one sentence for bad input."""
    check_problem(loss, q=q)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}.")
    check_tolerance(tol)
    variances = np.diag(q.cov)
    if variances.min() < _SMALLEST or variances.max() > 1.0 / _SMALLEST:
        raise DomainError(
            f"q has variances from {variances.min():.3g} to {variances.max():.3g}, beyond what double precision can "
            "square; use other units."
        )
    if structure is not None and structure not in STRUCTURES:
        raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}; got {structure!r}.")
    if master not in MASTERS:
        raise ValueError(f"master must be one of {', '.join(MASTERS)}; got {master!r}.")
    for name, count in (("num_pieces", num_pieces), ("max_rounds", max_rounds), ("max_boxes", max_boxes)):
        check_count(count, name)
    check_seconds(max_seconds)
    return str(structure or q.structure)


def _start(loss: Loss, q: Gaussian, frame: MomentFrame, warm: Any) -> Start:
    """Atoms, quadratics and proved lower bounds known before the first round."""
    if isinstance(warm, BiconjugateResult):
        return _warm_start(frame, warm)
    points = np.zeros((0, frame.dim))
    if warm is not None:
        theta = finite_array(warm, "warm", np.ndim(warm))
        if theta.ndim != 2 or theta.shape[1] != q.dim or not np.all(np.isfinite(theta)):
            raise ValueError(f"warm must be a BiconjugateResult or finite atoms of shape (K, {q.dim}).")
        points = frame.to_white(theta)
    linear = loss.in_predictors()
    hard = linear is not None and any(g.link.bend or not g.link.continuous for g in linear.groups)
    if frame.dim <= 2 and not hard:
        # The starting design already brings the bracket to a few percent here, and costs less. Not so where the best
        # quadratic grows exactly as the loss does, or meets it at a jump: those the terms' closed forms know.
        return Start(points)
    try:
        summed = sum_of_biconjugates(loss, q, structure=frame.structure)
    except TypeError:  # not a sum of terms with closed forms
        return Start(points)
    if not np.isfinite(summed.lower):
        return Start(points)
    lam1, lam2 = summed.natural.lam1, frame.matrix(summed.natural.lam2)
    pairing, _ = frame.pairing(lam1, lam2)
    bound = LowerBound(float(summed.lower), lam1, lam2)
    return Start(points, (frame.from_natural(pairing - summed.lower, lam1, lam2),), bound)


def _warm_start(frame: MomentFrame, warm: BiconjugateResult) -> Start:
    """The atoms, and in the same family the active set. No bound is taken over: it might belong to another loss."""
    if warm.atoms.ndim != 2 or warm.atoms.shape[1] != frame.mean.size or warm.natural is None:
        raise ValueError(f"warm must be a result for {frame.mean.size} parameters, with atoms and a natural parameter.")
    if not (np.isfinite(warm.atoms).all() and np.isfinite(warm.weights).all() and (warm.weights >= 0.0).all()):
        raise ValueError("warm must have finite atoms and finite weights that are not negative.")
    if not (np.isfinite(warm.natural.lam1).all() and np.isfinite(warm.natural.lam2).all()):
        raise ValueError("warm must have a finite natural parameter.")
    points = frame.to_white(warm.atoms)
    offset = warm.info.get("majorant_offset")
    if warm.structure != frame.structure or offset is None or not np.isfinite(offset) or points.shape[0] == 0:
        return Start(points)
    c = frame.from_natural(float(offset), warm.natural.lam1, frame.matrix(warm.natural.lam2))
    # Atoms spread over directions left out coincide here; those that only mend the moments carry next to nothing.
    first, owner = merge(points)
    mass = np.asarray(np.bincount(owner, weights=warm.weights, minlength=first.size), dtype=float)
    touched = mass > 1e-9
    return Start(points, (), None, ActiveSet(points[first[touched]], mass[touched], c, np.inf))


def _reference(frame: MomentFrame, options: SolverOptions) -> Master:
    def solve(points: Array, values: Array) -> MasterSolution:
        return reference_master(frame, points, values, options)

    return solve


def _value(lower: float, upper: float, local_lower: float, tol: float) -> float:
    """The upper end once the bracket has closed at least locally, else the proved lower end."""
    scale = max(1.0, abs(upper)) if np.isfinite(upper) else 1.0
    if upper - max(lower, local_lower) <= max(tol, 1e-6) * scale or not np.isfinite(lower):
        return upper
    return lower


def _result(frame: MomentFrame, outcome: Outcome, tol: float, seconds: float) -> BiconjugateResult:
    lower, upper = outcome.lower, outcome.upper
    low = -np.inf if lower is None else lower.value
    high = np.inf if upper is None else upper.value
    message = outcome.message
    value = _value(low, high, outcome.local_lower, tol)
    if outcome.unbounded:
        value, low = -np.inf, -np.inf
    scale = max(1.0, abs(value)) if np.isfinite(value) else 1.0
    low, high, clash = _in_order(low, high, scale)
    certified = bool(np.isfinite(low) and high - low <= tol * scale and not clash)
    if certified:
        message = ""
    elif clash:
        message = clash
    elif not message:
        message = f"the bracket is {high - low:.2g} wide"
    limited = "" if lower is None else lower.limited
    return BiconjugateResult(
        value=value,
        lower=low,
        upper=high,
        certified=certified,
        natural=None if lower is None else frame.blocks(lower.lam1, lower.lam2),
        atoms=np.zeros((0, frame.mean.size)) if upper is None else upper.points,
        weights=np.zeros(0) if upper is None else upper.weights,
        iterations=outcome.rounds,
        seconds=seconds,
        method="cutting-plane",
        structure=frame.structure,
        message="; ".join(text for text in (message, limited) if text),
        info={
            "boxes": outcome.boxes,
            "columns": outcome.atoms,
            "coefficients": None if lower is None else lower.coefficients,
            "majorant_offset": None if lower is None else lower.offset(frame),
        },
    )


def _quadratic(loss: Any, frame: MomentFrame, tol: float, begin: float) -> BiconjugateResult:
    """A quadratic loss: exact, up to rounding that the bracket allows for."""
    inside = loss.compose(frame.factor, frame.mean)
    scale = max(1.0, abs(float(loss(frame.mean))), float(np.abs(inside.H).sum()))
    points, w = quadratic_moment_problem(inside.H, frame.structure, 0.01 * tol * scale)
    weights = np.full(points.shape[0], 1.0 / points.shape[0])
    theta = frame.to_theta(points)
    terms = np.concatenate([np.abs(loss._value(theta)), [abs(inside.c)], np.abs(inside.H).ravel()])
    slack = 1e-15 * float(np.max(terms)) * (4.0 + frame.dim)
    high = -float(weights @ loss._value(theta)) + slack
    low = -(inside.c + float(np.trace(w))) - slack
    if frame.structure == "full" or np.array_equal(np.atleast_1d(w), 0.5 * inside.H):
        lam1, lam2 = -loss.b, -0.5 * loss.H
    else:
        _, lam1, lam2 = frame.to_natural(frame.coefficients(inside.c, inside.b, w))
    value = 0.5 * (low + high)
    low, high, clash = _in_order(low, high, max(1.0, abs(value)))
    certified = high - low <= tol * max(1.0, abs(value)) and not clash
    return BiconjugateResult(
        value=value,
        lower=low,
        upper=high,
        certified=certified,
        natural=frame.blocks(lam1, lam2),
        atoms=theta,
        weights=weights,
        iterations=1,
        seconds=time.perf_counter() - begin,
        method="cutting-plane",
        structure=frame.structure,
        message="" if certified else clash or f"the bracket is {high - low:.2g} wide",
        info={"boxes": 0, "majorant_offset": frame.pairing(lam1, lam2)[0] - low},
    )


def _in_order(low: float, high: float, scale: float) -> tuple[float, float, str]:
    """The ends of a bracket in order, and what to say if the lower lies above the upper by more than rounding.

    Then one of the two proofs is wrong: a gradient that is not the loss's own, or rounding beyond the margins.
    """
    if not low > high:
        return low, high, ""
    if low - high <= 1e-12 * scale:
        return high, low, ""
    clash = f"the bracket is inverted (lower end {low:.8g}, upper end {high:.8g}): a wrong gradient, or rounding"
    return low, high, clash


def _closed_form(loss: Loss, q: Gaussian, frame: MomentFrame, tol: float) -> BiconjugateResult:
    """The closed form, with a bracket that allows for the rounding of its evaluation."""
    begin = time.perf_counter()
    found = closed_form_biconjugate(loss, q, frame.structure)
    if found is None:
        raise ValueError(f"{loss!r} has no closed form of f** in the {frame.structure} family; use another method.")
    value, natural, atoms, weights, error = found
    slack = error + 1e-13 * max(1.0, abs(value))
    certified = 2.0 * slack <= tol * max(1.0, abs(value))
    return BiconjugateResult(
        value=float(value),
        lower=float(value) - slack,
        upper=float(value) + slack,
        certified=certified,
        natural=natural,
        atoms=np.zeros((0, frame.mean.size)) if atoms is None else atoms,
        weights=np.zeros(0) if weights is None else weights,
        iterations=0,
        seconds=time.perf_counter() - begin,
        method="closed-form",
        structure=frame.structure,
        message="; ".join(
            text
            for text in (
                "" if certified else f"rounding may have moved the value by {slack:.2g}",
                "" if atoms is not None else "the worst case is not attained",
            )
            if text
        ),
    )
