"""`biconjugate` at the edges of its domain: escaping mass, no majorant, bounds, loose declarations, extreme scales."""

from __future__ import annotations

import numpy as np
import pytest

import fenchel
from fenchel import losses as L


def assert_proves(result: fenchel.BiconjugateResult, truth: float, relative: float = 1e-8) -> None:
    scale = max(1.0, abs(truth))
    assert result.certified, result.message
    assert abs(result.value - truth) <= relative * scale
    assert result.lower - 1e-12 * scale <= truth <= result.upper + 1e-12 * scale


@pytest.mark.parametrize("threshold", [-1.0, 1.0])
def test_mass_that_escapes_to_infinity(threshold: float) -> None:
    """((t - k)^+)^2: f** = -(s^2 + ((m - k)^+)^2) is approached by ever farther atoms, and attained by none."""
    loss = L.from_function(
        lambda t: np.maximum(t[:, 0] - threshold, 0.0) ** 2,
        lambda t: 2.0 * np.maximum(t - threshold, 0.0),
        1,
        curvature=2.0,
    )
    result = fenchel.biconjugate(loss, fenchel.Gaussian(np.array([0.3]), np.array([[1.5]])))
    truth = -(1.5 + max(0.3 - threshold, 0.0) ** 2)
    assert result.lower <= truth <= result.upper + 1e-12
    assert result.value == pytest.approx(truth, abs=1e-7)
    assert np.abs(result.atoms).max() > 1e4


def test_concave_kink_whose_supremum_is_not_attained() -> None:
    loss = L.from_function(lambda t: -np.abs(t[:, 0]), lambda t: -np.sign(t), 1, curvature=0.0)
    result = fenchel.biconjugate(loss, fenchel.Gaussian(np.array([0.3]), np.array([[1.5]])))
    assert result.lower <= 0.3 <= result.upper + 1e-12
    assert result.value == pytest.approx(0.3, abs=1e-7)


@pytest.mark.parametrize("power", [3, 4])
def test_loss_without_a_quadratic_above_it(power: int) -> None:
    loss = L.from_function(
        lambda t: np.abs(t[:, 0]) ** power, lambda t: power * np.sign(t) * np.abs(t) ** (power - 1), 1, curvature=np.inf
    )
    result = fenchel.biconjugate(loss, fenchel.Gaussian(np.zeros(1), np.eye(1)))
    assert result.value == -np.inf
    assert result.lower == -np.inf
    assert not result.certified
    assert "no quadratic majorizes it" in result.message


def test_bounds_limit_the_certificate_and_the_result_says_so() -> None:
    loss = L.from_function(lambda t: t[:, 0] ** 4, lambda t: 4 * t**3, 1, curvature=12 * 16.0, bounds=(-4.0, 4.0))
    q = fenchel.Gaussian(np.array([0.3]), np.array([[1.5]]))
    result = fenchel.biconjugate(loss, q)
    # E t^4 is largest on {-4, x, 4}: here with x = 0, by E t^4 <= 16 E t^2.
    assert_proves(result, -16.0 * (1.5 + 0.09))
    assert "bounds" in result.message
    assert np.all(np.abs(result.atoms) <= 4.0)
    outside = fenchel.biconjugate(loss, fenchel.Gaussian(np.array([5.0]), np.array([[1.0]])))
    assert outside.value == np.inf
    assert not outside.certified
    assert "no distribution" in outside.message


def test_a_user_loss_known_too_loosely_gets_a_wide_but_true_bracket() -> None:
    """The declared curvature alone cannot exclude quadratic growth, so the bound can only use steeper quadratics."""
    loss = L.from_function(lambda t: np.log1p(t[:, 0] ** 2), lambda t: 2 * t / (1 + t**2), 1, curvature=2.0)
    result = fenchel.biconjugate(loss, fenchel.Gaussian(np.array([1.0]), np.array([[2.0]])))
    truth = -np.log(4.0)
    assert not result.certified
    assert np.isfinite(result.lower)
    assert result.lower <= truth <= result.upper + 1e-12
    assert "not confined" in result.message
    assert "majorizer" in result.message


def test_a_number_above_a_bounded_loss_closes_its_bracket() -> None:
    """1 - cos 2t at mean 0 and variance 1: two atoms at +-1 are optimal, so f** = cos 2 - 1."""
    value, slope = lambda t: 1.0 - np.cos(2.0 * t[:, 0]), lambda t: 2.0 * np.sin(2.0 * t)
    result = fenchel.biconjugate(
        L.from_function(value, slope, 1, curvature=4.0, majorizer=2.0), fenchel.Gaussian([0.0], [[1.0]])
    )
    assert result.certified
    assert result.value == pytest.approx(np.cos(2.0) - 1.0, abs=1e-7)
    with pytest.raises(ValueError, match="majorizer lies below the loss"):
        L.from_function(value, slope, 1, curvature=4.0, majorizer=1.5)


@pytest.mark.parametrize("sigma", [1e-6, 1e-2, 1e3])
def test_extreme_widths(sigma: float) -> None:
    loss = L.Softplus()
    mean = 0.7
    r = np.hypot(sigma, mean)
    result = fenchel.biconjugate(loss, fenchel.Gaussian(np.array([mean]), np.array([[sigma**2]])))
    assert_proves(result, -(0.5 * mean + np.logaddexp(0.5 * r, -0.5 * r)))


def test_large_mean_and_small_covariance_do_not_cancel() -> None:
    loss = L.LogisticRegression(np.array([[1.0, 2.0], [-1.0, 0.5], [0.3, -1.0]]), [0, 1, 1])
    q = fenchel.Gaussian(np.array([300.0, -200.0]), 1e-4 * np.eye(2))
    result = fenchel.biconjugate(loss, q)
    assert result.certified
    assert result.gap <= 1e-8 * abs(result.value)
    assert result.value == pytest.approx(-fenchel.expected_loss(loss, q), rel=1e-8)


def test_directions_in_which_the_loss_is_affine() -> None:
    """The family full: only the projected moments count, and the slope in the other directions is in the gradient."""
    row = np.array([[1.0, -2.0, 0.5]])
    affine = np.array([0.3, 0.2, -0.9])
    loss = L.LogisticRegression(row, [0]) + L.Quadratic(np.zeros((3, 3)), affine, 0.1)
    q = fenchel.Gaussian(np.array([0.2, 0.1, -0.4]), np.diag([1.0, 0.5, 2.0]))
    result = fenchel.biconjugate(loss, q)
    m, r = row[0] @ q.mean, np.sqrt(row[0] @ (q.cov + np.outer(q.mean, q.mean)) @ row[0])
    assert_proves(result, -(0.5 * m + np.logaddexp(0.5 * r, -0.5 * r) + affine @ q.mean + 0.1))
    np.testing.assert_allclose(result.weights @ result.atoms, q.mean, atol=1e-13)
    second = (result.atoms * result.weights[:, None]).T @ result.atoms
    np.testing.assert_allclose(second, q.cov + np.outer(q.mean, q.mean), atol=1e-12)
    theta = 5.0 * np.random.default_rng(0).normal(size=(500, 3))
    bent = np.einsum("ni,ij,nj->n", theta, result.natural.lam2, theta)
    above = result.info["majorant_offset"] - theta @ result.natural.lam1 - bent
    assert np.all(above >= loss(theta) - 1e-10)
