"""Eq. 18 solved directly: agreement with the learning rule, stationarity, local minima, the border of dom f*."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.theory.random_problems import random_problems
from fenchel import (
    Gaussian,
    bayesian_learning_rule,
    losses,
    minimize_relaxed,
    problems,
    proximal_objective,
    relaxed_bayes_objective,
)
from fenchel.bayes.relaxed_search import sharpened
from fenchel.bayes.simplex_qp import simplex_qp
from fenchel.bayes.statistics import Statistics, tangent_natural
from fenchel.results import Natural

MURPHY = problems.murphy_logistic_regression()


def agree(loss, prior, structure="full"):
    direct = minimize_relaxed(loss, prior, structure)
    rule = bayesian_learning_rule(loss, prior, "relaxed", structure=structure)
    assert direct.converged
    assert rule.converged
    assert rule.value == pytest.approx(direct.value, abs=1e-6 * max(1.0, abs(direct.value)))
    sd = np.sqrt(np.diag(rule.posterior.cov))
    assert np.abs(rule.posterior.mean - direct.posterior.mean).max() <= 1e-4 * sd.min()
    np.testing.assert_allclose(
        direct.posterior.cov / np.outer(sd, sd), rule.posterior.cov / np.outer(sd, sd), atol=1e-4
    )
    return direct


@pytest.mark.parametrize(
    ("delta0", "structure"), [(1.0, "full"), (0.1, "diagonal"), (0.01, "full"), (0.1, "isotropic")]
)
def test_both_routes_agree_on_the_papers_data(delta0, structure):
    prior = Gaussian(np.zeros(2), 1.0 / delta0)
    direct = agree(MURPHY, prior, structure)
    statistics = Statistics(2, structure)
    carried = direct.weights @ statistics.values(direct.atoms)
    np.testing.assert_allclose(carried, statistics.mean(direct.posterior), rtol=1e-5, atol=1e-6)
    at_posterior = relaxed_bayes_objective(MURPHY, direct.posterior, prior)
    assert at_posterior.value == pytest.approx(direct.value, abs=1e-7)


def test_the_value_is_the_proximal_objective_at_the_natural_parameter():
    prior = Gaussian(np.zeros(2), 10.0)
    direct = minimize_relaxed(MURPHY, prior)
    precision = -2.0 * direct.natural.lam2
    mean = np.linalg.solve(precision, direct.natural.lam1)
    found = proximal_objective(MURPHY, mean, precision=precision, delta0=prior)
    assert found.lower == pytest.approx(direct.value, abs=1e-8)
    rng = np.random.default_rng(0)
    for _ in range(5):
        near = proximal_objective(
            MURPHY, mean * (1 + 0.02 * rng.standard_normal(2)), precision=precision * 1.02, delta0=prior
        )
        assert near.upper >= direct.lower


def test_both_routes_agree_on_random_problems():
    for _, loss, prior in random_problems(7, seed=5):
        agree(loss, prior)


def test_several_wells_give_several_local_minima():
    loss, prior = losses.ThreeWells() * 3.0, Gaussian(0.0, 25.0)
    found = minimize_relaxed(loss, prior)
    assert len(found.minima) > 1
    values = [m.value for m in found.minima]
    assert values == sorted(values)
    assert found.value == values[0]
    for minimum in found.minima:
        assert minimum.converged
        rule = bayesian_learning_rule(loss, prior, "relaxed", initial=minimum.posterior)
        assert rule.value == pytest.approx(minimum.value, abs=1e-7)


def test_a_quadratic_is_solved_at_the_border_of_the_domain():
    loss, prior = losses.Quadratic(np.diag([2.0, 0.5]), np.array([1.0, 0.0]), 0.0), Gaussian(np.zeros(2), 3.0)
    found = minimize_relaxed(loss, prior)
    assert found.converged
    assert "border" in found.message
    np.testing.assert_allclose(found.posterior.precision, np.diag([2.0, 0.5]) + np.eye(2) / 3.0, rtol=1e-6)


def test_a_search_without_time_returns_what_it_has():
    loss, prior = losses.ThreeWells(), Gaussian([0.0], 4.0)
    found, best = minimize_relaxed(loss, prior, max_seconds=1e-9), minimize_relaxed(loss, prior)
    assert len(found.minima) == found.iterations == 1
    assert not found.converged
    assert "stopped" in found.message
    assert found.upper >= best.value


def test_local_searches_give_the_certified_answer_where_both_can_be_had():
    prior = Gaussian(np.zeros(2), 1.0)
    local, certified = minimize_relaxed(MURPHY, prior, certify=False), minimize_relaxed(MURPHY, prior)
    assert not local.certified
    assert local.value == pytest.approx(certified.value, abs=1e-7)


def test_columns_that_say_the_same_are_one_parameter() -> None:
    """Of x and 2 x the data see theta_1 + 2 theta_2 alone: along it the answer is that for one column."""
    x, y = MURPHY.X[:, 0], MURPHY.y
    both = minimize_relaxed(losses.LogisticRegression(np.outer(x, [1.0, 2.0]), y), Gaussian([0.0, 0.0], 1.0))
    one = minimize_relaxed(losses.LogisticRegression(np.sqrt(5.0) * x[:, None], y), Gaussian([0.0], 1.0))
    seen = np.array([1.0, 2.0]) / np.sqrt(5.0)
    assert both.value == pytest.approx(one.value, abs=1e-4)
    assert seen @ both.posterior.mean == pytest.approx(one.posterior.mean[0], abs=0.01)
    assert both.converged or "stopped at residual" in both.message


def test_a_maximizer_that_is_no_point_but_a_line_is_left_where_it_is() -> None:
    """The Hessian of two columns x and 3 x is singular, though its computed eigenvalues may both be positive."""
    flat, line = losses.Quadratic(np.zeros((2, 2)), np.zeros(2)), np.outer([1.0, 3.0], [1.0, 3.0])
    assert np.linalg.eigvalsh(line)[0] > -1e-15
    atoms = np.array([[3.0, -1.0]])
    np.testing.assert_array_equal(sharpened(flat, np.zeros(2), -0.25 * line, atoms), atoms)


def test_columns_of_very_different_scales_are_answered() -> None:
    found = minimize_relaxed(
        losses.LogisticRegression(MURPHY.X * [1000.0, 0.001], MURPHY.y), Gaussian([0.0, 0.0], 1.0), max_iterations=5
    )
    assert found.lower <= found.upper < np.log(2.0) * len(MURPHY.X)
    assert found.converged or "stopped at residual" in found.message


@given(st.integers(0, 10_000), st.integers(2, 7), st.booleans(), st.sampled_from([1.0, 1e7]))
def test_the_simplex_program_meets_its_optimality_conditions(seed, size, deficient, scale):
    rng = np.random.default_rng(seed)
    root = scale * rng.standard_normal((size, 2 if deficient else size + 1))
    Q, c = root @ root.T, rng.standard_normal(size)
    w = simplex_qp(Q, c)
    assert w.min() >= 0
    assert w.sum() == pytest.approx(1.0)
    slope = Q @ w - c
    rounding = 1e-12 * scale**2
    assert np.all(slope >= slope @ w - 1e-7 * (1 + np.abs(slope).max()) - rounding)


@pytest.mark.parametrize("structure", ["full", "diagonal", "isotropic"])
def test_statistics_pair_with_natural_parameters_and_have_the_log_partitions_hessian(structure):
    rng = np.random.default_rng(1)
    statistics = Statistics(3, structure)
    root = rng.standard_normal((3, 3))
    cov = {"full": root @ root.T + np.eye(3), "diagonal": np.array([0.5, 1.0, 2.0]), "isotropic": 0.7}[structure]
    q = Gaussian(rng.standard_normal(3), cov)
    c = statistics.vector(q.natural())
    theta = rng.standard_normal((4, 3))
    lam2 = -0.5 * q.precision
    pairing = theta @ q.natural().lam1 + np.einsum("ni,ij,nj->n", theta, lam2, theta)
    np.testing.assert_allclose(statistics.values(theta) @ c, pairing)
    again = statistics.natural(c)
    np.testing.assert_allclose(again.lam2, q.natural().lam2)

    def gradient(x):
        natural = statistics.natural(x)
        return statistics.mean(Gaussian.from_natural(natural.lam1, natural.lam2))

    step = 1e-6
    for k in range(statistics.size):
        e = np.zeros(statistics.size)
        e[k] = step
        column = (gradient(c + e) - gradient(c - e)) / (2 * step)
        np.testing.assert_allclose(statistics.covariance(q)[:, k], column, rtol=1e-5, atol=1e-6)
        if k < 3:
            theta_step = (statistics.values(theta + e[:3]) - statistics.values(theta - e[:3])) / (2 * step)
            np.testing.assert_allclose(statistics.jacobian(theta)[:, :, k], theta_step, atol=1e-6)


def test_tangents_at_the_worst_case_atoms_give_the_gradient():
    from fenchel import biconjugate

    q = Gaussian(np.array([1.0, 1.0]), np.array([[1.0, 0.3], [0.3, 0.8]]))
    found = biconjugate(MURPHY, q, tol=1e-10)
    natural, misfit = tangent_natural(MURPHY, found.atoms, "full")
    assert isinstance(natural, Natural)
    assert misfit < 1e-6
    np.testing.assert_allclose(natural.lam1, found.natural.lam1, rtol=1e-5)
    np.testing.assert_allclose(natural.lam2, found.natural.lam2, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: minimize_relaxed(MURPHY, Gaussian(0.0, 1.0)), "dimension"),
        (lambda: minimize_relaxed(MURPHY, Gaussian(np.zeros(2), 1.0), "block"), "structure"),
        (lambda: minimize_relaxed(MURPHY, Gaussian(np.zeros(2), 1.0), tol=0.0), "tol"),
        (lambda: minimize_relaxed(MURPHY, Gaussian(np.zeros(2), 1.0), starts=[]), "starts"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
