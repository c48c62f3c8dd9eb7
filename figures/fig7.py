"""Fig. 7: posteriors with f and f** over the exact one, and the bounds they maximize, over iterations."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.store import Stored
from fenchel.arrays import Array
from figures.style import EXACT, NEUTRAL, RELAXED, TEXT_WIDTH, TRUTH, caption
from figures.toy_panels import mass_levels

SAMPLED = "#009E73"
_CAPTION = r"""
One row for each precision $\delta_0$ of the prior. Left: the exact posterior in grey, by regions that hold 95,
86.4, 50 and 10 % of its mass; ellipses: two standard deviations of a Gaussian posterior, +: its mean; dotted: that
of the per-datum relaxation (a sum of biconjugates). Middle and right: over the iterations of the Bayesian learning
rule, solid: the bound that it maximizes (blue: the usual one, with $f$; vermilion: with the certified $f^{**}$;
green: with $f^{**}$ by the paper's sampled program with $K$ pieces, which overestimates it); dashed: the usual
bound (ELBO) at the same iterates; dotted: the relaxed bound with the certified $f^{**}$ there; thin horizontal
line: where the certified run of the middle panel ends; black dashes: the log evidence.
"""


def draw(stored: Stored) -> Figure:
    """One row for each delta0: posteriors; bounds with the certified f**; bounds with the sampled f**."""
    keys = list(stored.numbers)
    pieces = _pieces(stored)
    figure, grid = plt.subplots(len(keys), 3, figsize=(TEXT_WIDTH, 1.95 * len(keys) + 0.75), squeeze=False)
    for row, key in enumerate(keys):
        arrays = {name.removeprefix(f"{key}/"): a for name, a in stored.arrays.items() if name.startswith(f"{key}/")}
        _posteriors(grid[row, 0], arrays, pieces)
        _bounds(grid[row, 1], arrays, "relaxed", RELAXED)
        _bounds(grid[row, 2], arrays, f"sampled_{pieces}", SAMPLED)
        grid[row, 2].sharey(grid[row, 1])
        grid[row, 0].set_title(rf"posteriors, $\delta_0 = {key}$", loc="left")
        if row == 0:
            grid[row, 1].set_title(r"bounds, $f^{**}$ certified", loc="left")
            grid[row, 2].set_title(rf"bounds, $f^{{**}}$ sampled, $K = {pieces}$", loc="left")
    for column in range(3):
        grid[-1, column].set_xlabel(r"$\theta_1$" if column == 0 else "iteration")
    figure.legend(handles=_legend(pieces), loc="outside upper center", ncols=4)
    caption(figure, _CAPTION)
    return figure


def _pieces(stored: Stored) -> int:
    """The K shown: 100 as in the text, or the largest there is."""
    counts = [int(k) for k in stored.settings["pieces"]]
    return 100 if 100 in counts else max(counts)


def _posteriors(axes: Axes, arrays: dict[str, Array], pieces: int) -> None:
    density, first, second = arrays["density"], arrays["grid_0"], arrays["grid_1"]
    levels = mass_levels(density, (0.95, 0.864, 0.5, 0.1))
    axes.contourf(first, second, density.T, levels=levels, cmap="Greys", alpha=0.55)
    styles: list[tuple[str, str, Any]] = [
        ("exact_f", EXACT, "-"),
        (f"sampled_{pieces}", SAMPLED, "--"),
        ("per_datum", NEUTRAL, ":"),
        ("relaxed", RELAXED, "-"),
    ]
    for name, color, line in styles:
        mean, cov = arrays[f"{name}/mean"], arrays[f"{name}/cov"]
        ellipse = _ellipse(mean, cov)
        axes.plot(*ellipse.T, color=color, linestyle=line)
        axes.plot(*mean, marker="+", color=color, markersize=4)
    center, sd = arrays["posterior_mean"], np.sqrt(np.diag(arrays["posterior_cov"]))
    axes.set_xlim(center[0] - 2.6 * sd[0], center[0] + 3.0 * sd[0])
    axes.set_ylim(center[1] - 2.6 * sd[1], center[1] + 3.0 * sd[1])
    axes.set_ylabel(r"$\theta_2$")


def _bounds(axes: Axes, arrays: dict[str, Array], name: str, color: str) -> None:
    evidence = float(arrays["log_evidence"])
    own, elbo, certified = arrays[f"{name}/own"], arrays[f"{name}/elbo"], arrays[f"{name}/certified"]
    axes.axhline(evidence, color=TRUTH, linewidth=0.8, linestyle=(0, (6, 2)))
    axes.plot(arrays["exact_f/elbo"], color=EXACT)
    axes.plot(elbo, color=color, linestyle="--", linewidth=0.9)
    axes.plot(own, color=color)
    if not np.allclose(own, certified, atol=1e-6):
        axes.plot(certified, color=color, linestyle=":")
    axes.axhline(float(arrays["relaxed/final_relaxed"]), color=RELAXED, linewidth=0.4, alpha=0.6)
    axes.set_ylim(evidence - 22.0, evidence + 1.5)
    axes.set_xlim(0, len(own) - 1)
    axes.set_ylabel("nats")


def _ellipse(mean: Array, cov: Array, radius: float = 2.0) -> Array:
    """The curve of ``radius`` standard deviations, (200, 2)."""
    angle = np.linspace(0.0, 2.0 * np.pi, 200)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    return np.asarray(mean + radius * circle @ np.linalg.cholesky(cov).T)


def _legend(pieces: int) -> list[Line2D]:
    return [
        Line2D([], [], color=EXACT, label="with $f$ (variational)"),
        Line2D([], [], color=RELAXED, label="with $f^{**}$, certified"),
        Line2D([], [], color=SAMPLED, label=f"with $f^{{**}}$, sampled, $K$ = {pieces}"),
        Line2D([], [], color=TRUTH, linewidth=0.8, linestyle=(0, (6, 2)), label="log evidence"),
    ]
