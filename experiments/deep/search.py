"""The hyperparameter search: the same number of random draws for every method, on the validation split alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.deep import plans, spaces, sweep
from experiments.deep.config import Config
from experiments.deep.evaluate import METRICS
from experiments.deep.rows import Row, RowStore, committed_directory, write_committed
from experiments.registry import Context, Outcome, register

__all__ = ["run"]

BUDGET = {"quick": 2, "full": 16}
EPOCHS = {"quick": 2, "full": 20}


@register("search", "Hyperparameter search on the validation split, equal budgets for all methods")
def run(context: Context) -> Outcome:
    """Train every draw, choose by validation accuracy (ties by NLL), and keep the whole log."""
    candidates = {
        (model, entry): _draws(context, model, entry) for model in spaces.TASKS for entry in spaces.SEARCHED
    }
    rows = RowStore(context.partial / "rows", committed_directory() if context.scale == "full" else None)
    everything = [config for configs in candidates.values() for config in configs]
    plans.need_data(context, everything)
    found = sweep.run(
        everything,
        rows,
        data=context.data,
        jobs=context.jobs,
        scheduler=context.scheduler,
        progress=context.progress,
    )
    by_key = {row["key"]: row for row in found}
    log = []
    chosen: dict[str, dict[str, Any]] = {model: {} for model in spaces.TASKS}
    for (model, entry), configs in candidates.items():
        measured = [(config, _headline(by_key[config.key()])) for config in configs]
        best = spaces.select(measured, held_out=_held_out(configs))
        chosen[model][entry] = {name: getattr(best, name) for name in spaces.SPACES[entry]}
        for config, metrics in measured:
            values = {name: getattr(config, name) for name in spaces.SPACES[entry]}
            log.append({"model": model, "entry": entry, **values, **metrics, "chosen": config == best})
    if context.scale == "full":
        write_committed(found)
    return Outcome(
        settings={
            "budget": BUDGET[context.scale],
            "epochs": EPOCHS[context.scale],
            "spaces": spaces.SPACES,
            "split": "a fixed sixth of the training set is held out; the test set is never read",
            "rule": "highest validation accuracy; within one standard error of it, the lowest validation NLL",
            "device": found[0]["device"],
        },
        numbers={"chosen": chosen, "log": log},
    )


def adopt(chosen: dict[str, Any], path: Path = plans.HYPERPARAMETERS) -> None:
    """Write the chosen settings to the file the tables read."""
    path.write_text(json.dumps(chosen, indent=1, sort_keys=True) + "\n")


def _draws(context: Context, model: str, entry: str) -> list[Config]:
    draws = spaces.draws(model, entry, BUDGET[context.scale], EPOCHS[context.scale], context.seed)
    return [plans.quick(config) for config in draws] if context.scale == "quick" else draws


def _headline(row: Row) -> dict[str, float]:
    metrics = plans.headline(row)
    return {name: float(metrics[name]) for name in METRICS}


def _held_out(configs: Sequence[Config]) -> int:
    return 216 if configs[0].dataset == "digits" else 10_000
