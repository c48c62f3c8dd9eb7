"""The study behind claim C2: every method on many draws of the paper's data, at each prior and each setting.

Settings are chosen on the first half of the draws, for each method alone, by the mean predictive KL over the plotted
box; the second half judges. The ceiling is the exact diagonal variational optimum: nothing of bSAM's family is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import chi2

from experiments.pieces import pieces
from experiments.registry import Context
from experiments.theory.posterior_metrics import bernoulli_kl
from experiments.toy.confidence import doubt_ratio
from experiments.toy.logistic import (
    box,
    draws,
    exact_predictive,
    gaussian_predictive,
    prior_of,
    run_bsam,
    run_sam,
    sam_points,
)
from experiments.toy.moons_rows import Bsam
from fenchel import Gaussian, bayes_objective, bayesian_learning_rule, exact_posterior, minimize_relaxed
from fenchel.arrays import Array
from fenchel.bayes.laplace import laplace
from fenchel.problems import ClassificationProblem, separation_margin

PRIORS = (1.0, 0.1, 0.01)
METHODS = ("SAM", "SAM + Laplace", "bSAM", "bSAM, sqrt(N)", "ceiling", "relaxed")
"""bSAM as printed and as derived; the exact diagonal optimum; the certified optimum of relaxed Bayes, diagonal."""
MASS = 0.9


@dataclass(frozen=True)
class Plan:
    """How many draws of either kind, noise seeds and steps of bSAM, and the settings that are tried."""

    separable: int
    others: int
    seeds: int
    steps: int
    sam_rhos: tuple[float, ...]
    bsam_rhos: tuple[float, ...]
    dampings: tuple[float, ...]
    columns: int = 23
    rows: int = 19

    def bsam(self, *, sqrt_num_data: bool) -> list[Bsam]:
        """bSAM's settings, as printed or with the factor sqrt(N)."""
        return [Bsam(rho, damping, sqrt_num_data) for damping in self.dampings for rho in self.bsam_rhos]


def plan(scale: str) -> Plan:
    """What a scale runs."""
    if scale == "quick":
        return Plan(2, 1, 2, 200, (0.05, 1.0), (0.05, 1.0), (0.0, 0.1))
    rhos = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    return Plan(40, 20, 4, 4000, (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0), rhos, (0.0, 0.01, 0.1))


def cells(context: Context, plan: Plan, kinds: Sequence[bool]) -> dict[tuple[bool, float], dict[str, Array]]:
    """By kind (separable or not) and prior, all draws: posteriors (draw, ...) and predictions on the box, by setting.

    ``NAME/mean`` and ``NAME/variance`` are (settings, draw, 2), of bSAM (settings, draw, seed, 2).
    """
    keys = {
        f"{'separable' if separable else 'others'}_{prior:g}": (separable, prior)
        for separable in kinds
        for prior in PRIORS
    }
    found = pieces(context, {key: partial(_cells, context, plan, prior, kind) for key, (kind, prior) in keys.items()})
    return {at: found[key] for key, at in keys.items()}


def _cells(context: Context, plan: Plan, prior: float, separable: bool) -> dict[str, Any]:
    found = draws(plan.separable if separable else plan.others, separable=separable)
    problems = [problem for _, problem in found]
    law, points = prior_of(prior), box(plan.columns, plan.rows)[2]
    posteriors = [exact_posterior(problem.loss, law) for problem in problems]
    sam = np.stack([sam_points(p.loss, prior, plan.sam_rhos) for p in problems], axis=1)
    lost = np.isnan(sam).any(axis=(1, 2))
    for i in np.flatnonzero(lost):  # where the path of stationary points ends, the shipped SAM goes on
        for d, problem in enumerate(problems):
            if np.isnan(sam[i, d]).any():
                sam[i, d] = run_sam(problem, prior, plan.sam_rhos[i], plan.steps, np.zeros(2))
    wide = np.stack(
        [
            [
                np.diag(laplace(p.loss, law, at=point, structure="diagonal").cov)
                for p, point in zip(problems, row, strict=True)
            ]
            for row in sam
        ]
    )
    out: dict[str, Any] = {
        "seeds": [seed for seed, _ in found],
        "margins": [separation_margin(p.inputs, p.labels) for p in problems],
        "exact/mean": np.stack([p.mean for p in posteriors]),
        "exact/cov": np.stack([p.cov for p in posteriors]),
        "exact/log_evidence": [p.log_evidence for p in posteriors],
        "exact/error": [p.error for p in posteriors],
        "exact/box": np.stack([exact_predictive(p, points) for p in posteriors]),
        "exact/data": np.stack([exact_predictive(q, p.inputs) for p, q in zip(problems, posteriors, strict=True)]),
        "SAM/mean": sam,
        "SAM/variance": np.zeros_like(sam),
        "SAM + Laplace/mean": sam,
        "SAM + Laplace/variance": wide,
    }
    seed = 1000 * context.seed + round(100 * prior)
    for name, sqrt_num_data in (("bSAM", False), ("bSAM, sqrt(N)", True)):
        settings = plan.bsam(sqrt_num_data=sqrt_num_data)
        means, variances, moved = run_bsam(problems, prior, settings, plan.seeds, plan.steps, seed)
        out |= {f"{name}/mean": means, f"{name}/variance": variances, f"{name}/moved": moved}
    best = [
        _diagonal(bayesian_learning_rule(p.loss, law, "exact", structure="diagonal", max_iterations=2000))
        for p in problems
    ]
    relaxed = [_diagonal(minimize_relaxed(p.loss, law, structure="diagonal")) for p in problems]
    for name, pairs in (("ceiling", best), ("relaxed", relaxed)):
        out |= {f"{name}/mean": np.stack([m for m, _ in pairs])[None]}
        out |= {f"{name}/variance": np.stack([v for _, v in pairs])[None]}
    # The mass of the exact posterior in each method's central ellipse needs the nodes, which are not kept.
    for name in METHODS[1:]:
        mean, variance = out[f"{name}/mean"], out[f"{name}/variance"]
        if mean.ndim == 4:
            mean, variance = mean.mean(2), variance.mean(2)
        out[f"{name}/coverage"] = np.stack(
            [
                [_mass(q, m, v) for q, m, v in zip(posteriors, ms, vs, strict=True)]
                for ms, vs in zip(mean, variance, strict=True)
            ]
        )
    return out


