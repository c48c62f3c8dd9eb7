"""The parts of the moment problem: the whitened loss, the two ends of the bracket, records, the nested start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from search_cases import smooth

from fenchel import losses as L
from fenchel.moments.atoms import (
    _directions,
    design,
    distinct,
    distinct_from,
    merge,
    moment_error,
    repair_by_mixing,
    repair_by_moving,
    sigma_points,
)
from fenchel.moments.certificate import _residual_cost, certify_lower, make_upper
from fenchel.moments.ensemble import _affine, ensemble
from fenchel.moments.moment_frame import STRUCTURES, MomentFrame
from fenchel.moments.nested import _extended, _regression, _spread, nested_start
from fenchel.moments.polish import ActiveSet, _curvature_inverse, _solve, polish
from fenchel.moments.quadratics import quadratic_moment_problem
from fenchel.moments.rounds import Budget, Start, State
from fenchel.moments.white_loss import WhiteLoss

Array = np.ndarray
MEAN, COV = np.array([0.5, -0.4, 0.2]), np.array([[1.0, 0.3, 0.0], [0.3, 0.7, -0.2], [0.0, -0.2, 0.5]])


def as_user(**known: Any) -> L.UserLoss:
    loss = smooth()
    known = {"curvature": 30.0} | known
    return L.from_function(loss._value, loss._gradient, 3, hessian=loss._hessian, **known)


def whites(structure: str) -> list[WhiteLoss]:
    frame = MomentFrame.of(MEAN, COV, structure)
    growth = L.Quadratic(0.5 * np.eye(3), np.zeros(3), 400.0)
    return [WhiteLoss(smooth(), frame), WhiteLoss(as_user(majorizer=growth), frame)]


def above(structure: str, rng: np.random.Generator) -> tuple[MomentFrame, Array]:
    """A quadratic of the family that grows faster than the loss."""
    frame = MomentFrame.of(MEAN, COV, structure)
    return frame, frame.coefficients(1.0, rng.normal(size=3), np.eye(3) * 1.3)


# --- the loss in whitened coordinates ------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_whitened_loss_and_its_derivatives(structure: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, 3))
    _, c = above(structure, rng)
    for white in whites(structure):
        theta = MEAN + x @ white.frame.factor.T
        np.testing.assert_allclose(white.value(x), smooth()(theta), rtol=1e-12)
        for axis in range(3):
            step = np.zeros(3)
            step[axis] = 1e-5
            up, down = x + step, x - step
            np.testing.assert_allclose(
                (white.value(up) - white.value(down)) / 2e-5, white.gradient(x)[:, axis], atol=1e-7
            )
            np.testing.assert_allclose(
                (white.gradient(up) - white.gradient(down)) / 2e-5, white.hessian(x)[:, axis], atol=1e-7
            )
            excess = [white.value(at) - white.frame.features(at) @ c for at in (up, down)]
            np.testing.assert_allclose((excess[0] - excess[1]) / 2e-5, white.slope(c, x)[:, axis], atol=1e-7)
        seen, moved = white.represented(x)
        np.testing.assert_allclose(seen, x, atol=1e-13)
        assert (np.abs(seen - x) <= moved + 1e-300).all()
        assert moved.max() < 1e-13
        assert (white.rounding(x, 1) >= 0.0).all()
        assert white.rounding(x, -1).max() < 1e-12


@pytest.mark.parametrize("structure", STRUCTURES)
def test_local_and_global_oracle_agree_on_the_supremum_of_the_loss_minus_a_quadratic(structure: str) -> None:
    rng = np.random.default_rng(2)
    frame, c = above(structure, rng)
    starts = 2.0 * rng.normal(size=(20, 3))
    for white in whites(structure):
        points, values = white.local_maximizers(c, starts)
        np.testing.assert_allclose(values, white.value(points) - frame.features(points) @ c, atol=1e-11)
        np.testing.assert_allclose(white.slope(c, points), 0.0, atol=1e-6)
        found, mean, size = white.supremum(c, tol=1e-7, starts=points, max_boxes=3_000)
        assert mean == pytest.approx(float(c @ frame.target), rel=1e-12)
        assert size >= abs(mean)
        assert found.lower == pytest.approx(values.max(), abs=1e-9)
        assert found.lower <= found.upper
        assert found.certified or white.loss.in_predictors() is None
        np.testing.assert_allclose(found.values, white.value(found.maximizers) - frame.features(found.maximizers) @ c)
        np.testing.assert_allclose(found.argmax, found.maximizers[0], atol=1e-12)
        # As a bound: no distribution with q's moments has a mean loss above E_q[Q] + sup (l - Q).
        bound, again = certify_lower(white, c, tol=1e-7, starts=points, max_boxes=3_000)
        assert bound.value == pytest.approx(-mean - again.upper, abs=1e-11)
        assert bound.value <= -mean - again.upper
        upper = make_upper(white, *repair_by_moving(frame, rng.normal(size=(30, 3)), np.full(30, 1 / 30)))  # type: ignore[misc]
        assert upper is not None
        assert bound.value <= upper.value
        t = bound.offset(frame)
        theta = MEAN + 3.0 * rng.normal(size=(300, 3))
        natural = t - theta @ bound.lam1 - np.einsum("ni,ij,nj->n", theta, bound.lam2, theta)
        assert (natural >= smooth()(theta) - 1e-9 * (1.0 + np.abs(natural))).all()


def test_what_is_declared_of_the_growth_is_used() -> None:
    frame = MomentFrame.of(MEAN, COV, "full")
    x = 5.0 * np.random.default_rng(3).normal(size=(300, 3))
    majorizer = L.Quadratic(0.7 * np.eye(3), np.array([0.1, 0.2, 0.3]), 400.0)
    for loss in (as_user(), as_user(majorizer=majorizer)):
        white = WhiteLoss(loss, frame)
        declared = white.majorizer()
        assert declared is not None
        u, v, w = declared
        quadratic = u + x @ v + np.einsum("ni,ij,nj->n", x, w, x)
        assert (quadratic >= white.value(x)).all()
        if loss.majorizer is not None:
            np.testing.assert_allclose(quadratic, majorizer(frame.to_theta(x)), rtol=1e-12)
        else:  # the descent lemma at the mean
            assert u == pytest.approx(float(smooth()(MEAN)), rel=1e-12)
            np.testing.assert_allclose(v, smooth().gradient(MEAN) @ frame.factor, rtol=1e-9)
        assert not white.superquadratic
        assert white.shortfall(np.zeros(frame.size)) is None
        with pytest.raises(TypeError, match="rows"):
            white.bend(np.eye(3))
    assert WhiteLoss(as_user(curvature=np.inf), frame).superquadratic
    for loss in (smooth(), as_user(curvature=np.inf, bounds=(-9.0, 9.0))):
        white = WhiteLoss(loss, frame)
        assert white.majorizer() is None
        assert not white.superquadratic
    # |x|^2 has to be added to Q just so often that Q - x^T H x / 2 is convex.
    white = WhiteLoss(smooth(), frame)
    c = frame.coefficients(0.0, np.zeros(3), 0.01 * np.eye(3))
    short = white.shortfall(c)
    assert short is not None
    H = frame.factor.T @ np.diag([0.1, 0.2, 0.3]) @ frame.factor
    assert np.linalg.eigvalsh(0.01 * np.eye(3) + short * np.eye(3) - 0.5 * H)[0] == pytest.approx(0.0, abs=1e-14)
    assert white.shortfall(frame.coefficients(0.0, np.zeros(3), np.eye(3))) == 0.0
    rows = np.concatenate([np.sqrt(g.weights)[:, None] * g.rows for g in smooth().groups]) @ frame.factor
    expected = rows.T @ rows + np.linalg.norm(H) * np.eye(3)
    np.testing.assert_allclose(white.bend(np.eye(3)), expected, rtol=1e-12)


def test_rounding_may_take_a_loss_up_below_a_jump_and_down_above_it() -> None:
    frame = MomentFrame.of(np.array([-0.6]), np.array([[0.06]]), "full")
    white = WhiteLoss(3.0 * L.Indicator(0.3), frame)
    plane = frame.to_white(np.array([[0.3]]))
    hair = 1e-16 * (1.0 + np.abs(plane))
    for x in (plane - hair, plane + hair, plane):
        up, down = (float(white.rounding(x, side)[0]) for side in (1, -1))
        whole, none = (down, up) if white.value(x)[0] == 3.0 else (up, down)
        assert whole == pytest.approx(3.0, abs=1e-13)
        assert 0.0 <= none < 1e-13
    for side in (1, -1):
        assert white.rounding(plane + 0.1, side) < 1e-13
        assert white.rounding(plane - 0.1, side) < 1e-13
    # A steep slope moves the loss by slope times the rounding of the predictor, up and down alike.
    steep = WhiteLoss(L.Softplus().compose([1e8], [-3e7]), frame)
    up, down = (float(steep.rounding(np.array([[5.0]]), side)[0]) for side in (1, -1))
    assert up == pytest.approx(down, rel=1e-3)
    value = float(steep.value(np.array([[5.0]]))[0])
    assert 2e-16 * abs(value) < up < 1e-14 * (1e8 + abs(value))


def test_a_user_s_bounds_hold_in_whitened_coordinates() -> None:
    white = WhiteLoss(as_user(bounds=(-1.0, 1.5)), MomentFrame.of(MEAN, COV, "full"))
    corners = np.array([[-1.0, 1.5, 1.5], [1.5, -1.0, -1.0], [1.51, 0.0, 0.0], [0.0, 0.0, -1.01]])
    values = white.value(white.frame.to_white(corners))
    np.testing.assert_allclose(values[:2], smooth()(corners[:2]), rtol=1e-9)
    assert (values[2:] == -np.inf).all()
    theta, weights = white.distribution(white.frame.to_white(corners[:2]), np.array([0.4, 0.6]))
    assert (np.abs(theta) <= 1.5).all()
    assert (theta >= -1.0).all()
    assert weights.tolist() == [0.4, 0.6]


def test_directions_that_hardly_matter_are_told_apart() -> None:
    rows = np.array([[1.0, 0.2, 0.0], [0.5, -0.3, 0.0], [0.2, 0.1, 1e-4]])
    frame = MomentFrame.of(np.zeros(3), np.eye(3), "full")
    white = WhiteLoss(L.LogisticRegression(rows, [1, 0, 1]), frame)
    minor = white.split(0.02)
    assert minor is not None
    assert (minor.kept.shape, minor.left.shape) == ((3, 2), (3, 1))
    both = np.concatenate([minor.kept, minor.left], axis=1)
    np.testing.assert_allclose(both.T @ both, np.eye(3), atol=1e-14)
    x1 = np.random.default_rng(0).normal(size=(6, 2))
    np.testing.assert_allclose(minor.major.value(x1), white.value(x1 @ minor.kept.T), rtol=1e-13)
    assert white.split(1e-6) is None
    assert (
        WhiteLoss(L.LogisticRegression(rows, [1, 0, 1]), MomentFrame.of(np.zeros(3), np.eye(3), "isotropic")).split(
            0.02
        )
        is None
    )


# --- the two ends of the bracket ----------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", STRUCTURES)
def test_an_upper_end_is_the_mean_loss_of_atoms_with_the_moments(structure: str) -> None:
    rng = np.random.default_rng(4)
    for white in whites(structure):
        frame = white.frame
        points, weights = repair_by_moving(frame, rng.normal(size=(12, 3)), np.full(12, 1 / 12))  # type: ignore[misc]
        for spoil in (0.0, 1e-10, 1e-4):
            spoiled = np.concatenate([points + spoil * rng.normal(size=points.shape), np.full((1, 3), 40.0)])
            upper = make_upper(white, spoiled, np.append(weights, 0.0))
            assert upper is not None
            assert moment_error(frame, frame.to_white(upper.points), upper.weights) < 1e-13
            mean_loss = float(upper.weights @ smooth()(upper.points))
            assert -mean_loss <= upper.value <= -mean_loss + 1e-10
            assert np.abs(upper.points).max() < 30.0  # an atom of weight zero is none
        assert make_upper(white, points, np.zeros(12)) is None
        assert make_upper(white, np.ones((5, 3)), np.full(5, 0.2)) is None  # no spread to speak of


def test_the_better_repair_is_taken_and_a_tie_adds_no_atoms() -> None:
    frame = MomentFrame.of(np.zeros(1), np.eye(1), "full")
    smooth_one = WhiteLoss(L.Softplus(), frame)
    apart = np.array([[-1.0 - 1e-9], [1.0 + 1e-9]])
    tied = make_upper(smooth_one, apart, np.array([0.5, 0.5]))
    assert tied is not None
    assert tied.weights.size in (2, 4)
    exact = make_upper(smooth_one, np.array([[-1.0], [1.0]]), np.array([0.5, 0.5]))
    assert exact is not None
    assert exact.weights.size == 2
    # Moving the atoms takes one off the jump, mixing keeps it there.
    jump = WhiteLoss(L.Indicator(1.0), frame)
    beside = make_upper(jump, np.array([[-1.0 - 1e-7], [1.0]]), np.array([0.5, 0.5]))
    assert beside is not None
    assert beside.value == pytest.approx(-0.5, abs=1e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_residual_costs_at_least_what_mixing_it_away_costs(structure: str) -> None:
    rng = np.random.default_rng(5)
    for white in whites(structure):
        frame = white.frame
        points, weights = repair_by_moving(frame, rng.normal(size=(12, 3)), np.full(12, 1 / 12))  # type: ignore[misc]
        for spoil in (1e-9, 1e-6):
            spoiled = points + spoil * rng.normal(size=points.shape)
            mixed = repair_by_mixing(frame, spoiled, weights)
            assert mixed is not None
            losses = white.value(spoiled)
            cost = _residual_cost(white, spoiled, weights, losses)
            assert -(mixed[1] @ white.value(mixed[0])) <= -(weights @ losses) + cost
            assert cost < 1e4 * spoil
        assert _residual_cost(white, points + 1.0, weights, white.value(points + 1.0)) == np.inf
        assert 0.0 < _residual_cost(white, points, weights, white.value(points)) < 1e-11


@pytest.mark.parametrize("structure", STRUCTURES)
def test_repairs_refuse_what_they_cannot_mend(structure: str) -> None:
    frame = MomentFrame.of(np.zeros(2), np.eye(2), structure)
    point = np.zeros((4, 2))
    assert repair_by_moving(frame, point, np.full(4, 0.25)) is None
    line = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert (repair_by_moving(frame, line, np.full(2, 0.5)) is None) == (structure != "isotropic")
    exact = sigma_points(2)
    kept = repair_by_mixing(frame, exact, np.full(4, 2.0))
    assert kept is not None
    assert kept[0].shape == exact.shape or moment_error(frame, *kept) < 1e-14
    assert kept[1].sum() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 6, 17])
def test_a_design_is_symmetric_and_reaches_from_near_to_far(dim: int) -> None:
    points = design(dim)
    assert (points == 0.0).all(axis=1).any()
    order = np.lexsort(np.round(points, 9).T)
    mirrored = np.lexsort(np.round(-points, 9).T)
    np.testing.assert_allclose(points[order], -points[mirrored], atol=1e-9)
    for axis in np.concatenate([np.eye(dim), -np.eye(dim)]):
        along = points[np.abs(points @ axis - np.linalg.norm(points, axis=1)) <= 1e-12 * (points @ axis)] @ axis
        for radius in (1.0, 1e2, 1e4, 1e6, 1e8):
            assert ((along > 0.25 * radius) & (along < 4.0 * radius)).any()
    if dim > 1:
        units = _directions(dim)
        np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1.0, rtol=1e-14)
        np.testing.assert_array_equal(units[: len(units) // 2], -units[len(units) // 2 :])
    if 1 < dim <= 16:
        near = points[(np.linalg.norm(points, axis=1) < 20.0) & (points != 0.0).any(axis=1)]
        assert np.linalg.matrix_rank(near) == dim
        assert near.shape[0] >= 2 * dim * 3


# --- records --------------------------------------------------------------------------------------------------------


def test_records_keep_the_better_bound() -> None:
    white = whites("full")[0]
    state = State(np.zeros((0, 3)), np.zeros(0))
    assert state.gap == np.inf
    frame, c = above("full", np.random.default_rng(0))
    better, _ = certify_lower(white, c, tol=1e-6, starts=None, max_boxes=10_000)
    worse, _ = certify_lower(white, c + 0.1 * np.abs(frame.target), tol=1e-6, starts=None, max_boxes=10_000)
    assert worse.value < better.value
    for bound, kept in ((worse, worse), (better, better), (worse, better)):
        state = state.with_lower(bound)
        assert state.lower is kept
    assert state.gap == np.inf
    near, far = (make_upper(white, k * sigma_points(3), np.full(6, 1 / 6)) for k in (1.0, 1.0001))
    assert state.with_upper(None) is state
    for offered in (near, far):
        state = state.with_upper(offered)
    assert state.gap == pytest.approx(min(b.value for b in (near, far) if b) - better.value, abs=1e-12)


def test_points_that_coincide_are_one() -> None:
    points = np.array([[0.0, 0.0], [5e-7, 0.0], [0.0, 1e-3], [1e3, 0.0], [1e3 + 5e-4, 0.0]])
    values = np.array([1.0, 2.0, 0.0, 3.0, 2.5])
    kept, best = distinct(points, values)
    assert best.tolist() == [3.0, 2.0, 0.0]
    np.testing.assert_array_equal(kept, points[[3, 1, 2]])
    assert distinct(points[:1], values[:1])[1].tolist() == [1.0]
    assert distinct_from(points[:1], points).tolist() == [False, False, True, True, True]
    assert distinct_from(points[3:4], points).tolist() == [True, True, True, False, False]
    first, owner = merge(points)
    assert first.tolist() == [0, 2, 3]
    assert owner.tolist() == [0, 0, 1, 2, 2]


# --- Newton, the ensemble, the nested start ---------------------------------------------------------------------------


def test_polish_drops_an_atom_that_does_not_belong() -> None:
    """Three contacts where two carry the worst case: a negative weight is dropped, and the closed form comes out."""
    frame = MomentFrame.of(np.array([0.3]), np.array([[1.0]]), "full")
    white = WhiteLoss(L.Softplus(), frame)
    radius = np.hypot(1.0, 0.3)
    x = frame.to_white(np.array([[-radius], [radius]]))
    left, right = white.gradient(x + 0.05)[:, 0]
    bend = 0.5 * (right - left) / (x[1, 0] - x[0, 0])
    tangent = np.array([1.0, right - 2.0 * bend * (x[1, 0] + 0.05), bend])
    found = polish(white, ActiveSet(x + 0.05, np.array([0.4, 0.6]), tangent, np.inf))
    assert found is not None
    assert found.residual < 1e-13
    np.testing.assert_allclose(found.points, x, atol=1e-9)
    truth = 0.5 * 0.3 + np.logaddexp(0.5 * radius, -0.5 * radius)
    assert found.coefficients @ frame.target == pytest.approx(truth, rel=1e-13)
    third = ActiveSet(np.concatenate([x, [[0.4]]]), np.append(found.weights, -0.1), found.coefficients + 1e-3, np.inf)
    again = polish(white, third)
    assert again is None or again.weights.min() >= -1e-13 or again.weights.size == 1
    assert polish(white, ActiveSet(np.full((1, 1), np.nan), np.ones(1), np.zeros(3), np.inf)) is None


def test_the_inverse_curvature_stays_on_the_tangent_plane() -> None:
    rng = np.random.default_rng(6)
    root = rng.normal(size=(2, 3, 3))
    curvature = root @ np.swapaxes(root, 1, 2) + 0.5 * np.eye(3)
    np.testing.assert_allclose(_curvature_inverse(curvature, np.zeros((2, 3))), np.linalg.inv(curvature), rtol=1e-10)
    normal = rng.normal(size=(2, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    held = _curvature_inverse(curvature, normal)
    np.testing.assert_allclose(np.einsum("kij,kj->ki", held, normal), 0.0, atol=1e-13)
    for k in range(2):
        plane = np.linalg.svd(normal[k][None])[2][1:].T
        inner = np.linalg.inv(plane.T @ curvature[k] @ plane)
        np.testing.assert_allclose(held[k], plane @ inner @ plane.T, atol=1e-10)
    np.testing.assert_allclose(_curvature_inverse(np.array([[[2.0]], [[4.0]]]), np.zeros((2, 1))).ravel(), [0.5, 0.25])
    system = rng.normal(size=(4, 4)) * np.array([1e-6, 1.0, 1e5, 1.0])
    right = rng.normal(size=4)
    np.testing.assert_allclose(system @ _solve(system, right), right, atol=1e-9)
    singular = np.array([[1.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(_solve(singular, np.array([2.0, 2.0])), [1.0, 1.0], rtol=1e-12)
    np.testing.assert_allclose(_solve(np.diag([2.0, 0.0]), np.array([1.0, 0.0])), [0.5, 0.0], atol=1e-15)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_at_an_ensemble_the_slopes_are_those_of_a_quadratic(structure: str) -> None:
    frame = MomentFrame.of(np.zeros(6), np.eye(6), structure)
    rng = np.random.default_rng(7)
    white = WhiteLoss(L.LogisticRegression(rng.normal(size=(15, 6)), rng.integers(0, 2, size=15)), frame)
    found = ensemble(white, 40)
    assert found is not None
    x, c = found
    slopes = white.gradient(x)
    left = slopes - _affine(white, x, slopes)
    spread = slopes - slopes.mean(axis=0)
    assert np.linalg.norm(left) < 0.2 * np.linalg.norm(spread)
    v, w = frame.quadratic(c)[1:]
    np.testing.assert_allclose(_affine(white, x, slopes), v + 2.0 * x @ w, atol=1e-10)
    # Of slopes that are affine and of the family already nothing is left.
    own = white.frame.coefficients(0.0, np.arange(6.0), np.eye(6) * 0.3)
    affine = own[1:7] + 2.0 * x @ frame.quadratic(own)[2]
    np.testing.assert_allclose(_affine(white, x, affine), affine, atol=1e-10)
    narrow = L.from_function(lambda t: 0.0 * t[:, 0], np.zeros_like, 6, curvature=0.0, bounds=(-0.1, 0.1))
    assert ensemble(WhiteLoss(narrow, frame), 40) is None  # no atoms with these moments have a finite loss


def test_what_the_regression_leaves_is_orthogonal_to_what_it_fits() -> None:
    rng = np.random.default_rng(8)
    points, weights, slopes = rng.normal(size=(9, 2)), rng.uniform(0.1, 1.0, size=9), rng.normal(size=(9, 3))
    for affine in (True, False):
        fit, rest = _regression(points, weights, slopes, affine=affine)
        np.testing.assert_allclose(weights @ rest, 0.0, atol=1e-13)
        assert (np.abs((points * weights[:, None]).T @ rest).max() < 1e-13) == affine
        shown = np.concatenate([np.ones((9, 1)), points if affine else 0.0 * points], axis=1) @ fit
        np.testing.assert_allclose(shown + rest, slopes, atol=1e-13)


@pytest.mark.parametrize("structure", ["full", "diagonal"])
def test_a_nested_start_is_the_product_of_its_parts(structure: str) -> None:
    scale = np.array([1.0, 0.7, 1e-3])
    rng = np.random.default_rng(9)
    rows = rng.normal(size=(8, 3)) * scale if structure == "full" else np.diag([1.0, 0.8, 1e-3])
    frame = MomentFrame.of(np.zeros(3), np.eye(3), structure)
    white = WhiteLoss(L.LogisticRegression(rows, rng.integers(0, 2, size=len(rows))), frame)
    minor = white.split(0.02)
    assert minor is not None
    x = rng.normal(size=(20, 3))
    inner = minor.major.frame.coefficients(0.3, rng.normal(size=2), np.diag([1.0, 2.0]))
    fit = rng.normal(size=(3, 1)) * (1.0 if structure == "full" else np.array([[1.0], [0.0], [0.0]]))
    c = _extended(white, minor, inner, fit, np.array([[0.7]]))
    x1, x2 = x @ minor.kept, x @ minor.left
    exact = minor.major.frame.features(x1) @ inner + ((fit[0] + x1 @ fit[1:]) * x2).sum(axis=1) + 0.7 * x2[:, 0] ** 2
    np.testing.assert_allclose(frame.features(x) @ c, exact, rtol=1e-10)
    # Atoms whose minor part is whitened by the shift have the moments of the product.
    points, weights = sigma_points(2), np.full(4, 0.25)
    shift = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    for along, across in ((np.eye(1), np.zeros((1, 0))), (np.zeros((1, 0)), np.eye(1))):
        atoms, shares = _spread(minor, points, weights, shift[:, : along.shape[1]], along, across)
        assert moment_error(MomentFrame.of(np.zeros(3), np.eye(3), "diagonal"), atoms @ np.eye(3), shares) < 1.0
        np.testing.assert_allclose(shares @ atoms, 0.0, atol=1e-13)
        second = (atoms * shares[:, None]).T @ atoms
        assert np.trace(second) == pytest.approx(3.0, rel=1e-12)
        assert minor.left[:, 0] @ second @ minor.left[:, 0] == pytest.approx(1.0, rel=1e-12)
    begun = nested_start(white, Start(np.zeros((0, 3))), 1e-7, Budget())
    assert len(begun.coefficients) == 6
    assert len(begun.uppers) == 2
    assert begun.points.shape[0] > 0
    bounds = [bound.value for bound in begun.uppers if bound is not None]
    lower, _ = certify_lower(white, begun.coefficients[2], tol=1e-6, starts=None, max_boxes=20_000)
    assert bounds
    assert lower.value <= min(bounds) + 1e-12
    assert min(bounds) - lower.value < 1e-4
    same = Start(np.zeros((0, 3)))
    assert nested_start(whites(structure)[0], same, 1e-7, Budget()) is same


# --- quadratic losses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_quadratics_meet_their_own_bound(structure: str, dim: int) -> None:
    rng = np.random.default_rng(dim)
    A = rng.normal(size=(dim, dim))
    alone = A + A.T
    alone[-1, :-1] = alone[:-1, -1] = 0.0  # the last parameter is correlated with none
    for H in (A + A.T, A @ A.T, 0.7 * np.eye(dim), np.diag(np.arange(1.0, dim + 1.0)), alone):
        points, w = quadratic_moment_problem(H, structure, 1e-9)
        weights = np.full(points.shape[0], 1.0 / points.shape[0])
        frame = MomentFrame.of(np.zeros(dim), np.eye(dim), structure)
        assert moment_error(frame, points, weights) < 1e-12
        np.testing.assert_allclose(frame.quadratic(frame.coefficients(0.0, np.zeros(dim), w))[2], w, atol=1e-14)
        assert np.linalg.eigvalsh(w - 0.5 * H)[0] >= -1e-9
        attained = 0.5 * float(weights @ np.einsum("ki,ij,kj->k", points, H, points))
        assert attained - 1e-12 <= np.trace(w) <= attained + 1e-7
