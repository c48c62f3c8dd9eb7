"""Single steps of the column generation, each with what it promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fenchel
from fenchel import losses as L
from fenchel.moments.atoms import design, sigma_points
from fenchel.moments.certificate import LowerBound, UpperBound, make_upper
from fenchel.moments.cutting_plane import _resumed, cutting_plane, states
from fenchel.moments.local_steps import lift, look, merged, starts
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.moment_problem import MomentProblem
from fenchel.moments.polish import ActiveSet
from fenchel.moments.proof_steps import certify
from fenchel.moments.rounds import Budget, Candidate, Problem, Start, State
from fenchel.moments.white_loss import WhiteLoss

FRAME = MomentFrame.of(np.array([0.3]), np.array([[1.0]]), "full")
RADIUS = np.hypot(1.0, 0.3)
TRUTH = -(0.15 + np.logaddexp(0.5 * RADIUS, -0.5 * RADIUS))


def problem(loss: L.Loss | None = None, tol: float = 1e-8) -> Problem:
    white = WhiteLoss(loss or L.Softplus(), FRAME)
    return Problem(white, tol, Budget(), np.inf, MomentProblem(FRAME).solve)


EMPTY = State(np.zeros((0, 1)), np.zeros(0))


def best_quadratic(radius: float = RADIUS) -> np.ndarray:
    """The parabola that touches softplus at +-radius: t/2 + h(radius^2) + h'(radius^2) (t^2 - radius^2)."""
    bend = np.tanh(0.5 * radius) / (4.0 * radius)
    level = np.logaddexp(0.5 * radius, -0.5 * radius) - bend * radius**2
    return FRAME.from_natural(level, np.array([-0.5]), np.array([[-bend]]))


def bounded(lower: float | None, upper: float | None) -> State:
    state = EMPTY
    if lower is not None:
        state = state.with_lower(LowerBound(lower, np.zeros(1), np.zeros((1, 1))))
    if upper is not None:
        state = state.with_upper(UpperBound(upper, np.zeros((1, 1)), np.ones(1)))
    return state


def test_the_scale_is_that_of_the_smaller_end_and_at_least_one() -> None:
    for lower, upper, scale in (
        (None, None, 1.0),
        (-0.2, 0.3, 1.0),
        (-50.0, -20.0, 20.0),
        (None, 7.0, 7.0),
        (-np.inf, 7.0, 7.0),
    ):
        assert bounded(lower, upper).scale == scale
    for short, closed in ((0.0029, True), (0.0031, False)):
        best = Candidate(np.zeros(3), np.zeros((1, 1)), np.zeros(1), -10.0 - short)
        assert replace(bounded(None, -10.0), best=best).closed(problem(tol=1e-3)) == closed


