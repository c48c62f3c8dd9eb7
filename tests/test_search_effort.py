"""What the search does without, counted: evaluations of a climb, boxes of a proof, quadratics of the root bound."""

from __future__ import annotations

from typing import Any

import cvxpy
import numpy as np
import pytest
from search_cases import models, smooth

from fenchel import losses as L
from fenchel.losses.bounded_links import BumpLink, IndicatorLink
from fenchel.losses.links import AbsLink, HuberLink, SoftplusLink
from fenchel.losses.more_links import SquaredReLULink
from fenchel.search.ascent import ascend
from fenchel.search.bounds import LinearModel
from fenchel.search.box_quadratic import relaxed
from fenchel.search.branch import BranchAndBound
from fenchel.search.confine import Setting, Unbounded, prepare
from fenchel.search.enclose import box_around
from fenchel.search.maximize import maximize
from fenchel.search.root_bound import GlobalQuadratic, _newton, global_quadratics, stacked_terms
from fenchel.search.starts import climb, starting_points

Array = np.ndarray


def setting_of(loss: L.Loss, lam1: Any, lam2: Any) -> Setting:
    found = prepare(loss, np.asarray(lam1, dtype=float), np.asarray(lam2, dtype=float))
    assert isinstance(found, Setting)
    return found


def counted(model: Any) -> list[int]:
    """Grows by the number of points at each evaluation of the model's derivatives."""
    sizes, evaluate = list[int](), model.derivatives

    def derivatives(u: Array) -> Any:
        sizes.append(len(u))
        return evaluate(u)

    model.derivatives = derivatives
    return sizes


# --- climbs ---------------------------------------------------------------------------------------------------------


def test_a_concave_quadratic_is_climbed_in_one_step() -> None:
    H = np.array([[1.0, 0.3], [0.3, 0.5]])
    quadratic = L.Quadratic(H, [0.2, -0.1], 0.4)
    lam1, lam2 = np.array([0.5, 1.0]), -np.array([[1.5, -0.2], [-0.2, 1.0]])
    top = np.linalg.solve(-2.0 * lam2 - H, lam1 + quadratic.b)
    user = L.from_function(
        quadratic._value, quadratic._gradient, 2, hessian=quadratic._hessian, curvature=2.0, bounds=(-5.0, 5.0)
    )
    starts = np.random.default_rng(0).uniform(-0.9, 0.9, size=(7, 2))
    # A convex loss in whitened coordinates is first replaced by its tangents, and these say it all of a quadratic.
    for loss, box, evaluations in ((quadratic, None, [7]), (user, (-np.ones(2), np.ones(2)), [7, 7])):
        model = setting_of(loss, lam1, lam2).model
        sizes = counted(model)
        points, values = ascend(model, starts, domain=box)
        assert sizes == evaluations
        np.testing.assert_allclose(model.theta(points), np.broadcast_to(top, (7, 2)), atol=1e-13)
        np.testing.assert_allclose(values, values[0], rtol=1e-14)


def test_climbs_take_few_evaluations_and_end_at_the_noise_of_the_sum() -> None:
    rng = np.random.default_rng(1)
    logistic = L.LogisticRegression(3.0 * rng.normal(size=(80, 2)), rng.integers(0, 2, 80))
    for loss, dim, most in ((logistic, 2, 290), (smooth(), 3, 325)):
        setting = setting_of(loss, np.zeros(dim), -1.5 * np.eye(dim))
        sizes = counted(setting.model)
        starts = 4.0 * rng.normal(size=(40, dim))
        points, values = ascend(setting.model, starts)
        assert sum(sizes) <= 1.5 * most
        assert np.abs(setting.model.tangent(points)[1]).max() < 1e-9
        # From where it ended it does not go on.
        sizes.clear()
        _, same = ascend(setting.model, points)
        assert sum(sizes) <= 66
        np.testing.assert_allclose(same, values, rtol=1e-14)


# --- boxes ----------------------------------------------------------------------------------------------------------


def rows_of(dim: int, count: int) -> Array:
    return np.random.default_rng(dim).normal(size=(count, dim))


def terms(link: Any, dim: int, count: int) -> L.LinearPredictorLoss:
    offsets = np.random.default_rng(count).normal(size=count)
    return L.LinearPredictorLoss([L.Terms(link, rows_of(dim, count), offsets, np.ones(count))])


