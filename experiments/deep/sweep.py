"""A sweep: a list of configurations, run wherever there is a machine, each exactly once.

On a GPU small networks are trained in stacks; otherwise every run is its own process (joblib), or a task of a Dask
cluster. A finished run is a row on disk: killing the sweep loses only the runs under way, which resume from their
last checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.deep import data as data_sets
from experiments.deep import distributed, stacked_rows
from experiments.deep.config import Config
from experiments.deep.progress import Progress
from experiments.deep.rows import Row, RowStore
from experiments.deep.runner import train_one
from experiments.registry import InputError
from fenchel.errors import MissingDependencyError

__all__ = ["run"]


def run(
    configs: Sequence[Config],
    rows: RowStore,
    *,
    data: Path | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
    device: str | None = None,
    stack: bool | None = None,
) -> list[Row]:
    """Run what has no row yet and return the rows of ``configs`` in their order.

    ``stack`` forces or forbids stacked training; by default it is used on a GPU.

    Raises:
        InputError: the data cannot be read. MissingDependencyError: joblib or Dask is needed and not installed.
    """
    distributed.start()
    pending = rows.missing(configs)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    stack = chosen.startswith("cuda") if stack is None else stack
    if distributed.size() > 1:
        _run_together(pending, rows, data, progress)
        pending = []
    if stack and scheduler is None and pending:
        stackable = [config for config in pending if stacked_rows.can_stack(config)]
        _run_stacks(stackable, rows, data, chosen, progress)
        pending = rows.missing(pending)
    if pending and scheduler is not None:
        _run_dask(pending, rows, data, scheduler, progress)
    elif pending:
        _run_joblib(pending, rows, data, chosen, jobs, progress)
    found = [rows.get(config) for config in configs]
    lost = [config.key() for config, row in zip(configs, found, strict=True) if row is None]
    if lost:
        raise RuntimeError(f"{len(lost)} runs ended without a row, the first is {lost[0]}")
    return [row for row in found if row is not None]


def _run_together(configs: Sequence[Config], rows: RowStore, data: Path | None, progress: bool) -> None:
    """Under torchrun every process takes its share of each batch; the first one writes the rows."""
    alone = sorted({c.method for c in configs} & {"vogn", "ivon"})
    if alone:
        raise InputError(f"torchrun cannot share the batches of {', '.join(alone)}; run them in one process")
    leader = distributed.rank() == 0
    for config in configs:
        row = train_one(config, data, checkpoints=rows.directory, progress=progress and leader)
        if leader:
            rows.put(row)
        distributed.barrier()


def _run_stacks(configs: Sequence[Config], rows: RowStore, data: Path | None, device: str, progress: bool) -> None:
    # Tensor cores for the products (10 bits of mantissa, sums in float32): as PyTorch's convolutions do by default.
    torch.set_float32_matmul_precision("high" if device.startswith("cuda") else "highest")
    plan = stacked_rows.plan_stacks(configs)
    bar = Progress(sum(group[0].epochs for group, _ in plan), "epochs of stacks", progress)
    loaded: dict[tuple[str, bool, int], data_sets.Split] = {}
    for group, seeds in plan:
        first = group[0]
        place = (first.dataset, first.select, first.limit)
        if place not in loaded:
            loaded.clear()
            source = data_sets.load(first.dataset, data)
            loaded[place] = data_sets.split(source, select=first.select, limit=first.limit).to(device)
        for row in stacked_rows.train_rows(group, seeds, loaded[place], on_epoch=lambda _: bar.advance()):
            rows.put(row)
    bar.close()


def _run_joblib(
    configs: Sequence[Config], rows: RowStore, data: Path | None, device: str, jobs: int, progress: bool
) -> None:
    # Reading the data once here turns a missing or corrupted file into one sentence, not one a worker.
    for name in {config.dataset for config in configs}:
        data_sets.load(name, data)
    if jobs == 1:
        for position, config in enumerate(configs, start=1):
            _work(config, rows.directory, data, device, 0, progress, f"run {position}/{len(configs)}")
        return
    try:
        import joblib
    except ImportError as error:
        raise MissingDependencyError("a sweep with several jobs needs joblib; install fenchel[deep]") from error
    bar = Progress(len(configs), "runs", progress)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    tasks = (joblib.delayed(_work)(c, rows.directory, data, device, threads, False, "") for c in configs)
    for _ in joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(tasks):
        bar.advance()
    bar.close()


def _run_dask(configs: Sequence[Config], rows: RowStore, data: Path | None, scheduler: str, progress: bool) -> None:
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise MissingDependencyError("--scheduler needs Dask; install fenchel[cluster]") from error
    bar = Progress(len(configs), "runs", progress)
    with Client(scheduler) as client:
        futures = client.map(_remote, list(configs), data=data, pure=False, key=[c.key() for c in configs])
        # A worker may have no disk in common with us: rows travel back and are written here, as they come.
        for future in as_completed(futures):
            row = future.result()
            rows.put(row)
            _journal(rows.directory, row["key"], "finished")
            bar.advance()
    bar.close()


def _remote(config: Config, data: Path | None) -> Row:
    return train_one(config, data)


def _work(
    config: Config, directory: Path, data: Path | None, device: str, threads: int, progress: bool, label: str
) -> None:
    if threads:
        torch.set_num_threads(threads)
    store = RowStore(directory)
    if store.get(config) is not None:
        return
    _journal(directory, config.key(), "started")
    row = train_one(config, data, device=device, checkpoints=directory, progress=progress, label=label)
    store.put(row)
    _journal(directory, config.key(), "finished")


def _journal(directory: Path, key: str, event: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"time": round(time.time(), 3), "key": key, "event": event, "process": os.getpid()}) + "\n"
    with (directory / "journal.log").open("a") as file:
        file.write(line)
