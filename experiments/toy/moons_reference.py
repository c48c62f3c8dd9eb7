"""The NUTS chains of Fig. 6: which priors, how long, and their finished pieces on disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.registry import Context, piece
from experiments.toy.moons import Moons
from experiments.toy.nuts import Reference, combine, run_chain

__all__ = ["Plan", "plans", "points", "reference"]


@dataclass(frozen=True)
class Plan:
    """Chains on the posterior under N(0, I / prior_precision)."""

    name: str
    prior_precision: float
    chains: int
    warmup: int
    draws: int
    max_tree_depth: int


def plans(scale: str, num_data: int, weight_decay: float, damping: float) -> tuple[Plan, ...]:
    """The two priors that bSAM's settings imply, and a standard normal between them.

    "nominal" is delta0 = N delta, the prior of the mean's update. "floor" is N (delta + gamma): the damping gamma
    enters the update of s as if it were prior precision, so that bSAM's posterior precision N s never settles below it.
    """
    nominal, floor = num_data * weight_decay, num_data * (weight_decay + damping)
    if scale == "quick":
        return (Plan("floor", floor, 2, 60, 60, 5),)
    return (
        Plan("floor", floor, 4, 1000, 2000, 10),
        Plan("unit", 1.0, 2, 600, 600, 10),
        Plan("nominal", nominal, 1, 600, 400, 10),
    )


def points(data: Moons) -> np.ndarray:
    """Where predictions are recorded: the grid, then the training inputs, then the test inputs."""
    return np.vstack([data.grid, data.inputs, data.test_inputs])


def chain(context: Context, data: Moons, plan: Plan, index: int) -> dict[str, np.ndarray]:
    """One finished chain, computed or read back."""
    return piece(
        context,
        f"nuts_{plan.name}_{index}",
        lambda: run_chain(
            data.inputs,
            data.labels,
            points(data),
            prior_precision=plan.prior_precision,
            seed=1000 * context.seed + index,
            warmup=plan.warmup,
            draws=plan.draws,
            max_tree_depth=plan.max_tree_depth,
        ),
    )


def reference(context: Context, data: Moons, plan: Plan) -> tuple[Reference, dict[str, np.ndarray]]:
    """All chains of a plan pooled, and the traces (chains, draws) that show whether they mixed."""
    chains = [chain(context, data, plan, index) for index in range(plan.chains)]
    traces = {key: np.stack([c[key] for c in chains]) for key in ("log_likelihood", "squared_norm", "steps")}
    return combine(chains), traces
