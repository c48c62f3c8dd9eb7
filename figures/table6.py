"""Table 6: all methods on the small networks."""

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
    main = ("Bayesian methods average over samples", stored.numbers["table"])
    return texts(
        stored,
        [main, ("Predictions at the mean", stored.numbers["table_mean"])],
        ["The published values of this table are not known to us; IVON is not in the paper."],
    )
