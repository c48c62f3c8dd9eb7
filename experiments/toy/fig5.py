"""Fig. 5: the posteriors behind Fig. 3 on one separable draw: densities, decision boundaries of samples, widths."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.registry import Context, Outcome
from experiments.toy.logistic import draws, prior_of
from experiments.toy.logistic_study import METHODS, PRIORS, cells, chosen, measured, plan
from fenchel import exact_posterior


def run(context: Context) -> Outcome:
    """Densities on a grid and samples at every prior, at the settings that Fig. 3 chose."""
    chosen_plan = plan(context.scale)
    found_draws = draws(chosen_plan.separable, separable=True)
    index = len(found_draws) // 2
    seed, problem = found_draws[index]
    numbers: dict[str, Any] = {}
    arrays: dict[str, Any] = {"inputs": problem.inputs, "labels": problem.labels}
    for (_, prior), found in cells(context, chosen_plan, [True]).items():
        key = f"{prior:g}"
        settings = chosen(found, chosen_plan)
        measures = measured(found, chosen_plan, prior, settings, [index], [p for _, p in found_draws])
        numbers[key] = {name: {k: float(v[0]) for k, v in values.items()} for name, values in measures.items()}
        posterior = exact_posterior(problem.loss, prior_of(prior))
        width = np.sqrt(np.diag(posterior.cov))
        axes = [np.linspace(m - 3.5 * s, m + 4 * s, 121) for m, s in zip(posterior.mean, width, strict=True)]
        grid = np.stack(np.meshgrid(*axes), axis=-1)
        arrays |= {
            f"{key}/first": axes[0],
            f"{key}/second": axes[1],
            f"{key}/density": posterior.density(grid).astype(np.float32),
            f"{key}/samples": posterior.sample(12, np.random.default_rng(context.seed)),
        }
        for name in METHODS:
            mean, variance = (found[f"{name}/{what}"][settings[name], index] for what in ("mean", "variance"))
            if mean.ndim == 2:  # one run of bSAM: an average over seeds would be no posterior of any
                mean, variance = mean[0], variance[0]
            arrays |= {f"{key}/{name}/mean": mean, f"{key}/{name}/variance": variance}
    return Outcome(
        settings={"draw": seed, "priors": list(PRIORS), "seeds": chosen_plan.seeds},
        numbers={"by_prior": numbers},
        arrays={name: np.asarray(value) for name, value in arrays.items()},
    )
