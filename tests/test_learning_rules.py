"""The learning rules: the formulas of Eq. 34, fixed points by other means, monotone runs, safe steps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from experiments.theory.random_problems import random_problems
from fenchel import (
    Gaussian,
    bayes_objective,
    bayesian_learning_rule,
    biconjugate,
    exact_posterior,
    expected_loss_result,
    losses,
    problems,
    relaxed_bayes_objective,
)
from fenchel.bayes.surrogates import Sampled

MURPHY = problems.murphy_logistic_regression()
PRIOR = Gaussian(np.zeros(2), 10.0)


def test_one_exact_step_is_equation_34():
    start = Gaussian(np.array([0.5, 0.4]), np.array([[0.3, 0.05], [0.05, 0.2]]))
    run = bayesian_learning_rule(
        MURPHY, PRIOR, "exact", 0.3, initial=start, max_iterations=1, acceleration=0, monotone=False
    )
    e = expected_loss_result(MURPHY, start)
    precision = 0.7 * start.precision + 0.3 * (e.hessian + 0.1 * np.eye(2))
    mean = start.mean - 0.3 * np.linalg.solve(precision, e.gradient + 0.1 * start.mean)
    np.testing.assert_allclose(run.posterior.precision, precision, rtol=1e-9)
    np.testing.assert_allclose(run.posterior.mean, mean, rtol=1e-9)


def test_one_relaxed_step_is_theory_section_5():
    start = Gaussian(np.array([0.5, 0.4]), np.array([[0.3, 0.05], [0.05, 0.2]]))
    run = bayesian_learning_rule(MURPHY, PRIOR, "relaxed", 0.3, initial=start, max_iterations=1, acceleration=0)
    lam1, lam2 = biconjugate(MURPHY, start, tol=1e-9).natural
    precision = 0.7 * start.precision + 0.3 * (-2.0 * lam2 + 0.1 * np.eye(2))
    mean = np.linalg.solve(precision, 0.7 * start.precision @ start.mean + 0.3 * lam1)
    np.testing.assert_allclose(run.posterior.precision, precision, rtol=1e-7)
    np.testing.assert_allclose(run.posterior.mean, mean, rtol=1e-7)


@pytest.mark.parametrize("surrogate", ["exact", "relaxed", "per-datum"])
def test_a_quadratic_loss_is_solved_in_one_step(surrogate):
    loss = losses.Quadratic(np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([1.0, -1.0]), 0.2)
    prior = Gaussian(np.array([0.5, 0.0]), np.array([[1.0, 0.2], [0.2, 2.0]]))
    run = bayesian_learning_rule(loss, prior, surrogate)
    exact = exact_posterior(loss, prior)
    assert run.converged
    np.testing.assert_allclose(run.means[1], exact.mean, atol=1e-8)
    np.testing.assert_allclose(run.posterior.cov, exact.cov, atol=1e-8)
    assert -run.value == pytest.approx(exact.log_evidence, abs=1e-8)


def test_the_exact_rule_finds_the_variational_optimum():
    loss = losses.LogisticRegression(np.array([[1.0], [2.0], [-0.5]]), np.array([1.0, 1.0, 1.0]))
    prior = Gaussian(0.3, 4.0)
    run = bayesian_learning_rule(loss, prior, "exact", structure="full")

    def objective(x):
        return bayes_objective(loss, Gaussian(x[0], np.exp(x[1])), prior).value

    best = optimize.minimize(objective, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-13})
    assert run.converged
    assert run.value == pytest.approx(best.fun, abs=1e-10)
    assert run.posterior.mean[0] == pytest.approx(best.x[0], abs=1e-5)
    assert run.posterior.cov[0, 0] == pytest.approx(np.exp(best.x[1]), rel=1e-5)


def test_the_per_datum_rule_is_jaakkola_jordan():
    z = MURPHY.y[:, None] * MURPHY.X
    xi = np.ones(len(z))
    for _ in range(3000):
        precision = (z * (np.tanh(xi / 2) / (2 * xi))[:, None]).T @ z + 0.1 * np.eye(2)
        cov = np.linalg.inv(precision)
        mean = cov @ (0.5 * z.sum(axis=0))
        xi = np.sqrt(np.einsum("ni,ij,nj->n", z, cov + np.outer(mean, mean), z))
    run = bayesian_learning_rule(MURPHY, PRIOR, "per-datum")
    assert run.converged
    np.testing.assert_allclose(run.posterior.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(run.posterior.cov, cov, rtol=1e-5)


@pytest.mark.parametrize("structure", ["full", "diagonal", "isotropic"])
@pytest.mark.parametrize("surrogate", ["exact", "relaxed"])
def test_no_nearby_gaussian_of_the_family_is_better(surrogate, structure):
    run = bayesian_learning_rule(MURPHY, PRIOR, surrogate, structure=structure)
    assert run.converged
    assert run.posterior.structure == structure
    objective = bayes_objective if surrogate == "exact" else relaxed_bayes_objective
    rng = np.random.default_rng(0)
    q = run.posterior
    for _ in range(4):
        mean = q.mean + 0.05 * np.sqrt(np.diag(q.cov)) * rng.standard_normal(2)
        block = q.cov_block
        shape = 0.0 if block.ndim < 2 else 0.05 * rng.standard_normal() * np.array([[0, 1], [1, 0]])
        other = Gaussian(
            mean,
            block * np.exp(0.1 * rng.standard_normal(block.shape[:1]))
            if block.ndim < 2
            else block * np.exp(0.1 * rng.standard_normal()) + shape * np.sqrt(block[0, 0] * block[1, 1]),
        )
        assert objective(MURPHY, other, PRIOR).upper >= run.value - 1e-9


def test_fifty_random_problems_never_rise_at_alpha_one():
    for name, loss, prior in random_problems(50, seed=3):
        run = bayesian_learning_rule(
            loss, prior, "relaxed", 1.0, max_iterations=3, acceleration=0, monotone=False, options={"tol": 1e-8}
        )
        assert np.isfinite(run.objective).all(), name
        assert np.isfinite(run.covs).all(), name
        room = (run.upper - run.lower)[:-1] + (run.upper - run.lower)[1:]
        assert np.all(np.diff(run.objective) <= room + 1e-10 * np.maximum(1.0, np.abs(run.objective[1:]))), name
        assert run.damped == 0, name


def test_acceleration_reaches_the_same_limit_sooner_and_stays_monotone():
    plain = bayesian_learning_rule(MURPHY, Gaussian(np.zeros(2), 1.0), "per-datum", acceleration=0, max_iterations=2000)
    fast = bayesian_learning_rule(MURPHY, Gaussian(np.zeros(2), 1.0), "per-datum")
    assert plain.converged
    assert fast.converged
    assert fast.iterations < 0.5 * plain.iterations
    assert fast.value == pytest.approx(plain.value, abs=1e-9)
    np.testing.assert_allclose(fast.posterior.cov, plain.posterior.cov, rtol=1e-5)
    assert np.diff(fast.objective).max() <= 1e-10


def test_steps_out_of_the_domain_are_damped_counted_and_never_nan():
    loss = losses.ThreeWells() * 30.0
    start = Gaussian(2.2, 0.05)  # between two wells, where the expected curvature is negative
    assert expected_loss_result(loss, start).hessian[0, 0] < 0
    run = bayesian_learning_rule(loss, Gaussian(0.0, 100.0), "exact", 1.0, initial=start, max_iterations=200)
    assert run.damped > 0
    assert np.isfinite(run.objective).all()
    assert np.all(run.covs > 0)
    assert run.value < run.objective[0]


def test_the_sampled_rule_overestimates_f_biconjugate_and_survives_solver_failures(monkeypatch):
    options = {"num_pieces": 8, "rng": 0}
    run = bayesian_learning_rule(MURPHY, PRIOR, "sampled", lambda t: 1.0 / t, max_iterations=2, options=options)
    assert not run.certified
    for q, own in zip(run.history, run.objective, strict=True):
        assert own <= relaxed_bayes_objective(MURPHY, q, PRIOR).upper + 1e-5
    surrogate = Sampled(MURPHY, num_pieces=8, rng=0)
    original, calls = Sampled._once, []

    def failing(self, q):
        from fenchel import SolverError

        calls.append(1)
        if len(calls) < 3:
            raise SolverError("no luck")
        return original(self, q)

    monkeypatch.setattr(Sampled, "_once", failing)
    assert np.isfinite(surrogate.evaluate(PRIOR, None).value)
    assert surrogate.failures == 2


def test_the_local_rule_stays_inside_its_proved_bracket():
    problem = problems.two_moons(num=20, features=4)
    prior = Gaussian(np.zeros(4), 1.0)
    first = bayesian_learning_rule(problem.loss, prior, "per-datum")
    run = bayesian_learning_rule(
        problem.loss, prior, "relaxed", initial=first.posterior, max_iterations=3, options={"local": True}
    )
    assert run.lower[-1] <= run.value <= run.upper[-1]
    assert run.value <= first.value + 1e-9


def test_a_callback_sees_every_iteration_and_can_stop():
    seen = []
    run = bayesian_learning_rule(
        MURPHY, PRIOR, "per-datum", acceleration=0, callback=lambda t, q, value: seen.append(value) or t == 3
    )
    assert len(seen) == 3
    assert run.iterations == 3
    assert not run.converged
    assert run.objective[1:] == pytest.approx(seen)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bayesian_learning_rule(MURPHY, PRIOR, "magic"), "surrogate must"),
        (lambda: bayesian_learning_rule(MURPHY, Gaussian(0.0, 1.0)), "dimension"),
        (lambda: bayesian_learning_rule(MURPHY, PRIOR, learning_rate=1.5), "learning_rate"),
        (lambda: bayesian_learning_rule(MURPHY, PRIOR, tol=-1.0), "tol"),
        (lambda: bayesian_learning_rule(MURPHY, PRIOR, max_iterations=0), "max_iterations"),
        (lambda: bayesian_learning_rule(MURPHY, PRIOR, structure="block"), "structure"),
        (lambda: bayesian_learning_rule(MURPHY, Gaussian(np.zeros(2), np.eye(2)), structure="diagonal"), "family"),
        (lambda: bayesian_learning_rule(MURPHY, PRIOR, "exact", options={"tol": 1e-3}), "no options"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
