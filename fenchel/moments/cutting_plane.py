"""f** by column generation: linear program, Newton polish, local oracle, and the certified search last.

A round solves the moment problem over the atoms known so far, moves the active atoms to the maximizers of l - Q,
polishes them with Newton's method, and asks where l rises above the resulting quadratic. Cheap local searches answer
first; the global search is asked only when they find nothing, and whatever it finds is added.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fenchel.errors import SolverError
from fenchel.moments.atoms import design
from fenchel.moments.certificate import make_upper
from fenchel.moments.ensemble import ensemble
from fenchel.moments.joint import joint_bound
from fenchel.moments.local_steps import highest, improve, lift, look, merged, starts
from fenchel.moments.moment_problem import MasterSolution, MomentProblem
from fenchel.moments.polish import ActiveSet, polish
from fenchel.moments.proof_steps import certify, sigma_bound, superquadratic, unbounded
from fenchel.moments.rounds import Budget, Candidate, Master, Problem, Start, State
from fenchel.moments.white_loss import WhiteLoss

__all__ = ["cutting_plane", "states"]

Array = NDArray[np.float64]
_PATIENCE = 8
_FEW = 5
_ENSEMBLE = 6
_SEARCHED = 8
_SHARE = 0.4


@np.errstate(over="ignore", invalid="ignore")  # of values far out, which no bound rests on
def cutting_plane(white: WhiteLoss, *, tol: float, start: Start, budget: Budget, master: Master | None = None) -> State:
    """The last of `states`."""
    *_, last = states(white, tol=tol, start=start, budget=budget, master=master)
    return last


def states(
    white: WhiteLoss, *, tol: float, start: Start, budget: Budget, master: Master | None = None
) -> Iterator[State]:
    """The state at the start, after every round, and at the end if a proof was still owed.

    The rounds end when the proved bracket is no wider than tol * max(1, |f**|), or the budget is spent. ``master``
    replaces the built-in linear program (by the CVXPY reference).
    """
    deadline = time.perf_counter() + budget.max_seconds
    program = MomentProblem(white.frame)

    def warm(points: Array, values: Array) -> MasterSolution | None:
        return program.solve(points, values, max(1.0, deadline - time.perf_counter()))

    problem = Problem(white, tol, budget, deadline, master or warm, strict=master is not None)
    state = _begin(problem, start)
    yield state
    while not state.done:
        state = _counted(problem, state, _round(problem, replace(state, rounds=state.rounds + 1)))
        yield state
    last = _end(problem, state)
    if last is not state:
        yield last


def _begin(problem: Problem, start: Start) -> State:
    """What the start says; done where it already closes the bracket, or no quadratic can be above the loss."""
    white, frame = problem.white, problem.white.frame
    state = State(np.zeros((0, frame.dim)), np.zeros(0))
    if white.superquadratic:
        return superquadratic(problem, state)
    state = state.with_lower(start.lower)
    for bound in start.uppers:
        state = state.with_upper(bound)
    state = state.with_atoms(problem, start.points)
    if start.active is not None:
        state = _resumed(problem, state, start.active)
        if state.gap <= problem.tol * state.scale:
            return replace(state, done=True)
    state = replace(state, done=False).with_atoms(problem, design(frame.dim))
    if frame.dim > _SEARCHED:  # too many for the global search, which proves all other quadratics
        state = state.with_lower(joint_bound(white, _SHARE * problem.seconds_left()))
    near, quadratics = start.points, start.coefficients
    found = ensemble(white, _ENSEMBLE * (frame.dim + 1), problem.deadline) if frame.dim > _FEW else None
    if found is not None:  # in many dimensions the design says little
        points, c = found
        state = state.with_upper(make_upper(white, points, np.full(len(points), 1.0 / len(points))))
        state = state.with_atoms(problem, points)
        near, quadratics = np.concatenate([near, points]), (*quadratics, c)
    for c in quadratics:
        state = state.considering(problem, look(problem, c, starts(problem, state, c, highest(problem, c, near))))
    return state


def _resumed(problem: Problem, state: State, active: ActiveSet) -> State:
    """Newton straight from the active set of a nearby problem, and the global search."""
    polished = polish(problem.white, active)
    if polished is None or polished.residual > 1e-6 or polished.weights.min() < 0.0:
        return state
    state = state.with_atoms(problem, polished.points)
    state = state.with_upper(make_upper(problem.white, polished.points, polished.weights))
    if state.upper is None:
        return state
    # The global search climbs from these points itself, so nothing is gained by a local look before it.
    supposed = -float(polished.coefficients @ problem.white.frame.target)
    found = Candidate(polished.coefficients, polished.points, np.zeros(polished.weights.size), supposed)
    return certify(problem, state, found)


def _round(problem: Problem, state: State) -> State:
    """One round: linear program, local searches, Newton's method, and the proof once the bracket seems closed."""
    try:
        solution = problem.master(state.points, state.values)
    except SolverError as error:
        if problem.strict:
            raise
        # Losses of sizes that double precision cannot tell apart; what is known so far still holds.
        return replace(sigma_bound(problem, state), message=str(error).rstrip("."), done=True)
    if solution is None:
        return replace(state, message="time limit reached", done=True)
    if not solution.feasible:
        return replace(state, message="no distribution on the atoms tried has these moments", done=True)
    keep = solution.weights * (1.0 + np.sum(state.points**2, axis=1)) > 1e-12
    active, weights, c = state.points[keep], solution.weights[keep], solution.coefficients
    state = state.with_upper(make_upper(problem.white, active, weights))
    candidate = look(problem, c, starts(problem, state, c, active))
    if not np.isfinite(candidate.lower):
        candidate = lift(problem, state, c) or candidate
    state = state.considering(problem, candidate)
    state = improve(problem, state, merged(problem, candidate, active, weights))
    best = state.best
    if best is not None and not state.closed(problem) and candidate.lower < best.lower:
        # The dual of a program with few atoms swings wildly: also ask halfway to the best quadratic known.
        middle = 0.5 * (best.coefficients + c)
        halfway = look(problem, middle, starts(problem, state, middle, np.concatenate([active, best.points])))
        state = state.considering(problem, halfway)
        if halfway.lower > candidate.lower:
            state = improve(problem, state, merged(problem, halfway, active, weights))
    return certify(problem, state, state.best) if state.best is not None and state.closed(problem) else state


def _counted(problem: Problem, before: State, after: State) -> State:
    """The state after a round, done where the bracket is closed, nothing moves, or the budget is spent."""
    if after.done:
        return after
    if after.gap <= problem.tol * after.scale:
        return replace(after, done=True)
    moved = after.local_lower != before.local_lower or after.upper is not before.upper
    after = replace(after, stalled=0 if moved else before.stalled + 1)
    if after.stalled >= _PATIENCE:
        return replace(after, message="no progress within rounding error", done=True)
    if problem.seconds_left() < 0.0:
        return replace(after, message="time limit reached", done=True)
    if after.rounds >= problem.budget.max_rounds:
        return replace(after, message="round limit reached", done=True)
    return after


def _end(problem: Problem, state: State) -> State:
    """The proof of the best quadratic, where it is still owed."""
    if state.gap <= problem.tol * state.scale:
        return state
    if state.best is None or not np.isfinite(state.best.lower):
        return state if state.message else unbounded(problem, state)
    return state if state.best is state.searched else certify(problem, state, state.best, last=True)
