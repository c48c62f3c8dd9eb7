"""The local steps of a round: where l rises above a quadratic, and Newton's method on the active atoms.

Nothing here is proved. Every step takes a state and returns the next.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.moments.atoms import distinct, distinct_from
from fenchel.moments.certificate import make_upper
from fenchel.moments.polish import ActiveSet, polish
from fenchel.moments.rounds import Candidate, Problem, State

__all__ = ["highest", "improve", "lift", "look", "merged", "starts", "steepest"]

Array = NDArray[np.float64]
_ACTIVE_STEPS = 6
_MOST_STARTS = 256
_LIFTS = np.array([1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4])


def look(problem: Problem, c: Array, near: Array) -> Candidate:
    """The local maximizers of l - Q reached from ``near``; a runaway or non-finite one makes Q worthless."""
    points, values = problem.white.local_maximizers(c, near, problem.deadline)
    good = np.isfinite(values) & np.all(np.isfinite(points), axis=1)
    lower = -np.inf
    if np.all(good) and values.size:
        lower = -float(c @ problem.white.frame.target) - float(np.max(values))
    return Candidate(c, *distinct(points[good], values[good]), lower)


def starts(problem: Problem, state: State, c: Array, active: Array) -> Array:
    """Where to look: the active atoms, and the known atoms that come nearest to violating Q."""
    slackness = (state.values - problem.white.frame.features(state.points) @ c) / (
        1.0 + np.sum(state.points**2, axis=1)
    )
    count = min(slackness.size, 24 + 4 * problem.white.frame.dim, 64)
    nearest = np.argpartition(-slackness, count - 1)[:count]
    return np.concatenate([active, state.points[nearest]])


def highest(problem: Problem, c: Array, points: Array) -> Array:
    """Those of many points at which l - Q is largest: a climb in many dimensions is dear."""
    if points.shape[0] <= _MOST_STARTS:
        return points
    above = problem.white.value(points) - problem.white.frame.features(points) @ c
    return points[np.argpartition(-above, _MOST_STARTS)[:_MOST_STARTS]]


def merged(problem: Problem, candidate: Candidate, active: Array, weights: Array) -> ActiveSet | None:
    """Merge the active atoms into the maximizers they lead to, and solve the optimality conditions there."""
    if candidate.points.shape[0] == 0:
        return None
    distance = np.linalg.norm(active[:, None, :] - candidate.points[None, :, :], axis=2)
    owner = np.argmin(distance, axis=1)
    mass = np.asarray(np.bincount(owner, weights=weights, minlength=candidate.points.shape[0]), dtype=float)
    used = mass > 0.0
    return polish(problem.white, ActiveSet(candidate.points[used], mass[used], candidate.coefficients, np.inf))


def improve(problem: Problem, state: State, polished: ActiveSet | None) -> State:
    """Active-set steps: polish, look where the loss crosses the result, take the crossings in, polish again."""
    for _ in range(_ACTIVE_STEPS):
        if polished is None or polished.residual > 1e-3:
            return state
        state = state.with_upper(make_upper(problem.white, polished.points, polished.weights))
        c = polished.coefficients
        candidate = look(problem, c, starts(problem, state, c, polished.points))
        state = state.considering(problem, candidate)
        if state.closed(problem) or candidate.violations.size == 0:
            return state
        crossing = candidate.violations > max(0.1 * candidate.violations[0], 1e-12 * state.scale)
        points = np.concatenate([polished.points, candidate.points[crossing]])
        fresh = distinct_from(polished.points, points)
        if not fresh.any():
            return state
        weights = np.concatenate([polished.weights, np.zeros(int(crossing.sum()))])
        fresh[: polished.weights.size] = True
        polished = polish(problem.white, ActiveSet(points[fresh], weights[fresh], c, np.inf))
    return state


def lift(problem: Problem, state: State, c: Array) -> Candidate | None:
    """The least tried multiple of |x|^2 that makes l - Q bounded when added to Q; None where none does.

    A linear program over finitely many atoms can fall short of the growth of the loss by rounding.
    """
    frame, shortfall = problem.white.frame, problem.white.shortfall(c)
    square = frame.coefficients(0.0, np.zeros(frame.dim), np.eye(frame.dim))
    for amount in _LIFTS if shortfall is None else (1.0 + 1e-9) * shortfall + np.array([1e-13, 1e-9]):
        raised = c + amount * square
        candidate = look(problem, raised, starts(problem, state, raised, np.zeros((0, frame.dim))))
        if np.isfinite(candidate.lower):
            return candidate
    return None


def steepest(problem: Problem) -> Array:
    """The coefficients of the steepest quadratic that is tried."""
    frame = problem.white.frame
    return frame.coefficients(0.0, np.zeros(frame.dim), _LIFTS[-1] * np.eye(frame.dim))
