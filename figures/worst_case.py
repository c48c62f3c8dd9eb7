"""The worst-case distributions behind f**: atoms over the mean on the three wells, and in the plane."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from experiments.store import Stored
from figures.style import EXACT, NEUTRAL, RELAXED, TEXT_WIDTH, caption

_CAPTION = r"""
The worst case: among all distributions with the moments of $q$ the one with the largest expected loss, which is
$-f^{**}$. Top: its atoms (area: weight) over the mean $m$ of $q$, on the loss with three wells; blue: mean of $q$
and two standard deviations $\sigma$. Bottom left: one column of the middle panel, with its loss $\ell$. Bottom
right: the logistic regression with two parameters (grey: contours of the loss), $q$ in blue by ellipses of one and
two standard deviations.
"""


def draw(stored: Stored) -> Figure:
    """Top: atoms (area = weight) of the worst case against the mean of q; bottom: -l, and atoms in the plane."""
    sigmas = stored.settings["sigmas"]
    figure, axes = plt.subplots(2, 3, figsize=(TEXT_WIDTH, 4.3), gridspec_kw={"height_ratios": [1.15, 1.0]})
    a = stored.arrays
    for k, (sigma, axis) in enumerate(zip(sigmas, axes[0], strict=True)):
        means, atoms, weights = a["means"], a[f"wells{k}_atoms"][:, :, 0], a[f"wells{k}_weights"]
        axis.fill_between(means, means - 2 * sigma, means + 2 * sigma, color=EXACT, alpha=0.12, lw=0)
        axis.plot(means, means, color=EXACT, lw=0.7, label=r"$q$: mean, $\pm 2\sigma$" if k == 0 else None)
        shown = weights > 1e-9
        x = np.broadcast_to(means[:, None], atoms.shape)[shown]
        label = "atoms (area: weight)" if k == 0 else None
        axis.scatter(x, atoms[shown], s=6 * weights[shown], color=RELAXED, lw=0, label=label)
        axis.set(xlabel="mean $m$ of $q$", title=rf"three wells, $\sigma = {sigma}$", ylim=(-9, 9))
    axes[0, 0].set_ylabel(r"$\theta$")
    axes[0, 0].legend(loc="upper left")
    _one_q(axes[1, 0], stored)
    for j, axis in enumerate(axes[1, 1:]):
        _plane(axis, stored, j)
    caption(figure, _CAPTION)
    return figure


def _one_q(axis: Axes, stored: Stored) -> None:
    a, k = stored.arrays, 1
    sigma = stored.settings["sigmas"][k]
    i = len(a["means"]) // 2
    mean = a["means"][i]
    density = np.exp(-0.5 * ((a["grid"] - mean) / sigma) ** 2)
    axis.plot(a["grid"], a["loss"] / a["loss"][np.abs(a["grid"]) < 6].max(), color=NEUTRAL, label=r"$\ell$, scaled")
    axis.fill_between(a["grid"], density, color=EXACT, alpha=0.25, lw=0, label="$q$, scaled")
    weights = a[f"wells{k}_weights"][i]
    shown = weights > 1e-9
    lines = axis.stem(a[f"wells{k}_atoms"][i, shown, 0], weights[shown], linefmt="-", markerfmt="o", basefmt=" ")
    plt.setp([lines.markerline, lines.stemlines], color=RELAXED)
    lines.set_label("weights")
    axis.set(
        xlim=(-6, 6),
        ylim=(0, 1.3),
        yticks=(0.0, 0.5, 1.0),
        xlabel=r"$\theta$",
        title=rf"$m = {mean:.1f},\ \sigma = {sigma}$",
    )
    axis.legend(loc="upper center", fontsize=6, ncols=3, columnspacing=0.8, handlelength=1.0, handletextpad=0.4)


def _plane(axis: Axes, stored: Stored, j: int) -> None:
    a = stored.arrays
    scale = stored.settings["covariance scales"][j]
    values, vectors = np.linalg.eigh(scale * np.array(stored.settings["covariance"]))
    axis.contour(a["axis"], a["axis"], np.log10(1e-2 + a["logistic_loss"]), levels=10, colors=NEUTRAL, linewidths=0.4)
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    for radius in (1, 2):
        width, height = 2 * radius * np.sqrt(values[::-1])
        axis.add_patch(Ellipse((1, 1), width, height, angle=angle, color=EXACT, alpha=0.18, lw=0))
    weights = a["logistic_weights"][j]
    shown = weights > 1e-9
    x, y = a["logistic_atoms"][j, shown].T
    axis.scatter(x, y, s=90 * weights[shown], color=RELAXED, lw=0, zorder=3)
    gap = a["logistic_f"][j], a["logistic_lower"][j]
    axis.set_title(rf"logistic: $f = {gap[0]:.2f}$, $f^{{**}} = {gap[1]:.2f}$")
    axis.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$", aspect="equal", xlim=(-3, 5), ylim=(-3, 5))
