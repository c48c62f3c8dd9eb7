"""Timing of contenders side by side in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Call = Callable[[], Any]


def interleaved(
    calls: Mapping[str, Call], rounds: int, clock: Callable[[], float], warmup: int = 3
) -> dict[str, np.ndarray]:
    """Seconds of each call in each round; the order within a round turns, so none always follows the same one."""
    for _ in range(min(warmup, rounds)):
        for call in calls.values():
            call()
    order = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for i in range(rounds):
        for name in order[i % len(order) :] + order[: i % len(order)]:
            start = clock()
            calls[name]()
            seconds[name].append(clock() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def ratios(seconds: Mapping[str, np.ndarray], base: str) -> dict[str, list[float]]:
    """[first quartile, median, third quartile] over the rounds of each contender's time over the base's."""
    return {name: np.quantile(values / seconds[base], (0.25, 0.5, 0.75)).tolist() for name, values in seconds.items()}
