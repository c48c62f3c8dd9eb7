"""Progress bars: one a phase, switchable, absent where tqdm is not installed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")
_silent = False


def silence() -> None:
    """No bars in this process: a worker's would be drawn over each other."""
    global _silent
    _silent = True


def bar(items: Iterable[T], label: str, shown: bool, *, total: int | None = None) -> Iterable[T]:
    """``items`` with a progress bar on standard error where ``shown``; ``total``: how many they are."""
    if not shown or _silent:
        return items
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return items
    wrapped: Iterable[T] = tqdm(items, desc=label, total=total)
    return wrapped