def _diagonal(result: Any) -> tuple[Array, Array]:
    return result.posterior.mean, np.diag(result.posterior.cov)


def _mass(posterior: Any, mean: Array, variance: Array) -> float:
    """The exact posterior's mass in the ellipse that holds `MASS` of N(mean, diag(variance))."""
    limit = float(chi2.ppf(MASS, len(mean)))
    return float(
        posterior.expectation(lambda theta: (np.sum((theta - mean) ** 2 / variance, axis=-1) <= limit).astype(float))
    )


def _predict(found: Mapping[str, Array], name: str, setting: int, draw: int, points: Array) -> Array:
    """P(class 1) of a method at ``points`` (n, 2); bSAM's is averaged over seeds' predictions."""
    p = gaussian_predictive(found[f"{name}/mean"][setting, draw], found[f"{name}/variance"][setting, draw], points)
    return np.asarray(p.mean(axis=0) if p.ndim == 2 else p)


def chosen(found: Mapping[str, Array], plan: Plan) -> dict[str, int]:
    """For every method the setting with the least mean predictive KL over the box, on the first half of the draws."""
    points, half = box(plan.columns, plan.rows)[2], max(1, len(found["seeds"]) // 2)
    best = {}
    for name in METHODS:
        errors = [
            np.mean([bernoulli_kl(found["exact/box"][d], _predict(found, name, s, d, points)) for d in range(half)])
            for s in range(len(found[f"{name}/mean"]))
        ]
        best[name] = int(np.argmin(errors))
    return best


def measured(
    found: Mapping[str, Array],
    plan: Plan,
    prior: float,
    settings: Mapping[str, int],
    draws_: Sequence[int],
    problems: Sequence[ClassificationProblem],
) -> dict[str, dict[str, Array]]:
    """By method, each measure over ``draws_``.

    ``kl_box``, ``kl_data``: mean predictive KL from the exact one. ``doubt_box``, ``doubt_data``: log ratio of the mean
    doubt 1 - max(p, 1 - p) to the exact one's, negative where overconfident. ``width``: mean over the principal axes of
    the exact covariance of the log ratio of standard deviations. ``kl_q_p``: KL(q || exact posterior). ``coverage``:
    the exact posterior's mass in the ellipse that holds 90 % of q.
    """
    points = box(plan.columns, plan.rows)[2]
    out: dict[str, dict[str, list[float]]] = {}
    for name in METHODS:
        s, rows = settings[name], out.setdefault(name, {})
        for d in draws_:
            for where, at in (("box", points), ("data", problems[d].inputs)):
                exact, p = found[f"exact/{where}"][d], _predict(found, name, s, d, at)
                rows.setdefault(f"kl_{where}", []).append(bernoulli_kl(exact, p))
                rows.setdefault(f"doubt_{where}", []).append(doubt_ratio(p, exact))
            if name == "SAM":
                continue
            mean, variance = found[f"{name}/mean"][s, d], found[f"{name}/variance"][s, d]
            pairs = [(mean, variance)] if mean.ndim == 1 else list(zip(mean, variance, strict=True))
            sizes, axes = np.linalg.eigh(found["exact/cov"][d])
            widths = [np.mean(0.5 * np.log(np.sum(axes**2 * v[:, None], axis=0) / sizes)) for _, v in pairs]
            rows.setdefault("width", []).append(float(np.mean(widths)))
            law, loss = prior_of(prior), problems[d].loss
            kls = [
                bayes_objective(loss, Gaussian(m, v), law).value + float(found["exact/log_evidence"][d])
                for m, v in pairs
            ]
            rows.setdefault("kl_q_p", []).append(float(np.mean(kls)))
            rows.setdefault("coverage", []).append(float(found[f"{name}/coverage"][s, d]))
    return {name: {key: np.array(values) for key, values in rows.items()} for name, rows in out.items()}