def test_a_look_finds_the_contacts_and_what_the_quadratic_is_worth() -> None:
    task, c = problem(), best_quadratic()
    state = EMPTY.with_atoms(task, design(1))
    candidate = look(task, c, starts(task, state, c, np.array([[-1.0], [1.0]])))
    contacts = FRAME.to_white(np.array([[-RADIUS], [RADIUS]]))
    np.testing.assert_allclose(np.sort(candidate.points, axis=0), contacts, atol=1e-6)
    np.testing.assert_allclose(candidate.violations, 0.0, atol=1e-14)
    assert candidate.lower == pytest.approx(TRUTH, rel=1e-13)
    # A quadratic shifted down by 0.1 is violated by 0.1, and worth the same; a flat one is worth nothing.
    low = look(task, c - 0.1 * np.eye(3)[0], np.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(low.violations, 0.1, atol=1e-13)
    assert low.lower == pytest.approx(TRUTH, rel=1e-12)
    flat = look(task, np.zeros(3), np.array([[1.0]]))
    assert flat.lower == -np.inf
    after = state.considering(task, candidate).considering(task, flat)
    assert after.best is candidate
    assert after.local_lower == candidate.lower
    assert after.values.size > state.values.size
    near = starts(task, state, c, np.zeros((0, 1)))
    assert near.shape[0] == 28
    slack = (state.values - FRAME.features(state.points) @ c) / (1.0 + state.points[:, 0] ** 2)
    assert np.abs(near - contacts[0]).min() < 0.2
    assert np.abs(near - contacts[1]).min() < 0.2
    inside = np.isin(state.points[:, 0], near[:, 0])
    assert slack[inside].min() >= slack[~inside].max()


def test_columns_are_the_worst_violations_first() -> None:
    found = Candidate(np.zeros(3), np.arange(20.0)[:, None], np.arange(20.0), 0.0)
    assert found.highest(12)[:, 0].tolist() == list(range(19, 7, -1))
    assert EMPTY.considering(problem(), found).points[:, 0].tolist() == list(range(19, 7, -1))
    nothing = Candidate(np.zeros(3), np.zeros((0, 1)), np.zeros(0), 0.0)
    assert nothing.highest(12).shape == (0, 1)
    assert merged(problem(), nothing, np.zeros((1, 1)), np.ones(1)) is None


def test_newton_from_the_atoms_of_a_coarse_program_is_exact() -> None:
    task = problem()
    state = EMPTY.with_atoms(task, np.linspace(-3.0, 3.0, 13)[:, None])
    solution = task.master(state.points, state.values)
    assert solution is not None
    keep = solution.weights > 1e-9
    active, weights = state.points[keep], solution.weights[keep]
    candidate = look(task, solution.coefficients, active)
    polished = merged(task, candidate, active, weights)
    assert polished is not None
    assert polished.residual < 1e-13
    assert polished.weights.sum() == pytest.approx(1.0, abs=1e-13)
    np.testing.assert_allclose(polished.coefficients, best_quadratic(), atol=1e-10)


def test_a_quadratic_that_grows_too_slowly_is_lifted_by_the_least_that_helps() -> None:
    task = problem(L.Quadratic([[3.0]], [0.2], 0.0) + L.Softplus())
    flat = FRAME.coefficients(0.0, np.zeros(1), np.zeros((1, 1)))
    lifted = lift(task, EMPTY.with_atoms(task, design(1)), flat)
    assert lifted is not None
    assert lifted.coefficients[2] == pytest.approx(1.5, rel=1e-8)


def test_a_search_that_finds_more_than_the_climbs_corrects_the_candidate() -> None:
    task, c = problem(), best_quadratic()
    state = EMPTY.with_atoms(task, design(1))
    state = state.with_upper(make_upper(task.white, sigma_points(1), np.full(2, 0.5)))
    overrated = Candidate(c - 0.1 * np.eye(3)[0], np.zeros((0, 1)), np.zeros(0), TRUTH + 0.1)
    after = certify(task, state, overrated)
    assert not after.done
    assert after.best is not None
    assert TRUTH - 0.01 < after.best.lower <= TRUTH + 1e-12
    assert after.values.size > state.values.size
    assert after.lower is not None
    assert TRUTH - 0.01 < after.lower.value <= TRUTH
    assert after.boxes > 0


def test_resuming_closes_the_bracket_from_contacts_nearby_and_not_from_elsewhere() -> None:
    other = np.hypot(1.1, 0.2)  # the problem of a q with mean 0.2 and deviation 1.1
    contacts = FRAME.to_white(np.array([[-other], [other]]))
    share = 0.5 + 0.1 / other
    near = ActiveSet(contacts, np.array([1.0 - share, share]), best_quadratic(other), np.inf)
    task = problem()
    state = _resumed(task, EMPTY, near)
    assert state.gap <= 1e-8
    assert state.lower is not None
    assert state.lower.value <= TRUTH + 1e-15
    lost = _resumed(task, EMPTY, ActiveSet(np.zeros((1, 1)), np.ones(1), np.zeros(3), np.inf))
    assert lost.gap == np.inf
    resumed = cutting_plane(task.white, tol=1e-8, start=Start(contacts, (), None, near), budget=Budget())
    assert resumed.rounds == 0
    cold = cutting_plane(task.white, tol=1e-8, start=Start(np.zeros((0, 1))), budget=Budget())
    assert 1 <= cold.rounds <= 3
    assert cold.values.size > resumed.values.size > 0
    assert cold.message == resumed.message == ""


@pytest.mark.parametrize("limit", ["rounds", "seconds"])
def test_a_budget_is_named_when_it_is_spent(limit: str) -> None:
    rng = np.random.default_rng(0)
    loss = L.LogisticRegression(3.0 * rng.normal(size=(60, 4)), rng.integers(0, 2, size=60))
    frame = MomentFrame.of(np.zeros(4), np.eye(4), "full")
    budget = Budget(1, 60.0, 1) if limit == "rounds" else Budget(50, 1e-6, 1)
    out = cutting_plane(WhiteLoss(loss, frame), tol=1e-13, start=Start(np.zeros((0, 4))), budget=budget)
    assert out.message
    assert out.rounds <= (1 if limit == "rounds" else 2)
    assert out.lower is None or out.upper is None or out.lower.value <= out.upper.value + 1e-12


@pytest.mark.parametrize("dim", [6, 7])
def test_many_dimensions_begin_with_an_ensemble(dim: int) -> None:
    rng = np.random.default_rng(dim)
    loss = L.LogisticRegression(rng.normal(size=(20, dim)), rng.integers(0, 2, size=20))
    white = WhiteLoss(loss, MomentFrame.of(np.zeros(dim), np.eye(dim), "diagonal"))
    begun = next(states(white, tol=1e-8, start=Start(np.zeros((0, dim))), budget=Budget()))
    assert begun.best is not None
    assert begun.upper is not None
    assert begun.upper.points.shape == (6 * (dim + 1), dim)
    assert begun.values.size >= 6 * (dim + 1) + design(dim).shape[0]
    gauss = fenchel.expected_loss(loss, fenchel.Gaussian(np.zeros(dim), np.ones(dim)))
    assert begun.upper.value < -gauss  # worse than the Gaussian itself, as it should be
    few = next(states(problem().white, tol=1e-8, start=Start(np.zeros((0, 1))), budget=Budget()))
    assert few.best is few.upper is None
