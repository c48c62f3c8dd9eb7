"""Fig. 5: the posteriors behind Fig. 3: density, decision boundaries of samples, and how wide each posterior is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from experiments.registry import Context, Outcome, register
from experiments.toy.logistic import data_set, exact
from experiments.toy.logistic_runs import DEFAULT_PRIOR, comparison, extent, plan
from fenchel import Gaussian
from fenchel.bayes.laplace import laplace, map_estimate


@register("fig5", "Posteriors of the logistic regression: exact, SAM + Laplace, bSAM", extras=("deep",))
def run(context: Context) -> Outcome:
    """Densities on a grid and samples at every prior, with log ratios of widths to the exact posterior's."""
    chosen = plan(context.scale)
    numbers: dict[str, dict[str, Any]] = {}
    arrays: dict[str, np.ndarray] = {}
    data = data_set(0)
    for prior, _ in chosen.priors:
        found = comparison(context, chosen, prior, 0)
        prior_law = Gaussian(np.zeros(2), np.full(2, 1.0 / prior))
        best = map_estimate(data.loss, prior_law)
        width = np.sqrt(np.diag(found["cov"]))
        independent = laplace(data.loss, prior_law, at=found["sam"], structure="diagonal")
        numbers[f"{prior:g}"] = {
            "map": best,
            "mean": found["mean"],
            "cov": found["cov"],
            "sam": found["sam"],
            "laplace_variance": found["laplace_variance"],
            "laplace_second_way": float(np.abs(np.diag(independent.cov) / found["laplace_variance"] - 1.0).max()),
            "bsam_mean": found["bsam_mean"].mean(axis=0),
            "bsam_variance": found["bsam_variance"].mean(axis=0),
            "bsam_mean_std_over_seeds": found["bsam_mean"].std(axis=0, ddof=1),
            "laplace": extent(found["laplace_variance"], found["cov"]),
            "bsam": extent(found["bsam_variance"].mean(axis=0), found["cov"]),
        }
        posterior = exact(data, prior)
        first = np.linspace(found["mean"][0] - 3.5 * width[0], found["mean"][0] + 4 * width[0], 121)
        second = np.linspace(found["mean"][1] - 3.5 * width[1], found["mean"][1] + 4 * width[1], 121)
        grid = np.stack(np.meshgrid(first, second), axis=-1)
        key = f"{prior:g}"
        arrays |= {
            f"first_{key}": first,
            f"second_{key}": second,
            f"density_{key}": posterior.density(grid).astype(np.float32),
            f"samples_{key}": posterior.sample(12, np.random.default_rng(context.seed)),
        }
    return Outcome(
        settings={**asdict(chosen), "default_prior_precision": DEFAULT_PRIOR},
        numbers={"by_prior": numbers},
        arrays={**arrays, "inputs": data.inputs, "labels": data.labels},
    )