BOXES = {
    "wells": (L.ThreeWells(), 1, 0.06, 1e-9, 14),
    "softplus-1": (terms(SoftplusLink(), 1, 30), 1, 0.02, 1e-9, 4),
    "softplus-2": (terms(SoftplusLink(), 2, 40), 2, 0.6, 1e-9, 61),
    "softplus-3": (terms(SoftplusLink(), 3, 30), 3, 0.6, 1e-7, 44),
    "softplus-5": (terms(SoftplusLink(), 5, 30), 5, 0.8, 1e-5, 237),
    "kinks-2": (terms(AbsLink(), 2, 9), 2, 0.5, 1e-9, 49),
    "kinks-3": (terms(HuberLink(0.3), 3, 9), 3, 0.15, 1e-6, 22),
    "bumps-2": (terms(BumpLink(), 2, 9), 2, 0.05, 1e-8, 145),
    "bumps-3": (terms(BumpLink(), 3, 5), 3, 0.05, 1e-5, 288),
    "jumps-2": (terms(IndicatorLink(), 2, 5), 2, 0.2, 1e-7, 1167),
    "jumps-3": (terms(IndicatorLink(), 3, 3), 3, 0.2, 1e-4, 1292),
}


@pytest.mark.parametrize("name", BOXES)
def test_a_proof_takes_no_more_boxes_than_it_did(name: str) -> None:
    """Counts depend on rounding a little, hence half as many more."""
    loss, dim, bend, tol, most = BOXES[name]
    found = maximize(loss, 0.1 * np.ones(dim), -bend * np.eye(dim), tol=tol)
    assert found.certified
    assert 0 < found.boxes <= 1.5 * most


@pytest.mark.parametrize("name", ["bounded", "declared"])
def test_a_user_s_loss_takes_no_more_boxes_than_it_did(name: str) -> None:
    setting = models()[name]
    search = BranchAndBound(
        setting, *climb(setting, starting_points(setting.model)), tol=3e-2, max_boxes=50_000, deadline=None
    )
    search.run()
    assert not search.message
    assert search.boxes <= 1.5 * {"bounded": 5904, "declared": 17326}[name]


def test_a_box_is_cut_down_to_where_its_bound_exceeds_the_target() -> None:
    setting = models()["linear"]
    model = setting.model
    search = BranchAndBound(setting, *climb(setting, starting_points(model)), tol=1e-9, max_boxes=10, deadline=None)
    rng = np.random.default_rng(0)
    center, half = search.points[0] + 2.0 * rng.normal(size=(60, 3)), rng.uniform(0.3, 2.0, size=(60, 3))
    value, slope, matrix = model.majorant(center, half, 0.7)
    bound, concave = relaxed(slope, matrix, half)
    excess = value + concave.top - search.best - 0.5e-9 * max(1.0, abs(search.best))
    reach = np.sqrt(2.0 * np.maximum(excess, 0.0)[:, None] * np.einsum("bii->bi", np.linalg.inv(concave.bowl)))
    lo, hi = np.maximum(concave.peak - reach, -1.0), np.minimum(concave.peak + reach, 1.0)
    is_open = value + bound > search.best + 0.5e-9 * max(1.0, abs(search.best))
    assert 10 < is_open.sum() < 50
    c, w, above, _ = search._bound(center, half, np.full(60, np.inf))
    np.testing.assert_allclose(c[is_open], (center + 0.5 * (lo + hi) * half)[is_open], atol=1e-7)
    np.testing.assert_allclose(w[is_open], (0.5 * (hi - lo) * half)[is_open], atol=1e-7)
    np.testing.assert_array_equal(c[~is_open], center[~is_open])
    np.testing.assert_array_equal(w[~is_open], half[~is_open])
    np.testing.assert_allclose(above, value + bound, rtol=1e-12)
    assert search.boxes == 60


@pytest.mark.parametrize("dim", [3, 4])
def test_three_sweeps_come_near_the_best_relaxation(dim: int) -> None:
    """The best is that of the semidefinite program in (d, d d^T), of which the relaxation is the dual."""
    rng = np.random.default_rng(dim)
    matrix = rng.normal(size=(6, dim, dim))
    matrix = matrix + np.swapaxes(matrix, 1, 2) - np.eye(dim)
    slope = 2.0 * rng.normal(size=(6, dim))
    found = relaxed(slope, matrix, np.ones((6, dim)))[1]

    best = np.empty(6)
    for k in range(6):
        whole = cvxpy.Variable((dim + 1, dim + 1), PSD=True)
        value = whole[0, 1:] @ slope[k] + 0.5 * cvxpy.trace(matrix[k] @ whole[1:, 1:])
        best[k] = cvxpy.Problem(cvxpy.Maximize(value), [whole[0, 0] == 1.0, cvxpy.diag(whole) <= 1.0]).solve("CLARABEL")
    assert (found.top >= best - 1e-6).all()
    assert (found.top <= 1.02 * best).all()
    assert np.median(found.top / best) < 1.003


# --- the root bound -------------------------------------------------------------------------------------------------


