"""Theorem 2: the atlas of where it holds, the map rho <-> sigma, and the smallest counterexamples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter, NullLocator

from experiments.store import Stored
from figures.style import EXACT, NEUTRAL, RELAXED, TEXT_WIDTH, TRUTH, caption
from figures.table_text import grid

_SAM = "#009E73"
# In the order of the categories: holds, then the ways to fail, from blue to red; grey where undecided.
_COLORS = ("#0072B2", "#E69F00", "#F0E442", "#56B4E9", "#D55E00", "#CC79A7", "#BBBBBB")
_MAPPED = ("quadratic, center 1", "softplus", "logistic, separable", "three wells")
_COLUMNS = (
    ("pairs map", "(a) pairs map"),
    ("proximal maximizer", "(b) proximal max."),
    ("local", "(c) local"),
    ("global", "(c) global"),
    ("active", "(d) active"),
    ("kink", "(e) kink"),
    ("prior", "prior exists"),
    ("holds", "Theorem 2 holds"),
    ("undecided", "undecided"),
)
_ATLAS_CAPTION = r"""
What the minimizer of SAM with radius $\rho$ and weight decay $\delta$ is, cell by cell. Pair: a stationary pair
$(\theta,\varepsilon)$ as in the proof of Theorem 2, mapped to $\sigma^2=\rho/|\nabla\ell|$. Proximal maximizer:
$\varepsilon$ maximizes $\ell(\theta+\varepsilon)-|\varepsilon|^2/2\sigma^2$ globally. Kink: several worst
perturbations and no pair; recovered, if relaxed Bayes has its minimum there at the multiplier's $\sigma$. No such
prior: none has the precision that Eq. 12 asks for. Inactive: a worst perturbation is shorter than $\rho$.
"""
_MAP_CAPTION = r"""
Dots: for each $\rho$ the $\sigma$ of SAM's minimizer, coloured by what it is (see the atlas). Vermilion line: for
each $\sigma$ the length $|\varepsilon^*|$ of the proximal perturbation at the minimizer of relaxed Bayes; a band
between the shortest and the longest where there are several. Where the theorem holds the dots lie on the line.
"""
_LANDSCAPE_CAPTION = r"""
The smallest example found. $E_{\mathrm{SAM}}$: the largest $\ell$ within $\rho$, plus
$\frac{\delta}{2}|\theta|^2$. $E_{\mathrm{relaxed}}$: Eq. 12 at $\sigma$, raised by $\rho^2/2\sigma^2$ so that the
two can be compared.
"""


def draw(stored: Stored) -> dict[str, Figure]:
    """The atlas, the map, and one figure a drawn counterexample."""
    figures = {"": _atlas(stored), "map": _map(stored)}
    drawn = {key: _part(stored, key) for key in ("pair", "kink") if f"{key}_theta" in stored.arrays}
    names = {"pair": "pair that is no proximal maximizer", "kink": "kink not recovered"}
    for key, part in drawn.items():
        figures[f"smallest_{key}"] = _landscape(part, stored.numbers["smallest"][names[key]])
    return figures


def tables(stored: Stored) -> str:
    """The atlas as a table: cells a family and how many of them have each property."""
    rows = stored.numbers["table"]
    head = ["loss", "cells", *(title for _, title in _COLUMNS)]
    body = [[row["loss"], str(row["cells"]), *(str(row[key]) for key, _ in _COLUMNS)] for row in rows]
    return grid(head, body) + "\n"


def _atlas(stored: Stored) -> Figure:
    names = stored.settings["families"]
    columns = 4
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(TEXT_WIDTH, 1.35 * rows + 0.9), squeeze=False, sharex=True, sharey=True
    )
    cmap, norm = ListedColormap(_COLORS), BoundaryNorm(np.arange(-0.5, len(_COLORS)), len(_COLORS))
    for k, axis in enumerate(axes.ravel()):
        if k >= len(names):
            axis.axis("off")
            continue
        rhos, deltas = stored.arrays[f"rhos{k}"], stored.arrays[f"deltas{k}"]
        axis.pcolormesh(
            _edges(rhos), _edges(deltas), stored.arrays[f"category{k}"], cmap=cmap, norm=norm, ec="w", lw=0.3
        )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(names[k], fontsize=7)
        axis.set_xlim(*_edges(stored.arrays["rhos"])[[0, -1]])
        axis.set_ylim(*_edges(stored.arrays["deltas"])[[0, -1]])
        axis.spines[["top", "right"]].set_visible(False)
        if k % columns == 0:
            axis.set_ylabel(r"$\delta$")
        if k + columns >= len(names):
            axis.set_xlabel(r"$\rho$")
            axis.tick_params(labelbottom=True)
    used = sorted({int(c) for k in range(len(names)) for c in np.unique(stored.arrays[f"category{k}"])})
    labels = _labels(stored)
    handles = [Patch(facecolor=_COLORS[c], label=labels[c]) for c in used]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=2.0, handlelength=1.2)
    coarse = [names[k] for k in range(len(names)) if stored.arrays[f"rhos{k}"].size < stored.arrays["rhos"].size]
    note = f"On a coarser and shorter grid: {', '.join(coarse)}; white is not computed. " if coarse else ""
    open_ = [
        f"{r['undecided']} of {r['cells']} cells of {r['loss']}" for r in stored.numbers["table"] if r["undecided"]
    ]
    note += f"In {', '.join(open_)} the minimizer is the best one found, and not proved." if open_ else ""
    caption(figure, _ATLAS_CAPTION + note)
    return figure


def _labels(stored: Stored) -> list[str]:
    return [text.replace("delta sigma^2 >= 1", r"$\delta\sigma^2 \geq 1$") for text in stored.settings["categories"]]


def _edges(centers: np.ndarray) -> np.ndarray:
    logs = np.log(centers)
    steps = np.diff(logs)
    inner = logs[:-1] + 0.5 * steps
    return np.asarray(np.exp(np.concatenate([[logs[0] - 0.5 * steps[0]], inner, [logs[-1] + 0.5 * steps[-1]]])))


def _map(stored: Stored) -> Figure:
    a = _part(stored, "map")
    figure, axes = plt.subplots(1, len(_MAPPED), figsize=(TEXT_WIDTH, 2.15), sharey=True, sharex=True)
    for k, (axis, name) in enumerate(zip(axes, _MAPPED, strict=True)):
        radius = a[f"radius{k}"]
        axis.fill_betweenx(a["sigmas"], radius[:, 0], radius[:, 1], color=RELAXED, alpha=0.2, lw=0)
        for side in (0, 1):
            axis.plot(radius[:, side], a["sigmas"], color=RELAXED, lw=0.9)
        for c in range(len(_COLORS)):
            mine = (a[f"category{k}"] == c) & np.isfinite(a[f"sigma{k}"])
            axis.scatter(a["rhos"][mine], a[f"sigma{k}"][mine], s=11, color=_COLORS[c], ec=TRUTH, lw=0.25, zorder=3)
        axis.axhline(float(a["delta"]) ** -0.5, color=NEUTRAL, lw=0.7, ls=":")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(0.8 * a["rhos"][0], 1.25 * a["rhos"][-1])
        axis.set_ylim(0.15, 5.0)
        axis.yaxis.set_minor_locator(NullLocator())
        axis.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(name, fontsize=7)
        axis.set_xlabel(r"$\rho$")
    axes[0].set_ylabel(r"$\sigma$")
    used = sorted({int(c) for k in range(len(_MAPPED)) for c in np.unique(a[f"category{k}"])})
    labels = _labels(stored)
    handles: list[Any] = [
        Line2D([], [], marker="o", ls="", mfc=_COLORS[c], mec=TRUTH, mew=0.3, ms=4, label=f"SAM: {labels[c]}")
        for c in used
    ]
    handles.append(Line2D([], [], color=RELAXED, label=r"relaxed Bayes: $|\varepsilon^*|$ over $\sigma$ (band: kinks)"))
    handles.append(Line2D([], [], color=NEUTRAL, ls=":", label=r"$\delta\sigma^2 = 1$: no prior above"))
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=6.5, handlelength=1.4)
    caption(figure, rf"$\delta = {float(a['delta']):g}$. {_MAP_CAPTION}")
    return figure


def _part(stored: Stored, key: str) -> dict[str, np.ndarray]:
    prefix = f"{key}_"
    return {name.removeprefix(prefix): value for name, value in stored.arrays.items() if name.startswith(prefix)}


def _landscape(part: Mapping[str, np.ndarray], example: Mapping[str, Any]) -> Figure:
    text = rf"$\rho = {example['rho']:g}$, $\delta = {example['delta']:g}$, $\sigma = {float(part['sigma']):.3g}$"
    figure, axes = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 2.7))
    panels = (
        ("sam", r"$E_{\mathrm{SAM}}$", part["theta"], _SAM, "SAM minimizer"),
        ("prox", r"$E_{\mathrm{relaxed}} + \rho^2/2\sigma^2$", part["relaxed"], RELAXED, "relaxed minimizer"),
    )
    for axis, (key, title, best, color, label) in zip(axes, panels, strict=True):
        if "axis" in part:
            _curve(axis, part, key, best, color, label)
        else:
            _surface(axis, part, key)
        axis.set_title(title)
    if "axis" not in part:
        for axis in axes:
            # The ring is seen around the square where both are at one place.
            axis.plot(*part["theta"], "o", ms=11, mfc="none", mec=_SAM, mew=2, label="SAM minimizer")
            axis.plot(*part["relaxed"], "s", ms=5, mfc=RELAXED, mec=TRUTH, mew=0.6, label="relaxed minimizer")
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")
    else:
        top = max(float(a.get_ylim()[1]) for a in axes)
        low = min(float(a.get_ylim()[0]) for a in axes)
        for axis in axes:
            axis.set_ylim(low, top)
    figure.suptitle(rf"$\ell = {_formula(str(example['loss']))}$,  {text}", fontsize=8)
    shades = "Grey: the loss itself." if "axis" in part else "Darker: lower; the contours are quantiles of the values."
    caption(figure, _LANDSCAPE_CAPTION + shades)
    return figure


def _formula(text: str) -> str:
    """The loss's formula as the experiment spells it, in mathtext."""
    text = re.sub(r" \+ -?0 [xy]|\b0 x \+ ", "", text).replace("+ -", "- ")
    text = re.sub(r"(?<![\d.])1 (?=[txy])", "", text)
    text = re.sub(r"-\((-?[\w.]+ ?[txy]?|[txy])\)", lambda m: "-" + m.group(1), text).replace("--", "")
    for name, tex in (("log", r"\log"), ("exp", r"\exp"), ("x", r"\theta_1"), ("y", r"\theta_2"), ("t", r"\theta")):
        text = re.sub(rf"\b{name}\b", tex.replace("\\", r"\\"), text)
    return text


