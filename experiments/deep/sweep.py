"""A sweep: a list of configurations, run wherever there is a machine, each exactly once.

On a GPU many runs share the device; on a CPU every run is one thread of a process (joblib), or a task of a Dask
cluster, so that its numbers do not depend on how many run at once. A finished run is a row on disk, a run under way a
checkpoint beside it: what is stopped, or killed, goes on from there, in another folder or on another machine too.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from experiments.deep import data as data_sets
from experiments.deep import distributed
from experiments.deep.config import Config
from experiments.deep.progress import Progress
from experiments.deep.queue import Splits, device_name, row_of, train_all
from experiments.deep.rows import Row, RowStore
from experiments.deep.training import Training, allow_precision
from experiments.registry import InputError, Stopped
from fenchel.errors import missing

__all__ = ["estimate", "run"]


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
        scheduler: the address of a Dask cluster. deadline: the `time.monotonic` at which to
            stop; runs under way are kept.

    Raises:
        InputError: the data cannot be read. MissingDependencyError: joblib or Dask is needed and not installed.
        Stopped: the deadline came first. RuntimeError: runs failed; the others have their rows.
    """
    distributed.start()
    pending = rows.missing(configs)
    place = _device(device)
    for config in pending:
        if scheduler is None:
            allow_precision(config.precision, place)
    bar = Progress(sum(config.epochs for config in pending), "epochs of runs", progress and distributed.rank() == 0)
    failed: list[str] = []
    if pending and scheduler is not None:
        _run_dask(pending, rows, data, scheduler, bar)
    elif pending and jobs > 1 and distributed.size() == 1:
        failed = _run_joblib(pending, rows, data, place, jobs, deadline, bar)
    elif pending:
        failed = _run_here(pending, rows, data, place, deadline, bar)
    bar.close()
    found = [rows.get(config) for config in configs]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(pending)} runs failed, the first: {failed[0]}")
    if distributed.rank() == 0 and None in found:
        raise Stopped(
            f"stopped with {len(rows.missing(configs))} of {len(configs)} runs to go; the same command goes on"
        )
    return [row for row in found if row is not None]


def _device(name: str | None) -> torch.device:
    return distributed.device() or torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _run_here(
    configs: Sequence[Config],
    rows: RowStore,
    data: Path | None,
    device: torch.device,
    deadline: float | None,
    bar: Progress,
    processes: int = 1,
) -> list[str]:
    alone = sorted({c.method for c in configs} & {"vogn", "ivon"})
    if alone and distributed.size() > 1:
        raise InputError(f"torchrun cannot share the batches of {', '.join(alone)}; run them in one process")

    def finish(row: Row) -> None:
        if distributed.rank() == 0:
            rows.put(row)
            _journal(rows.directory, row["key"])
        distributed.barrier()

    with _one_thread(device):
        splits = Splits(data, device)
        return train_all(
            configs,
            splits,
            device,
            finish,
            checkpoints=rows.directory,
            deadline=deadline,
            processes=processes,
            tick=bar.advance,
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


def _run_joblib(
    configs: Sequence[Config],
    rows: RowStore,
    data: Path | None,
    device: torch.device,
    jobs: int,
    deadline: float | None,
    bar: Progress,
) -> list[str]:
    # Reading the data once here turns a missing or corrupted file into one sentence, not one a worker.
    for name in {config.dataset for config in configs}:
        data_sets.load(name, data)
    try:
        import joblib
    except ImportError as error:
        raise missing("a sweep with several jobs", "joblib", "experiments") from error
    shares = [[config] for config in configs] if device.type == "cpu" else [list(configs[i::jobs]) for i in range(jobs)]
    me = os.getpid()
    tasks = (
        joblib.delayed(_work)(share, rows.directory, data, device, jobs, deadline, me) for share in shares if share
    )
    failed: list[str] = []
    for epochs, sentences in joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(tasks):
        failed += sentences
        for _ in range(epochs):
            bar.advance()
    return failed


def _work(
    configs: Sequence[Config],
    directory: Path,
    data: Path | None,
    device: torch.device,
    jobs: int,
    deadline: float | None,
    parent: int,
) -> tuple[int, list[str]]:
    _end_with(parent)
    pending = RowStore(directory).missing(configs)
    silent = Progress(0, "", False)
    failed = _run_here(pending, RowStore(directory), data, device, deadline, silent, processes=jobs)
    return sum(config.epochs for config in pending), failed


@cache
def _end_with(parent: int) -> None:
    """Let this process end when ``parent`` has: one that was killed outright cannot stop its workers.

    A worker that went on would train, for hours on a GPU, beside the run that resumes.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_dask(configs: Sequence[Config], rows: RowStore, data: Path | None, scheduler: str, bar: Progress) -> None:
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise missing("--scheduler", "Dask", "cluster") from error
    with Client(scheduler) as client:
        futures = client.map(_remote, list(configs), data=data, pure=False, key=[c.key() for c in configs])
        # A worker may have no disk in common with us: rows travel back and are written here, as they come.
        for future in as_completed(futures):
            row = future.result()
            rows.put(row)
            _journal(rows.directory, row["key"])
            for _ in range(row["settings"]["epochs"]):
                bar.advance()


def _remote(config: Config, data: Path | None) -> Row:
    device = _device(None)
    with _one_thread(device):
        training = Training(config, Splits(data, device).of(config))
        while not training.finished:
            training.advance()
        return row_of(training)


def _journal(directory: Path, key: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"time": round(time.time(), 3), "key": key, "event": "finished", "process": os.getpid()}) + "\n"
    with (directory / "journal.log").open("a") as file:
        file.write(line)


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
    lines, total, splits = [], 0.0, Splits(data, place)
    for kind, members in kinds.items():
        if kind in finished:
            epoch, source = sum(finished[kind]) / len(finished[kind]), f"{len(finished[kind])} finished runs"
        else:
            epoch, source = _seconds_of_an_epoch(members[0], splits), "three steps"
        seconds = epoch * sum(config.epochs for config in members)
        total += seconds
        lines.append(f"{len(members):4d} runs, {seconds:8.0f} s (from {source}): {' '.join(kind)}")
    return [*lines, f"{sum(map(len, kinds.values())):4d} runs, {total:8.0f} s of {device_name(place)} in all"]


def _kind(config: Config) -> tuple[str, ...]:
    plain = f"m={config.parts} batch={config.batch_size} {config.precision}{' augmented' if config.augment else ''}"
    plain += f" on {config.limit} images" if config.limit else ""
    return config.dataset, config.model, config.method, plain


def _seconds_of_an_epoch(config: Config, splits: Splits) -> float:
    with _one_thread(splits.device):
        training = Training(config, splits.of(config))
        training.advance()
        begin = time.perf_counter()
        for _ in range(3):
            training.advance()
        if splits.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - begin) / 3 * training.steps
