"""f** for P = 1 by the hull: closed forms, certified single solves, an independent linear program, edges."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from fenchel import Gaussian, biconjugate, biconjugate_surface, biconjugate_surface_result
from fenchel import losses as L
from fenchel.hull.hull_bracket import hull_biconjugate
from fenchel.hull.nodes import interval_tops

MEANS, STDS = np.linspace(-5.0, 5.0, 21), np.geomspace(0.02, 4.0, 15)


def radius(m: np.ndarray, s: np.ndarray, k: float) -> np.ndarray:
    return np.hypot(s, m - k)


def huber(r: np.ndarray, delta: float) -> np.ndarray:
    return np.where(r > delta, delta * r - 0.5 * delta**2, 0.5 * r * r)


CLOSED = {
    "softplus": (L.Softplus(), lambda m, s: 0.5 * m + np.logaddexp(radius(m, s, 0) / 2, -radius(m, s, 0) / 2)),
    "relu": (L.ReLU(0.3), lambda m, s: 0.5 * (m - 0.3 + radius(m, s, 0.3))),
    "absolute": (L.Absolute(-0.4), lambda m, s: radius(m, s, -0.4)),
    "huber": (L.Huber(0.7), lambda m, s: huber(radius(m, s, 0.0), 0.7)),
    "indicator": (L.Indicator(0.3), lambda m, s: np.where(m >= 0.3, 1.0, s**2 / (s**2 + (0.3 - m) ** 2))),
    "quadratic": (L.Quadratic(0.7, 0.2, 0.1), lambda m, s: 0.35 * (s**2 + m**2) + 0.2 * m + 0.1),
}


@pytest.mark.parametrize("name", CLOSED)
def test_surface_against_closed_forms(name: str) -> None:
    loss, form = CLOSED[name]
    truth = -form(*np.meshgrid(MEANS, STDS, indexing="ij"))
    surface = biconjugate_surface_result(loss, MEANS, STDS)
    np.testing.assert_allclose(surface.value, truth, rtol=1e-9, atol=1e-9)
    assert (surface.lower <= truth + 1e-9).all()
    if name == "quadratic":  # its majorant touches everywhere, and rounding makes it cross: not all are proved tightly
        assert np.median(surface.upper - surface.lower) < 1e-9
    elif name != "indicator":  # for which no lower end is proved
        assert (surface.upper - surface.lower).max() < 1e-9
    # Atoms have the moments, and the gradient is that of the closed form in the mean.
    atoms = np.nan_to_num(surface.atoms)
    carried = np.sum(surface.weights, axis=2) > 0.5
    first = np.sum(surface.weights * atoms, axis=2)
    second = np.sum(surface.weights * atoms**2, axis=2)
    grid_m, grid_s = np.meshgrid(MEANS, STDS, indexing="ij")
    np.testing.assert_allclose(first[carried], grid_m[carried], atol=1e-7)
    np.testing.assert_allclose(second[carried], (grid_m**2 + grid_s**2)[carried], rtol=1e-6)


def test_surface_equals_certified_single_solves() -> None:
    loss = L.ThreeWells()
    means, stds = np.linspace(-7.0, 7.0, 60), np.linspace(0.02, 4.0, 60)
    surface = biconjugate_surface(loss, means, stds)
    rng = np.random.default_rng(0)
    for i, j in rng.integers(0, 60, size=(40, 2)):
        single = biconjugate(loss, Gaussian([means[i]], stds[j] ** 2))
        assert single.certified
        assert surface[i, j] == pytest.approx(single.value, abs=1e-9)


@pytest.mark.parametrize(
    ("mean", "sd"),
    [
        # All but no weight on the third atom of a linear piece: the climb once took the wrong pair.
        (-5.100502512562814, 0.28),
        (-4.819095477386934, 0.78),
        # Beside a vertex of a linear piece, which is thinner there than the nodes are apart.
        (-5.133333333333333, 0.021185074503545776),
        (5.666666666666666, 0.0709626778467151),
    ],
)
def test_beside_a_linear_piece(mean: float, sd: float) -> None:
    value = biconjugate_surface(L.ThreeWells(), [-6.0, mean, 6.0], [0.02, sd, 2.0])[1, 1]
    assert value == pytest.approx(biconjugate(L.ThreeWells(), Gaussian([mean], sd**2)).value, abs=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_random_wells_against_a_dense_linear_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 4
    bumps = L.Terms(
        L.ThreeWells().groups[0].link,
        rng.normal(size=(count, 1)) + 0.2,
        rng.normal(size=count),
        rng.uniform(0.5, 2, count),
    )
    loss = L.LinearPredictorLoss([bumps], H=[[0.2]], b=[rng.normal()])
    mean, sd = float(2 * rng.normal()), float(np.exp(rng.uniform(-2.0, 1.0)))
    result = hull_biconjugate(loss, Gaussian([mean], sd**2))
    theta = np.unique(np.concatenate([np.linspace(-40.0, 40.0, 4001), np.linspace(mean - 4 * sd, mean + 4 * sd, 2001)]))
    program = linprog(
        -loss(theta[:, None]),
        A_eq=np.stack([np.ones_like(theta), theta - mean, (theta - mean) ** 2 / sd**2]),
        b_eq=[1.0, 0.0, 1.0],
    )
    assert result.certified
    # The program's atoms lie on a grid, so that its value is above f** by a little.
    assert -1e-8 <= program.fun - result.value <= 1e-3 * (1.0 + abs(result.value))


@given(st.floats(-4.0, 4.0), st.floats(-3.0, 1.0), st.floats(-2.0, 2.0), st.floats(0.2, 3.0))
@settings(max_examples=30)
def test_affine_equivariance(mean: float, log_sd: float, shift: float, scale: float) -> None:
    loss, sd = L.ThreeWells(), float(np.exp(log_sd))
    direct = biconjugate_surface(loss, [mean], [sd])[0, 0]
    moved = biconjugate_surface(loss.compose([[scale]], [shift]), [(mean - shift) / scale], [sd / scale])[0, 0]
    assert moved == pytest.approx(direct, rel=1e-8, abs=1e-9)


def test_escaping_mass() -> None:
    k = 0.5
    loss = L.from_function(
        lambda t: np.maximum(t[:, 0] - k, 0.0) ** 2,
        lambda t: 2.0 * np.maximum(t - k, 0.0),
        1,
        curvature=2.0,
        majorizer=L.Quadratic(2.0, -2.0 * k, k * k),
    )
    grid_m, grid_s = np.meshgrid(MEANS, STDS, indexing="ij")
    truth = -(grid_s**2 + np.maximum(grid_m - k, 0.0) ** 2)
    np.testing.assert_allclose(biconjugate_surface(loss, MEANS, STDS), truth, rtol=1e-7, atol=1e-8)


def quartic(bounds: tuple[float, float] | None) -> L.UserLoss:
    return L.from_function(lambda t: t[:, 0] ** 4, lambda t: 4.0 * t**3, 1, curvature=np.inf, bounds=bounds)


def test_superquadratic_loss_has_minus_infinity_and_says_why() -> None:
    result = hull_biconjugate(quartic(None), Gaussian([0.0], 1.0))
    assert result.value == -np.inf
    assert "quadratic" in result.message
    assert np.isneginf(biconjugate_surface(quartic(None), [0.0], [1.0])).all()


@pytest.mark.parametrize(("mean", "sd"), [(0.1, 1.0), (1.2, 0.5), (0.0, 2.0), (-1.0, 1.5)])
def test_bounded_domain(mean: float, sd: float) -> None:
    value = biconjugate_surface(quartic((-3.0, 3.0)), [mean], [sd])[0, 0]
    theta = np.linspace(-3.0, 3.0, 6001)
    program = linprog(
        -(theta**4), A_eq=np.stack([np.ones_like(theta), theta, theta**2]), b_eq=[1.0, mean, sd**2 + mean**2]
    )
    assert value == pytest.approx(program.fun, abs=1e-4)
    assert value <= program.fun + 1e-9


def test_moments_that_no_bounded_distribution_has() -> None:
    assert biconjugate_surface(quartic((-1.0, 1.0)), [0.0], [1.5])[0, 0] == np.inf


def test_interval_tops_bound_the_function() -> None:
    x = np.linspace(-3.0, 3.0, 25)
    fine = np.linspace(x[:-1], x[1:], 101)
    tops = interval_tops(np.sin(x)[None, :], np.cos(x)[None, :], np.ones((1, 24)), np.diff(x))[0]
    assert (tops >= np.sin(fine).max(axis=0) - 1e-12).all()
    assert (tops - np.sin(fine).max(axis=0)).max() < 0.02


def test_bad_input() -> None:
    plane = L.Quadratic(np.eye(2), np.zeros(2))
    for call in (
        lambda: biconjugate_surface(plane, [0.0], [1.0]),
        lambda: biconjugate(plane, Gaussian([0.0, 0.0], 1.0), method="hull"),
        lambda: biconjugate_surface(L.Softplus(), [0.0], [0.0]),
        lambda: biconjugate_surface(L.Softplus(), [np.nan], [1.0]),
        lambda: biconjugate_surface(L.Softplus(), [], [1.0]),
    ):
        with pytest.raises(ValueError, match=r"P = 2|stds|means|parameter"):
            call()
    with pytest.raises(TypeError, match="loss"):
        biconjugate_surface(np.exp, [0.0], [1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "mean", "variance"),
    [
        (L.from_expression("1 - cos(2*(x - 2.17))", ["x"]), 0.3, 5.9),
        (L.ReLU(1e8), 1e8, 1e-12),
        (L.Softplus(), 1.0, 1e-30),
        (L.ThreeWells(), 0.2, 1e-100),
        (L.Softplus(), 0.0, 1e10),
    ],
)
def test_where_the_hull_fails_the_cutting_planes_take_over(loss: L.Loss, mean: float, variance: float) -> None:
    q = Gaussian([mean], [[variance]])
    found = biconjugate(loss, q, method="hull", max_seconds=5.0)
    other = biconjugate(loss, q, max_seconds=5.0)
    room = 1e-7 * max(1.0, abs(other.value))
    assert found.lower <= found.upper
    assert found.lower <= other.upper + room
    assert found.upper >= other.lower - room
    assert found.certified


def test_scales_beyond_double_precision_are_refused() -> None:
    for variance in (1e-300, 1e-160, 1e300):
        with pytest.raises(ValueError, match="variances"):
            biconjugate(L.Softplus(), Gaussian([0.0], [[variance]]))


def test_a_hinge_far_away_and_a_narrow_spike_are_seen() -> None:
    """The squared hinge grows as its majorant does, whatever its threshold; a spike lies between all first nodes."""
    assert biconjugate_surface(L.SquaredReLU(1e4), [0.0], [1.0])[0, 0] == pytest.approx(-1.0, abs=1e-6)
    for center in (2.17, 5.03, -7.77):
        spike = L.from_expression(f"3*exp(-(x - ({center}))**2/2/0.01**2)", ["x"])
        found = biconjugate(spike, Gaussian([0.0], [[1.0]]))
        # Cantelli: at most 1/(1 + c^2) of the mass lies beyond c.
        assert found.certified
        assert found.value == pytest.approx(-3.0 / (1.0 + center**2), rel=2e-2)


@pytest.mark.parametrize("scale", [0.02, 0.05, 0.2])
def test_plateaus_of_a_loss_that_jumps_take_no_time(scale: float) -> None:
    """Every node of a plateau ties for the largest excess over a quadratic: thousands of triples of atoms."""
    rows = scale * np.array([[-1.4], [1.1], [0.9]])
    loss = L.LinearPredictorLoss(
        [L.Terms(L.Indicator().groups[0].link, rows, np.array([0.87, 0.08, 3.9]), np.array([0.16, 0.37, 0.71]))]
    )
    q = Gaussian([-0.037], 0.041**2)
    begin = time.perf_counter()
    found = biconjugate(loss, q, method="hull")
    assert time.perf_counter() - begin < 5.0
    other = biconjugate(loss, q)
    assert found.certified
    assert found.lower <= other.upper
    assert found.upper >= other.lower