def _curve(axis: Axes, part: Mapping[str, np.ndarray], key: str, best: np.ndarray, color: str, label: str) -> None:
    grid, values = part["axis"], part[key]
    axis.plot(grid, part["loss"], color=NEUTRAL, lw=0.8, label=r"$\ell + \frac{\delta}{2}\theta^2$")
    axis.plot(grid, values, color=color)
    level = float(np.interp(best[0], grid, values))
    axis.plot(best[0], level, marker="o", ms=4, color=color, mec=TRUTH, mew=0.5, ls="", label=label)
    other = part["theta"] if key == "prox" else None
    if other is not None:
        axis.axvline(float(other[0]), color=_SAM, lw=0.8, ls="--", label="SAM minimizer")
    axis.set_xlabel(r"$\theta$" if key == "sam" else r"$m$")
    axis.legend(loc="best")


def _surface(axis: Axes, part: Mapping[str, np.ndarray], key: str) -> None:
    values = part[key].T
    levels = np.quantile(values, np.linspace(0.0, 0.9, 12)[1:])
    axis.contourf(part["x"], part["y"], values, levels=np.append(values.min(), levels), cmap="Greys_r", alpha=0.55)
    axis.contour(part["x"], part["y"], values, levels=levels, colors=EXACT, linewidths=0.5)
    axis.set_xlabel(r"$\theta_1$" if key == "sam" else r"$m_1$")
    axis.set_ylabel(r"$\theta_2$" if key == "sam" else r"$m_2$")
    axis.set_aspect("equal")
