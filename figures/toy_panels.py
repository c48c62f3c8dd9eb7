"""What Figs. 3, 5 and 6 share: maps of a predictive probability (white: one half), data of two classes, dot strips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures.style import METHODS, NEUTRAL, TEXT_WIDTH

Array = NDArray[Any]

CLASS_COLORS = ("#B2182B", "#2166AC")
"""Class 0 red, class 1 blue."""

TITLES = {
    "bSAM": "bSAM (Alg. 1)",
    "bSAM, sqrt(N)": r"bSAM, $\sqrt{N}$",
    "ceiling": "best diagonal",
    "relaxed": r"$f^{**}$",
}
COLORS = {
    "SAM": METHODS["SAM-SGD"],
    "SAM + Laplace": METHODS["SAM-Adam"],
    "bSAM": METHODS["bSAM"],
    "bSAM, sqrt(N)": "#8C3B00",
    "ceiling": "#000000",
    "relaxed": METHODS["VOGN"],
}

PROBABILITY = LinearSegmentedColormap.from_list("probability", ["#CA5A55", "#F6D5CC", "#FFFFFF", "#CFE1EF", "#4F8DC0"])


def probability_map(axes: Axes, first: Array, second: Array, probabilities: Array) -> Any:
    """P(class 1) on a grid (rows, columns), with contours at 0.1, 0.25, 0.75, 0.9 and the boundary at 0.5."""
    table = probabilities.reshape(len(second), len(first))
    image = shade(axes, first, second, table)
    if table.min() < 0.5 < table.max():
        axes.contour(first, second, table, [0.1, 0.25, 0.75, 0.9], colors="#555555", linewidths=0.4)
        axes.contour(first, second, table, [0.5], colors="black", linewidths=1.0)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    return image


def shade(axes: Axes, first: Array, second: Array, table: Array) -> Any:
    """Probabilities (rows, columns) as colours."""
    return axes.imshow(
        table,
        origin="lower",
        extent=(first[0], first[-1], second[0], second[-1]),
        aspect="auto",
        vmin=0.0,
        vmax=1.0,
        cmap=PROBABILITY,
        interpolation="bilinear",
    )


def mass_levels(density: Array, masses: Sequence[float]) -> list[float]:
    """Density levels that enclose the given shares of the mass, then the largest density: what `contourf` takes."""
    ordered = np.sort(density.ravel())[::-1]
    share = np.cumsum(ordered) / ordered.sum()
    return [*(float(ordered[np.searchsorted(share, mass)]) for mass in masses), float(ordered[0])]


def scatter_classes(axes: Axes, inputs: Array, labels: Array, size: float = 9.0) -> None:
    """The data: class 0 (labels 0 or -1) red crosses, class 1 blue discs."""
    ones = labels > 0
    axes.scatter(inputs[~ones, 0], inputs[~ones, 1], s=size, marker="x", c=CLASS_COLORS[0], linewidths=0.8, zorder=3)
    axes.scatter(
        inputs[ones, 0], inputs[ones, 1], s=size, marker="o", c=CLASS_COLORS[1], edgecolors="white", lw=0.4, zorder=3
    )


def strips(titles: Mapping[str, str], arrays: Mapping[str, Array], where: str, exact: str) -> Figure:
    """Doubt (top) and predictive KL (bottom) of every draw ``where``, a column for each key of ``titles``."""
    figure, grid = plt.subplots(2, max(1, len(titles)), figsize=(TEXT_WIDTH, 3.6), sharey="row", squeeze=False)
    for (top, bottom), (prefix, title) in zip(grid.T, titles.items(), strict=False):
        _strip(top, arrays, prefix, f"doubt_{where}")
        _strip(bottom, arrays, prefix, f"kl_{where}")
        top.axhline(0.0, color=NEUTRAL, lw=0.6, zorder=0)
        top.set_title(title)
        top.set_xticks([])
        bottom.set_yscale("log")
    grid[0, 0].set_ylabel("log doubt / exact doubt\n($< 0$: overconfident)", fontsize=7)
    grid[1, 0].set_ylabel(f"predictive KL from\n{exact} (nats)", fontsize=7)
    return figure


def _strip(axes: Axes, arrays: Mapping[str, Array], prefix: str, key: str) -> None:
    """By method, one dot a data set, of ``arrays[prefix/method/key]``, and a bar at the median."""
    rng = np.random.default_rng(0)
    names = [name for name in COLORS if f"{prefix}/{name}/{key}" in arrays]
    for place, name in enumerate(names):
        values = arrays[f"{prefix}/{name}/{key}"]
        values = np.where(np.isfinite(values), values, np.nan)
        x = place + rng.uniform(-0.22, 0.22, len(values))
        axes.plot(x, values, "o", ms=2, color=COLORS[name], alpha=0.6, mew=0)
        axes.plot([place - 0.35, place + 0.35], [np.nanmedian(values)] * 2, color=COLORS[name], lw=1.6)
    axes.set_xticks(range(len(names)), [TITLES.get(name, name) for name in names], rotation=40, ha="right")
