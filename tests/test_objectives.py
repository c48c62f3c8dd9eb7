"""The objectives: closed forms, the chain evidence >= ELBO >= relaxed ELBO, and Eq. 12 written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fenchel import (
    Gaussian,
    bayes_objective,
    exact_posterior,
    losses,
    problems,
    proximal_objective,
    relaxed_bayes_objective,
)

MURPHY = problems.murphy_logistic_regression()


def test_bayes_objective_of_a_quadratic():
    H, b = np.array([[2.0, 0.3], [0.3, 1.0]]), np.array([0.5, -1.0])
    q, prior = Gaussian(np.array([0.2, -0.4]), np.array([[0.5, 0.1], [0.1, 0.3]])), Gaussian(np.zeros(2), 2.0)
    found = bayes_objective(losses.Quadratic(H, b, 0.7), q, prior)
    expected = 0.5 * np.trace(H @ (q.cov + np.outer(q.mean, q.mean))) + b @ q.mean + 0.7
    kl = 0.5 * (np.trace(q.cov) / 2 + q.mean @ q.mean / 2 - 2 - np.log(np.linalg.det(q.cov) / 4))
    assert found.value == pytest.approx(expected + kl, abs=1e-11)
    assert found.lower <= found.value <= found.upper
    relaxed = relaxed_bayes_objective(losses.Quadratic(H, b, 0.7), q, prior)
    assert relaxed.value == pytest.approx(found.value, abs=1e-9)


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.sampled_from([1.0, 0.1, 0.01]))
def test_evidence_elbo_and_relaxed_bound_are_ordered(seed, delta0):
    rng = np.random.default_rng(seed)
    prior = Gaussian(np.zeros(2), 1.0 / delta0)
    root = np.exp(rng.uniform(-3, 0)) * rng.standard_normal((2, 2)) / np.sqrt(delta0)
    q = Gaussian(rng.standard_normal(2) / np.sqrt(delta0), root @ root.T + 1e-3 * np.eye(2))
    evidence = {1.0: -8.306348111302349, 0.1: -7.413843633759401, 0.01: -8.564709834746385}[delta0]
    exact, relaxed = bayes_objective(MURPHY, q, prior), relaxed_bayes_objective(MURPHY, q, prior)
    assert evidence >= -exact.value
    assert relaxed.certified
    assert relaxed.lower >= exact.upper


def test_the_evidence_used_above_is_the_computed_one():
    found = exact_posterior(MURPHY, Gaussian(np.zeros(2), 10.0))
    assert found.log_evidence == pytest.approx(-7.413843633759401, abs=1e-9)


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_the_isotropic_proximal_objective_is_equation_12(seed):
    rng = np.random.default_rng(seed)
    m, sigma, delta0 = float(rng.normal()), float(np.exp(rng.uniform(-2, 0.5))), float(np.exp(rng.normal()))
    loss = losses.ThreeWells()
    found = proximal_objective(loss, m, sigma, delta0)
    eps = np.linspace(-25.0, 25.0, 200_001)
    sup = np.max(loss((m + eps)[:, None]) - eps**2 / (2 * sigma**2))
    if sigma**2 * loss.stiffness >= 1.0:
        assert found.value == np.inf
        return
    delta = 1.0 / (sigma**2 + 1.0 / delta0)
    by_hand = sup + 0.5 * delta * m**2 - 0.5 * np.log(sigma**2 * delta)
    assert found.value == pytest.approx(by_hand, abs=1e-5)
    assert by_hand <= found.upper + 1e-12  # a grid's supremum is never too large
    assert found.certified


def test_the_three_shapes_of_sigma_agree_and_precision_is_its_inverse():
    m = np.array([1.0, 0.5])
    values = [
        proximal_objective(MURPHY, m, 0.3, 0.1).value,
        proximal_objective(MURPHY, m, np.full(2, 0.3), 0.1).value,
        proximal_objective(MURPHY, m, 0.09 * np.eye(2), 0.1).value,
        proximal_objective(MURPHY, m, precision=1.0 / 0.09, delta0=0.1).value,
        proximal_objective(MURPHY, m, precision=np.eye(2) / 0.09, delta0=Gaussian(np.zeros(2), 10.0)).value,
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-9)
    q = proximal_objective(MURPHY, m, 0.3, 0.1).info["posterior"]
    np.testing.assert_allclose(q.precision, (1.0 / 0.09 + 0.1) * np.eye(2))
    np.testing.assert_allclose(q.mean, m / 0.09 / (1.0 / 0.09 + 0.1))


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_equation_18_is_never_below_the_relaxed_objective_at_its_posterior(seed):
    rng = np.random.default_rng(seed)
    loss, prior = (
        losses.LogisticRegression(rng.standard_normal((5, 1)), np.sign(rng.standard_normal(5))),
        Gaussian(0.2, 3.0),
    )
    found = proximal_objective(loss, float(rng.normal()), float(np.exp(rng.normal())), prior)
    at_posterior = relaxed_bayes_objective(loss, found.info["posterior"], prior)
    assert found.upper >= at_posterior.lower - 1e-9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: proximal_objective(MURPHY, [0.0], 1.0, 1.0), "m must"),
        (lambda: proximal_objective(MURPHY, [0.0, 0.0], -1.0, 1.0), "sigma must"),
        (lambda: proximal_objective(MURPHY, [0.0, 0.0], None, 1.0), "exactly one"),
        (lambda: proximal_objective(MURPHY, [0.0, 0.0], 1.0, 0.0), "delta0 must"),
        (lambda: proximal_objective(MURPHY, [0.0, 0.0], np.array([[1.0, 2.0], [2.0, 1.0]]), 1.0), "positive definite"),
        (lambda: bayes_objective(MURPHY, Gaussian(0.0, 1.0), Gaussian(np.zeros(2), 1.0)), "same dimension"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
