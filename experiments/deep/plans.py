"""Which runs each table and figure is made of; runs that several of them share are trained once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import store
from experiments.deep import spaces, sweep
from experiments.deep.config import Config
from experiments.deep.rows import Row, RowStore, committed_directory, write_committed
from experiments.registry import Context, InputError, Stopped

SAMPLES = 32
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
EPOCHS = {"lenet5": 30, "mlp": 30, "resnet20-frn": 60}
SMALL = spaces.SMALL
SEEDS, ABLATION_SEEDS = 5, 3
DRAWS_A_SETTING = 8
"""Set after the first search, whose 12 draws over 4 settings chose for bSAM what overfits in long runs."""


def epochs(model: str, context: Context) -> int:
    """How long the runs of the tables are."""
    return 2 if context.scale == "quick" else EPOCHS[model]


def held_out(context: Context) -> int:
    """Images of the validation split."""
    return 216 if context.scale == "quick" else 10_000


def found(model: str) -> dict[str, dict[str, float]]:
    """What the stored full searches chose for each entry; empty if there was none."""
    chosen: dict[str, dict[str, float]] = {}
    for name in (f"search_{model.replace('-', '_')}", f"search_{model.replace('-', '_')}_extra"):
        record = _search(name)
        chosen |= record["numbers"]["chosen"] if record else {}
    return chosen


def _search(name: str) -> dict[str, Any]:
    path = store.result_path(name, "full")
    record = store.read_json(path) if path.exists() else {}
    return record if record.get("scale") == "full" else {}


def search_settings(model: str) -> dict[str, Any]:
    """The settings of the stored full search of the paper's methods on ``model``; empty if there was none."""
    settings: dict[str, Any] = _search(f"search_{model.replace('-', '_')}").get("settings", {})
    return settings


def weakness(model: str, entry: str = "bsam") -> str:
    """Why the stored search may have missed the best settings of ``entry``; empty if it may not.

    A search of fewer than `DRAWS_A_SETTING` draws for each setting, or whose best lies at an edge, refutes nothing.
    """
    record = _search(f"search_{model.replace('-', '_')}{'_extra' if entry in spaces.EXTRAS else ''}")
    if not record:
        return ""
    name = "bSAM" if entry == "bsam" else entry
    draws = sum(line["entry"] == entry and line["rung"] == 1 for line in record["numbers"]["log"])
    settings, edges = len(record["numbers"]["chosen"][entry]), record["numbers"]["at the edge in the end"][entry]
    if draws < DRAWS_A_SETTING * settings:
        return f"{model}: a search of {draws} draws over {settings} settings may have missed {name}'s best"
    return f"{model}: {name}'s best {', '.join(edges)} is at the edge of what was searched" if edges else ""


def tasks(context: Context) -> list[str]:
    """The networks whose settings are known (quick: all).

    Raises:
        InputError: a full run before any search.
    """
    if context.scale == "quick":
        return list(SMALL)
    known = [model for model in SMALL if found(model).get("bsam")]
    if not known:
        raise InputError("full runs need the settings of a search: run search_lenet5 or search_mlp first")
    return known


def tuned(model: str, entry: str, context: Context) -> Config:
    """The configuration of ``entry`` with its chosen settings (quick: on the embedded digits)."""
    values: dict[str, Any] = dict(found(model).get(entry, {}))
    if not values and context.scale == "full":
        raise InputError(f"nothing was searched for {entry} on {model}: run search_{model}_extra first")
    values = values or spaces.middle(spaces.SPACES[entry])
    samples = COUNTS if (model, entry) == ("lenet5", "bsam") else (SAMPLES,)
    start = replace(spaces.base(model, entry), samples=samples, seed=context.seed, epochs=epochs(model, context))
    return prepared(spaces.with_values(start, values), context)


def prepared(config: Config, context: Context) -> Config:
    """``config`` at the scale and in the precision that are asked for."""
    if context.precision is not None:
        config = replace(config, precision=context.precision)
    return quick(config) if context.scale == "quick" else config


def quick(config: Config) -> Config:
    """A few steps on the embedded digits: every part of the code, none of the meaning."""
    samples = tuple(k for k in config.samples if k <= 8) or (8,)
    small = config.model in SMALL
    return replace(
        config,
        dataset="digits" if small else "digits-rgb",
        epochs=min(config.epochs, 2) if small else 1,
        batch_size=48 if small else 4,
        limit=480 if small else 8,
        parts=min(config.parts, 2),
        samples=samples if small else (1,),
        warmup=0,
        milestones=(),
        precision="float32",
    )


def seeded(configs: Iterable[Config], context: Context, count: int) -> list[Config]:
    """Every configuration with ``count`` seeds from the one asked for on; all with the first seed come first."""
    configs = list(configs)
    count = 2 if context.scale == "quick" else count
    return [replace(c, seed=context.seed + k) for k in range(count) for c in configs]


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
    named = sorted({c.dataset for c in configs} - {"digits", "digits-rgb", *context.datasets})
    if named and context.data is None:
        raise InputError(f"this run reads {', '.join(named)}: give --data DIR or set FENCHEL_DATA")


def execute(context: Context, configs: Sequence[Config]) -> list[Row]:
    """The rows of ``configs``: finished ones are read, the others are trained; full ones are kept, also of what stops.

    Raises:
        Stopped: the deadline came first, or only a plan was asked for.
    """
    rows = _store(context, forced=context.force)
    if context.force:
        again = [config for config in configs if config.key() not in context.repeated]
        rows.forget(again)
        context.repeated.update(config.key() for config in again)
    if rows.missing(configs):
        need_data(context, configs)
        if context.plan:
            raise Stopped("to train:\n" + "\n".join(sweep.estimate(configs, rows, context.data, device=context.device)))
    try:
        return sweep.run(
            configs,
            rows,
            data=context.data,
            jobs=context.jobs,
            scheduler=context.scheduler,
            progress=context.progress,
            deadline=context.deadline,
            device=context.device,
        )
    finally:  # of a sweep that stops, what is finished
        if context.scale == "full":
            write_committed([row for row in map(rows.get, configs) if row is not None])


def rows_of(context: Context, configs: Sequence[Config]) -> list[Row]:
    """Those of the rows that are finished; nothing is trained."""
    rows = _store(context)
    return [row for row in map(rows.get, configs) if row is not None]


def _store(context: Context, *, forced: bool = False) -> RowStore:
    kept = committed_directory() if context.scale == "full" and not forced else None
    return RowStore(working_directory(context), kept)


def working_directory(context: Context) -> Path:
    """Where rows and checkpoints lie: full runs share theirs, quick ones keep to their own experiment."""
    return context.partial.parent / "rows" if context.scale == "full" else context.partial / "rows"
