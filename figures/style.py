"""One look for every figure: sizes in inches, a colour-blind-safe palette, the paper's colours for f and f**."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

__all__ = ["COLUMN", "EXACT", "METHODS", "NEUTRAL", "RELAXED", "TEXT_WIDTH", "TRUTH", "publication"]

COLUMN = 3.3
TEXT_WIDTH = 6.9

# Okabe and Ito's palette; blue and red carry f and f** as in the paper.
EXACT = "#0072B2"
RELAXED = "#D55E00"
TRUTH = "#000000"
NEUTRAL = "#7F7F7F"
METHODS = {
    "SGD": "#7F7F7F",
    "SAM-SGD": "#0072B2",
    "SWAG": "#F0E442",
    "VOGN": "#CC79A7",
    "Adam": "#56B4E9",
    "SAM-Adam": "#009E73",
    "bSAM": "#D55E00",
    "IVON": "#E69F00",
}

_PARAMETERS: dict[Any, Any] = {
    "font.family": "serif",
    "mathtext.fontset": "cm",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}


@contextmanager
def publication() -> Iterator[None]:
    """Matplotlib settings for publication, undone afterwards."""
    with mpl.rc_context(_PARAMETERS):
        yield
