"""The restricted moment problem and what surrounds it: frames, repair of moments, Newton polish, jumps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from fenchel import losses as L
from fenchel.losses.jumps import JumpPlanes
from fenchel.moments.atoms import design, moment_error, repair_by_mixing, repair_by_moving, sigma_points
from fenchel.moments.ensemble import ensemble
from fenchel.moments.moment_frame import STRUCTURES, MomentFrame
from fenchel.moments.moment_problem import MomentProblem
from fenchel.moments.polish import ActiveSet, polish
from fenchel.moments.rounds import Budget, Problem, State
from fenchel.moments.white_loss import WhiteLoss

Array = np.ndarray


def frame_of(structure: str, dim: int, seed: int = 0) -> MomentFrame:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dim, dim))
    return MomentFrame.of(rng.normal(size=dim), root @ root.T + 0.2 * np.eye(dim), structure)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_frame_turns_quadratics_into_natural_parameters_and_back(structure: str, dim: int) -> None:
    frame = frame_of(structure, dim)
    rng = np.random.default_rng(1)
    c = rng.normal(size=frame.size)
    x = rng.normal(size=(7, dim))
    theta = frame.to_theta(x)
    np.testing.assert_allclose(frame.to_white(theta), x, atol=1e-12)
    t, lam1, lam2 = frame.to_natural(c)
    direct = t - theta @ lam1 - np.einsum("ni,ij,nj->n", theta, lam2, theta)
    np.testing.assert_allclose(frame.features(x) @ c, direct, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(frame.from_natural(t, lam1, lam2), c, rtol=1e-9, atol=1e-9)
    # E_q[Q] = t - <lambda', mu>, whichever way it is computed.
    assert frame.pairing(lam1, lam2)[0] == pytest.approx(t - c @ frame.target, rel=1e-11)
    np.testing.assert_allclose(frame.matrix(frame.blocks(lam1, lam2).lam2), lam2)
    u, v, w = frame.quadratic(c)
    np.testing.assert_allclose(frame.coefficients(u, v, w), c)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_frame_derivatives_are_those_of_the_features(structure: str) -> None:
    frame = frame_of(structure, 3)
    x = np.random.default_rng(2).normal(size=(4, 3))
    step = 1e-6 * np.eye(3)
    for axis in range(3):
        numeric = (frame.features(x + step[axis]) - frame.features(x - step[axis])) / 2e-6
        np.testing.assert_allclose(frame.jacobians(x)[:, axis], numeric, atol=1e-8)


def test_unknown_structure_is_refused() -> None:
    with pytest.raises(ValueError, match="structure must be one of"):
        MomentFrame.of(np.zeros(2), np.eye(2), "banded")


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_linear_program_agrees_with_an_independent_one(structure: str, dim: int) -> None:
    frame = frame_of(structure, dim)
    rng = np.random.default_rng(dim)
    points = np.concatenate([sigma_points(dim), 2.0 * rng.normal(size=(40 * dim, dim))])
    values = np.cos(points @ rng.normal(size=dim)) + np.sum(np.abs(points), axis=1)
    problem = MomentProblem(frame)
    first = problem.solve(points[:10], values[:10])
    warm = problem.solve(points, values)
    assert first is not None
    assert warm is not None
    reference = linprog(-values, A_eq=frame.features(points).T, b_eq=frame.target, bounds=(0, None), method="highs")
    assert warm.value == pytest.approx(reference.fun, abs=1e-9 * (1 + abs(reference.fun)))
    assert warm.value <= first.value + 1e-12
    assert moment_error(frame, points, warm.weights) < 1e-9
    # The dual is a quadratic above the loss at every atom, with the same expectation.
    assert np.all(frame.features(points) @ warm.coefficients >= values - 1e-8 * (1 + np.sum(points**2, axis=1)))
    assert -frame.target @ warm.coefficients == pytest.approx(warm.value, abs=1e-8)


def test_moments_out_of_reach_are_infeasible_not_an_answer() -> None:
    solution = MomentProblem(frame_of("full", 1)).solve(np.array([[3.0], [4.0]]), np.zeros(2))
    assert solution is not None
    assert not solution.feasible
    assert solution.value == np.inf


def test_atoms_with_an_infinite_loss_are_left_out() -> None:
    loss = L.from_function(lambda t: t[:, 0] ** 2, lambda t: 2.0 * t, 1, curvature=2.0, bounds=([-2.0], [2.0]))
    white = WhiteLoss(loss, MomentFrame.of(np.zeros(1), np.eye(1), "full"))
    problem = Problem(white, 1e-8, Budget(), np.inf, MomentProblem(white.frame).solve)
    state = State(np.zeros((0, 1)), np.zeros(0)).with_atoms(problem, np.array([[-1.0], [1.5], [5.0]]))
    assert state.values.tolist() == [1.0, 2.25]
    assert state.points.tolist() == [[-1.0], [1.5]]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("repair", [repair_by_moving, repair_by_mixing])
def test_repairs_restore_the_moments_exactly(structure: str, repair: object) -> None:
    frame = frame_of(structure, 3)
    rng = np.random.default_rng(5)
    for size in (1e-13, 1e-9, 1e-5, 1e-3):
        points = sigma_points(3) @ np.linalg.qr(rng.normal(size=(3, 3)))[0].T
        points = np.concatenate([points, 1.7 * points])
        weights = np.concatenate([np.full(6, 0.5), np.full(6, 0.5)])
        weights[6:] /= 1.7**2
        weights /= weights.sum()
        points *= np.sqrt(3.0 / float(weights @ np.sum(points**2, axis=1)))
        spoiled = points + size * rng.normal(size=points.shape)
        assert moment_error(frame, spoiled, weights) > 0.01 * size
        repaired = repair(frame, spoiled, weights)  # type: ignore[operator]
        assert repaired is not None
        assert moment_error(frame, *repaired) < 2e-15 * 10
        assert np.all(repaired[1] >= 0.0)
        assert repaired[1].sum() == pytest.approx(1.0, abs=1e-14)


def test_mixing_keeps_the_atoms_and_refuses_large_residuals() -> None:
    frame = frame_of("full", 2)
    points, weights = sigma_points(2) + 1e-7, np.full(4, 0.25)
    kept, _ = repair_by_mixing(frame, points, weights)  # type: ignore[misc]
    np.testing.assert_array_equal(kept[:4], points)
    assert repair_by_mixing(frame, points + 5.0, weights) is None


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 8])
def test_starting_design_can_reproduce_every_family(dim: int) -> None:
    for structure in STRUCTURES:
        points = design(dim)
        solution = MomentProblem(frame_of(structure, dim)).solve(points, np.zeros(points.shape[0]))
        assert solution is not None
        assert solution.feasible


def test_newton_polish_reaches_the_closed_form_of_the_absolute_value() -> None:
    mean, sigma, center = 0.3, 1.3, -0.4
    frame = MomentFrame.of(np.array([mean]), np.array([[sigma**2]]), "full")
    white = WhiteLoss(L.Absolute(center), frame)
    radius = np.hypot(sigma, mean - center)
    # The worst case is at center +- radius; begin well away from it.
    theta = np.array([[center - 0.8 * radius], [center + 1.2 * radius]])
    x = frame.to_white(theta)
    bend = sigma / (x[1, 0] - x[0, 0])
    tangent = frame.coefficients(1.0, np.array([sigma - 2.0 * bend * x[1, 0]]), np.array([[bend]]))
    solved = polish(white, ActiveSet(x, np.array([0.5, 0.5]), tangent, np.inf))
    assert solved is not None
    assert solved.residual < 1e-14
    np.testing.assert_allclose(frame.to_theta(solved.points)[:, 0], [center - radius, center + radius], rtol=1e-13)
    assert frame.target @ solved.coefficients == pytest.approx(radius, rel=1e-14)


def test_jump_planes_find_the_lowest_point_and_the_upper_side() -> None:
    loss = L.Indicator(0.7).compose(np.array([[1.0, 2.0]]))
    planes = JumpPlanes.of(loss)
    w = np.array([[2.0, 0.3], [0.3, 1.0]])
    v = np.array([0.5, -1.0])
    point = planes.lowest(v, w)
    assert point.shape == (1, 2)
    assert point[0] @ [1.0, 2.0] == pytest.approx(0.7)
    for scale in (1e-14, 1e10):  # the lowest point of a quadratic is that of its multiples
        np.testing.assert_allclose(planes.lowest(scale * v, scale * w), point, rtol=1e-12)
    assert planes.lowest(v, -w).shape == planes.lowest(v, 0.0 * w).shape == (0, 2)
    along = np.array([2.0, -1.0])
    assert along @ (v + 2.0 * w @ point[0]) == pytest.approx(0.0, abs=1e-12)
    off = point - 1e-14 * np.array([[1.0, 2.0]])
    assert loss(off)[0] == 0.0
    assert loss(planes.snap(off, loss._value))[0] == 1.0
    assert JumpPlanes.of(L.Softplus()).offsets.size == 0


@pytest.mark.parametrize("threshold", [0.3, -1.7, 40.0])
def test_an_atom_at_a_jump_keeps_its_loss_whatever_rounding_does(threshold: float) -> None:
    """Wherever within rounding of the jump it was found, also a hair above: the loss cannot be a jump smaller."""
    white = WhiteLoss(L.Indicator(threshold), MomentFrame.of(np.array([-0.6]), np.array([[0.06]]), "full"))
    plane = white.frame.to_white(np.array([[threshold]]))
    near = plane + np.spacing(plane) * np.arange(-40, 41)[:, None]
    snapped = white.snap(near)
    assert (white.value(snapped) == 1.0).all()
    assert white.rounding(snapped, -1).max() < 1e-14
    assert np.abs(snapped - plane).max() < 1e-13 * (1.0 + np.abs(plane).max())
    far = plane + np.array([[-0.1], [0.1]])
    np.testing.assert_array_equal(white.snap(far), far)


@pytest.mark.parametrize("seed", range(8))
def test_the_local_maximizer_on_a_jump_has_the_upper_value(seed: int) -> None:
    """Where the quadratic is least on the plane of the jump, which rounding alone would put on either side."""
    rng = np.random.default_rng(seed)
    threshold = float(rng.uniform(0.1, 3.0))
    loss = L.Indicator(threshold).compose(rng.normal(size=(1, 2)))
    white = WhiteLoss(loss, frame_of("full", 2, seed))
    c = white.frame.from_natural(0.0, rng.normal(size=2), -0.5 * np.eye(2))
    points, values = white.local_maximizers(c, np.zeros((1, 2)))
    on = np.abs(white.rounding(points, -1)) < 1e-12
    assert on.all()  # no value may be a jump smaller for rounding
    np.testing.assert_allclose(values, white.value(points) - white.frame.features(points) @ c, rtol=1e-12)
    (plane,) = loss.groups[0].rows
    beside = np.abs(white.frame.to_theta(points) @ plane - threshold) < 1e-9
    assert beside.any()
    assert (white.value(points[beside]) == 1.0).all()


def test_reduced_frame_keeps_the_moments_of_what_it_leaves_out() -> None:
    rows = np.array([[1.0, 2.0, -1.0]])
    loss = L.LogisticRegression(rows, [1]) + L.Quadratic(np.zeros((3, 3)), [0.3, -0.2, 0.9], 0.0)
    frame = frame_of("full", 3)
    white = WhiteLoss.reduced(loss, frame)
    assert white.frame.dim == 1
    points, weights = np.array([[-1.0], [1.0]]), np.array([0.5, 0.5])
    theta, spread = white.distribution(points, weights)
    assert moment_error(frame, frame.to_white(theta), spread) < 1e-14
    value = spread @ loss(theta) - weights @ white.value(points)
    assert value == pytest.approx(spread @ (theta @ white.frame.tilt) - white.frame.tilt @ frame.mean, abs=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_an_ensemble_keeps_the_moments_and_climbs_to_the_best(structure: str) -> None:
    """softplus(z) + softplus(-z) is concave in z^2: the mean is largest, at these moments, where all |x_i| = 1."""
    dim, count = 7, 60
    frame = MomentFrame.of(np.zeros(dim), np.eye(dim), structure)
    pairs = L.LogisticRegression(np.vstack([np.eye(dim), np.eye(dim)]), np.repeat([0, 1], dim))
    white = WhiteLoss(pairs, frame)
    found = ensemble(white, count)
    assert found is not None
    points, c = found
    weights, best = np.full(count, 1.0 / count), dim * (2.0 * np.log1p(np.exp(-1.0)) + 1.0)
    assert moment_error(frame, points, weights) < 1e-12
    assert best - 1e-3 * best <= float(weights @ white.value(points)) <= best + 1e-12 * best
    # The quadratic lies above the loss at every atom and touches it at one.
    gap = frame.features(points) @ c - white.value(points)
    assert gap.min() == pytest.approx(0.0, abs=1e-12)
    assert float(c @ frame.target) <= best + 0.02 * best


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_snapped_point_stays_on_the_upper_side_whatever_rounding_does(dim: int) -> None:
    rng = np.random.default_rng(dim)
    for _ in range(50):
        row, offset = rng.normal(size=dim), rng.normal()
        planes = JumpPlanes(row[None, :], np.array([offset]))

        def step(x: Array, row: Array = row, offset: float = offset) -> Array:
            return (x @ row + offset >= 0.0).astype(float)

        on = rng.normal(size=(20, dim))
        on = on - ((on @ row + offset) / (row @ row))[:, None] * row + rng.choice([-1e-16, 0.0, 1e-16]) * row
        snapped = planes.snap(on, step)
        room = 1e-15 * (np.abs(snapped) @ np.abs(row) + abs(offset))
        assert (snapped @ row + offset > room).all()
        np.testing.assert_allclose(snapped, on, rtol=0.0, atol=1e-12 * (1.0 + np.abs(on).max()))
