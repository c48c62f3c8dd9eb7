"""Fig. 5: decision boundaries of posterior samples, and the posteriors at every prior precision."""

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
from figures.style import METHODS, TEXT_WIDTH, TRUTH
from figures.toy_panels import scatter_classes

__all__ = ["draw"]

Array = NDArray[Any]
SAMPLE = "#E69F00"


def draw(stored: Stored) -> Figure:
    """Left, the data with boundaries of exact samples; then one panel of posteriors for each delta0."""
    priors = list(stored.numbers["by_prior"])
    figure, grid = plt.subplots(1, 1 + len(priors), figsize=(TEXT_WIDTH, 2.3), squeeze=False)
    default = f"{stored.settings['default_prior_precision']:g}"
    _boundaries(grid[0, 0], stored, default)
    for axes, prior in zip(grid[0, 1:], priors, strict=True):
        _posterior(axes, stored, prior)
    handles = [
        Line2D([], [], color=TRUTH, marker="+", lw=0, label="MAP"),
        Line2D([], [], color=SAMPLE, marker="^", ms=4, lw=0, label="exact samples"),
        Line2D([], [], color=METHODS["SAM-SGD"], marker="x", ms=4, lw=0, label="SAM"),
        Line2D([], [], color=METHODS["SAM-Adam"], ls="--", label="SAM + Laplace"),
        Line2D([], [], color=METHODS["bSAM"], label="bSAM"),
        Line2D([], [], color="#999999", lw=4, label="exact posterior"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, handlelength=1.4, columnspacing=1.2)
    return figure


def _boundaries(axes: Axes, stored: Stored, prior: str) -> None:
    inputs = stored.arrays["inputs"]
    numbers = stored.numbers["by_prior"][prior]
    first = np.array([inputs[:, 0].min() - 1.5, inputs[:, 0].max() + 1.5])
    for theta in stored.arrays[f"samples_{prior}"]:
        axes.plot(first, -theta[0] / theta[1] * first, color=SAMPLE, lw=0.7)
    best = numbers["map"]
    axes.plot(first, -best[0] / best[1] * first, color=TRUTH, lw=1.4)
    scatter_classes(axes, inputs, stored.arrays["labels"], 7)
    axes.set_xlim(*first)
    axes.set_ylim(inputs[:, 1].min() - 1.5, inputs[:, 1].max() + 1.5)
    axes.set_title(rf"boundaries, $\delta_0 = {prior}$")
    axes.set_xlabel("$x_1$")
    axes.set_ylabel("$x_2$", labelpad=1)


def _posterior(axes: Axes, stored: Stored, prior: str) -> None:
    first, second = stored.arrays[f"first_{prior}"], stored.arrays[f"second_{prior}"]
    density = stored.arrays[f"density_{prior}"].astype(float)
    ordered = np.sort(density.ravel())[::-1]
    mass = np.cumsum(ordered) / ordered.sum()
    levels = [float(ordered[np.searchsorted(mass, share)]) for share in (0.95, 0.865, 0.6, 0.3)]
    axes.contourf(first, second, density, [*levels, float(density.max())], cmap="Greys", alpha=0.6)
    numbers = stored.numbers["by_prior"][prior]
    axes.plot(*stored.arrays[f"samples_{prior}"].T, "^", ms=2.8, color=SAMPLE, mec="white", mew=0.2)
    axes.plot(*numbers["map"], "+", color=TRUTH, ms=6, zorder=5)
    axes.plot(*numbers["sam"], "x", color=METHODS["SAM-SGD"], ms=4, zorder=5)
    _ellipse(axes, numbers["sam"], numbers["laplace_variance"], METHODS["SAM-Adam"], "--")
    _ellipse(axes, numbers["bsam_mean"], numbers["bsam_variance"], METHODS["bSAM"], "-")
    axes.set_xlim(first[0], first[-1])
    axes.set_ylim(second[0], second[-1])
    axes.set_title(rf"posteriors, $\delta_0 = {prior}$")
    axes.set_xlabel(r"$\theta_1$")
    axes.set_ylabel(r"$\theta_2$", labelpad=1)


def _ellipse(axes: Axes, mean: Array, variance: Array, color: str, line: str) -> None:
    """Two standard deviations (86.5 % of the mass)."""
    width, height = 4.0 * np.sqrt(np.asarray(variance, dtype=float))
    axes.add_patch(Ellipse(tuple(mean), width, height, fill=False, color=color, ls=line, lw=1.2))
