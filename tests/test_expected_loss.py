"""E_q[l]: closed forms and independent quadrature, the gradient in mu, honest error estimates."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from fenchel import Gaussian, expected_loss, expected_loss_gradient, expected_loss_result
from fenchel import losses as L
from fenchel.expectation.lattices import scrambled_sobol, trapezoid
from fenchel.expectation.link_moments import link_moments
from fenchel.expectation.quadrature import PanelRule
from fenchel.losses.links import Link, SoftplusLink

SCALAR = {
    "softplus": (L.Softplus(), ()),
    "relu": (L.ReLU(0.3), (0.3,)),
    "absolute": (L.Absolute(-0.2), (-0.2,)),
    "huber": (L.Huber(0.7), (-0.7, 0.7)),
    "indicator": (L.Indicator(0.4), (0.4,)),
    "wells": (L.ThreeWells(), (-4.0, 0.5, 4.5)),
}


def by_scipy(loss: L.Loss, mean: float, sd: float, breaks: tuple[float, ...]) -> float:
    ends = mean + sd * np.array([-10.0, -3.0, 0.0, 3.0, 10.0])
    edges = np.unique(np.concatenate([ends, [b for b in breaks if ends[0] < b < ends[-1]]]))
    density = stats.norm(mean, sd).pdf
    # Each piece takes the loss's value inside it, so that jumps at its ends do not matter.
    return sum(
        integrate.quad(lambda t: float(loss(np.array([t]))) * density(t), a, b, epsabs=1e-13, epsrel=1e-12, limit=200)[
            0
        ]
        for a, b in pairwise(edges)
    )


@pytest.mark.parametrize("name", SCALAR)
@pytest.mark.parametrize(("mean", "sd"), [(0.5, 1.0), (-3.0, 0.4), (2.0, 6.0), (0.35, 0.02)])
def test_scalar_losses_against_quadrature(name: str, mean: float, sd: float) -> None:
    loss, breaks = SCALAR[name]
    value = expected_loss(loss, Gaussian([mean], sd * sd))
    assert value == pytest.approx(by_scipy(loss, mean, sd, breaks), rel=1e-9, abs=1e-12)


def test_fixed_numbers() -> None:
    q = Gaussian([0.5], 1.0)
    for loss, value in ((L.Softplus(), 1.0817257), (L.ReLU(), 0.6977966), (L.Absolute(), 0.8955931)):
        assert expected_loss(loss, q) == pytest.approx(value, abs=6e-8)
    assert 1.0 - expected_loss(L.Indicator(0.0), q) == pytest.approx(0.3085375, abs=6e-8)


@given(st.floats(-30.0, 30.0), st.floats(-4.0, 4.0), st.floats(0.01, 30.0))
@settings(max_examples=60)
def test_huber_with_any_width(mean: float, log_sd: float, delta: float) -> None:
    sd = float(np.exp(log_sd))
    loss = L.Huber(delta)

    def integrand(x: np.ndarray) -> np.ndarray:
        return np.asarray(loss((mean + sd * x)[:, None]))[None, :]

    reference = PanelRule([(-delta - mean) / sd, (delta - mean) / sd]).expect(integrand)
    assert expected_loss(loss, Gaussian([mean], sd * sd)) == pytest.approx(float(reference.value[0]), rel=1e-10)


@pytest.mark.parametrize("name", SCALAR)
def test_derivatives_against_finite_differences(name: str) -> None:
    loss, _ = SCALAR[name]
    mean, var, step = 0.6, 0.8, 1e-5
    result = expected_loss_result(loss, Gaussian([mean], var))

    def at(m: float, v: float) -> float:
        return expected_loss(loss, Gaussian([m], v))

    assert result.gradient[0] == pytest.approx((at(mean + step, var) - at(mean - step, var)) / (2 * step), abs=1e-8)
    by_variance = (at(mean, var + step) - at(mean, var - step)) / (2 * step)
    assert 0.5 * result.hessian[0, 0] == pytest.approx(by_variance, abs=1e-8)


@pytest.mark.parametrize("structure", ["full", "diagonal", "isotropic"])
def test_gradient_in_mu(structure: str) -> None:
    rng = np.random.default_rng(1)
    loss = L.LogisticRegression(rng.normal(size=(20, 2)), np.arange(20) % 2)
    q = Gaussian([0.5, -0.3], [[0.6, 0.2], [0.2, 0.4]]).with_structure(structure)  # type: ignore[arg-type]
    slopes = expected_loss_gradient(loss, q)
    mu = q.expectation()
    for block in (0, 1):
        direction = rng.normal(size=np.shape(mu[block]))
        direction = 0.5 * (direction + direction.T) if np.ndim(direction) == 2 else direction
        step = 1e-6
        ends = []
        for sign in (1.0, -1.0):
            moved = list(mu)
            moved[block] = np.asarray(mu[block] + sign * step * direction)
            ends.append(expected_loss(loss, Gaussian.from_expectation(*moved)))
        assert np.sum(slopes[block] * direction) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_general_rule_agrees_with_the_reduction(dim: int) -> None:
    rng = np.random.default_rng(dim)
    loss = L.LogisticRegression(0.6 * rng.normal(size=(12, dim)), np.arange(12) % 2)
    user = L.from_function(loss, loss.gradient, dim, hessian=loss.hessian, curvature=1e3)
    q = Gaussian(rng.normal(size=dim), np.full(dim, 0.5))
    exact, general = expected_loss_result(loss, q), expected_loss_result(user, q)
    assert general.value == pytest.approx(exact.value, rel=1e-10)
    np.testing.assert_allclose(general.gradient, exact.gradient, atol=1e-8)
    np.testing.assert_allclose(general.hessian, exact.hessian, atol=1e-8)
    assert general.smooth


def test_a_kink_that_nobody_declared_shows_in_the_estimate() -> None:
    user = L.from_function(lambda t: np.abs(t).sum(axis=1), np.sign, 2, curvature=np.inf)
    q = Gaussian([0.1, 0.2], [1.0, 0.8])
    truth = sum(expected_loss(L.Absolute(), Gaussian([m], v)) for m, v in ((0.1, 1.0), (0.2, 0.8)))
    result = expected_loss_result(user, q, derivatives=False)
    assert not result.smooth
    assert 0.0 < abs(result.value - truth) <= result.error


def test_above_three_dimensions_a_standard_error_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    loss = L.LogisticRegression(0.5 * rng.normal(size=(20, 6)), np.arange(20) % 2)
    user = L.from_function(loss, loss.gradient, 6, hessian=loss.hessian, curvature=1e3)
    q = Gaussian(np.zeros(6), 0.3)
    result = expected_loss_result(user, q, points=512, derivatives=False)
    assert abs(result.value - expected_loss(loss, q)) <= 5.0 * result.error
    assert result.value == expected_loss_result(user, q, points=512, derivatives=False).value


def test_a_quadratic_is_exact_in_any_dimension() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    H, b, mean = root @ root.T, rng.normal(size=5), rng.normal(size=5)
    truth = 0.5 * (mean @ H @ mean + np.trace(H @ (root.T @ root + np.eye(5)))) + b @ mean + 0.7
    assert expected_loss(L.Quadratic(H, b, 0.7), Gaussian(mean, root.T @ root + np.eye(5))) == pytest.approx(truth)


def test_a_users_link_is_integrated() -> None:
    class Steeper(SoftplusLink):
        """A subclass: its own closed form must not be assumed."""

        def value(self, z: np.ndarray) -> np.ndarray:
            return 2.0 * super().value(z)

        def slope(self, z: np.ndarray) -> np.ndarray:
            return 2.0 * super().slope(z)

    link: Link = Steeper()
    at = np.array([0.3]), np.array([1.7])
    ours, plain = link_moments(link, *at), link_moments(SoftplusLink(), *at)
    for a, b in zip(ours[:3], plain[:3], strict=True):
        np.testing.assert_allclose(a, 2.0 * b, rtol=1e-10)


def test_rules_on_polynomials() -> None:
    square, _ = trapezoid(lambda x: np.stack([np.ones(len(x)), x[:, 0] ** 2 * x[:, 1] ** 4]), 2)
    np.testing.assert_allclose(square.value, [1.0, 3.0], rtol=1e-12)
    sobol = scrambled_sobol(lambda x: (x**2).sum(axis=1)[None, :], 5, points=1024)
    assert sobol.value[0] == pytest.approx(5.0, abs=6.0 * sobol.error[0])


@pytest.mark.parametrize("bad", [3.0, None, "softplus"])
def test_bad_loss(bad: object) -> None:
    with pytest.raises(TypeError, match="loss"):
        expected_loss(bad, Gaussian([0.0], 1.0))  # type: ignore[arg-type]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="dimension"):
        expected_loss(L.Softplus(), Gaussian([0.0, 0.0], 1.0))
    with pytest.raises(TypeError, match="q"):
        expected_loss(L.Softplus(), 1.0)  # type: ignore[arg-type]
    broken = L.from_function(lambda t: np.where(t[:, 0] > 2e3, np.nan, 0.0), np.zeros_like, 1, curvature=1.0)
    with pytest.raises(ValueError, match="finite"):
        expected_loss(broken, Gaussian([0.0], 1e6))
    boxed = L.from_function(lambda t: t[:, 0], np.ones_like, 1, curvature=0.0, bounds=(-1.0, 1.0))
    with pytest.raises(ValueError, match="bounds"):
        expected_loss(boxed, Gaussian([0.0], 1.0))


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_narrow_wells_are_found_or_the_error_says_so(dim: int, seed: int) -> None:
    """Wells 1e-3 (P = 1) or .01 (P = 2) to 1 wide and up to 1000 deep: E_q has a closed form."""
    rng = np.random.default_rng(seed)
    centers, depths = 2.0 * rng.normal(size=(3, dim)), 10.0 ** rng.uniform(-1.0, 3.0, 3)
    widths = 10.0 ** rng.uniform(-3.0 if dim == 1 else -2.0, 0.0, 3)
    names = ["x", "y"][:dim]
    wells = "".join(
        f" - {float(d)!r}*exp(-({'+'.join(f'({n} - ({float(a)!r}))**2' for n, a in zip(names, c, strict=True))})"
        f"/{float(2.0 * w * w)!r})"
        for c, d, w in zip(centers, depths, widths, strict=True)
    )
    mean, variance = rng.normal(size=dim), 0.7
    found = expected_loss_result(L.from_expression("1" + wells, names), Gaussian(mean, variance * np.eye(dim)))
    square = widths**2
    far = np.square(centers - mean).sum(axis=1)
    shares = (square / (square + variance)) ** (dim / 2) * np.exp(-0.5 * far / (variance + square))
    assert abs(found.value - (1.0 - depths @ shares)) <= 3.0 * found.error + 1e-13 * depths.max()


@pytest.mark.parametrize(("mean", "sd"), [(0.2141, 0.1374), (1.0, 1.0), (-3.0, 0.8), (40.0, 3.0), (-0.5, 1e3)])
def test_the_squared_hinge_has_its_closed_form(mean: float, sd: float) -> None:
    """Its second derivative jumps at 0, which no break of a panel met."""
    value, slope, curvature, error = link_moments(L.SquaredReLU().groups[0].link, np.array([mean]), np.array([sd]))
    x = mean / sd
    exact = (mean**2 + sd**2) * stats.norm.cdf(x) + mean * sd * stats.norm.pdf(x)
    assert abs(value[0] - exact) <= error[0] + 1e-14 * exact
    assert slope[0] == pytest.approx(2.0 * (mean * stats.norm.cdf(x) + sd * stats.norm.pdf(x)), rel=1e-12)
    assert curvature[0] == pytest.approx(2.0 * stats.norm.cdf(x), rel=1e-13)
