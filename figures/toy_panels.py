"""What Figs. 3, 5 and 6 share: maps of a predictive probability (white: one half), and the data of two classes."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray

__all__ = ["CLASS_COLORS", "PROBABILITY", "probability_map", "scatter_classes"]

Array = NDArray[Any]

CLASS_COLORS = ("#B2182B", "#2166AC")
"""Class 0 red, class 1 blue."""

PROBABILITY = LinearSegmentedColormap.from_list("probability", ["#CA5A55", "#F6D5CC", "#FFFFFF", "#CFE1EF", "#4F8DC0"])


def probability_map(axes: Axes, first: Array, second: Array, probabilities: Array) -> Any:
    """P(class 1) on a grid (rows, columns), with contours at 0.1, 0.25, 0.75, 0.9 and the boundary at 0.5."""
    table = probabilities.reshape(len(second), len(first))
    image = axes.imshow(
        table,
        origin="lower",
        extent=(first[0], first[-1], second[0], second[-1]),
        aspect="auto",
        vmin=0.0,
        vmax=1.0,
        cmap=PROBABILITY,
        interpolation="bilinear",
    )
    if table.min() < 0.5 < table.max():
        axes.contour(first, second, table, [0.1, 0.25, 0.75, 0.9], colors="#555555", linewidths=0.4)
        axes.contour(first, second, table, [0.5], colors="black", linewidths=1.0)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    return image


def scatter_classes(axes: Axes, inputs: Array, labels: Array, size: float = 9.0) -> None:
    """The data: class 0 (labels 0 or -1) red crosses, class 1 blue discs."""
    ones = labels > 0
    axes.scatter(inputs[~ones, 0], inputs[~ones, 1], s=size, marker="x", c=CLASS_COLORS[0], linewidths=0.8, zorder=3)
    axes.scatter(
        inputs[ones, 0], inputs[ones, 1], s=size, marker="o", c=CLASS_COLORS[1], edgecolors="white", lw=0.4, zorder=3
    )
