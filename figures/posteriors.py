"""Approximate posteriors against the exact one: widths and divergences as a figure, everything as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.store import Stored
from figures.style import EXACT, NEUTRAL, RELAXED, TEXT_WIDTH, caption
from figures.table_text import grid

_CAPTION = r"""
Gaussian approximations $q$ of the exact posterior $p$ of logistic regressions with $P$ parameters and the prior
$N(0, I/\delta_0)$. Width: geometric mean of the standard deviations over the exact ones (line: equal). KL of the
predictive: from the exact one, mean over held-out points. Variational: with $f$; then with $f^{**}$ by the sampled
program of the paper, certified, and datum by datum. Hollow: $f^{**}$ is only
bracketed, and $q$ is that of the proved majorant.
"""
METHODS: dict[str, tuple[str, str, str]] = {
    "exact_f": ("variational ($f$)", EXACT, "o"),
    "laplace": ("Laplace", NEUTRAL, "D"),
    "sampled": ("sampled $f^{**}$", "#009E73", "^"),
    "relaxed": ("$f^{**}$", RELAXED, "s"),
    "per_datum": (r"$\sum_i f_i^{**}$", "#CC79A7", "v"),
}
_PLAIN = {
    "exact": "exact",
    "exact_f": "variational (f)",
    "laplace": "Laplace",
    "sampled": "sampled f**",
    "relaxed": "f**",
    "per_datum": "sum of f_i**",
}
COLUMNS: dict[str, tuple[str, str]] = {
    "width": ("width", "{:.2f}"),
    "mean_shift": ("mean shift", "{:.2f}"),
    "kl_q_p": ("KL(q|p)", "{:.3f}"),
    "kl_p_q": ("KL(p|q)", "{:.3f}"),
    "wasserstein2": ("W2", "{:.3f}"),
    "elbo": ("ELBO", "{:.3f}"),
    "relaxed_lower": ("relaxed bound", "{:.3f}"),
    "nll": ("NLL", "{:.4f}"),
    "ece": ("ECE", "{:.4f}"),
    "kl_from_exact": ("predictive KL", "{:.5f}"),
}


def draw(stored: Stored) -> Figure:
    """One line a data set: width of the posterior, both divergences, distance of the predictive; hollow: bracketed."""
    rows = list(stored.numbers)
    panels = (
        ("width", "width / exact width", "linear"),
        ("kl_q_p", r"KL$(q\,\|\,p)$", "log"),
        ("kl_p_q", r"KL$(p\,\|\,q)$", "log"),
        ("kl_from_exact", "KL of the predictive", "log"),
    )
    figure, grid = plt.subplots(1, len(panels), figsize=(TEXT_WIDTH, 0.33 * len(rows) + 1.35), sharey=True)
    offsets = np.linspace(-0.26, 0.26, len(METHODS))
    for axes, (key, label, scale) in zip(grid, panels, strict=True):
        for (name, (text, color, marker)), offset in zip(METHODS.items(), offsets, strict=True):
            values = [float(stored.numbers[row][name][key]) for row in rows]
            # A divergence below the error of the log evidence can come out negative.
            values = [max(v, 1e-6) if scale == "log" else v for v in values]
            places = np.arange(len(rows)) + offset
            # Hollow: f** was only bracketed, and the posterior is that of the proved majorant.
            hollow = [stored.numbers[row][name].get("source") == "proved majorant" for row in rows]
            axes.plot(values, places, marker, color=color, markersize=3.5, label=text)
            for value, place in np.column_stack([values, places])[hollow]:
                axes.plot(value, place, marker, color=color, markerfacecolor="white", markersize=3.5)
        axes.set_xscale(scale)
        axes.set_xlabel(label)
        axes.grid(axis="x", linewidth=0.3, alpha=0.6)
        for position in np.arange(len(rows) - 1) + 0.5:
            axes.axhline(position, color=NEUTRAL, linewidth=0.3, alpha=0.5)
    grid[0].axvline(1.0, color="black", linewidth=0.6)
    grid[0].set_xlim(left=0.0)
    grid[0].set_yticks(np.arange(len(rows)), [_row_label(row, stored.numbers[row]) for row in rows])
    grid[0].set_ylim(len(rows) - 0.5, -0.5)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(METHODS))
    caption(figure, _CAPTION)
    return figure


def tables(stored: Stored) -> str:
    """Every number as Markdown."""
    heads = ["data", "posterior", *(head for head, _ in COLUMNS.values())]
    lines = [_cells(stored, row, name) for row in stored.numbers for name in ("exact", *METHODS)]
    notes = (
        "\n\np: exact posterior. width: geometric mean of the standard deviations over the exact ones; mean shift in "
        "exact standard deviations; W2 between Gaussians of the same moments; relaxed bound: the proved lower end of "
        "f** - KL; NLL, ECE (20 bins) on held-out points; predictive KL: mean over them, from the exact predictive.\n"
    )
    return grid(heads, lines) + notes


def _cells(stored: Stored, row: str, name: str) -> list[str]:
    found: Mapping[str, Any] = stored.numbers[row][name]
    label = _PLAIN[name] + (f" ({found['source']})" if "source" in found else "")
    cells = [form.format(float(found[key])) if key in found else "" for key, (_, form) in COLUMNS.items()]
    return [row if name == "exact" else "", label, *cells]


def _row_label(row: str, numbers: Mapping[str, Any]) -> str:
    name, _, prior = row.partition(", ")
    return f"{name} ($P$ = {numbers['dim']}" + (rf", $\delta_0$ = {prior.split()[-1]})" if prior else ")")
