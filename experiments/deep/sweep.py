"""A sweep: a list of configurations, run wherever there is a machine, each exactly once.

On a GPU many runs share the device; on a CPU every run is one thread of a process (joblib, here or on a Dask cluster),
so that its numbers do not depend on how many run at once. A finished run is a row on disk, a run under way a
checkpoint beside it: what is stopped, or killed, goes on from there, in another folder or on another machine too.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.deep import data as data_sets
from experiments.deep.config import Config
from experiments.deep.queue import device_name, split_of, train_all
from experiments.deep.rows import Row, RowStore
from experiments.deep.training import Training, allow_precision
from experiments.pieces import end_with
from experiments.registry import Stopped
from fenchel.errors import missing
from fenchel.optim import SettingsWarning


def run(
    configs: Sequence[Config],
    rows: RowStore,
    *,
    data: Path | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
    device: str | None = None,
    deadline: float | None = None,
) -> list[Row]:
    """Run what has no row yet and return the rows of ``configs`` in their order.

    Args:
        jobs: processes; on a GPU they share it, so that one captures while others compute.
        scheduler: the address of a Dask cluster whose workers see the folders of the rows and of the data.
        deadline: the `time.monotonic` at which to stop; runs under way are kept.

    Raises:
        InputError: the data cannot be read. Stopped: the deadline came first. MissingDependencyError: Dask is missing.
        RuntimeError: runs failed; the others have their rows.
    """
    pending = rows.missing(configs)
    place = _device(device)
    for config in pending:
        allow_precision(config.precision, place)
    failed: list[str] = []
    total, silent = sum(config.epochs for config in pending), not (progress and pending)
    with tqdm(total=total, desc="epochs of runs", unit="", smoothing=0.05, disable=silent) as bar:
        if pending and (jobs > 1 or scheduler is not None):
            me = os.getpid() if scheduler is None else None
            with _cluster(scheduler):
                failed = _run_joblib(pending, rows, data, place, jobs, deadline, bar, me)
        elif pending:
            failed = _run_here(pending, rows, data, place, deadline, bar)
    found = [rows.get(config) for config in configs]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(pending)} runs failed, the first: {failed[0]}")
    if None in found:
        raise Stopped(
            f"stopped with {len(rows.missing(configs))} of {len(configs)} runs to go; the same command goes on"
        )
    return [row for row in found if row is not None]


def _device(name: str | None) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _run_here(
    configs: Sequence[Config],
    rows: RowStore,
    data: Path | None,
    device: torch.device,
    deadline: float | None,
    bar: Any = None,
    processes: int = 1,
) -> list[str]:
    def tick(note: str) -> None:
        if bar is not None:
            bar.set_postfix_str(note, refresh=False)
            bar.update()

    with _one_thread(device), warnings.catch_warnings():
        warnings.simplefilter("ignore", SettingsWarning)  # a search tries such settings; what diverges is counted
        return train_all(
            configs,
            data,
            device,
            rows.put,
            checkpoints=rows.directory,
            deadline=deadline,
            processes=processes,
            tick=tick,
        )


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU a run has one thread, always: sums depend on how many share them."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _cluster(scheduler: str | None) -> Iterator[None]:
    """joblib's processes are those of the cluster, if there is one."""
    if scheduler is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise missing("--scheduler", "Dask", "cluster") from error
    import joblib

    with Client(scheduler), joblib.parallel_config("dask", n_jobs=-1):
        yield


def _run_joblib(
    configs: Sequence[Config],
    rows: RowStore,
    data: Path | None,
    device: torch.device,
    jobs: int,
    deadline: float | None,
    bar: Any,
    me: int | None,
) -> list[str]:
    import joblib

    # Reading the data once here turns a missing or corrupted file into one sentence, not one a worker.
    for name in {config.dataset for config in configs}:
        data_sets.load(name, data)
    shares = [[config] for config in configs] if device.type == "cpu" else [list(configs[i::jobs]) for i in range(jobs)]
    tasks = (
        joblib.delayed(_work)(share, rows.directory, data, device, jobs, deadline, me) for share in shares if share
    )
    failed: list[str] = []
    parallel = joblib.Parallel(n_jobs=jobs if jobs > 1 else None, return_as="generator_unordered", batch_size=1)
    for epochs, sentences in parallel(tasks):
        failed += sentences
        bar.update(epochs)
    return failed


def _work(
    configs: Sequence[Config],
    directory: Path,
    data: Path | None,
    device: torch.device,
    jobs: int,
    deadline: float | None,
    parent: int | None,
) -> tuple[int, list[str]]:
    if parent is not None:
        end_with(parent)
    pending = RowStore(directory).missing(configs)
    failed = _run_here(pending, RowStore(directory), data, device, deadline, processes=jobs)
    return sum(config.epochs for config in pending), failed


def estimate(configs: Sequence[Config], rows: RowStore, data: Path | None, *, device: str | None = None) -> list[str]:
    """A line for each kind of run (data, network, method, batch), with the seconds that it would take on this device.

    From finished runs of the kind on this device where there are any; else from a few steps of one of them alone,
    which on a GPU, where many share the device, is an upper bound.
    """
    place = _device(device)
    kinds: dict[tuple[str, ...], list[Config]] = {}
    for config in rows.missing(configs):
        kinds.setdefault(_kind(config), []).append(config)
    finished: dict[tuple[str, ...], list[float]] = {}
    for row in rows.every():
        if row["device"] == device_name(place):
            config = Config.from_settings(row["settings"])
            finished.setdefault(_kind(config), []).append(row["seconds"] / config.epochs)
    lines, total = [], 0.0
    for kind, members in kinds.items():
        if kind in finished:
            epoch, source = sum(finished[kind]) / len(finished[kind]), f"{len(finished[kind])} finished runs"
        else:
            epoch, source = _seconds_of_an_epoch(members[0], data, place), "three steps"
        seconds = epoch * sum(config.epochs for config in members)
        total += seconds
        lines.append(f"{len(members):4d} runs, {seconds:8.0f} s (from {source}): {' '.join(kind)}")
    return [*lines, f"{sum(map(len, kinds.values())):4d} runs, {total:8.0f} s of {device_name(place)} in all"]


def _kind(config: Config) -> tuple[str, ...]:
    plain = f"m={config.parts} batch={config.batch_size} {config.precision}{' augmented' if config.augment else ''}"
    plain += f" on {config.limit} images" if config.limit else ""
    return config.dataset, config.model, config.method, plain


def _seconds_of_an_epoch(config: Config, data: Path | None, device: torch.device) -> float:
    with _one_thread(device):
        training = Training(config, split_of(config, data, device))
        training.advance()
        begin = time.perf_counter()
        for _ in range(3):
            training.advance()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - begin) / 3 * training.steps
