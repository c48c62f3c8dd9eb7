"""One progress bar with the time left, or silence."""

from __future__ import annotations

from typing import Any

__all__ = ["Progress"]


class Progress:
    """Counts to ``total`` on stderr where ``show`` is set and tqdm is installed."""

    def __init__(self, total: int, label: str, show: bool) -> None:
        self._bar: Any = None
        if show and total:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, desc=label, unit="", smoothing=0.05)

    def advance(self, note: str = "") -> None:
        """One more is done."""
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(1)

    def close(self) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.close()
