"""Fig. 3: predictive probabilities on the logistic regression, and how each changes with rho."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.store import Stored
from figures.style import METHODS, NEUTRAL, TEXT_WIDTH
from figures.toy_panels import probability_map, scatter_classes

__all__ = ["draw"]

PANELS = (("box_exact", "exact Bayes"), ("box_sam", "SAM"), ("box_laplace", "SAM + Laplace"), ("box_bsam", "bSAM"))


def draw(stored: Stored) -> dict[str, Figure]:
    """The four maps at the default prior; as a second figure, doubt and error of every setting."""
    return {"": _maps(stored), "sensitivity": _sensitivity(stored)}


def _maps(stored: Stored) -> Figure:
    figure, grid = plt.subplots(1, 4, figsize=(TEXT_WIDTH, 1.9), sharex=True, sharey=True)
    arrays = stored.arrays
    prior = f"{stored.settings['default_prior_precision']:g}"
    numbers = stored.numbers["by_prior"][prior]
    for axes, (key, title) in zip(grid, PANELS, strict=True):
        image = probability_map(axes, arrays["first_axis"], arrays["second_axis"], arrays[key])
        scatter_classes(axes, arrays["inputs"], arrays["labels"], 6)
        axes.set_title(title)
        method = key.removeprefix("box_")
        if method != "exact":
            axes.set_xlabel(_caption(numbers[method]), fontsize=7)
    grid[0].set_xlabel(rf"$\delta_0 = {prior}$", fontsize=7)
    figure.colorbar(image, ax=list(grid), label="P(class 1)", shrink=0.9, aspect=16, pad=0.01)
    return figure


def _caption(numbers: dict[str, Any]) -> str:
    def value(key: str) -> float:
        found = numbers["box"][key]
        return float(found["mean"] if isinstance(found, dict) else found)

    return f"$R$ = {value('log_doubt_ratio'):+.2f}, error {value('mean_error'):.4f}"


def _sensitivity(stored: Stored) -> Figure:
    priors = list(stored.numbers["sensitivity"])
    figure, grid = plt.subplots(2, len(priors), figsize=(TEXT_WIDTH, 3.6), sharex=True, sharey="row", squeeze=False)
    for column, prior in enumerate(priors):
        rows = stored.numbers["sensitivity"][prior]
        for axes, key in ((grid[0, column], "box_log_doubt_ratio"), (grid[1, column], "box_mean_error")):
            _curves(axes, rows, key)
        grid[0, column].axhline(0.0, color=NEUTRAL, lw=0.6, zorder=0)
        grid[0, column].set_title(rf"$\delta_0 = {prior}$")
        grid[1, column].set_xlabel(r"$\rho$")
        grid[1, column].set_yscale("log")
    grid[0, 0].set_ylabel("log doubt ratio $R$")
    grid[1, 0].set_ylabel(r"mean $|p - p_{\mathrm{exact}}|$")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _curves(axes: Axes, rows: list[dict[str, Any]], key: str) -> None:
    for method, label, color in (("sam", "SAM", METHODS["SAM-SGD"]), ("laplace", "SAM + Laplace", METHODS["SAM-Adam"])):
        found = sorted((r["rho"], r[key]) for r in rows if r["method"] == method)
        axes.plot(*zip(*found, strict=True), "-o", ms=2.5, color=color, label=label)
    bsam = [r for r in rows if r["method"] == "bsam" and r["data_factor"] == 1]
    dampings = sorted({r["damping"] for r in bsam})
    for root, line in ((False, "-"), (True, "--")):
        for damping, color in zip(dampings, ("#F6C19A", "#EE8F4E", METHODS["bSAM"])[-len(dampings) :], strict=True):
            found = sorted((r["rho"], r[key]) for r in bsam if r["sqrt_num_data"] == root and r["damping"] == damping)
            label = rf"bSAM, $\gamma = {damping:g}$" + (r", $\sqrt{N}$" if root else "")
            axes.plot(*zip(*found, strict=True), line, marker="s", ms=2, lw=0.9, color=color, label=label)
