"""One look for every figure: sizes in inches, a colour-blind-safe palette, the paper's colours for f and f**."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.store import Stored

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


def caption(figure: Figure, text: str) -> None:
    """A caption below the figure, wrapped to its width: what every symbol in it means."""
    width, height = figure.get_size_inches()
    lines = [""]
    for word in re.findall(r"(?:\$[^$]*\$|[^\s$])+", text):  # a formula is not broken
        line = f"{lines[-1]} {word}".strip()
        if _shown_length(line) <= 19 * width:
            lines[-1] = line
        else:
            lines.append(word)
    figure.set_size_inches(width, height + 0.13 * len(lines))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=6.5, linespacing=1.25)


def _shown_length(line: str) -> int:
    """Roughly the number of letters that are drawn of a line with mathematics in it."""
    return len(re.sub(r"[${}^_]", "", re.sub(r"\\(mathrm|frac|[a-zA-Z]{6,}(?=\{))|\\[a-zA-Z]+", "x", line)))


def origin(stored: Stored) -> str:
    """On which data a deep result was trained, and by which trainer, as its settings tell it."""
    task = stored.settings.get("task")
    said = [f"on {task}"] if task else [d for d in stored.settings["deviations"] if " instead of a " in d]
    late = ["the runs are an earlier trainer's"] if stored.settings.get("earlier trainer") else []
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in [*said, *late])