def test_a_few_steps_of_newton_lead_to_the_minimum_of_the_barrier() -> None:
    model = setting_of(terms(SoftplusLink(), 4, 8), 0.1 * np.ones(4), -0.8 * np.eye(4)).model
    assert isinstance(model, LinearModel)
    stacked = stacked_terms(model)
    log_contact, steps = np.full(8, 3.0), 0
    while (after := _newton(stacked, log_contact, 0.05))[1]:
        log_contact, steps = after[0], steps + 1
    assert steps <= 14
    for step in 1e-4 * np.eye(8):
        up, down = (stacked.barrier(np.exp(log_contact + sign * step), 0.05) for sign in (1.0, -1.0))
        assert abs(up - down) < 1e-4 * 2e-4
    # Where the contacts are so near to 0 that nothing moves, it stays.
    assert not _newton(stacked, np.full(8, -300.0), 0.05)[1]
    assert len(global_quadratics(model, 0.0, np.full(8, 20.0), 1e-6)) <= 15


def test_the_box_around_is_the_intersection_of_those_of_the_quadratics() -> None:
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    roots = rng.normal(size=(2, 3, 3))
    quadratics = [GlobalQuadratic.of(2.0, 0.3 * rng.normal(size=3), root @ root.T + 0.2 * np.eye(3)) for root in roots]
    best = min(q.top for q in quadratics) - 1.5
    ends = []
    for q in quadratics:
        reach = np.sqrt(2.0 * (q.top - best) * np.diagonal(axes.T @ np.linalg.inv(q.concave) @ axes))
        ends.append((q.center @ axes - reach, q.center @ axes + reach))
    lo, hi = np.maximum(ends[0][0], ends[1][0]), np.minimum(ends[0][1], ends[1][1])
    assert (lo < hi).all()
    center, half = box_around(quadratics, best, axes)
    np.testing.assert_allclose(center - half, lo, rtol=1e-7)
    np.testing.assert_allclose(center + half, hi, rtol=1e-7)


# --- what is known before -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "finite"), [(1e-6, False), (-1e-6, True)])
def test_growth_on_one_side_is_compared_with_what_the_quadratic_takes_off(more: float, finite: bool) -> None:
    """h is w (x.theta)^2 on one side of x.theta = 0, of a precision A = -2 lam2: bounded where w x^T A^-1 x < 1/2."""
    x, A = np.array([0.7, -1.1]), np.array([[2.0, 0.4], [0.4, 1.5]])
    weight = (1.0 + more) * 0.5 / (x @ np.linalg.solve(A, x))
    groups = [L.Terms(SquaredReLULink(), np.stack([0.1 * x, x]), np.zeros(2), np.array([1.0, weight]))]
    found = prepare(L.LinearPredictorLoss(groups), np.zeros(2), -0.5 * A)
    assert isinstance(found, Setting) == finite
    assert isinstance(found, Unbounded) != finite


@pytest.mark.parametrize("dim", [2, 4])
def test_far_out_h_is_its_concave_part_and_linear(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The starts are the maximizers of that, for the axes, for at most 16 to 31 of the data, and, from dim 4 on, for
    32 random directions a dimension."""
    loss = terms(AbsLink(), dim, 40)
    model = setting_of(loss, 0.1 * np.ones(dim), -0.6 * np.eye(dim)).model
    assert isinstance(model, LinearModel)
    points = starting_points(model)
    rows = model.groups[0].rows
    directions = np.vstack([np.eye(dim), rows[::2]])
    directions = np.vstack([directions, -directions])
    assert len(points) == 1 + len(directions) + (32 * dim if dim == 4 else 0)
    assert len(starting_points(model, few=True)) == 1 + (32 * dim if dim == 4 else 0)
    far = model.linear + np.sign(directions @ rows.T) @ rows
    np.testing.assert_allclose(points[1 : 1 + len(directions)], far, atol=1e-6)
    # Of very many data no more than two directions are evaluated, or as many as the evaluations allow.
    for evaluations, most in ((400, 10), (40, 2)):
        monkeypatch.setattr("fenchel.search.starts._MOST_EVALUATIONS", evaluations)
        assert len(starting_points(model)) == 1 + most * (2 if dim == 4 else 1)


def test_of_many_jumps_and_centers_the_first_sixty_four_are_started_from() -> None:
    rng = np.random.default_rng(0)
    rows, offsets = rng.normal(size=(100, 2)), 10.0 ** rng.uniform(-3.0, 6.0, size=100)
    for link in (IndicatorLink(), BumpLink()):
        model = setting_of(
            L.LinearPredictorLoss([L.Terms(link, rows, offsets, np.ones(100))]), np.zeros(2), -np.eye(2)
        ).model
        assert isinstance(model, LinearModel)
        starts = starting_points(model, few=True)
        both = not link.continuous
        assert len(starts) == 1 + 64 * (1 + both)
        if both:
            z = np.diagonal(model.groups[0].predictors(starts[1:65]))
            assert (z >= 0.0).all()
            assert (z <= 1e-12 * offsets[:64]).all()
