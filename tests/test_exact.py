"""Exact posteriors: closed forms, a second library's quadrature, and NUTS against quadrature."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from fenchel import Gaussian, exact_posterior, laplace, losses, map_estimate, problems
from fenchel.bayes.cubature import adaptive_nodes, uniform_nodes

MURPHY = problems.murphy_logistic_regression()


@given(st.integers(0, 10_000), st.sampled_from([1, 2]), st.floats(-3.0, 6.0))
def test_a_quadratic_loss_has_its_gaussian_posterior(seed, dim, log_scale):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((dim, dim))
    H, b, c = np.exp(log_scale) * root @ root.T, rng.standard_normal(dim), float(rng.normal())
    prior = Gaussian(rng.standard_normal(dim), float(np.exp(rng.normal())))
    found = exact_posterior(losses.Quadratic(H, b, c), prior)
    precision = H + prior.precision
    mean = np.linalg.solve(precision, prior.precision @ prior.mean - b)
    evidence = (
        0.5 * mean @ precision @ mean
        - 0.5 * prior.mean @ prior.precision @ prior.mean
        - c
        - 0.5 * np.linalg.slogdet(precision @ prior.cov)[1]
    )
    assert found.log_evidence == pytest.approx(evidence, abs=1e-9 * max(1.0, abs(evidence)))
    np.testing.assert_allclose(found.mean, mean, atol=1e-9)
    np.testing.assert_allclose(found.cov, np.linalg.inv(precision), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("delta0", [1.0, 0.1, 0.01])
def test_two_quadratures_agree_on_the_papers_data(delta0):
    found = exact_posterior(MURPHY, Gaussian(np.zeros(2), 1.0 / delta0))
    assert abs(found.log_evidence - found.diagnostics["log_evidence_second"]) < 1e-9
    assert found.error < 1e-8
    assert found.diagnostics["mean_change"] < 1e-8


def test_the_papers_evidence_by_scipy():
    def joint(b: float, a: float) -> float:
        return float(np.exp(-MURPHY(np.array([a, b])) - 0.5 * (a * a + b * b)) / (2 * np.pi))

    value, _ = integrate.dblquad(joint, -1.0, 7.0, -0.6, 2.5, epsabs=1e-11, epsrel=1e-7)
    found = exact_posterior(MURPHY, Gaussian(np.zeros(2), 1.0))
    assert found.log_evidence == pytest.approx(np.log(value), abs=1e-5)


def test_three_separate_wells_are_all_integrated():
    loss, prior = losses.ThreeWells() * 20.0, Gaussian(0.0, 25.0)
    found = exact_posterior(loss, prior)
    theta = np.linspace(-60.0, 60.0, 2_000_001)
    log_joint = -loss(theta[:, None]) - theta**2 / 50.0 - 0.5 * np.log(50.0 * np.pi)
    total = np.trapezoid(np.exp(log_joint), theta)
    assert found.log_evidence == pytest.approx(np.log(total), abs=1e-9)
    assert found.mean[0] == pytest.approx(np.trapezoid(theta * np.exp(log_joint), theta) / total, abs=1e-8)
    assert np.trapezoid(found.density(theta), theta) == pytest.approx(1.0, abs=1e-8)


def test_a_narrow_peak_in_a_wide_prior_is_not_missed():
    loss = losses.Quadratic(np.diag([1e8, 1e8]), np.array([-3e8, 2e8]), 0.5 * (9 + 4) * 1e8)
    prior = Gaussian(np.zeros(2), 100.0)
    found = exact_posterior(loss, prior)
    shift = np.array([3.0, -2.0])
    expected = -0.5 * shift @ shift / (100.0 + 1e-8) - np.log(100.0 * (1e8 + 0.01))
    assert found.log_evidence == pytest.approx(expected, abs=1e-6)


def test_a_higher_peak_than_the_given_modes_is_found_on_the_way():
    def log_density(u):
        return np.logaddexp(-0.5 * np.sum((u - 0.5) ** 2, axis=1), 30.0 - 0.5 * np.sum((u - 9.0) ** 2, axis=1))

    lo, hi = np.full(1, -40.0), np.full(1, 40.0)
    nodes = adaptive_nodes(log_density, lo, hi, np.array([[0.5]]))
    assert nodes.log_mass == pytest.approx(30.0 + np.log1p(np.exp(-30.0)) + 0.5 * np.log(2 * np.pi), abs=1e-9)
    assert uniform_nodes(log_density, lo, hi).log_mass == pytest.approx(nodes.log_mass, abs=1e-9)


def test_density_marginals_and_samples_agree_with_the_moments():
    found = exact_posterior(MURPHY, Gaussian(np.zeros(2), 10.0))
    for index in (0, 1):
        sd = np.sqrt(found.cov[index, index])
        grid = np.linspace(found.mean[index] - 8 * sd, found.mean[index] + 14 * sd, 801)
        density = found.marginal(index, grid)
        assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-6)
        assert np.trapezoid(grid * density, grid) == pytest.approx(found.mean[index], abs=1e-6)
    draws = found.sample(40_000, np.random.default_rng(0))
    np.testing.assert_allclose(draws.mean(axis=0), found.mean, atol=5 * np.sqrt(np.diag(found.cov).max() / 40_000))
    np.testing.assert_allclose(np.cov(draws.T), found.cov, rtol=0.05)
    assert found.expectation(lambda theta: theta[:, 0]) == pytest.approx(found.mean[0], abs=1e-9)


def test_nuts_agrees_with_quadrature_within_its_errors():
    pytest.importorskip("numpyro")
    prior = Gaussian(np.zeros(2), 1.0)
    exact = exact_posterior(MURPHY, prior)
    found = exact_posterior(MURPHY, prior, method="nuts", draws=1500, chains=2, rng=np.random.default_rng(1))
    assert found.diagnostics["r_hat"].max() < 1.02
    assert found.diagnostics["ess"].min() > 300
    assert np.all(np.abs(found.mean - exact.mean) < 5 * found.diagnostics["mcse_mean"])
    assert abs(found.log_evidence - exact.log_evidence) < 5 * found.error
    assert found.error < 0.05


def test_laplace_is_the_curvature_at_the_map():
    prior = Gaussian(np.zeros(2), 10.0)
    q = laplace(MURPHY, prior)
    point = map_estimate(MURPHY, prior)
    np.testing.assert_allclose(MURPHY.gradient(point) + prior.precision @ point, 0.0, atol=1e-10)
    np.testing.assert_allclose(q.precision, MURPHY.hessian(point) + prior.precision, rtol=1e-9)
    elsewhere = laplace(MURPHY, prior, at=[1.0, 1.0], structure="diagonal")
    np.testing.assert_allclose(elsewhere.precision_block, np.diag(MURPHY.hessian(np.ones(2)) + prior.precision))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: exact_posterior(MURPHY, Gaussian(np.zeros(3), 1.0)), "dimension"),
        (lambda: exact_posterior(MURPHY, Gaussian(np.zeros(2), 1.0), method="magic"), "method"),
        (lambda: exact_posterior(MURPHY, Gaussian(np.zeros(2), 1.0), tol=-1.0), "tol"),
        (lambda: laplace(MURPHY, Gaussian(np.zeros(2), 1.0), at=[1.0]), "at must"),
        (lambda: laplace(MURPHY, Gaussian(np.zeros(2), 1.0), structure="block"), "structure"),
        (lambda: exact_posterior(losses.ThreeWells(), Gaussian(0.0, 1.0), method="nuts"), "logistic"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
