"""Progress bars: one a phase, switchable, absent where tqdm is not installed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def bar(items: Sequence[T], label: str, shown: bool) -> Iterable[T]:
    """``items`` with a progress bar on standard error where ``shown``."""
    if not shown:
        return items
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return items
    wrapped: Iterable[T] = tqdm(items, desc=label)
    return wrapped
