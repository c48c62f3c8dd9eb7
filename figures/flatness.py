"""Claim B5: the well that each method chooses, against its scale rho or sigma."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.store import Stored
from figures.style import EXACT, NEUTRAL, RELAXED, TEXT_WIDTH, TRUTH, caption

_METHODS = ("SAM", "relaxed Bayes", "Bayes")
_COLORS = ("#009E73", RELAXED, EXACT)
_LINES = ("-", "--", ":")
_MARKERS = ("o", "s", "^")
_CAPTION = r"""
Which well a method chooses as its scale grows ($\rho$ of SAM, $\sigma$ of relaxed and of exact Bayes). (a), (b)
The loss (grey) and the chosen minimizer at every scale (right axis). (c), (d) The curvature at the bottom of the
chosen well. (e) Every jump between wells on random losses as the scale grows: curvature of the old and of the new
well; below the diagonal the new one is flatter. (f) How many of the jumps lower the curvature at the bottom, and
the sharpness at the scale.
"""


def draw(stored: Stored) -> Figure:
    """Two named losses (loss, chosen minimizer and its well's curvature), then every jump of the random losses."""
    figure, axes = plt.subplots(2, 3, figsize=(TEXT_WIDTH, 4.1), width_ratios=(1.1, 1.0, 1.0))
    for row, title in enumerate(("three wells", "a valley with a dimple")):
        _loss(axes[row, 0], stored, row, title)
        _curvature(axes[row, 1], stored, row)
    _jumps(axes[0, 2], stored)
    _rates(axes[1, 2], stored)
    for axis, letter in zip(axes.T.ravel(), "abcdef", strict=True):
        title = axis.get_title()
        axis.set_title("")
        axis.set_title(f"({letter}) {title}", loc="left")
    axes[0, 1].legend(loc="upper right", handlelength=2.2)
    caption(figure, _CAPTION)
    return figure


def _loss(axis: Axes, stored: Stored, k: int, title: str) -> None:
    a = stored.arrays
    scales = a["scales"]
    axis.plot(a["grid"], a[f"loss{k}"], color=NEUTRAL, lw=0.9)
    axis.set_xlim(-6.5, 6.5) if k == 0 else axis.set_xlim(-4.5, 5.5)
    axis.set_xlabel(r"$\theta$")
    axis.set_ylabel(r"loss $\ell(\theta)$", color=NEUTRAL)
    axis.tick_params(axis="y", colors=NEUTRAL)
    axis.set_title(title)
    inside = (a["grid"] >= axis.get_xlim()[0]) & (a["grid"] <= axis.get_xlim()[1])
    low, high = a[f"loss{k}"][inside].min(), a[f"loss{k}"][inside].max()
    axis.set_ylim(low - 0.08 * (high - low), high + 0.1 * (high - low))
    twin = axis.twinx()
    twin.spines["right"].set_visible(True)
    for i, method in enumerate(_METHODS):
        where, well = a[f"where{k}"][i], a[f"well{k}"][i]
        # A jump is not a path: break the line there.
        breaks = np.flatnonzero(np.diff(well)) + 1
        for part in np.split(np.arange(scales.size), breaks):
            twin.plot(where[part], scales[part], color=_COLORS[i], ls=_LINES[i], label=method)
    twin.set_yscale("log")
    twin.set_ylabel(r"scale $\rho$ or $\sigma$", labelpad=1)
    if k == 0:
        for letter, bottom in zip("ABC", a["bottoms0"], strict=True):
            level = float(np.interp(bottom, a["grid"], a["loss0"]))
            axis.annotate(letter, (bottom, level), (9, -2), textcoords="offset points", ha="center", va="top")
        axis.set_ylim(low - 0.2 * (high - low), None)


def _curvature(axis: Axes, stored: Stored, k: int) -> None:
    a = stored.arrays
    for i, method in enumerate(_METHODS):
        axis.step(
            a["scales"], a[f"curvature{k}"][i], where="post", color=_COLORS[i], ls=_LINES[i], label=method, lw=1.4
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(0.7 * a[f"bends{k}"].min(), 1.8 * a[f"bends{k}"].max())
    axis.set_xlabel(r"scale $\rho$ or $\sigma$")
    axis.set_ylabel("chosen well's curvature")
    axis.yaxis.set_minor_formatter(NullFormatter())
    bends = a[f"bends{k}"]
    axis.set_yticks(bends, [f"{b:.1f}" for b in bends]) if k == 1 else axis.set_yticks([1, 10], ["1", "10"])
    change = a[f"curvature{k}"][:, -1] - a[f"curvature{k}"][:, 0]
    axis.set_title(
        "flatter with scale" if (change < 0).all() else "sharper with scale" if (change > 0).all() else "mixed"
    )


def _jumps(axis: Axes, stored: Stored) -> None:
    a = stored.arrays
    both = np.vstack([a["random_jumps"], a["clustered_jumps"]])
    span = [0.6 * both[:, 3:5].min(), 1.6 * both[:, 3:5].max()]
    axis.fill_between(span, span, span[0], color=NEUTRAL, alpha=0.12, lw=0)
    axis.plot(span, span, color=TRUTH, lw=0.6)
    for i, method in enumerate(_METHODS):
        mine = both[both[:, 1] == i]
        axis.scatter(
            mine[:, 3],
            mine[:, 4],
            s=9,
            marker=_MARKERS[i],
            facecolors="none",
            edgecolors=_COLORS[i],
            lw=0.7,
            label=method,
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(*span)
    axis.set_ylim(*span)
    axis.text(0.36, 0.12, "flatter", transform=axis.transAxes, ha="center", color=NEUTRAL)
    axis.text(0.2, 0.62, "sharper", transform=axis.transAxes, ha="center", color=NEUTRAL)
    axis.set_xlabel("curvature before a jump")
    axis.set_ylabel("curvature after it")
    axis.set_title("jumps, random losses")


def _rates(axis: Axes, stored: Stored) -> None:
    families = ("random", "clustered")
    kinds = (("to smaller curvature", "curvature at the bottom"), ("to smaller sharpness", "sharpness at the scale"))
    labels = []
    position = 0.0
    for method, color in zip(_METHODS, _COLORS, strict=True):
        for j, (key, _) in enumerate(kinds):
            good = sum(stored.numbers[f][method][key] for f in families)
            total = sum(stored.numbers[f][method]["jumps"] for f in families)
            axis.barh(position, good / total, height=0.8, color=color, alpha=1.0 if j == 0 else 0.45)
            axis.text(
                0.02, position, f"{good} of {total}", va="center", color="white" if j == 0 else TRUTH, fontsize=6.5
            )
            labels.append((position, ("curvature" if j == 0 else "sharpness")))
            position += 1.0
        axis.text(0.0, position - 2.72, method, va="center", fontsize=7, color=color)
        position += 1.0
    axis.set_yticks([p for p, _ in labels], [t for _, t in labels])
    axis.set_ylim(position - 1.3, -1.1)
    axis.set_xlim(0.0, 1.0)
    axis.set_xlabel("share of jumps that lower it")
    axis.set_title("what jumps lower")
