"""Many runs on one device: on a GPU their captured steps are replayed on streams, on a CPU they follow each other."""

from __future__ import annotations

import datetime
import platform
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from experiments import store
from experiments.deep import data as data_sets
from experiments.deep.config import Config
from experiments.deep.data import Split
from experiments.deep.evaluate import evaluate
from experiments.deep.rows import Row
from experiments.deep.training import Training
from experiments.registry import InputError

SAVE_SECONDS = 60.0


def split_of(config: Config, directory: Path | None, device: torch.device) -> Split:
    """The split that ``config`` trains on, read once for all runs on a device.

    Raises:
        InputError: the data are missing or corrupted.
    """
    return _split(config.dataset, directory, config.select, config.limit, device)


@lru_cache(maxsize=4)
def _split(name: str, directory: Path | None, select: bool, limit: int, device: torch.device) -> Split:
    return data_sets.split(data_sets.load(name, directory), select=select, limit=limit).to(device)


def at_once(config: Config, device: torch.device) -> int:
    """How many runs like ``config`` share a device: enough to fill a GPU, as its memory allows."""
    if device.type != "cuda":
        return 1
    return 8 if config.model == "resnet18" else 16 if config.model.startswith("resnet") else 64


def train_all(
    configs: Sequence[Config],
    data: Path | None,
    device: torch.device,
    finish: Callable[[Row], None],
    *,
    checkpoints: Path | None = None,
    deadline: float | None = None,
    processes: int = 1,
    tick: Callable[[str], None] = lambda note: None,
) -> list[str]:
    """Train the runs in their order, as many at a time as the device takes; each ends in ``finish(row)``.

    Args:
        checkpoints: where runs under way are kept. deadline: the `time.monotonic` at which they are left there.
        processes: that share the device with this one.
        tick: called after every epoch of every run.

    Returns:
        What failed, a sentence for each run; the others go on.
    """
    failed: list[str] = []
    for _, group in groupby(configs, key=lambda config: (config.precision, at_once(config, device))):
        waiting = deque(group)
        active: list[Training] = []
        room = max(1, at_once(waiting[0], device) // processes)
        begin = last = saved = time.monotonic()
        while waiting or active:
            while waiting and len(active) < room and not _over(deadline):
                config = waiting.popleft()
                path = None if checkpoints is None else checkpoints / f"{config.key()}.pt"
                try:
                    active.append(Training(config, split_of(config, data, device), checkpoint=path))
                except InputError:
                    raise
                except Exception as error:
                    traceback.print_exc(file=sys.stderr)
                    failed.append(f"{config.key()}: {error}")
                last = time.monotonic()
            for training in active:
                training.advance()
                if training.step == 0:
                    tick(f"loss {training.train_loss:.4f}")
            now = time.monotonic()
            for training in active:
                training.seconds += (now - last) / (len(active) * processes)
            last = now
            done = [training for training in active if training.finished]
            active = [training for training in active if not training.finished]
            for training in done:
                finish(row_of(training, together=(len(active) + len(done)) * processes))
                if training.checkpoint is not None:
                    training.checkpoint.unlink(missing_ok=True)
            if _over(deadline) or (now - saved > SAVE_SECONDS and now - begin > SAVE_SECONDS):
                for training in active:
                    training.save()
                saved = time.monotonic()
            if _over(deadline):
                return failed
    return failed


def _over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def row_of(training: Training, *, together: int = 1) -> Row:
    """Everything the tables need of a finished run, and where, when and by which code it was trained."""
    begin = time.perf_counter()
    metrics, config, device = evaluate(training), training.config, training.split.images.device
    on_gpu = device.type == "cuda"
    return {
        "key": config.key(),
        "settings": config.settings(),
        "metrics": metrics,
        "train_loss": training.train_loss,
        "diverged": training.diverged,
        "seconds": round(training.seconds, 3),
        "evaluation_seconds": round(time.perf_counter() - begin, 3),
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "ran": f"captured steps, {together} runs at once" if on_gpu else "eager, one thread",
        "device": device_name(device),
        **trained_by(),
    }


def device_name(device: torch.device) -> str:
    """The model of a GPU, without the vendor's suffix of memory type and size; the architecture of a processor."""
    on_gpu = device.type == "cuda"
    return " ".join(torch.cuda.get_device_name(device).split()[:2]) if on_gpu else f"cpu ({platform.machine()})"


def trained_by() -> dict[str, Any]:
    """Date, revision of the code, and versions."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "revision": store.revision(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
