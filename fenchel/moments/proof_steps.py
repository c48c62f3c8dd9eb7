"""The proving steps of a round: the global search for points where l exceeds a quadratic, and what it establishes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fenchel.moments.atoms import sigma_points
from fenchel.moments.certificate import LowerBound, certify_lower, make_upper
from fenchel.moments.local_steps import starts, steepest
from fenchel.moments.rounds import Candidate, Problem, State

__all__ = ["certify", "sigma_bound", "superquadratic", "unbounded"]

Array = NDArray[np.float64]
_MARGINS = (1e-9, 1e-6, 1e-3)
_CONFINED_BOXES = 100_000


def certify(problem: Problem, state: State, candidate: Candidate, *, last: bool = False) -> State:
    """Search globally for sup (l - Q); the state is done where nothing more can be learned.

    A long search that meets a violation ends there, for a better quadratic is known then, unless it is the ``last``.
    """
    allowed, target = problem.tol * state.scale, problem.white.frame.target
    spent = np.inf if state.upper is None else state.upper.value - candidate.lower
    supposed = -float(candidate.coefficients @ target)
    # The local searches missed a violation if it is larger than this: the candidate is worth less than it seemed.
    violation = supposed - candidate.lower + 0.1 * allowed
    bound, found = certify_lower(
        problem.white,
        candidate.coefficients,
        tol=0.8 * max(allowed - spent, 0.3 * allowed),
        starts=candidate.points,
        max_seconds=max(1e-3, problem.seconds_left()),
        max_boxes=problem.budget.max_boxes,
        enough=np.inf if last else violation,
    )
    state = replace(state, searched=candidate, boxes=state.boxes + found.boxes)
    state = state.with_lower(bound)
    excess = float(found.values[0]) if found.values.size else np.inf
    if excess > violation:
        state = replace(state, best=replace(candidate, lower=supposed - excess))
        return state.with_atoms(problem, found.maximizers)
    # Where the declared growth is as steep as Q nothing confines the search: a steeper Q is searched instead.
    if found.upper == np.inf or (not found.certified and found.boxes == 0):
        state, excess = _confined(problem, state, candidate.coefficients)
        if excess > allowed:
            return replace(state, best=replace(candidate, lower=supposed - excess))
    if state.gap > allowed and not found.certified:
        message = found.message or "the global search was stopped before its proof was complete"
        return replace(state, message=message, done=True)
    return state


def _confined(problem: Problem, state: State, c: Array) -> tuple[State, float]:
    """Lower bounds from what is declared of the growth of a user's loss, where that is steeper than Q.

    The declared quadratic itself; and Q, steep enough for the global search to be confined by it. Also returns by how
    much the loss exceeds Q at the points that this search met; they join the atoms.
    """
    white = problem.white
    declared, frame = white.majorizer(), white.frame
    if declared is None:
        return state, 0.0
    short = max(0.0, float(np.linalg.eigvalsh(declared[2] - frame.quadratic(c)[2])[-1]))
    own = frame.coefficients(*declared)
    if np.array_equal(frame.quadratic(own)[2], declared[2]):
        _, lam1, lam2 = frame.to_natural(own)
        slack = 1e-14 * float(np.abs(own) @ np.abs(frame.target))
        state = state.with_lower(LowerBound(-float(own @ frame.target) - slack, lam1, lam2))
    square = frame.coefficients(0.0, np.zeros(frame.dim), np.eye(frame.dim))
    excess = 0.0
    for margin in _MARGINS:
        # A wider margin costs more of the bound, but confines the search to a smaller region.
        steep = c + (short + margin * max(1.0, float(np.abs(declared[2]).max()))) * square
        near = starts(problem, state, steep, np.zeros((0, frame.dim)))
        allowed = problem.tol * state.scale
        left = max(1e-3, problem.seconds_left())
        bound, found = certify_lower(
            white, steep, tol=allowed, starts=near, max_boxes=_CONFINED_BOXES, max_seconds=left
        )
        above = white.value(found.maximizers) - frame.features(found.maximizers) @ c
        excess = max(excess, float(above.max(initial=0.0)))
        state = replace(state.with_lower(bound), boxes=state.boxes + found.boxes)
        state = state.with_atoms(problem, found.maximizers[above > allowed])
    return state, excess


def unbounded(problem: Problem, state: State) -> State:
    """No quadratic tried was above the loss: say so, with the reason the search gives for a steep one."""
    found, _, _ = problem.white.supremum(steepest(problem), tol=1.0, starts=None, max_boxes=1000)
    message = found.message or "no quadratic tried lies above the loss"
    return replace(state, unbounded=found.lower == np.inf, message=message, done=True)


def superquadratic(problem: Problem, state: State) -> State:
    """The end for a loss of which no majorizing quadratic is known: an upper bound by sigma points."""
    return unbounded(problem, sigma_bound(problem, state))


def sigma_bound(problem: Problem, state: State) -> State:
    """With the upper bound by sigma points, which needs no linear program."""
    points = sigma_points(problem.white.frame.dim)
    return state.with_upper(make_upper(problem.white, points, np.full(points.shape[0], 1.0 / points.shape[0])))
