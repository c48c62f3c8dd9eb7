"""Figure 8: the SAM variants over rho."""

from __future__ import annotations

from matplotlib.figure import Figure

from experiments.store import Stored
from figures.sensitivity_plot import curves
from figures.table_text import texts

__all__ = ["draw", "tables"]


def draw(stored: Stored) -> Figure:
    """Mean and standard deviation over seeds, rho in units of each method's selected value."""
    return curves(stored)


def tables(stored: Stored) -> dict[str, str]:
    """Markdown, LaTeX and HTML."""
    return texts(stored, [("", stored.numbers["table"])])
