"""Which runs each table and figure is made of; runs that several of them share are trained once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from experiments.deep import spaces, sweep
from experiments.deep.config import METHODS, Config
from experiments.deep.rows import Row, RowStore, committed_directory, write_committed
from experiments.registry import Context, InputError

__all__ = ["HYPERPARAMETERS", "execute", "headline", "need_data", "quick", "rho_grid", "table3", "table4"]
__all__ += ["sensitivity", "sqrt_n", "table5", "table6", "tuned"]

HYPERPARAMETERS = Path(__file__).with_name("hyperparameters.json")
SAMPLES = 32
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
PARTS = (1, 2, 4, 8, 16)
SWEEP_METHODS = ("sam-sgd", "sam-adam", "bsam")
# 192 is the largest batch not above the paper's 200 that 16 sub-batches divide.
TABLE5_BATCH = 192
EPOCHS, ABLATION_EPOCHS = 120, 60
MAIN_SEEDS, ABLATION_SEEDS = 5, 3


@cache
def _chosen() -> dict[str, dict[str, dict[str, float]]]:
    return json.loads(HYPERPARAMETERS.read_text())  # type: ignore[no-any-return]


def tuned(model: str, entry: str, context: Context) -> Config:
    """The configuration of ``entry`` with its chosen hyperparameters (quick: the same on the embedded digits)."""
    values: dict[str, Any] = dict(_chosen()[model][entry])
    samples = COUNTS if (model, entry) == ("lenet5", "bsam") else (SAMPLES,)
    config = replace(spaces.base(model, entry), epochs=EPOCHS, samples=samples, **values)
    return quick(config) if context.scale == "quick" else config


def quick(config: Config) -> Config:
    """A short version on the embedded digits: every part of the code, none of the meaning."""
    samples = tuple(k for k in config.samples if k <= 8) or (8,)
    parts = min(config.parts, 2)
    return replace(config, dataset="digits", epochs=min(config.epochs, 5), batch_size=48, parts=parts, samples=samples)


def seeded(configs: Iterable[Config], context: Context, count: int) -> list[Config]:
    """Every configuration with ``count`` seeds, beginning with the one asked for."""
    count = 2 if context.scale == "quick" else count
    return [replace(c, seed=context.seed + k) for c in configs for k in range(count)]


def table6(context: Context) -> list[Config]:
    """All methods on MLP/MNIST and LeNet-5/FashionMNIST."""
    configs = [tuned(model, method, context) for model in spaces.TASKS for method in METHODS]
    return seeded(configs, context, MAIN_SEEDS)


def table3(context: Context) -> list[Config]:
    """bSAM with and without the noise of line 3."""
    pairs = [tuned(model, "bsam", context) for model in spaces.TASKS]
    return seeded([replace(c, noise=noise) for c in pairs for noise in (False, True)], context, MAIN_SEEDS)


def table4(context: Context) -> list[Config]:
    """bSAM on LeNet-5, evaluated with several numbers of samples."""
    return seeded([tuned("lenet5", "bsam", context)], context, MAIN_SEEDS)


def table5(context: Context) -> list[Config]:
    """bSAM and SAM-SGD with m sub-batches."""
    batch = TABLE5_BATCH if context.scale == "full" else 48
    configs = [
        replace(_ablation(method, context), parts=m, batch_size=batch)
        for method in ("bsam", "sam-sgd")
        for m in (PARTS if context.scale == "full" else (1, 2, 4))
    ]
    return seeded(configs, context, ABLATION_SEEDS)


def rho_grid(context: Context, method: str) -> list[float]:
    """Two decades around the chosen rho: seven values, its own in the middle (quick: three)."""
    center = tuned("lenet5", method, context).rho
    exponents = (-3, -2, -1, 0, 1, 2, 3) if context.scale == "full" else (-3, 0, 3)
    return [center if k == 0 else float(f"{center * 10 ** (k / 3):.4g}") for k in exponents]


def sensitivity(context: Context) -> list[Config]:
    """The three SAM variants over their grids of rho."""
    configs = []
    for method in SWEEP_METHODS:
        configs += [replace(_ablation(method, context), rho=rho) for rho in rho_grid(context, method)]
    return seeded(configs, context, ABLATION_SEEDS)


def sqrt_n(context: Context) -> list[Config]:
    """bSAM with and without the factor sqrt(N) in the s-update, each with hyperparameters of its own search."""
    with_factor = replace(tuned("lenet5", "bsam-sqrt-n", context), samples=(_samples(context),))
    return seeded([tuned("lenet5", "bsam", context), with_factor], context, MAIN_SEEDS)


def _ablation(method: str, context: Context) -> Config:
    """The tuned run on LeNet-5 with fewer epochs, for ablations of many runs."""
    config = replace(tuned("lenet5", method, context), samples=(_samples(context),))
    return replace(config, epochs=min(config.epochs, ABLATION_EPOCHS))


def _samples(context: Context) -> int:
    return SAMPLES if context.scale == "full" else 8


def headline(row: Row) -> dict[str, float]:
    """The metrics a table shows: averaged over 32 samples for the Bayesian methods, at the weights for the others."""
    metrics: dict[str, dict[str, float]] = row["metrics"]
    counts = sorted(int(label) for label in metrics if label != "mean")
    if not counts:
        return metrics["mean"]
    return metrics[str(SAMPLES if SAMPLES in counts else counts[-1])]


def need_data(context: Context, configs: Sequence[Config]) -> None:
    """Refuse at once, not after an hour, where a data directory will be needed.

    Raises:
        InputError: a full run without ``--data``.
    """
    named = sorted({c.dataset for c in configs} - {"digits", "digits-rgb"})
    if named and context.data is None:
        raise InputError(f"this run reads {', '.join(named)}: give --data DIR or set FENCHEL_DATA")


def execute(context: Context, configs: Sequence[Config]) -> list[Row]:
    """The rows of ``configs``: finished ones are read, the others are trained, and full ones are kept for good."""
    kept = committed_directory() if context.scale == "full" and not context.force else None
    rows = RowStore(_working_directory(context), kept)
    if context.force:
        again = [config for config in configs if config.key() not in context.repeated]
        rows.forget(again)
        context.repeated.update(config.key() for config in again)
    if rows.missing(configs):
        need_data(context, configs)
    found = sweep.run(
        configs,
        rows,
        data=context.data,
        jobs=context.jobs,
        scheduler=context.scheduler,
        progress=context.progress,
        stack=True if context.scale == "quick" and context.jobs == 1 and context.scheduler is None else None,
    )
    if context.scale == "full":
        write_committed(found)
    return found


def _working_directory(context: Context) -> Path:
    # Full runs share their finished rows across tables; quick ones keep to their own experiment.
    return context.partial.parent / "rows" if context.scale == "full" else context.partial / "rows"
