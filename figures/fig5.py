"""Fig. 5: decision boundaries of posterior samples, and the posteriors at every prior precision, of one draw."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from experiments.store import Stored
from figures.style import TEXT_WIDTH, TRUTH, caption
from figures.toy_panels import COLORS, TITLES, mass_levels, scatter_classes

Array = NDArray[Any]
SAMPLE = "#E69F00"
LINES = {"SAM + Laplace": "--", "bSAM": "-", "bSAM, sqrt(N)": "-.", "ceiling": ":", "relaxed": (0, (1, 1))}
SHARES = (0.95, 0.865, 0.6, 0.3)
_CAPTION = r"""
Left: the data (crosses: class 0; discs: class 1) with the decision boundaries of samples of the exact posterior.
Right: the exact posterior at three precisions $\delta_0$ of the prior, in grey by regions that hold 95, 86.5, 60
and 30 % of its mass; ellipses: two standard deviations of a Gaussian posterior, which hold 86.5 % of its mass.
Best diagonal: the variational optimum among diagonal Gaussians; $f^{**}$: that of relaxed Bayes (Eq. 18).
"""


def draw(stored: Stored) -> Figure:
    """Left, the data with boundaries of exact samples; then one panel of posteriors for each delta0."""
    priors = [f"{prior:g}" for prior in stored.settings["priors"]]
    figure, grid = plt.subplots(1, 1 + len(priors), figsize=(TEXT_WIDTH, 2.4), squeeze=False)
    _boundaries(grid[0, 0], stored, priors[-1])
    for axes, prior in zip(grid[0, 1:], priors, strict=True):
        _posterior(axes, stored, prior)
    handles = [
        Line2D([], [], color="#999999", lw=4, label="exact (95, 86.5, 60, 30 % of its mass)"),
        Line2D([], [], color=SAMPLE, marker="^", ms=4, lw=0, label="exact samples"),
        Line2D([], [], color=COLORS["SAM"], marker="x", ms=4, lw=0, label="SAM"),
        *(Line2D([], [], color=COLORS[n], ls=line, label=TITLES.get(n, n)) for n, line in LINES.items()),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, handlelength=1.6)
    caption(figure, _CAPTION)
    return figure


def _boundaries(axes: Axes, stored: Stored, prior: str) -> None:
    inputs = stored.arrays["inputs"]
    first = np.array([inputs[:, 0].min() - 1.5, inputs[:, 0].max() + 1.5])
    for theta in stored.arrays[f"{prior}/samples"]:
        axes.plot(first, -theta[0] / theta[1] * first, color=SAMPLE, lw=0.7)
    best = stored.arrays[f"{prior}/SAM/mean"]
    axes.plot(first, -best[0] / best[1] * first, color=TRUTH, lw=1.4)
    scatter_classes(axes, inputs, stored.arrays["labels"], 7)
    axes.set_xlim(*first)
    axes.set_ylim(inputs[:, 1].min() - 1.5, inputs[:, 1].max() + 1.5)
    axes.set_title(rf"boundaries, $\delta_0 = {prior}$ (black: SAM)", fontsize=7)
    axes.set_xlabel(f"$x_1$ (draw {stored.settings['draw']})")
    axes.set_ylabel("$x_2$", labelpad=1)


def _posterior(axes: Axes, stored: Stored, prior: str) -> None:
    first, second = stored.arrays[f"{prior}/first"], stored.arrays[f"{prior}/second"]
    density = stored.arrays[f"{prior}/density"].astype(float)
    axes.contourf(first, second, density, mass_levels(density, SHARES), cmap="Greys", alpha=0.6)
    axes.plot(*stored.arrays[f"{prior}/samples"].T, "^", ms=2.8, color=SAMPLE, mec="white", mew=0.2)
    axes.plot(*stored.arrays[f"{prior}/SAM/mean"], "x", color=COLORS["SAM"], ms=4, zorder=5)
    for name, line in LINES.items():
        mean, variance = stored.arrays[f"{prior}/{name}/mean"], stored.arrays[f"{prior}/{name}/variance"]
        _ellipse(axes, mean, variance, COLORS[name], line)
    axes.set_xlim(first[0], first[-1])
    axes.set_ylim(second[0], second[-1])
    axes.set_title(rf"posteriors, $\delta_0 = {prior}$")
    axes.set_xlabel(r"$\theta_1$")
    axes.set_ylabel(r"$\theta_2$", labelpad=1)


def _ellipse(axes: Axes, mean: Array, variance: Array, color: str, line: Any) -> None:
    width, height = 4.0 * np.sqrt(np.asarray(variance, dtype=float))
    axes.add_patch(Ellipse(tuple(mean), width, height, fill=False, color=color, ls=line, lw=1.2))
