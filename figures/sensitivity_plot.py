"""Metrics over rho, one panel a metric, shared by Figures 4 and 8."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.store import Stored
from figures.style import METHODS, TEXT_WIDTH, caption, origin

_LABELS = {"accuracy": "accuracy (%)", "nll": "NLL", "ece": "ECE", "auroc": "AUROC"}
_BEST_FIRST = {"accuracy": True, "nll": False, "ece": False, "auroc": True}
_MEANINGS = {
    "nll": "NLL: negative log-likelihood",
    "ece": "ECE: expected calibration error",
    "auroc": "AUROC: of confidence as a detector of correct predictions",
}
_CAPTION = r"""
Lines: means over seeds; bands: one standard deviation; arrows: which way is better. $\rho$ is in units of the
value that the search selected for each method. Cross at the bottom: a collapsed network, with an accuracy below
half of the best; its other metrics mean nothing.
"""
_COLLAPSED = 0.5
"""A network is drawn as collapsed where its accuracy is below this share of the best in the figure."""


def curves(stored: Stored) -> Figure:
    """Lines are means, bands standard deviations over seeds; collapsed networks are crosses at the bottom."""
    import matplotlib.pyplot as plt

    metrics, methods = stored.settings["metrics"], stored.settings["selected rho"]
    width = 4.5 if len(metrics) == 1 else TEXT_WIDTH
    figure, axes = plt.subplots(1, len(metrics), figsize=(width, 2.2), squeeze=False)
    best = max(float(stored.arrays[f"{method} accuracy"].mean(1).max()) for method in methods)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for method, center in methods.items():
            values = stored.arrays[f"{method} {metric}"] * (100 if metric == "accuracy" else 1)
            x = stored.arrays[f"{method} rho"] / center
            gone = stored.arrays[f"{method} accuracy"].mean(1) < _COLLAPSED * best
            mean, std = values.mean(1), values.std(1, ddof=1) if values.shape[1] > 1 else 0 * values[:, 0]
            # Scaled to what is drawn as a curve: collapsed networks would flatten all the others.
            axis.plot(x[~gone], mean[~gone], "o-", markersize=3, color=METHODS[method], label=method)
            axis.fill_between(
                x[~gone], (mean - std)[~gone], (mean + std)[~gone], color=METHODS[method], alpha=0.2, lw=0
            )
            bottom = np.full(int(gone.sum()), 0.03)
            axis.plot(x[gone], bottom, "x", color=METHODS[method], transform=axis.get_xaxis_transform(), zorder=5)
        axis.set_xscale("log")
        axis.set_xlabel(r"$\rho$ / selected $\rho$")
        axis.set_ylabel(f"{_LABELS[metric]} {'↑' if _BEST_FIRST[metric] else '↓'}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    meanings = "; ".join(_MEANINGS[metric] for metric in metrics if metric in _MEANINGS)
    caption(figure, f"{_CAPTION} {meanings}{'. ' if meanings else ''}{origin(stored)}")
    return figure
