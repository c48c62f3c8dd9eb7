"""The relaxation as a method of inference: error of the posterior against seconds, a panel a data set."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.store import Stored
from figures.style import EXACT, NEUTRAL, RELAXED, TEXT_WIDTH, caption
from figures.table_text import grid

_CAPTION = r"""
The relaxation as a method of inference: KL divergence of the Gaussian $q$ from the exact posterior against the seconds
a method takes, on logistic regressions with the prior $N(0, I/\delta_0)$ ($\delta_0 = 1$ where not said). Red: $f^{**}$
and $\Sigma_i f_i^{**}$; tempered: scaled to the size of $E_q[\ell]$; one exact step: the gap $f - f^{**}$ put back to
first order; confined: $f^{**}$ of the loss on a box of that many standard deviations of the Laplace approximation (two
parameters only). Grey and blue: the Laplace approximation and variational Bayes. Lower and further left is better.
"""
_GREEN = "#009E73"
MARKS: dict[str, tuple[str, str]] = {
    "Laplace": (NEUTRAL, "D"),
    "Laplace, one exact step": (NEUTRAL, "d"),
    "variational": (EXACT, "o"),
    "variational (numpyro)": (EXACT, "x"),
    "sum of f_i**": (RELAXED, "v"),
    "sum of f_i**, tempered": (RELAXED, "^"),
    "sum of f_i**, one exact step": (RELAXED, "<"),
    "f**": (RELAXED, "s"),
    "f**, confined to 1.5 sd": (_GREEN, "*"),
    "f**, confined to 2 sd": (_GREEN, "P"),
    "f**, confined to 3 sd": (_GREEN, "X"),
}


def draw(stored: Stored) -> Figure:
    """KL(q || posterior) against seconds, both logarithmic."""
    count = len(stored.numbers)
    rows = -(-(count + 1) // 4)
    figure, grid = plt.subplots(rows, 4, figsize=(TEXT_WIDTH, 1.65 * rows), sharex=True, squeeze=False)
    cells = list(grid.flat)
    for axes, (name, table) in zip(cells, stored.numbers.items(), strict=False):
        for method, (color, marker) in MARKS.items():
            if method in table:
                found = table[method]
                axes.plot(found["seconds"], found["kl_q_p"], marker, color=color, markersize=4.5, label=_pretty(method))
        dim = int(table["exact"]["dim"])
        axes.set(xscale="log", yscale="log", title=f"{_delta(name)}\n($P = {dim}$)")
        axes.margins(0.12)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(linewidth=0.3, alpha=0.6)
    for axes in cells[count:]:
        axes.set_axis_off()
    for axes in cells[max(0, count - 4) : count]:
        axes.set_xlabel("seconds")
        axes.tick_params(labelbottom=True)
    for row in grid:
        row[0].set_ylabel(r"KL$(q\,\|\,p)$")
    first = max(range(count), key=lambda k: len(cells[k].lines))
    handles, labels = cells[first].get_legend_handles_labels()
    cells[count].legend(handles, labels, loc="center left", bbox_to_anchor=(-0.25, 0.5), fontsize=5.5)
    caption(figure, _CAPTION)
    return figure


def tables(stored: Stored) -> str:
    """Every number as Markdown."""
    heads = ["data", "method", "KL(q\\|p)", "width", "narrowest", "widest", "mean shift", "predictive KL", "seconds"]
    lines = []
    for name, table in stored.numbers.items():
        for method in MARKS:
            if method in table:
                row = table[method]
                cells = [f"{row[key]:.3f}" for key in ("kl_q_p", "width", "width_min", "width_max", "mean_shift")]
                cells += [f"{row['predictive_kl']:.2e}", f"{row['seconds']:.3g}"]
                lines.append([name, method, *cells])
    notes = "\n\nKL(q|p) is within the error of the log evidence: " + ", ".join(
        f"{table['exact']['error']:.0e} ({name})" for name, table in stored.numbers.items()
    )
    return grid(heads, lines) + notes + ".\n"


def _pretty(method: str) -> str:
    return method.replace("sum of f_i**", r"$\Sigma_i f_i^{**}$").replace("f**", "$f^{**}$")


def _delta(name: str) -> str:
    return name.replace("delta0", r"$\delta_0$")
