"""Metrics over rho, one panel a metric, shared by Figures 4 and 8."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.store import Stored
from figures.style import COLUMN, METHODS, TEXT_WIDTH

__all__ = ["curves"]

_LABELS = {"accuracy": "accuracy (%)", "nll": "NLL", "ece": "ECE", "auroc": "AUROC"}
_BEST_FIRST = {"accuracy": True, "nll": False, "ece": False, "auroc": True}


def curves(stored: Stored) -> Figure:
    """Lines are means, bands standard deviations over seeds; the axis is cut where a method collapses."""
    import matplotlib.pyplot as plt

    metrics = stored.settings["metrics"]
    width = COLUMN if len(metrics) == 1 else TEXT_WIDTH
    figure, axes = plt.subplots(1, len(metrics), figsize=(width, 2.2), squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        shown = []
        for method, center in stored.settings["selected rho"].items():
            scale = 100 if metric == "accuracy" else 1
            values = stored.arrays[f"{method} {metric}"] * scale
            x = stored.arrays[f"{method} rho"] / center
            mean, std = values.mean(1), values.std(1, ddof=1) if values.shape[1] > 1 else 0 * values[:, 0]
            axis.plot(x, mean, "o-", markersize=3, color=METHODS[method], label=method)
            axis.fill_between(x, mean - std, mean + std, color=METHODS[method], alpha=0.2, linewidth=0)
            shown.append(mean)
        every = np.concatenate(shown)
        every = every[np.isfinite(every)]
        quarter = np.quantile(every, (0.1, 0.9))
        room = 0.5 * float(np.ptp(quarter))
        low, high = quarter[0] - room, quarter[1] + room
        if every.min() < low or every.max() > high:
            axis.set_ylim(max(low, every.min() - 0.05 * room), min(high, every.max() + 0.05 * room))
        axis.set_xscale("log")
        axis.set_xlabel(r"$\rho$ / selected $\rho$")
        axis.set_ylabel(f"{_LABELS[metric]} {'↑' if _BEST_FIRST[metric] else '↓'}")
    axes[0][0].legend()
    return figure
