"""Table 1: CIFAR without augmentation."""

from __future__ import annotations

from matplotlib.figure import Figure

from experiments.store import Stored
from figures.table_plot import status
from figures.table_text import texts

__all__ = ["draw", "tables"]


def draw(stored: Stored) -> Figure:
    """What was run, or what running it needs."""
    return status(stored)


def tables(stored: Stored) -> dict[str, str]:
    """Markdown, LaTeX and HTML."""
    return texts(stored, [("", stored.numbers["table"])], ["The published values are not known to us."])
