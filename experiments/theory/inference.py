"""The relaxation as a method of inference, and what can be done about its width.

The paper leaves open how SAM could improve Bayes. Tried here, on logistic regressions whose exact posterior is known:
f** and sum_i f_i** as they are; their loss tempered until it has the size of E_q[l]; one step of the exact rule from
there; and f** of the loss confined to where the posterior has its mass, which App. B of the paper allows. Beside them
the Laplace approximation, one exact step from it, variational Bayes by the exact rule and by a library.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from experiments.pieces import piece
from experiments.progress import bar
from experiments.registry import Context, Outcome
from experiments.theory.posterior_metrics import bernoulli_kl, distances, predictive, predictive_exact
from fenchel import Gaussian, bayesian_learning_rule, exact_posterior, expected_loss, laplace, problems
from fenchel.bayes.surrogates import Evaluation, PerDatum, Relaxed, Surrogate
from fenchel.losses import LinearPredictorLoss, from_function
from fenchel.problems import ClassificationProblem
from fenchel.results import Natural

Method = Callable[[ClassificationProblem, Gaussian], Gaussian]
# How many of Laplace's standard deviations on each side the confined loss extends.
REACHES = (1.5, 2.0, 3.0)
_REPEATS = 3
_LIBRARY_STEPS = 3000


class Tempered(Surrogate):
    """tau F in the place of F: the inverse temperature of another surrogate."""

    name = "tempered"

    def __init__(self, base: Surrogate, tau: float) -> None:
        super().__init__(base.loss)
        self.base, self.tau = base, tau

    def evaluate(self, q: Gaussian, previous: Evaluation | None) -> Evaluation:
        found, tau = self.base.evaluate(q, previous), self.tau
        natural = Natural(tau * found.natural.lam1, np.asarray(tau * found.natural.lam2))
        return Evaluation(tau * found.value, tau * found.lower, tau * found.upper, natural, False, found.detail)


def _rule(problem: ClassificationProblem, prior: Gaussian, name: str, **options: Any) -> Gaussian:
    return bayesian_learning_rule(problem.loss, prior, name, max_iterations=3000, **options).posterior


def tempered(problem: ClassificationProblem, prior: Gaussian) -> Gaussian:
    """sum_i f_i** scaled by tau = E_q[l] / sum_i (-f_i**)(q), q in turn its own solution (four rounds)."""
    base = PerDatum(problem.loss)
    q = bayesian_learning_rule(problem.loss, prior, base, max_iterations=3000).posterior
    for _ in range(4):
        tau = expected_loss(problem.loss, q) / base.evaluate(q, None).value
        q = bayesian_learning_rule(problem.loss, prior, Tempered(base, tau), max_iterations=3000).posterior
    return q


def one_step(problem: ClassificationProblem, prior: Gaussian, initial: Gaussian) -> Gaussian:
    """One step of the exact rule: the gap f - f** put back to first order at ``initial``."""
    return bayesian_learning_rule(problem.loss, prior, "exact", initial=initial, max_iterations=1).posterior


def confined(problem: ClassificationProblem, prior: Gaussian, reach: float) -> Gaussian:
    """f** of the loss on the box of ``reach`` standard deviations around the Laplace approximation (P = 2)."""
    loss, around = problem.loss, laplace(problem.loss, prior)
    half = reach * np.sqrt(np.diag(around.cov))
    boxed = from_function(
        loss._value,
        loss._gradient,
        loss.dim,
        hessian=loss._hessian,
        curvature=_curvature(loss),
        bounds=(around.mean - half, around.mean + half),
    )
    # A Gaussian wider than the box has no distribution of its moments there: the first q is narrow.
    start = Gaussian(around.mean, 0.3 * around.cov)
    surrogate = Relaxed(boxed, tol=1e-7, max_seconds=5.0)
    return bayesian_learning_rule(boxed, prior, surrogate, initial=start, max_iterations=100).posterior


def _curvature(loss: LinearPredictorLoss) -> float:
    rows = np.concatenate([np.sqrt(group.weights)[:, None] * group.rows for group in loss.groups])
    return 0.25 * float(np.linalg.eigvalsh(rows.T @ rows)[-1])


def variational_by_library(problem: ClassificationProblem, prior: Gaussian) -> Gaussian:
    """numpyro's full-covariance Gaussian guide, by stochastic gradients (Adam, a decreasing rate)."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoMultivariateNormal
    from numpyro.optim import Adam

    with jax.enable_x64(True):
        rows, labels = jnp.asarray(problem.inputs), jnp.asarray((problem.labels > 0).astype(float))
        cholesky = jnp.linalg.cholesky(jnp.asarray(prior.cov))

        def model() -> None:
            theta = numpyro.sample("theta", dist.MultivariateNormal(jnp.asarray(prior.mean), scale_tril=cholesky))
            numpyro.sample("y", dist.Bernoulli(logits=rows @ theta), obs=labels)

        guide = AutoMultivariateNormal(model, init_scale=0.3)
        optimizer = Adam(lambda step: 0.05 / (1.0 + step / 300.0))
        engine = SVI(model, guide, optimizer, Trace_ELBO(num_particles=8))
        found = engine.run(jax.random.PRNGKey(0), _LIBRARY_STEPS, progress_bar=False).params
        root = np.asarray(found["auto_scale_tril"], dtype=float)
        return Gaussian(np.asarray(found["auto_loc"], dtype=float), root @ root.T)


