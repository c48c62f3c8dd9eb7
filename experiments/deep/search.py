"""The hyperparameter search: the same number of random draws for every method, on the validation split alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.deep import plans, spaces
from experiments.deep.config import Config
from experiments.deep.evaluate import METRICS
from experiments.deep.rows import Row
from experiments.registry import Context, Outcome, register

__all__ = ["PLANS", "adopt", "run"]

Entry = tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """``draws`` configurations a method for ``epochs``; then the best ``kept`` of them again for ``longer``."""

    draws: int
    epochs: int
    kept: int
    longer: int


PLANS = {"quick": Plan(2, 1, 1, 2), "full": Plan(16, 20, 4, 60)}


@register("search", "Hyperparameter search on the validation split, equal budgets for all methods")
def run(context: Context) -> Outcome:
    """Train every draw, train the best longer, choose by validation accuracy (ties by NLL), and keep the whole log.

    What overfits shows only in longer runs: short ones alone would favour too little regularization.
    """
    plan = PLANS[context.scale]
    entries = [(model, entry) for model in spaces.TASKS for entry in spaces.SEARCHED]
    candidates = {e: _draws(context, *e, plan) for e in entries}
    first = _measure(context, candidates)
    finalists = {
        e: [replace(c, epochs=plan.longer) for c in spaces.ranked(first[e], _held_out(context))[: plan.kept]]
        for e in entries
    }
    second = _measure(context, finalists)
    device = plans.execute(context, [c for c, _ in second[entries[0]]])[0]["device"]
    chosen: dict[str, dict[str, Any]] = {model: {} for model in spaces.TASKS}
    log = []
    for model, entry in entries:
        best = spaces.ranked(second[model, entry], _held_out(context))[0]
        names = list(spaces.SPACES[entry])
        chosen[model][entry] = {name: getattr(best, name) for name in names}
        for config, metrics in (*first[model, entry], *second[model, entry]):
            values = {name: getattr(config, name) for name in names}
            log.append(
                {"model": model, "entry": entry, "epochs": config.epochs, **values, **metrics, "chosen": config == best}
            )
    return Outcome(
        settings={
            **asdict(plan),
            "device": device,
            "spaces": spaces.SPACES,
            "split": "a fixed sixth of the training set is held out; the test set is never read",
            "rule": "highest validation accuracy; within one standard error of it, the lowest validation NLL",
        },
        numbers={"chosen": chosen, "log": log},
    )


def _measure(
    context: Context, candidates: Mapping[Entry, Sequence[Config]]
) -> dict[Entry, list[tuple[Config, dict[str, float]]]]:
    everything = [config for configs in candidates.values() for config in configs]
    rows = {row["key"]: row for row in plans.execute(context, everything)}
    return {e: [(config, _headline(rows[config.key()])) for config in configs] for e, configs in candidates.items()}


def adopt(chosen: dict[str, Any], path: Path = plans.HYPERPARAMETERS) -> None:
    """Write the chosen settings to the file the tables read."""
    path.write_text(json.dumps(chosen, indent=1, sort_keys=True) + "\n")


def _draws(context: Context, model: str, entry: str, plan: Plan) -> list[Config]:
    draws = spaces.draws(model, entry, plan.draws, plan.epochs, context.seed)
    return [plans.quick(config) for config in draws] if context.scale == "quick" else draws


def _headline(row: Row) -> dict[str, float]:
    metrics = plans.headline(row)
    return {name: float(metrics[name]) for name in METRICS}


def _held_out(context: Context) -> int:
    return 10_000 if context.scale == "full" else 216
