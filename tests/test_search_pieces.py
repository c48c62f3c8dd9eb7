"""The parts of the search, each against the mathematics it stands for: models, majorants, boxes, climbs, starts."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from search_cases import LAM1, LAM2, as_user, h, models, smooth

from fenchel import Gaussian, sum_of_biconjugates
from fenchel import losses as L
from fenchel.losses.bounded_links import BumpLink, IndicatorLink
from fenchel.losses.links import AbsLink, HuberLink, Link, ReLULink, SoftplusLink
from fenchel.search.ascent import _newton_step, ascend, distinct
from fenchel.search.bounds import LinearModel, UserModel
from fenchel.search.box_quadratic import box_maximum, relaxed
from fenchel.search.branch import BranchAndBound, _grid, _split
from fenchel.search.confine import Setting, _scaled_eigen, prepare
from fenchel.search.enclose import global_majorants
from fenchel.search.maximize import local_maximizers, maximize
from fenchel.search.parabolas import best_on_average
from fenchel.search.starts import climb, given_starts, starting_points

Array = np.ndarray


@pytest.mark.parametrize("name", ["linear", "bounded", "declared"])
def test_a_model_is_h_in_other_coordinates(name: str) -> None:
    model = models()[name].model
    rng = np.random.default_rng(1)
    u = 0.6 * rng.uniform(-1.0, 1.0, size=(6, 3))
    theta = model.theta(u)
    np.testing.assert_allclose(model.coordinates(theta), u, atol=1e-12)
    np.testing.assert_allclose(model.value(u), h(theta), rtol=1e-12)
    value, slope, hessian = model.derivatives(u)
    np.testing.assert_allclose(value, h(theta), rtol=1e-12)
    np.testing.assert_allclose(model.tangent(u)[1], slope, rtol=1e-12)
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = 1e-5
        up, down = model.derivatives(u + step), model.derivatives(u - step)
        np.testing.assert_allclose((up[0] - down[0]) / 2e-5, slope[:, axis], atol=1e-7)
        np.testing.assert_allclose((up[1] - down[1]) / 2e-5, hessian[:, axis], atol=1e-7)


@pytest.mark.parametrize("name", ["linear", "bounded", "declared"])
def test_the_majorants_of_a_box_are_above_h_on_it_and_touch_where_they_say(name: str) -> None:
    model = models()[name].model
    rng = np.random.default_rng(2)
    center, half = 0.5 * rng.uniform(-1.0, 1.0, size=(8, 3)), rng.uniform(0.02, 0.4, size=(8, 3))
    points = 0.5 * rng.uniform(-1.0, 1.0, size=(5, 3))
    which = np.arange(8) % 5
    inside = center[:, None] + half[:, None] * rng.uniform(-1.0, 1.0, size=(8, 60, 3))
    d, truth = inside - center[:, None], model.value(inside.reshape(-1, 3)).reshape(8, 60)

    def above(majorant: Any, d: Array) -> Array:
        value, slope, matrix = majorant
        bent = np.einsum("bki,bij,bkj->bk", d, matrix, d)
        return np.asarray(value[:, None] + np.einsum("bki,bi->bk", d, slope) + 0.5 * bent)

    at_center, anchored = model.majorant(center, half), model.anchored(model.anchors(points), which, center, half)
    for majorant in (at_center, anchored, model.majorant(center, half, 0.7)):
        assert (above(majorant, d) >= truth - 1e-10).all()
        np.testing.assert_allclose(majorant[2], np.swapaxes(majorant[2], 1, 2), atol=1e-12)
    zero = np.zeros((8, 1, 3))
    np.testing.assert_allclose(above(at_center, zero)[:, 0], model.value(center), rtol=1e-12)
    np.testing.assert_allclose(at_center[1], model.tangent(center)[1], rtol=1e-12)
    to_anchor = (points[which] - center)[:, None]
    np.testing.assert_allclose(above(anchored, to_anchor)[:, 0], model.value(points)[which], rtol=1e-10)
    # What the bounds add is not negative along any axis, and says along which axis a box should be split.
    assert model.error_weights(at_center[2]).shape == (8, 3)
    assert (model.error_weights(at_center[2]) >= -1e-12).all()
    if isinstance(model, UserModel):
        declared = model.from_majorizer(center)
        if name == "declared":
            assert (above(declared, d) >= truth - 1e-10).all()
            theta = model.theta(inside.reshape(-1, 3))
            q = 0.25 * np.square(theta).sum(axis=1) + 400.0 + theta @ LAM1
            exact = q + np.einsum("ni,ij,nj->n", theta, LAM2, theta)
            np.testing.assert_allclose(above(declared, d).ravel(), exact, rtol=1e-12)
        else:
            assert declared is None


def test_parabolas_chosen_for_the_box_bound_a_large_one_better() -> None:
    rng = np.random.default_rng(0)
    loss = L.LogisticRegression(rng.normal(size=(100, 6)), rng.integers(0, 2, 100))
    model = prepare(loss, np.zeros(6), -0.6 * np.eye(6)).model  # type: ignore[union-attr]
    center, half = 10.0 * rng.normal(size=(40, 6)), np.full((40, 6), 4.0)
    plain, chosen = (
        value + box_maximum(slope, matrix, half) - model.value(center)
        for value, slope, matrix in (model.majorant(center, half, spread) for spread in (0.0, 0.7))
    )
    assert np.median(chosen / plain) < 0.7


def test_turned_axes_change_nothing() -> None:
    model = models()["linear"].model
    axes = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    u = np.random.default_rng(4).normal(size=(5, 3))
    np.testing.assert_allclose(model.rotated(axes).value(u @ axes), model.value(u), rtol=1e-12)
    np.testing.assert_allclose(model.rotated(axes).theta(u @ axes), model.theta(u), atol=1e-12)
    assert model.whitened
    assert model.terms == 8


def test_the_descent_lemma_is_above_h_and_tangent_at_the_origin() -> None:
    setting = prepare(as_user(smooth()), LAM1, LAM2 - 20.0 * np.eye(3), np.array([0.5, 0.0, -1.0]))
    assert isinstance(setting, Setting)
    (q,) = global_majorants(setting, 0.0, np.zeros(3), 1.0)
    u = 3.0 * np.random.default_rng(5).normal(size=(50, 3))
    above = q.constant + u @ q.linear - 0.5 * np.einsum("ni,ij,nj->n", u, q.concave, u)
    assert (above >= setting.model.value(u) - 1e-12 * np.abs(above)).all()
    value, slope = setting.model.tangent(np.zeros((1, 3)))
    assert q.constant == pytest.approx(value[0], rel=1e-14)
    np.testing.assert_allclose(q.linear, slope[0], rtol=1e-12)


def test_eigenvalues_do_not_depend_on_the_units_of_the_parameters() -> None:
    scale = np.array([1e-6, 1.0, 1e5])
    values, axes, units = _scaled_eigen(-LAM2 * np.outer(scale, scale), np.abs(LAM2) * np.outer(scale, scale))
    np.testing.assert_allclose(values, _scaled_eigen(-LAM2, np.abs(LAM2))[0], rtol=1e-9)
    np.testing.assert_allclose(np.square(units * scale) * np.abs(np.diagonal(LAM2)), 1.0, rtol=1e-12)
    basis = units[:, None] * axes / np.sqrt(values)
    np.testing.assert_allclose(basis.T @ (-LAM2 * np.outer(scale, scale)) @ basis, np.eye(3), atol=1e-9)
    np.testing.assert_array_equal(_scaled_eigen(np.zeros((2, 2)), np.zeros((2, 2)))[0], np.zeros(2))


def test_directions_in_which_h_is_constant_are_left_out() -> None:
    """softplus(theta_1) - theta_1^2 + 0.2 theta_1, whatever theta_2 is."""
    setting = prepare(L.Softplus().compose([1.0, 0.0]), np.array([0.2, 0.0]), np.diag([-1.0, 0.0]))
    assert isinstance(setting, Setting)
    assert setting.confined
    assert setting.model.dim == 1
    u = np.linspace(-2.0, 2.0, 7)[:, None]
    t = setting.model.theta(u)[:, 0]
    np.testing.assert_allclose(setting.model.value(u), np.logaddexp(0.0, t) + 0.2 * t - t**2, rtol=1e-13)
    assert np.ptp(t) == pytest.approx(4.0 / np.sqrt(2.0), rel=1e-12)  # whitened: curvature 2 becomes 1


def test_bounded_terms_along_a_flat_direction_leave_the_search_unconfined_but_bounded() -> None:
    bump = L.LinearPredictorLoss([L.Terms(BumpLink(), np.array([[0.0, 2.0]]), np.array([-1.0]), np.array([3.0]))])
    lam1, lam2 = np.array([0.4, 0.0]), np.diag([-0.5, 0.0])
    setting = prepare(bump, lam1, lam2)
    assert isinstance(setting, Setting)
    assert not setting.confined
    assert "singular" in setting.note
    found = maximize(bump, lam1, lam2)
    top = float(bump(np.array([0.0, 0.5])))
    assert found.lower == pytest.approx(0.5 * 0.4**2 + max(top, 0.0), abs=1e-9)
    bounded = 0.08 + 3.0 * float(BumpLink().sup(np.array(-np.inf), np.array(np.inf)))
    assert found.lower - 1e-12 <= found.upper <= bounded + 1e-9
    # And of a user's loss by its declared majorizer.
    level = L.from_function(
        lambda t: np.cos(t[:, 1]), lambda t: np.stack([0.0 * t[:, 0], -np.sin(t[:, 1])], 1), 2, curvature=1.0,
        majorizer=L.Quadratic(np.zeros((2, 2)), np.zeros(2), 1.5),
    )  # fmt: skip
    shallow = maximize(level, lam1, lam2)
    assert shallow.lower == pytest.approx(1.08, abs=1e-9)
    assert shallow.upper == pytest.approx(1.58, abs=1e-9)
    assert not shallow.certified


# --- climbs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "bounded", "declared"])
def test_a_climb_ends_where_nothing_near_is_higher(name: str) -> None:
    setting = models()[name]
    model, rng = setting.model, np.random.default_rng(6)
    starts = rng.uniform(-0.9, 0.9, size=(12, 3))
    domain = None if setting.domain is None else (-np.ones(3), np.ones(3))
    points, values = ascend(model, starts, domain=domain)
    np.testing.assert_allclose(model.value(points), values, rtol=1e-13)
    assert (values >= model.value(starts) - 1e-12).all()
    near = points[:, None] + 1e-3 * rng.normal(size=(12, 100, 3))
    near = near if domain is None else np.clip(near, *domain)
    assert (model.value(near.reshape(-1, 3)).reshape(12, 100) <= values[:, None] + 1e-12).all()
    if domain is None:
        assert np.abs(model.tangent(points)[1]).max() < 1e-7
    else:
        assert np.abs(points).max() <= 1.0
    # After the deadline the points come back as they are, up to the one step that only sharpens.
    still, _ = ascend(model, starts, domain=(-np.ones(3), np.ones(3)), deadline=time.perf_counter() - 1.0)
    better = np.square(model.tangent(still)[1]).sum(axis=1) <= np.square(model.tangent(starts)[1]).sum(axis=1)
    assert better.all()
    kept, best = climb(setting, starts)
    assert (np.diff(best) <= 0.0).all()
    np.testing.assert_allclose(best[0], values.max(), rtol=1e-13)
    assert kept.shape[0] <= 12


def test_newton_steps_climb_with_the_modulus_of_the_curvature() -> None:
    matrix = np.array([[[2.0, 0.6], [0.6, -1.0]]])
    slope = np.array([[1.0, -2.0]])
    step, gain = _newton_step(np.zeros((1, 2)), slope, matrix, None)
    values, vectors = np.linalg.eigh(matrix[0])
    modulus = vectors * np.abs(values) @ vectors.T
    np.testing.assert_allclose(modulus @ step[0], slope[0], rtol=1e-12)
    assert gain[0] == pytest.approx(slope[0] @ step[0], rel=1e-14)
    assert gain[0] > 0.0
    line, _ = _newton_step(np.zeros((2, 1)), np.array([[3.0], [3.0]]), np.array([[[-2.0]], [[4.0]]]), None)
    np.testing.assert_allclose(line[:, 0], [1.5, 0.75])
    # Held by a face: uphill lies outside along the first axis, so the step is along the second alone.
    held, _ = _newton_step(np.array([[1.0, 0.0]]), np.abs(slope), matrix, (-np.ones(2), np.ones(2)))
    np.testing.assert_allclose(held, [[0.0, 2.0]])
    low, _ = _newton_step(np.array([[-1.0, 0.0]]), -np.abs(slope), matrix, (-np.ones(2), np.ones(2)))
    np.testing.assert_allclose(low, [[0.0, -2.0]])
    away, _ = _newton_step(np.array([[1.0, 0.0]]), -np.abs(slope), matrix, (-np.ones(2), np.ones(2)))
    assert away[0, 0] != 0.0


def test_distinct_points_are_apart_and_the_best_of_their_neighbours() -> None:
    points = np.array(
        [[0.0, 0.0], [4e-6, 0.0], [0.0, 2e-5], [100.0, 0.0], [100.0005, 0.0], [100.002, 0.0], [8e-6, 0.0]]
    )
    values = np.array([1.0, 2.0, 0.5, 3.0, 4.0, 5.0, 0.1])
    assert distinct(points, values).tolist() == [5, 4, 1, 2]
    assert distinct(points, values, radius=1e-9).tolist() == [5, 4, 3, 1, 0, 2, 6]
    assert distinct(points[:1], values[:1]).tolist() == [0]
    assert distinct(points[:0], values[:0]).size == 0


# --- boxes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_grid_covers_its_box_and_a_split_covers_the_split(dim: int) -> None:
    rng = np.random.default_rng(dim)
    center, half = rng.normal(size=dim), rng.uniform(0.1, 2.0, size=dim)
    points = center + half * rng.uniform(-1.0, 1.0, size=(400, dim))
    for cuts in (1, 2, 4):
        centers, halves = _grid(center, half, cuts)
        assert centers.shape == halves.shape == (cuts**dim, dim)
        inside = (np.abs(points[:, None] - centers) <= halves).all(axis=2)
        assert inside.any(axis=1).all()
        assert inside.mean() * cuts**dim < 1.05
        assert (np.abs(centers - center) + halves <= half * (1.0 + 1e-12)).all()
    weights = np.ones((1, dim))
    weights[0, -1] = 1e4
    c, w, b = _split(center[None], half[None], np.array([7.0]), weights)
    assert b.tolist() == [7.0, 7.0]
    assert (np.abs(points[:, None] - c) <= w * (1.0 + 1e-12)).all(axis=2).any(axis=1).all()
    np.testing.assert_allclose(w[:, -1], 0.5 * half[-1])
    np.testing.assert_allclose(w[:, :-1], np.broadcast_to(half[:-1], (2, dim - 1)))


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_the_maximum_over_a_box_of_separate_parabolas_is_exact(dim: int) -> None:
    rng = np.random.default_rng(dim)
    slope, half = rng.normal(size=(60, dim)), rng.uniform(0.1, 2.0, size=(60, dim))
    k = rng.normal(size=(60, dim)) * 2.0
    matrix = k[:, :, None] * np.eye(dim)
    grid = np.linspace(-1.0, 1.0, 4001)[:, None, None] * half
    truth = (slope * grid + 0.5 * k * grid**2).max(axis=0).sum(axis=1)
    bound = box_maximum(slope, matrix, half)
    assert (bound >= truth - 1e-12).all()
    np.testing.assert_allclose(bound, truth, atol=1e-5 if dim < 3 else 2e-2 * dim)
    if dim > 2:
        matrix[3, 0, 1] = matrix[3, 1, 0] = np.inf
        assert box_maximum(slope, matrix, half)[3] == np.inf
        np.testing.assert_allclose(np.delete(box_maximum(slope, matrix, half), 3), np.delete(bound, 3), rtol=1e-12)


def test_a_flat_ridge_in_the_plane() -> None:
    """-(d_1 - 2 d_2)^2 / 2 plus slopes along the ridge: the maximum is on an edge, and nothing is divided by 0."""
    row = np.array([1.0, -2.0])
    matrix = np.stack([-np.outer(row, row)] * 3)
    slope = np.array([[0.0, 0.0], [2.0, 1.0], [-2.0, -1.0]])
    np.testing.assert_allclose(box_maximum(slope, matrix, np.ones((3, 2))), [0.0, 2.625, 2.625], atol=1e-12)
    saddle = np.array([[[-1.0, 3.0], [3.0, -1.0]]])
    assert box_maximum(np.zeros((1, 2)), saddle, np.ones((1, 2)))[0] == pytest.approx(2.0, rel=1e-14)


def test_a_relaxed_maximum_is_that_of_a_concave_quadratic_inside_its_box() -> None:
    rng = np.random.default_rng(9)
    for dim in (3, 4, 6):
        root = rng.normal(size=(30, dim, dim))
        matrix = -(root @ np.swapaxes(root, 1, 2) + 0.3 * np.eye(dim))
        top = rng.uniform(-0.5, 0.5, size=(30, dim))
        slope = -np.einsum("bij,bj->bi", matrix, top)
        value = 0.5 * np.einsum("bi,bi->b", slope, top)
        bound = box_maximum(slope, matrix, np.ones((30, dim)))
        assert (bound >= value - 1e-12).all()
        assert ((bound - value) <= 1e-8 * (1.0 + value)).all()


@pytest.mark.parametrize("dim", [3, 6])
def test_what_a_bound_cuts_off_a_box_lies_below_the_target(dim: int) -> None:
    rng = np.random.default_rng(dim)
    root = rng.normal(size=(40, dim, dim))
    matrix = -root @ np.swapaxes(root, 1, 2) + 0.2 * dim * np.eye(dim)
    slope, half = rng.normal(size=(40, dim)), rng.uniform(0.2, 2.0, size=(40, dim))
    matrix[7, 0, 0] = np.inf
    bound, concave = relaxed(slope, matrix, half)
    rows = np.arange(40)
    excess = 0.3 * np.abs(concave.top)
    lo, hi = concave.part(rows, excess)
    y = rng.uniform(-1.0, 1.0, size=(4000, 1, dim))
    # Points in the whole box, and near the peaks.
    near = np.nan_to_num(concave.peak) + 0.3 * rng.normal(size=(4000, 40, dim))
    y = np.concatenate([np.broadcast_to(y, near.shape), np.clip(near, -1.0, 1.0)])
    d = y * half
    with np.errstate(invalid="ignore"):
        value = np.einsum("kbi,bi->kb", d, slope) + 0.5 * np.einsum("kbi,bij,kbj->kb", d, matrix, d)
        high = value > concave.top - excess
    outside = ((y < lo) | (y > hi)).any(axis=2)
    finite = np.isfinite(bound)
    assert finite.sum() == 39
    assert high[:, finite].any()
    assert outside[:, finite].any()
    assert not (high & outside)[:, finite].any()
    np.testing.assert_array_equal(lo[7], -np.ones(dim))
    np.testing.assert_array_equal(hi[7], np.ones(dim))
    assert np.prod(0.5 * (hi - lo)[finite], axis=1).min() < 0.2


@pytest.mark.parametrize(
    "link", [SoftplusLink(), AbsLink(), ReLULink(), HuberLink(0.7), BumpLink(), IndicatorLink()], ids=repr
)
def test_the_parabola_of_an_interval_is_above_its_term_and_of_least_mean(link: Link) -> None:
    rng = np.random.default_rng(1)
    z, reach = 4.0 * rng.normal(size=300), 10.0 ** rng.uniform(-3.0, 1.5, size=300)
    variance = rng.uniform(0.1, 0.9, size=300) * reach**2
    v, s, kappa = best_on_average(link, z, reach, variance)
    d = np.linspace(-1.0, 1.0, 201)[:, None] * reach
    assert (v + s * d + 0.5 * kappa * d * d - link.value(z + d)).min() >= -1e-12
    assert (kappa >= 0.0).all()
    if link.rule is None:
        return
    mean = v + 0.5 * kappa * variance
    for share in np.linspace(-1.0, 1.0, 41):
        at = z + share * reach
        value, slope, bend = link.majorant(at, z - reach, z + reach)
        off = z - at
        other = value + slope * off + 0.5 * bend * (off * off + variance)
        if link.convex:
            assert (mean <= other + 1e-9 * (1.0 + np.abs(other))).all()
    # The two moments are those of some distribution on the interval, so that its mean is no larger.
    ends = 0.5 * variance / reach**2
    assert (
        mean >= ends * (link.value(z + reach) + link.value(z - reach)) + (1.0 - 2.0 * ends) * link.value(z) - 1e-9
    ).all()


# --- starts and results -------------------------------------------------------------------------------------------


def test_starts_lie_where_the_terms_bend_and_jump() -> None:
    groups = [
        L.Terms(IndicatorLink(), np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([0.7, -0.2]), np.ones(2)),
        L.Terms(BumpLink(), np.array([[2.0, 0.0]]), np.array([-4.0]), np.ones(1)),
        L.Terms(AbsLink(), np.array([[1.0, 1.0]]), np.array([0.1]), np.ones(1)),
    ]
    setting = prepare(L.LinearPredictorLoss(groups), np.array([0.3, 0.1]), -np.eye(2))
    assert isinstance(setting, Setting)
    assert isinstance(setting.model, LinearModel)
    few, many = (starting_points(setting.model, few=few) for few in (True, False))
    assert many.shape[0] > few.shape[0]
    for points in (few, many):
        assert (points == 0.0).all(axis=1).any()
        jump, bump = (g.predictors(points) for g in setting.model.groups[:2])
        for column in jump.T:  # on the plane, on its upper side
            assert ((column >= 0.0) & (column < 1e-12)).any()
        assert np.abs(bump - 3.0).min() < 1e-9
        assert np.abs(bump + 3.0).min() < 1e-9
    np.testing.assert_array_equal(few, starting_points(setting.model, few=True))
    # Far along any direction h is its concave part plus a linear function: the starts maximize those.
    far = starting_points(models()["linear"].model)
    assert 6 < far.shape[0] < 60
    user = models()["declared"].model
    assert starting_points(user).shape == (31, 3)
    assert starting_points(user, few=True).shape == (7, 3)


def test_given_starts_keep_their_place() -> None:
    model = models()["linear"].model
    theta = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(model.theta(given_starts(model, theta, 3)), theta, atol=1e-12)
    np.testing.assert_allclose(model.theta(given_starts(model, theta[0], 3)), theta[:1], atol=1e-12)
    for wrong in (np.zeros(4), np.zeros((2, 4)), np.zeros((2, 3, 1)), np.full((1, 3), np.inf)):
        with pytest.raises(ValueError, match="starts must"):
            given_starts(model, wrong, 3)


def test_a_search_reports_its_points_best_first_with_their_values() -> None:
    wells = L.ThreeWells()
    found = maximize(wells, np.array([0.1]), np.array([[-0.1]]), tol=1e-8)
    assert found.certified
    assert found.gap == pytest.approx(found.upper - found.lower, abs=0.0)
    assert (np.diff(found.values) <= 0.0).all()
    theta = found.maximizers
    np.testing.assert_allclose(found.values, wells(theta) + 0.1 * theta[:, 0] - 0.1 * theta[:, 0] ** 2, rtol=1e-13)
    np.testing.assert_array_equal(found.argmax, theta[0])
    assert 0.0 < found.values[0] - found.lower < 1e-13
    climbed, values = local_maximizers(wells, np.array([0.1]), np.array([[-0.1]]), np.linspace(-8, 8, 40)[:, None])
    assert values[0] == pytest.approx(found.lower, rel=1e-12)
    slope = wells.gradient(climbed)[:, 0] + 0.1 - 0.2 * climbed[:, 0]
    np.testing.assert_allclose(slope, 0.0, atol=1e-7)
    infinite = maximize(wells, np.array([0.1]), np.array([[0.1]]))
    assert (infinite.lower, infinite.maximizers.shape, infinite.values.shape) == (np.inf, (0, 1), (0,))
    nothing, none = local_maximizers(wells, np.array([0.1]), np.array([[0.1]]), np.zeros((1, 1)))
    assert (nothing.shape, none.shape) == ((0, 1), (0,))


def test_every_stage_of_the_search_is_a_bracket() -> None:
    """best <= sup h <= upper after any number of boxes, and the gap does not grow."""
    setting = models()["linear"]
    truth = maximize(smooth(), LAM1, LAM2, tol=1e-10)
    gaps = []
    for most in (1, 10, 100, 1000, 100_000):
        points, values = climb(setting, starting_points(setting.model))
        search = BranchAndBound(setting, points, values, tol=1e-9, max_boxes=most, deadline=None)
        search.run()
        assert search.best <= truth.upper
        assert search.upper >= truth.lower
        assert bool(search.message) == (search.upper - search.best > 1e-9 * max(1.0, abs(search.best)))
        gaps.append(search.upper - search.best)
    assert (np.diff(gaps) <= 1e-12).all()
    assert gaps[-1] <= 1e-9 * max(1.0, abs(truth.lower))
    # A supremum on the corner of a box of parameters is found exactly.
    corner = L.from_function(lambda t: t.sum(axis=1), np.ones_like, 2, curvature=0.0, bounds=(-1.0, [2.0, 0.5]))
    edge = maximize(corner, np.zeros(2), np.zeros((2, 2)))
    assert edge.certified
    np.testing.assert_array_equal(edge.argmax, [2.0, 0.5])


def test_a_long_search_ends_once_it_has_met_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fenchel.search.branch._LONG", 500)
    rng = np.random.default_rng(0)
    loss = L.LogisticRegression(rng.normal(size=(60, 6)), rng.integers(0, 2, 60))
    summed = sum_of_biconjugates(loss, Gaussian(np.zeros(6), np.eye(6))).natural
    lam1, lam2 = 0.8 * summed.lam1, 0.8 * summed.lam2
    whole = maximize(loss, lam1, lam2, tol=1e-6)
    assert whole.certified
    assert whole.boxes > 4000
    ended = maximize(loss, lam1, lam2, tol=1e-6, enough=whole.lower - 1.0)
    assert 500 <= ended.boxes < 3500  # a batch has 2500
    assert ended.lower == pytest.approx(whole.lower, rel=1e-9)
    assert ended.upper > whole.upper
    assert "stopped" in ended.message
    assert maximize(loss, lam1, lam2, tol=1e-6, enough=whole.lower + 1.0).boxes == whole.boxes


def test_a_datum_of_zeros_adds_a_constant() -> None:
    rows = np.array([[0.0, 0.0], [1.0, -0.5], [0.3, 2.0]])
    lam1, lam2 = np.array([0.2, 0.1]), -0.4 * np.eye(2)
    whole = maximize(L.LogisticRegression(rows, [1, 0, 1]), lam1, lam2, tol=1e-8)
    rest = maximize(L.LogisticRegression(rows[1:], [0, 1]), lam1, lam2, tol=1e-8)
    assert whole.certified
    assert whole.lower == pytest.approx(rest.lower + np.log(2.0), rel=1e-12)


def test_a_few_boxes_at_a_time_bound_as_many_do() -> None:
    """The boxes that wait are cut later, as they are."""
    setting = models()["linear"]
    points, values = climb(setting, starting_points(setting.model))
    found = []
    for batch in (3, 10_000):
        search = BranchAndBound(setting, points, values, tol=1e-7, max_boxes=20_000, deadline=None)
        search.batch = batch
        search.run()
        assert not search.message
        found.append((search.best, search.upper))
    assert found[0] == pytest.approx(found[1], rel=1e-7)


def test_a_declared_majorizer_is_itself_in_the_coordinates_of_the_search() -> None:
    """About a point away from zero, with a curvature of its own."""
    majorizer = L.Quadratic(np.diag([0.5, 0.9, 0.3]), np.array([0.3, -0.2, 0.1]), 60.0)
    about = np.array([1.0, -2.0, 0.5])
    setting = prepare(as_user(smooth(), majorizer=majorizer), LAM1, LAM2, about)
    assert isinstance(setting, Setting)
    (declared,) = global_majorants(setting, 0.0, np.zeros(3), 1e-9)
    u = 4.0 * np.random.default_rng(3).normal(size=(50, 3))
    above = declared.constant + u @ declared.linear - 0.5 * np.einsum("ni,ij,nj->n", u, declared.concave, u)
    theta = setting.model.theta(u)
    apart = theta - about
    exact = majorizer(theta) + apart @ LAM1 + np.einsum("ni,ij,nj->n", apart, LAM2, apart)
    np.testing.assert_allclose(above, exact, rtol=1e-9)
