"""Table 4: samples in model averaging."""

from __future__ import annotations

from matplotlib.figure import Figure

from experiments.store import Stored
from figures.table_plot import dots
from figures.table_text import texts

__all__ = ["draw", "tables"]


def draw(stored: Stored) -> Figure:
    """One panel a metric."""
    return dots(stored)


def tables(stored: Stored) -> dict[str, str]:
    """Markdown, LaTeX and HTML."""
    return texts(stored, [("", stored.numbers["table"])])
