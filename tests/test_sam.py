"""The SAM objective: certified maxima on balls, closed forms, and minimizers checked by grids and by duality."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fenchel import minimize_sam, sam_objective
from fenchel.losses import (
    Absolute,
    Huber,
    Indicator,
    LinearPredictorLoss,
    LogisticRegression,
    Quadratic,
    ReLU,
    Softplus,
    Terms,
    ThreeWells,
    from_expression,
    from_function,
)
from fenchel.losses.bounded_links import BumpLink
from fenchel.sharpness.ball import ball_maximum
from fenchel.sharpness.ball_ascent import model_of
from fenchel.sharpness.ball_branching import Branching
from fenchel.sharpness.cells import cover
from fenchel.sharpness.line import LineProfile, isolate_roots
from fenchel.sharpness.minimax import branch_derivatives
from fenchel.sharpness.proximal import proximal_sup
from fenchel.sharpness.relaxed_mean import closing_on_line, minimize_proximal, prior_precision


def wells(seed: int, dim: int) -> LinearPredictorLoss:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, dim)) * rng.uniform(0.6, 2.0, size=(5, 1))
    return LinearPredictorLoss(
        [Terms(BumpLink(), rows, 2.0 * rng.normal(size=5), rng.uniform(0.5, 2.0, size=5))], H=0.1 * np.eye(dim)
    )


def in_ball(rng: np.random.Generator, dim: int, count: int) -> np.ndarray:
    direction = rng.normal(size=(count, dim))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = np.where(np.arange(count) % 2 == 0, 1.0, rng.uniform(size=count) ** (1.0 / dim))
    return direction * radius[:, None]


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), dim=st.integers(1, 3), rho=st.floats(0.01, 3.0))
def test_the_inner_maximum_is_attained_and_no_point_of_the_ball_exceeds_it(seed: int, dim: int, rho: float) -> None:
    rng = np.random.default_rng(seed)
    loss, theta = wells(seed, dim), 2.0 * rng.normal(size=dim)
    found = sam_objective(loss, theta, rho, 0.3)
    assert found.certified
    assert found.argmax is not None
    assert np.linalg.norm(found.argmax) <= rho * (1 + 1e-12)
    assert found.lower <= found.upper <= found.lower + 1e-9 * (1 + abs(found.lower))
    assert found.value == pytest.approx(loss(theta + found.argmax) + 0.15 * theta @ theta, abs=1e-12)
    values = loss(theta + rho * in_ball(rng, dim, 4000)) + 0.15 * theta @ theta
    assert values.max() <= found.upper + 1e-12


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), dim=st.integers(1, 3), convex=st.booleans())
def test_every_bound_on_a_box_dominates_the_loss_on_its_part_of_the_ball(seed: int, dim: int, convex: bool) -> None:
    """The certificate itself: local searches are good enough to hide a wrong bound from every other test."""
    rng = np.random.default_rng(seed)
    loss = wells(seed, dim)
    if convex:
        loss = LogisticRegression(rng.normal(size=(6, dim)), rng.choice([-1.0, 1.0], size=6))
    theta, rho = rng.normal(size=dim), float(rng.uniform(0.2, 3.0))
    model = model_of(loss, theta, rho)
    # A search that knows only a bad point leaves every bound open, so that all devices are used on every box.
    search = Branching(model, np.zeros((1, dim)), np.array([-1e9]), 1e-10, 10_000, None)
    search.nu = float(rng.uniform(0.0, 5.0))
    center = rng.uniform(-1, 1, size=(40, dim))
    half = rng.uniform(0.02, 0.5, size=(40, dim)) * rng.choice([0.1, 1.0], size=(40, 1))
    search._improve = lambda u: None  # type: ignore[method-assign]
    bounds, _ = search._bound(center, half, np.full(40, np.inf))
    for c, w, bound in zip(center, half, bounds, strict=True):
        u = c + w * np.vstack([rng.uniform(-1, 1, size=(150, dim)), rng.choice([-1.0, 1.0], size=(20, dim))])
        # Points outside are moved to the sphere, and kept where that leaves them in the box.
        u = np.vstack([u, u / np.maximum(np.linalg.norm(u, axis=1), 1e-9)[:, None]])
        u = u[(np.linalg.norm(u, axis=1) <= 1.0 + 1e-12) & (np.abs(u - c) <= w + 1e-12).all(axis=1)]
        if len(u):
            assert bound >= loss(theta + rho * u).max() - 1e-9


@settings(max_examples=20)
@given(theta=st.floats(-5, 5), rho=st.floats(0.001, 4), delta=st.floats(0, 3), k=st.floats(-2, 2))
def test_scalar_closed_forms(theta: float, rho: float, delta: float, k: float) -> None:
    ridge = 0.5 * delta * theta * theta
    expected = {
        Absolute(k): abs(theta - k) + rho,
        ReLU(k): max(theta + rho - k, 0.0),
        Softplus(): np.logaddexp(0.0, theta + rho),
        Quadratic(2.0, -2.0 * k, k * k): (abs(theta - k) + rho) ** 2,
    }
    reach = abs(theta) + rho
    expected[Huber(1.0)] = 0.5 * reach**2 if reach <= 1 else reach - 0.5
    for loss, value in expected.items():
        found = sam_objective(loss, theta, rho, delta)
        assert found.certified
        assert found.value == pytest.approx(value + ridge, abs=1e-9 * (1 + value))
    jump = sam_objective(Indicator(k), theta, rho, 0.0)
    if abs(theta + rho - k) > 1e-9:
        assert jump.value == float(theta + rho >= k)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), dim=st.integers(1, 7))
def test_one_datum_moves_against_its_row(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    x, theta, rho = rng.normal(size=dim), rng.normal(size=dim), float(rng.uniform(0.1, 2.0))
    found = sam_objective(LogisticRegression(x[None, :], [1.0]), theta, rho, 0.0)
    exact = np.logaddexp(0.0, -x @ theta + rho * np.linalg.norm(x))
    assert found.lower - 1e-9 <= exact <= found.upper + 1e-9
    assert found.value == pytest.approx(exact, abs=1e-7)
    assert found.certified or dim > 3


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), dim=st.integers(1, 5))
def test_quadratics_are_solved_exactly_in_the_hard_case_too(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    H = basis @ np.diag(rng.uniform(-1, 2, size=dim)) @ basis.T
    H = 0.5 * (H + H.T)
    theta, rho = rng.normal(size=dim), float(rng.uniform(0.1, 2.0))
    # b puts theta at the stationary point (the hard case) for even seeds.
    b = -H @ theta if seed % 2 == 0 else rng.normal(size=dim)
    found = sam_objective(Quadratic(H, b), theta, rho, 0.0)
    assert found.certified
    if seed % 2 == 0:
        top = max(0.0, float(np.linalg.eigvalsh(H)[-1]))
        assert found.value == pytest.approx(Quadratic(H, b)(theta) + 0.5 * top * rho**2, abs=1e-10)
    values = Quadratic(H, b)(theta + rho * in_ball(rng, dim, 3000))
    assert values.max() <= found.upper + 1e-12


def test_a_radius_of_zero_and_a_flat_loss() -> None:
    assert sam_objective(ThreeWells(), 0.3, 0.0, 1.0).value == ThreeWells()(0.3) + 0.045
    flat = sam_objective(Quadratic(np.zeros((2, 2)), np.zeros(2), 1.5), [1.0, 2.0], 1.0, 0.0)
    assert flat.certified
    assert flat.value == 1.5


def test_a_users_loss_is_maximized_inside_its_bounds() -> None:
    loss = from_function(
        lambda t: np.square(t).sum(axis=1), lambda t: 2 * t, 2, curvature=2.0, bounds=([-1, -1], [1, 1])
    )
    inside = sam_objective(loss, [0.0, 0.0], 0.5, 0.0)
    assert inside.value == pytest.approx(0.25, abs=1e-9)
    cut = sam_objective(loss, [0.9, 0.9], 5.0, 0.0)
    assert cut.value == pytest.approx(2.0, abs=1e-9)
    assert "bounds" in cut.message
    with pytest.raises(ValueError, match="outside the loss's bounds"):
        sam_objective(loss, [9.0, 0.0], 0.5, 0.0)


def test_a_small_budget_leaves_a_valid_bracket() -> None:
    loss, theta = wells(3, 3), np.ones(3)
    full = sam_objective(loss, theta, 2.0, 0.0)
    short = sam_objective(loss, theta, 2.0, 0.0, max_boxes=1)
    assert short.lower - 1e-12 <= full.value <= short.upper + 1e-12
    assert not short.certified
    assert "open" in short.message


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([0.0, 1.0], 1.0, 1.0), "theta"),
        (([np.nan], 1.0, 1.0), "theta"),
        (([0.0], -1.0, 1.0), "rho"),
        (([0.0], np.inf, 1.0), "rho"),
        (([0.0], 1.0, -1.0), "delta"),
    ],
)
def test_bad_input_is_named(arguments: tuple[object, float, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        sam_objective(ThreeWells(), *arguments)


def test_minimizers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="delta must be larger"):
        minimize_sam(Softplus(), 0.5, 0.0)
    with pytest.raises(ValueError, match="discontinuous"):
        minimize_sam(Indicator(0.0), 0.5, 1.0)
    with pytest.raises(ValueError, match="rho"):
        minimize_sam(Softplus(), 0.0, 1.0)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), rho=st.floats(0.05, 1.5), delta=st.floats(0.05, 1.0))
def test_the_minimum_on_the_line_against_a_grid(seed: int, rho: float, delta: float) -> None:
    loss = wells(seed, 1)
    found = minimize_sam(loss, rho, delta)
    assert found.certified
    assert found.lower <= found.upper
    theta = np.linspace(-8, 8, 4001)
    window = loss((theta[:, None] + rho * np.linspace(-1, 1, 201)[None, :]).reshape(-1, 1)).reshape(theta.size, -1)
    grid = window.max(axis=1) + 0.5 * delta * theta**2
    # The sampled inner maximum is too small by at most curvature * spacing^2 / 8.
    assert found.lower <= grid.min() + 20.0 * (rho / 100) ** 2
    assert grid.min() <= found.value + 0.05
    assert sam_objective(loss, found.argmin, rho, delta).value == pytest.approx(found.value, abs=1e-10)


def test_the_kink_of_the_worked_quadratic() -> None:
    H = np.diag([4.0, 1.0])
    loss = Quadratic(H, -H @ np.ones(2), 2.5)
    found = minimize_sam(loss, 0.3, 0.3)
    assert found.certified
    assert found.argmin == pytest.approx([1.0, 1.0 - 0.3 / (4 / 3 + 0.3)], abs=1e-8)
    assert len(ball_maximum(loss, found.argmin, 0.3).worst(1e-8)) == 2


def test_a_planar_minimum_against_a_grid() -> None:
    loss, rho, delta = wells(8, 2), 0.4, 0.3
    found = minimize_sam(loss, rho, delta)
    angle = 2 * np.pi * np.arange(90) / 90
    ring = rho * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    eps = np.vstack([ring, 0.6 * ring[::3], 0.3 * ring[::3], np.zeros((1, 2))])
    axis = np.linspace(-4, 4, 81)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    values = np.array([loss(t + eps).max() for t in grid]) + 0.5 * delta * np.square(grid).sum(axis=1)
    best = grid[values.argmin()]
    assert found.value <= sam_objective(loss, best, rho, delta).value + 1e-9
    assert found.value >= values.min() - 0.1


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), sigma=st.floats(0.05, 0.45), delta=st.floats(0.1, 2.0), dim=st.integers(1, 2))
def test_the_relaxed_minimizer_of_a_quadratic_is_a_stretched_map(
    seed: int, sigma: float, delta: float, dim: int
) -> None:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(dim, dim))
    H = A @ A.T
    H *= 3.9 / max(3.9, float(np.linalg.eigvalsh(H)[-1]))
    b = rng.normal(size=dim)
    delta0 = prior_precision(sigma, delta)
    x = -np.linalg.solve(H + delta0 * np.eye(dim), b)
    found = minimize_proximal(Quadratic(H, b), sigma, delta)
    assert found.certified
    assert found.argmin == pytest.approx((1 + sigma**2 * delta0) * x, abs=1e-5)
    assert found.value == pytest.approx(Quadratic(H, b)(x) + 0.5 * delta0 * x @ x, abs=1e-8)


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), sigma=st.floats(0.15, 1.2), delta=st.floats(0.05, 0.5))
def test_toland_duality_gives_the_relaxed_minimum_by_a_convex_hull(seed: int, sigma: float, delta: float) -> None:
    loss = wells(seed, 1)
    if sigma**2 * delta >= 0.9 or sigma**-2 < 0.2:
        return
    found = minimize_proximal(loss, sigma, delta)
    assert found.certified
    grid = np.linspace(-25, 25, 20_001)
    closed = closing_on_line(loss, sigma, grid)
    assert (closed >= loss(grid[:, None]) - 1e-9).all()
    dual = closed + 0.5 * prior_precision(sigma, delta) * grid**2
    assert found.value == pytest.approx(dual.min(), abs=3e-5)


def test_where_the_relaxed_supremum_is_infinite() -> None:
    found = minimize_proximal(Quadratic(4.0, -1.0), 1.0, 0.3)
    assert np.isinf(found.value)
    assert np.isinf(minimize_proximal(Quadratic(np.diag([4.0, 1.0]), np.ones(2)), 0.6, 0.3).value)


@pytest.mark.parametrize("free", [False, True])
def test_the_hessian_of_a_branch_against_differences(free: bool) -> None:
    loss = wells(5, 2)
    theta, rho, nu = np.array([0.6, -0.4]), 0.3, 40.0

    def value(t: np.ndarray) -> float:
        return proximal_sup(loss, t, nu**-0.5).lower if free else ball_maximum(loss, t, rho).lower

    found = proximal_sup(loss, theta, nu**-0.5) if free else ball_maximum(loss, theta, rho)
    eps = found.argmax[None, :]
    slope = loss.gradient(theta + eps[0])
    multiplier = np.array([nu if free else float(slope @ eps[0]) / rho**2])
    slopes, bends = branch_derivatives(loss, theta + eps, eps, multiplier, np.array([free]))
    h = 1e-4
    steps = h * np.eye(2)
    numeric = np.array([(value(theta + s) - value(theta - s)) / (2 * h) for s in steps])
    assert slopes[0] == pytest.approx(numeric, abs=1e-5)
    second = np.array(
        [
            [
                (value(theta + s + t) - value(theta + s - t) - value(theta - s + t) + value(theta - s - t))
                / (4 * h * h)
                for t in steps
            ]
            for s in steps
        ]
    )
    assert bends[0] == pytest.approx(second, abs=1e-3)


@settings(max_examples=20)
@given(roots=st.lists(st.floats(-3, 3), min_size=1, max_size=5, unique=True))
@example(roots=[2.0, 1.6124890244575374])  # a root on the edge of a cell
def test_all_roots_of_a_polynomial_are_isolated(roots: list[float]) -> None:
    roots = sorted(roots)
    if min(np.diff(roots), default=1.0) < 1e-3:
        return
    poly = np.polynomial.Polynomial.fromroots(roots)
    slope, bend = poly.deriv(), poly.deriv(2)

    def upper(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        middle, half = 0.5 * (a + b), 0.5 * (b - a)
        steep = np.abs(bend.coef) @ 4.0 ** np.arange(bend.coef.size)
        return slope(middle) + steep * half

    found, complete = isolate_roots(poly, upper, -4.0, 4.0)
    assert complete
    assert found == pytest.approx(np.array(roots), abs=1e-8)


def test_the_window_maximum_sees_interior_hills() -> None:
    loss = ThreeWells()
    profile = LineProfile(loss, -8.0, 8.0)
    assert profile.complete
    a = np.linspace(-6, 4, 101)
    exact = profile.window(a, a + 2.0)
    sampled = loss((a[:, None] + np.linspace(0, 2, 2001)[None, :]).reshape(-1, 1)).reshape(a.size, -1).max(axis=1)
    assert (exact >= sampled - 1e-12).all()
    assert exact == pytest.approx(sampled, abs=1e-4)


@pytest.mark.parametrize("seed", [0, 8, 15])
def test_the_best_of_narrow_wells_is_found_and_bracketed(seed: int) -> None:
    """Wells .2 to .5 wide in the plane: no point of a grid is lower, and the lower end is proved to 1 %."""
    rng = np.random.default_rng(seed)
    centers, widths, depths = rng.uniform(-3, 3, (4, 2)), rng.uniform(0.2, 0.5, 4), rng.uniform(2, 8, 4)
    wells = " ".join(
        f"- {d:.4f}*exp(-((x - ({c[0]:.4f}))**2 + (y - ({c[1]:.4f}))**2)/{2 * w * w:.4f})"
        for c, w, d in zip(centers, widths, depths, strict=True)
    )
    loss, rho, delta = from_expression(f"8 + 0.05*(x**2 + y**2) {wells}", ["x", "y"]), 0.2, 0.05
    found = minimize_sam(loss, rho, delta)
    axis = np.linspace(-4.0, 4.0, 161)
    theta = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    angles = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
    ring = rho * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    grid = np.max([loss(theta + eps) for eps in (*ring, *(0.5 * ring))], axis=0) + 0.5 * delta * (theta**2).sum(axis=1)
    assert found.value <= grid.min() + 1e-6
    assert found.value - 0.01 * max(1.0, abs(found.value)) <= found.lower <= found.value


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_the_minimum_beside_several_worst_perturbations_is_proved_in_the_plane(seed: int) -> None:
    """Bumps along lines, whose worst perturbation jumps: the minimum is proved to 1e-7, and no lower value is met."""
    rng = np.random.default_rng(seed)
    terms = Terms(BumpLink(), 1.5 * rng.normal(size=(5, 2)), 2.0 * rng.normal(size=5), rng.uniform(0.5, 2.0, 5))
    loss = LinearPredictorLoss([terms], H=0.3 * np.eye(2))
    found = minimize_sam(loss, 0.5, 1.0)
    assert found.value - 1e-7 * abs(found.value) <= found.lower <= found.value
    for theta in found.argmin + np.vstack([1e-3, 0.03, 0.5])[:, None] * rng.normal(size=(3, 3, 2)):
        assert min(sam_objective(loss, t, 0.5, 1.0).value for t in theta) >= found.lower


def test_cells_that_would_not_be_bounded_in_time_are_left_out() -> None:
    loss = from_expression("0.1*(x**2 + y**2) - exp(-(x - 1)**2 - y**2)", ["x", "y"])
    begin = time.perf_counter()
    assert cover(loss, 0.02, 0.1, -np.ones(2), np.ones(2), begin) is None
    found = minimize_sam(loss, 0.01, 0.1, max_seconds=0.2)  # of 80,000 cells and more
    assert time.perf_counter() - begin < 8.0
    assert found.lower <= found.upper
    few = cover(loss, 0.2, 0.1, -np.ones(2), np.ones(2), begin)
    assert few is not None
    assert len(few.centers) == 225
