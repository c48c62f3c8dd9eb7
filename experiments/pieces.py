"""Pieces of a run: computed once and kept, so that an interrupted run resumes; independent ones side by side.

`python -m experiments` gives every process one thread, since sums depend on how many share them: the number of
processes changes nothing but the time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from experiments import progress
from experiments.files import read_arrays, write_arrays
from experiments.registry import Context

Compute = Callable[[], Mapping[str, Any]]


def piece(context: Context, key: str, compute: Compute) -> dict[str, np.ndarray]:
    """The arrays of one piece: computed, or read back where that was done before.

    ``compute`` returns arrays or numbers by name; everything comes back as arrays (0-d for numbers). Object
    arrays are refused, since nothing here is ever pickled.
    """
    path = context.partial / f"{key}.npz"
    stored = read_arrays(path)
    if stored is not None:
        return stored
    arrays = {k: np.asarray(v) for k, v in compute().items()}
    bad = [k for k, v in arrays.items() if v.dtype == object]
    if bad:
        raise TypeError(f"piece {key!r} holds object arrays {bad}; only plain arrays can be stored")
    write_arrays(path, arrays)
    return arrays


def pieces(context: Context, computes: Mapping[str, Compute]) -> dict[str, dict[str, np.ndarray]]:
    """Several pieces that do not need each other, by key, in ``context.jobs`` processes."""
    waiting = [key for key in computes if not os.path.lexists(context.partial / f"{key}.npz")]
    if context.jobs > 1 and len(waiting) > 1:
        import joblib

        tasks = (joblib.delayed(_elsewhere)(context, key, computes[key], os.getpid()) for key in waiting)
        parallel = joblib.Parallel(n_jobs=context.jobs, return_as="generator_unordered", batch_size=1)
        for _ in progress.bar(parallel(tasks), "pieces", context.progress, total=len(waiting)):
            pass
    return {key: piece(context, key, compute) for key, compute in computes.items()}


def _elsewhere(context: Context, key: str, compute: Compute, parent: int) -> None:
    end_with(parent)
    progress.silence()
    piece(context, key, compute)


@cache
def end_with(parent: int) -> None:
    """Let this process end when ``parent`` has: one that was killed outright cannot stop its workers.

    A worker that went on would compute, for hours on a GPU, beside the run that resumes.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
