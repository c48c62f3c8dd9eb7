"""The biconjugate f** (Eqs. 4, 8, 9, 20) of the expected loss, with a bracket that is proved wherever it says so."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from scipy.spatial import QhullError

from fenchel.arrays import Array
from fenchel.certificates import of_biconjugate
from fenchel.checks import check_count, check_problem, check_seconds, check_tolerance, probe_points
from fenchel.errors import DomainError, SolverError
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.moments.brackets import of_closed_form, of_quadratic, of_state
from fenchel.moments.cutting_plane import cutting_plane
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.nested import nested_start
from fenchel.moments.programs import SolverOptions, reference_master
from fenchel.moments.rounds import Budget
from fenchel.moments.sampled import sampled_biconjugate
from fenchel.moments.starting import known_start
from fenchel.moments.white_loss import WhiteLoss
from fenchel.results import BiconjugateResult

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
    max_boxes: int = Budget.max_boxes,
    max_rounds: int = Budget.max_rounds,
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
    budget = Budget(max_rounds, Budget.max_seconds if max_seconds is None else float(max_seconds), max_boxes)
    frame = MomentFrame.of(q.mean, q.cov, family)
    begin = time.perf_counter()
    if method == "sampled":
        generator = rng if isinstance(rng, np.random.Generator) else np.random.default_rng(0 if rng is None else rng)
        return sampled_biconjugate(WhiteLoss(loss, frame), num_pieces=num_pieces, rng=generator, options=options)
    if method == "closed-form":
        result = of_closed_form(loss, q, frame, tol, begin)
    elif method == "hull":
        result = _hull(loss, q, frame, tol, warm, budget)
    else:
        reference = partial(reference_master, options=options) if master == "cvxpy" else None
        result = _cutting_plane(loss, q, frame, tol, warm, budget, reference)
    loss.examine(np.concatenate([result.atoms, q.mean + np.sqrt(np.diag(q.cov)) * probe_points(loss.dim)]))
    return replace(result, assumes=loss.assumes, evidence=partial(of_biconjugate, loss, q.mean, q.cov))


def _cutting_plane(
    loss: Loss, q: Gaussian, frame: MomentFrame, tol: float, warm: Any, budget: Budget, reference: Any = None
) -> BiconjugateResult:
    begin = time.perf_counter()
    if getattr(loss, "quadratic_only", False):
        return of_quadratic(loss, frame, tol, begin)
    white = WhiteLoss.reduced(loss, frame)
    start = known_start(loss, q, white.frame, warm)
    if start.active is None:
        start = nested_start(white, start, tol, budget)
        budget = budget.since(begin)
    master = None if reference is None else partial(reference, white.frame)
    state = cutting_plane(white, tol=tol, start=start, budget=budget, master=master)
    return of_state(white.frame, state, tol, begin)


def _hull(loss: Loss, q: Gaussian, frame: MomentFrame, tol: float, warm: Any, budget: Budget) -> BiconjugateResult:
    """By the hull, or by cutting planes where these bring a narrower bracket."""
    begin = time.perf_counter()
    hull, failure = _hull_alone(loss, q, frame.structure, tol, budget.max_seconds)
    if hull is not None and (hull.certified or np.isinf(hull.value)):
        return hull
    found = _cutting_plane(loss, q, frame, tol, warm, budget.since(begin))
    if hull is not None and hull.gap <= found.gap:
        return hull
    return replace(found, message="; ".join(text for text in (f"by cutting planes: {failure}", found.message) if text))


def _hull_alone(
    loss: Loss, q: Gaussian, family: str, tol: float, max_seconds: float
) -> tuple[BiconjugateResult | None, str]:
    """f** by the hull, and why there is none or why it is not certified."""
    from fenchel.hull.hull_bracket import hull_biconjugate

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
    if master not in MASTERS:
        raise ValueError(f"master must be one of {', '.join(MASTERS)}; got {master!r}.")
    for name, count in (("num_pieces", num_pieces), ("max_rounds", max_rounds), ("max_boxes", max_boxes)):
        check_count(count, name)
    check_seconds(max_seconds)
    return str(q.structure if structure is None else structure)
