"""Losses: derivatives, the bounds that certificates rest on, composition, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fenchel
from fenchel import losses as L
from fenchel.losses.bounded_links import BumpLink, IndicatorLink
from fenchel.losses.links import AbsLink, HuberLink, Link, ReLULink, SoftplusLink
from fenchel.losses.more_links import SquareConcaveLink, SquaredReLULink

CAUCHY = (np.log1p, lambda u: 1 / (1 + u), lambda u: -1 / (1 + u) ** 2)
LINKS: list[Link] = [
    ReLULink(),
    AbsLink(),
    SoftplusLink(),
    HuberLink(0.8),
    IndicatorLink(),
    BumpLink(),
    SquaredReLULink(),
    SquareConcaveLink(*CAUCHY, 0.3),
]


def logistic(n: int = 7, dim: int = 3) -> L.LogisticRegression:
    rng = np.random.default_rng(5)
    return L.LogisticRegression(rng.normal(size=(n, dim)), rng.integers(0, 2, size=n))


def examples() -> list[L.Loss]:
    mixed = 0.7 * L.Softplus().compose([1.0, -2.0], [0.3]) + L.Quadratic([[2.0, 0.3], [0.3, 1.0]], [1.0, -1.0], 0.2)
    return [
        L.ReLU(0.3),
        L.Absolute(-1.0),
        L.Softplus(),
        L.Huber(0.7),
        L.Indicator(0.2),
        L.ThreeWells(),
        L.SquaredReLU(0.3),
        L.SquareConcave(*CAUCHY, slope=0.3, center=-0.4),
        L.Quadratic([[2.0, 0.5], [0.5, 1.0]], [1.0, -1.0], 0.3),
        logistic(),
        mixed,
        L.from_function(
            lambda t: np.log1p(np.sum(t**2, axis=1)),
            lambda t: 2 * t / (1 + np.sum(t**2, axis=1, keepdims=True)),
            2,
            curvature=2.0,
        ),
    ]


@pytest.mark.parametrize("loss", examples(), ids=lambda loss: type(loss).__name__)
def test_derivatives_agree_with_central_differences(loss: L.Loss) -> None:
    theta = 2.0 * np.random.default_rng(1).normal(size=(9, loss.dim))
    step = 1e-5
    for j in range(loss.dim):
        shift = step * np.eye(loss.dim)[j]
        slope = (loss(theta + shift) - loss(theta - shift)) / (2 * step)
        np.testing.assert_allclose(slope, loss.gradient(theta)[:, j], atol=1e-8)
        bend = (loss.gradient(theta + shift) - loss.gradient(theta - shift)) / (2 * step)
        np.testing.assert_allclose(bend, loss.hessian(theta)[:, j], atol=1e-6)


@pytest.mark.parametrize("loss", examples(), ids=lambda loss: type(loss).__name__)
def test_one_point_and_many_points_agree(loss: L.Loss) -> None:
    theta = np.random.default_rng(2).normal(size=(4, loss.dim))
    assert isinstance(loss(theta[0]), float)
    assert loss(theta).shape == (4,)
    assert loss.gradient(theta).shape == (4, loss.dim)
    assert loss.hessian(theta).shape == (4, loss.dim, loss.dim)
    assert loss(theta[0]) == pytest.approx(loss(theta)[0], rel=1e-14)
    np.testing.assert_allclose(loss.gradient(theta[0]), loss.gradient(theta)[0])
    np.testing.assert_allclose(loss.hessian(theta[0]), loss.hessian(theta)[0])


def test_scalar_losses_take_scalars_and_vectors() -> None:
    assert L.ReLU(1.0)(3.0) == 2.0
    np.testing.assert_array_equal(L.ReLU(1.0)(np.array([0.0, 3.0, 4.0])), [0.0, 2.0, 3.0])


def test_values_by_hand() -> None:
    assert L.Huber(0.5)(2.0) == pytest.approx(0.5 * 2.0 - 0.125)
    assert L.Huber(0.5)(-0.2) == pytest.approx(0.02)
    assert L.Indicator(0.2)(0.2) == 1.0  # upper semicontinuous
    assert L.Indicator(0.2)(0.2 - 1e-12) == 0.0
    assert L.Softplus()(1000.0) == 1000.0
    assert L.Softplus()(-1000.0) == 0.0
    X, y = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([1.0, -1.0])
    theta = np.array([0.3, -0.4])
    expected = np.sum(np.log1p(np.exp(-y * (X @ theta))))
    assert L.LogisticRegression(X, y)(theta) == pytest.approx(expected, rel=1e-15)
    assert L.LogisticRegression(X, [1, 0])(theta) == pytest.approx(expected, rel=1e-15)


@settings(max_examples=300, deadline=None)
@given(
    link=st.sampled_from(LINKS),
    ends=st.tuples(st.floats(-8, 8), st.floats(-8, 8)),
    contact=st.floats(-9, 9),
    open_ends=st.tuples(st.booleans(), st.booleans()),
)
def test_link_majorants_lie_above_on_their_interval(
    link: Link, ends: tuple[float, float], contact: float, open_ends: tuple[bool, bool]
) -> None:
    lo, hi = min(ends), max(ends)
    inside = np.concatenate([np.linspace(lo, hi, 301), np.clip([0.0, -contact, contact], lo, hi)])
    wide_lo, wide_hi = (-np.inf if open_ends[0] else lo), (np.inf if open_ends[1] else hi)
    z = np.concatenate([inside, np.linspace(lo - 30, lo, 100) * open_ends[0] + lo * (not open_ends[0])])
    z = np.concatenate([z, np.linspace(hi, hi + 30, 100) * open_ends[1] + hi * (not open_ends[1])])
    z0 = np.array(contact)
    kappa = link.majorant_curvature(z0, np.array(wide_lo), np.array(wide_hi))
    assert kappa >= 0.0
    if np.isfinite(kappa):
        above = link.value(z0) + link.slope(z0) * (z - z0) + 0.5 * kappa * (z - z0) ** 2
        assert (above - link.value(z)).min() >= -1e-12 * (1.0 + kappa)
    v, s, k = link.majorant(z0, np.array(wide_lo), np.array(wide_hi))
    if np.isfinite(k):
        assert (v + s * (z - z0) + 0.5 * k * (z - z0) ** 2 - link.value(z)).min() >= -1e-12 * (1.0 + k)
    assert (link.value(z) <= link.sup(np.array(wide_lo), np.array(wide_hi)) + 1e-15).all()
    bent = link.curvature(inside)
    assert bent.max() <= link.curvature_sup(np.array(lo), np.array(hi)) + 1e-13


@pytest.mark.parametrize("link", LINKS, ids=repr)
def test_links_lie_above_their_lines_and_are_no_steeper_than_said(link: Link) -> None:
    z = np.linspace(-30.0, 30.0, 4001)
    contacts = np.array([-7.0, -0.3, 0.0, 0.4, 9.0])
    value, slope = link.below(contacts)
    lines = value + slope * (z[:, None] - contacts)
    assert (lines <= link.value(z)[:, None] + 1e-12 * (1.0 + np.abs(lines))).all()
    if link.continuous:
        assert (np.abs(link.slope(z)) <= link.steepest).all()


@pytest.mark.parametrize("link", [SoftplusLink(), HuberLink(0.8), AbsLink(), ReLULink()], ids=repr)
def test_even_links_have_the_smallest_majorant(link: Link) -> None:
    """The curvature is not only enough: a slightly smaller one fails somewhere in the interval."""
    z0, lo, hi = np.array(1.7), np.array(-2.5), np.array(3.0)
    z = np.linspace(lo, hi, 100_001)
    kappa = 0.999 * link.majorant_curvature(z0, lo, hi)
    above = link.value(z0) + link.slope(z0) * (z - z0) + 0.5 * kappa * (z - z0) ** 2
    assert (above - link.value(z)).min() < 0.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_hessian_upper_dominates_on_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for loss in (logistic(), L.ThreeWells(), L.Huber(0.7)):
        center, half = rng.normal(size=(1, loss.dim)), rng.uniform(0.01, 2.0, size=(1, loss.dim))
        upper = loss.hessian_upper(center - half, center + half)[0]
        inside = center + half * rng.uniform(-1, 1, size=(50, loss.dim))
        assert np.linalg.eigvalsh(upper - loss.hessian(inside)).min() >= -1e-12


def test_composition_addition_and_scaling_are_what_they_say() -> None:
    rng = np.random.default_rng(3)
    loss, A, o = logistic(), rng.normal(size=(3, 2)), rng.normal(size=3)
    theta = rng.normal(size=(5, 2))
    np.testing.assert_allclose(loss.compose(A, o)(theta), loss(theta @ A.T + o), rtol=1e-13)
    quadratic = L.Quadratic([[2.0, 0.5], [0.5, 1.0]], [1.0, -1.0], 0.3)
    np.testing.assert_allclose(quadratic.compose(A[:2])(theta), quadratic(theta @ A[:2].T), rtol=1e-13)
    total = loss.compose(A, o) + 3.0 * quadratic
    np.testing.assert_allclose(total(theta), loss(theta @ A.T + o) + 3.0 * quadratic(theta), rtol=1e-13)
    assert (0.0 * loss)(np.ones(3)) == 0.0
    assert total.convex


def test_wells_a_and_c_vanish_and_b_stays() -> None:
    loss = L.ThreeWells()
    grid = np.linspace(-6, 6, 2401)

    def wells(values: np.ndarray) -> np.ndarray:
        return grid[1:-1][(values[1:-1] < values[:-2]) & (values[1:-1] < values[2:])]

    np.testing.assert_allclose(wells(loss(grid)), [-4.0, 0.5, 4.5], atol=0.06)
    assert loss(wells(loss(grid))).argmin() == 0  # the sharp well A is the global minimum
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    smooth = np.array([loss(m + 1.3 * nodes) @ weights / weights.sum() for m in grid])
    np.testing.assert_allclose(wells(smooth), [0.5], atol=0.2)
    curvature = loss.hessian(wells(loss(grid))[:, None])[:, 0, 0]
    assert curvature[1] < 0.1 * min(curvature[0], curvature[2])
    majorizer = L.Quadratic(loss.H, loss.b, loss.c)
    assert (majorizer(grid) >= loss(grid)).all()


def test_from_function_accepts_the_shapes_of_acceptance() -> None:
    c = 0.4
    cauchy = L.from_function(
        lambda t: np.log1p((np.atleast_2d(t)[:, 0] - c) ** 2),
        lambda t: 2 * (np.atleast_2d(t) - c) / (1 + (np.atleast_2d(t) - c) ** 2),
        1,
        curvature=2.0,
        majorizer=L.Quadratic([[2e-3]], [-2e-3 * c], 1e-3 * c * c + np.log(1e3)),
    )
    assert cauchy(c) == 0.0
    assert cauchy(np.array([c])) == 0.0
    assert cauchy(np.zeros((3, 1))).shape == (3,)
    # Without a Hessian, gradients are differenced.
    np.testing.assert_allclose(cauchy.hessian(np.array([[c]])), [[[2.0]]], rtol=1e-6)


def value(t: np.ndarray) -> np.ndarray:
    return np.sum(t**2, axis=1)


def slope(t: np.ndarray) -> np.ndarray:
    return 2 * t


X = np.random.default_rng(0).normal(size=(6, 2))
BAD = {
    "H not symmetric": lambda: L.Quadratic([[1.0, 0.5], [0.0, 1.0]], [0.0, 0.0]),
    "H not square": lambda: L.Quadratic([[1.0, 0.5]], [0.0, 0.0]),
    "b of another length": lambda: L.Quadratic(np.eye(2), [0.0, 0.0, 0.0]),
    "b NaN": lambda: L.Quadratic(np.eye(2), [0.0, np.nan]),
    "c infinite": lambda: L.Quadratic(np.eye(2), [0.0, 0.0], np.inf),
    "threshold NaN": lambda: L.ReLU(np.nan),
    "threshold text": lambda: L.ReLU("a"),
    "delta zero": lambda: L.Huber(0.0),
    "delta negative": lambda: L.Huber(-1.0),
    "labels": lambda: L.LogisticRegression(X, np.arange(6)),
    "label count": lambda: L.LogisticRegression(X, np.ones(5)),
    "X NaN": lambda: L.LogisticRegression(X * np.nan, np.ones(6)),
    "X empty": lambda: L.LogisticRegression(X[:0], np.ones(0)),
    "X one axis": lambda: L.LogisticRegression(X[:, 0], np.ones(6)),
    "theta shape": lambda: logistic()(np.zeros((4, 2))),
    "theta axes": lambda: logistic()(np.zeros((4, 3, 1))),
    "compose shape": lambda: logistic().compose(np.eye(2)),
    "compose offset": lambda: logistic().compose(np.eye(3), np.zeros(2)),
    "sum of dimensions": lambda: L.ReLU() + logistic(),
    "negative factor": lambda: -1.0 * L.ReLU(),
    "negative weight": lambda: L.LinearPredictorLoss([L.Terms(ReLULink(), np.ones((1, 1)), np.zeros(1), -np.ones(1))]),
    "curvature too small": lambda: L.from_function(value, slope, 2, curvature=1.0),
    "quartic with a false curvature": lambda: L.from_function(
        lambda t: t[:, 0] ** 4, lambda t: 4 * t**3, 1, curvature=50.0
    ),
    "majorizer below": lambda: L.from_function(
        value, slope, 2, curvature=2.0, majorizer=L.Quadratic(np.eye(2), np.zeros(2), 0.0)
    ),
    "majorizer dimension": lambda: L.from_function(value, slope, 2, curvature=2.0, majorizer=L.Quadratic(2.0, 0.0)),
    "curvature NaN": lambda: L.from_function(value, slope, 2, curvature=np.nan),
    "curvature text": lambda: L.from_function(value, slope, 2, curvature="steep"),
    "dim zero": lambda: L.from_function(value, slope, 0, curvature=2.0),
    "value shape": lambda: L.from_function(lambda t: t, slope, 2, curvature=2.0),
    "value NaN": lambda: L.from_function(lambda t: t[:, 0] * np.nan, slope, 2, curvature=2.0),
    "bounds reversed": lambda: L.from_function(value, slope, 2, curvature=2.0, bounds=(1.0, -1.0)),
    "h convex": lambda: L.SquareConcave(np.square, lambda u: 2 * u, lambda u: 2 + 0 * u),
    "h decreasing": lambda: L.SquareConcave(np.negative, lambda u: -1 + 0 * u, lambda u: 0 * u),
    "dh of another h": lambda: L.SquareConcave(np.log1p, lambda u: 2 / (1 + u), lambda u: -2 / (1 + u) ** 2),
    "h infinite at 0": lambda: L.SquareConcave(
        lambda u: u + 0.0, lambda u: 1 + 0 * u, lambda u: np.where(u > 0, 0.0, -np.inf)
    ),
    "not callable": lambda: L.from_function(1.0, slope, 2, curvature=2.0),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_sentence(name: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        BAD[name]()
    assert len(str(caught.value)) > 20


def test_what_is_no_number_is_named() -> None:
    with pytest.raises(TypeError, match=r"^y must be an array of real numbers, got an array of <U3$"):
        L.LogisticRegression(np.ones((6, 1)), np.array(["yes", "no"] * 3))
    with pytest.raises(ValueError, match=r"^y must have 1 axis, got an array of shape"):
        L.LogisticRegression(np.ones((6, 1)), np.ones((6, 1)))


class _Cosines(L.Loss):
    """A loss of a user's own class: what it knows of itself it says in `Loss`'s attributes."""

    dim = 2
    curvature = 4.0
    majorizer = L.Quadratic(np.zeros((2, 2)), np.zeros(2), 4.0)

    def _value(self, theta: np.ndarray) -> np.ndarray:
        return np.sum(1.0 - np.cos(2.0 * theta), axis=1)

    def _gradient(self, theta: np.ndarray) -> np.ndarray:
        return 2.0 * np.sin(2.0 * theta)

    def _hessian(self, theta: np.ndarray) -> np.ndarray:
        return 4.0 * np.cos(2.0 * theta)[:, :, None] * np.eye(2)

    def hessian_upper(self, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        return np.broadcast_to(4.0 * np.eye(2), (len(lo), 2, 2)).copy()


def test_a_class_of_the_users_own_is_a_loss_like_any_other() -> None:
    found = fenchel.biconjugate(_Cosines(), fenchel.Gaussian([0.0, 0.0], np.eye(2)))
    assert found.certified
    assert found.value == pytest.approx(2.0 * (np.cos(2.0) - 1.0), abs=1e-6)
    best = fenchel.sam_objective(_Cosines(), [0.0, 0.0], 0.3, 0.1)
    assert best.certified
    assert best.value == pytest.approx(2.0 - 2.0 * np.cos(2.0 * 0.3 / np.sqrt(2.0)), abs=1e-8)
    assert fenchel.expected_loss(_Cosines(), fenchel.Gaussian([0.0, 0.0], np.eye(2))) == pytest.approx(
        2.0 * (1.0 - np.exp(-2.0)), abs=1e-10
    )