METHODS: dict[str, Method] = {
    "Laplace": lambda p, prior: laplace(p.loss, prior),
    "Laplace, one exact step": lambda p, prior: one_step(p, prior, laplace(p.loss, prior)),
    "variational": partial(_rule, name="exact"),
    "variational (numpyro)": variational_by_library,
    "sum of f_i**": partial(_rule, name="per-datum"),
    "sum of f_i**, tempered": tempered,
    "sum of f_i**, one exact step": lambda p, prior: one_step(p, prior, _rule(p, prior, "per-datum")),
}
PLANE: dict[str, Method] = {
    "f**": partial(_rule, name="relaxed"),
    **{f"f**, confined to {r:g} sd": partial(confined, reach=r) for r in REACHES},
}
"""For P = 2, where f** is certified in every step."""


def plane(problem: ClassificationProblem) -> ClassificationProblem:
    """The problem on the two leading principal directions of its training inputs."""
    _, _, directions = np.linalg.svd(problem.inputs, full_matrices=False)
    kept = directions[:2].T
    return replace(problem, inputs=problem.inputs @ kept, test_inputs=problem.test_inputs @ kept)


def cases(full: bool) -> dict[str, tuple[ClassificationProblem, float]]:
    """Data sets and prior precisions."""
    if not full:
        return {"murphy, delta0 = 1": (problems.murphy(), 1.0)}
    found = {f"murphy, delta0 = {delta0:g}": (problems.murphy(), delta0) for delta0 in (1.0, 0.1, 0.01)}
    for name, problem in (("iris", problems.iris()), ("breast cancer", problems.breast_cancer())):
        found[f"{name}, two directions"] = plane(problem), 1.0
        found[name] = problem, 1.0
    return found


def run(context: Context) -> Outcome:
    """Every method on every data set: error of the posterior and of its predictions, and seconds."""
    full = context.scale == "full"
    numbers: dict[str, Any] = {}
    for name, (problem, delta0) in bar(list(cases(full).items()), "inference", context.progress):
        label = name.replace(",", "").replace(" ", "_").replace("=", "")
        found = piece(context, label, partial(_compute, problem, delta0, context.seed, full))
        table: dict[str, Any] = {}
        for key, value in found.items():
            method, _, measure = key.rpartition("/")
            table.setdefault(method or "exact", {})[measure] = float(value)
        numbers[name] = table
    return Outcome(
        settings={"reaches": REACHES, "repeats": _REPEATS, "library steps": _LIBRARY_STEPS, "library": "numpyro"},
        numbers=numbers,
    )


def _timed(
    method: Method, problem: ClassificationProblem, prior: Gaussian, repeats: int
) -> tuple[Gaussian, list[float]]:
    seconds: list[float] = []
    while len(seconds) < repeats and (not seconds or seconds[-1] < 2.0):
        begin = time.perf_counter()
        q = method(problem, prior)
        seconds.append(time.perf_counter() - begin)
    return q, seconds


def _compute(problem: ClassificationProblem, delta0: float, seed: int, full: bool) -> dict[str, Any]:
    prior = Gaussian(np.zeros(problem.dim), 1.0 / delta0)
    posterior = exact_posterior(problem.loss, prior, rng=np.random.default_rng(seed))
    truth = predictive_exact(problem.test_inputs, posterior)
    out: dict[str, Any] = {"dim": problem.dim, "log_evidence": posterior.log_evidence, "error": posterior.error}
    for name, method in (METHODS | (PLANE if problem.dim == 2 else {})).items():
        try:
            q, seconds = _timed(method, problem, prior, _REPEATS if full else 1)
        except ValueError:  # the rule left the Gaussians that the box allows; the row is missing from the table
            continue
        measured = distances(problem.loss, posterior, prior, q)
        out |= {f"{name}/{key}": measured[key] for key in ("kl_q_p", "width", "width_min", "width_max", "mean_shift")}
        out[f"{name}/predictive_kl"] = bernoulli_kl(truth, predictive(problem.test_inputs, q))
        # The first run may compile or load; the quickest is what a user pays for the next data set.
        out[f"{name}/seconds"], out[f"{name}/first_seconds"] = min(seconds), seconds[0]
    return out
