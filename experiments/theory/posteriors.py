"""Approximate posteriors against the exact one on the paper's data, two moons and two data sets of scikit-learn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from experiments.pieces import pieces
from experiments.registry import Context, Outcome
from experiments.theory.approximation import judge_on_data
from experiments.theory.posterior_metrics import (
    distances,
    predictive,
    predictive_exact,
    predictive_scores,
)
from fenchel import (
    ExactPosterior,
    Gaussian,
    bayes_objective,
    bayesian_learning_rule,
    biconjugate,
    exact_posterior,
    laplace,
    problems,
)
from fenchel.arrays import Array
from fenchel.moments.programs import SolverOptions
from fenchel.problems import ClassificationProblem


@dataclass(frozen=True)
class Case:
    """A data set with a prior N(0, I / delta0); ``pieces``, ``steps`` and ``rate`` are those of the sampled program,
    which takes up to a minute a step for P > 10."""

    key: str
    problem: Callable[[], ClassificationProblem]
    delta0: float
    pieces: int
    steps: int
    rate: float = 0.5


def cases(full: bool) -> tuple[Case, ...]:
    """The rows of the table."""
    if not full:
        return (Case("murphy, delta0 = 1", lambda: problems.murphy(400), 1.0, 20, 8),)
    murphy = tuple(Case(f"murphy, delta0 = {d:g}", problems.murphy, d, 100, 30) for d in (1.0, 0.1, 0.01))
    return (
        *murphy,
        Case("iris, delta0 = 1", problems.iris, 1.0, 40, 6, 0.7),
        Case("two moons, delta0 = 1", problems.two_moons, 1.0, 30, 4, 1.0),
        Case("breast cancer, delta0 = 1", problems.breast_cancer, 1.0, 30, 4, 1.0),
    )


def run(context: Context) -> Outcome:
    by_file = {
        case.key.replace(",", "").replace(" ", "_").replace("=", ""): case for case in cases(context.scale == "full")
    }
    found = pieces(context, {key: partial(_compute, case, context.seed) for key, case in by_file.items()})
    rows = {case.key: _row(found[key]) for key, case in by_file.items()}
    settings = {
        "structure": "full",
        "cases": {
            c.key: {"delta0": c.delta0, "pieces": c.pieces, "steps": c.steps, "rate": c.rate}
            for c in cases(context.scale == "full")
        },
        "exact": "adaptive quadrature for P <= 2, NUTS (4 chains of 4000 draws) beyond",
        "relaxed": "certified for P <= 3; beyond, f** by local searches or the proved majorant, bracketed",
        "ece_bins": 20,
    }
    return Outcome(settings, rows, (judge_on_data(rows),))


def _compute(case: Case, seed: int) -> dict[str, Any]:
    problem = case.problem()
    loss, prior = problem.loss, Gaussian(np.zeros(problem.dim), 1.0 / case.delta0)
    posterior = exact_posterior(loss, prior, rng=np.random.default_rng(seed))
    truth = predictive_exact(problem.test_inputs, posterior)
    out: dict[str, Any] = {
        "dim": problem.dim,
        "n": len(problem.labels),
        "n_test": len(problem.test_labels),
        "log_evidence": posterior.log_evidence,
        "log_evidence_error": posterior.error,
        "posterior_mean": posterior.mean,
        "posterior_cov": posterior.cov,
        **_diagnostics(posterior),
    }
    for name, value in predictive_scores(problem.test_labels, truth, truth).items():
        out[f"exact/{name}"] = value
    for name, (q, extra) in _approximations(case, problem, prior, seed).items():
        out[f"{name}/mean"], out[f"{name}/cov"] = q.mean, q.cov
        out.update({f"{name}/{k}": v for k, v in extra.items()})
        out.update({f"{name}/{k}": v for k, v in distances(loss, posterior, prior, q).items()})
        probability = predictive(problem.test_inputs, q)
        scores = predictive_scores(problem.test_labels, probability, truth)
        out.update({f"{name}/{k}": v for k, v in scores.items()})
        limit = 200_000 if problem.dim <= 3 else 1
        found = biconjugate(loss, q, tol=1e-9, max_seconds=10.0, max_boxes=limit)
        divergence = q.kl(prior)
        out[f"{name}/elbo"] = -bayes_objective(loss, q, prior).value
        # -(-f** + KL): lower and upper end of the relaxed bound at this posterior.
        out[f"{name}/relaxed_lower"], out[f"{name}/relaxed_upper"] = found.lower - divergence, found.upper - divergence
    return out


def _diagnostics(posterior: ExactPosterior) -> dict[str, Any]:
    found = posterior.diagnostics
    if posterior.method == "quadrature":
        return {"exact_second_difference": abs(posterior.log_evidence - found["log_evidence_second"])}
    return {
        "r_hat_max": float(np.max(found["r_hat"])),
        "ess_min": float(np.min(found["ess"])),
        "divergences": found["divergences"],
        "mcse_mean_max": float(np.max(found["mcse_mean"] / np.sqrt(np.diag(posterior.cov)))),
    }


def _approximations(
    case: Case, problem: ClassificationProblem, prior: Gaussian, seed: int
) -> dict[str, tuple[Gaussian, dict[str, Any]]]:
    loss = problem.loss
    out: dict[str, tuple[Gaussian, dict[str, Any]]] = {"laplace": (laplace(loss, prior), {})}
    begin = time.perf_counter()
    exact = bayesian_learning_rule(loss, prior, "exact", max_iterations=3000)
    out["exact_f"] = exact.posterior, _run_record(exact, begin)
    begin = time.perf_counter()
    per_datum = bayesian_learning_rule(loss, prior, "per-datum", max_iterations=3000)
    out["per_datum"] = per_datum.posterior, _run_record(per_datum, begin)
    begin = time.perf_counter()
    if problem.dim <= 3:
        relaxed = bayesian_learning_rule(loss, prior, "relaxed", max_iterations=2000)
        detail = "certified"
    else:
        relaxed = bayesian_learning_rule(
            loss,
            prior,
            "relaxed",
            initial=per_datum.posterior,
            max_iterations=40,
            options={"local": True, "max_seconds": 10.0},
        )
        # At a proved majorant the value is the proved end of the bracket; at local atoms, the other end.
        by_atoms = relaxed.objective[-1] < relaxed.upper[-1] - 1e-9
        detail = "local searches" if by_atoms else "proved majorant"
    record = _run_record(relaxed, begin) | {"source": detail}
    out["relaxed"] = relaxed.posterior, record
    begin = time.perf_counter()
    # Nothing rests on the solver here: the sampled program is an approximation either way.
    solver = SolverOptions(accept=("optimal", "optimal_inaccurate"))
    options = {"num_pieces": case.pieces, "rng": np.random.default_rng([seed, case.pieces]), "solver": solver}
    sampled = bayesian_learning_rule(
        loss, prior, "sampled", case.rate, initial=exact.posterior, max_iterations=case.steps, options=options
    )
    tail = [q.natural() for q in sampled.history[len(sampled.means) // 2 :]]
    average = Gaussian.from_natural(np.mean([n.lam1 for n in tail], axis=0), np.mean([n.lam2 for n in tail], axis=0))
    out["sampled"] = average, _run_record(sampled, begin)
    return out


def _run_record(result: Any, begin: float) -> dict[str, Any]:
    return {
        "seconds": time.perf_counter() - begin,
        "iterations": result.iterations,
        "converged": result.converged,
        "damped": result.damped,
        "objective": result.value,
        "certified": result.certified,
    }


def _row(found: Mapping[str, Array]) -> dict[str, Any]:
    """The stored numbers of a case as nested plain values."""
    row: dict[str, Any] = {}
    for key, value in found.items():
        target = row
        *path, last = key.split("/")
        for part in path:
            target = target.setdefault(part, {})
        target[last] = value.tolist() if value.ndim == 0 or value.size <= 16 else np.diag(value).tolist()
    return row
