"""f** on the logistic regression: the sampled program's error, the relaxation f - f**, and sums over blocks (C4)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.store import Stored
from figures.style import EXACT, NEUTRAL, RELAXED, TEXT_WIDTH, caption

_CAPTION = r"""
On the paper's logistic regression. (a) The worst-case expected loss at one $q$, by the paper's sampled program (a
dot a draw) with $K$ pieces, and certified. (b) The relative loss by relaxing, as the covariance of $q$ is scaled,
a line for each mean. (c) The data split into $m$ blocks, each relaxed by itself ($f_k^{**}$): the sum is below
$f^{**}$, by more the more blocks there are; a line for each $q$ and order of the data.
"""


def draw(stored: Stored) -> Figure:
    """Three panels: sampled program against K; f and f** as q widens; the gap of sums of blocks against m."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(TEXT_WIDTH, 2.2))
    a = stored.arrays
    truth = -float(stored.numbers["example"]["full"]["lower"])
    values = -a["sampled"]
    left.plot(
        np.repeat(a["pieces"], values.shape[1]), values.ravel(), ".", color=NEUTRAL, ms=3, label="sampled program"
    )
    left.plot(a["pieces"], np.nanmedian(values, axis=1), color=NEUTRAL, lw=0.8, label="its median")
    left.axhline(truth, color=RELAXED, label=r"certified $-f^{**}$")
    left.axhline(-float(stored.numbers["example"]["f"]), color=EXACT, label="$-f$")
    left.set(xscale="log", xlabel="pieces $K$", ylabel="worst-case expected loss", title="(a) the sampled program")
    _plain_ticks(left, a["pieces"])
    left.legend(loc="center right")

    scales = a["grid_scales"]
    f, lower = a["grid_f"].reshape(-1, len(scales)), a["grid_lower"].reshape(-1, len(scales))
    for row_f, row_lower in zip(f, lower, strict=True):
        middle.plot(scales, (row_f - row_lower) / np.abs(row_f), color=RELAXED, alpha=0.35, lw=0.7)
    middle.plot(scales, np.median((f - lower) / np.abs(f), axis=0), color=RELAXED, lw=1.8, label="median over means")
    middle.set(xscale="log", yscale="log", xlabel="scale of the covariance", ylabel=r"$(f - f^{**})\,/\,|f|$")
    middle.set_title("(b) the relaxation, every $q$ certified")
    middle.legend()

    upper = a["blocks_upper"]
    gap = (a["blocks_lower"][:, :1] - upper) / np.abs(upper[:, :1])
    for row in gap:
        right.plot(a["counts"][1:], row[1:], color=EXACT, alpha=0.4, lw=0.7)
    right.plot(a["counts"][1:], np.median(gap, axis=0)[1:], color=EXACT, lw=1.8, marker="o", ms=2.5, label="median")
    right.set(xscale="log", yscale="log", xlabel="number of blocks $m$")
    right.set_ylabel(r"$(f^{**} - \Sigma f_k^{**})\,/\,|f^{**}|$")
    _plain_ticks(right, np.array([2, 4, 6, 10, 20, 60]))
    right.set_title("(c) sums over blocks of the data")
    right.legend()
    caption(figure, _CAPTION)
    return figure


def _plain_ticks(axis: Axes, at: np.ndarray) -> None:
    axis.set_xticks(at, [str(int(k)) for k in at])
    axis.xaxis.set_minor_locator(NullLocator())
