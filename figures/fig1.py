"""Fig. 1: (a) max-loss against expected loss; (b) slices of -f and -f** for three sigma beside the loss."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.store import Stored
from figures.style import EXACT, NEUTRAL, RELAXED, TEXT_WIDTH, TRUTH, caption

_CAPTION = r"""
A, B, C: the wells of a loss of our own (the paper prints none), B the flattest. (a) The maximum of the loss over a
radius $\rho$ around $\theta$, and its expectation over a Gaussian with mean $m$ and standard deviation
$\sigma=\rho$. (b) Minus the expectation, $-f$, and minus its biconjugate, $-f^{**}$, along $m$ at several
$\sigma$; the title says from which $\sigma$ on a well is no local minimum of $-f^{**}$.
"""


def draw(stored: Stored) -> Any:
    """Two panels, as in the paper."""
    a, settings = stored.arrays, stored.settings
    figure, (left, right) = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 2.7), width_ratios=(1.0, 1.15))
    radius = settings["radius"]
    left.plot(a["theta"], a["loss"], color=TRUTH, lw=1.0, label=r"loss $\ell(\theta)$")
    left.plot(a["means"], a["max_loss"], color=RELAXED, label=rf"max-loss, $\rho={radius:g}$")
    left.plot(a["means"], a["expected_at_radius"], color=EXACT, ls="--", label=rf"expected loss, $\sigma={radius:g}$")
    left.set(title="(a) SAM's max-loss and the expected loss", xlabel=r"$\theta$, $m$", ylabel="loss")
    left.legend(loc="upper center")
    _wells(left, settings["centers"], a)
    sigmas = settings["sigmas"]
    step = 2.0
    for k, sigma in enumerate(sigmas):
        shift = step * (k + 1)
        right.plot(a["means"], shift - a["relaxed"][:, k], color=RELAXED, label=r"$-f^{**}$" if k == 0 else None)
        right.plot(a["means"], shift - a["expected"][:, k], color=EXACT, ls="--", label=r"$-f$" if k == 0 else None)
        right.annotate(
            rf"$\sigma={sigma:g}$",
            (a["means"][-1], shift - a["relaxed"][-1, k]),
            xytext=(3, -2),
            textcoords="offset points",
            fontsize=7,
        )
    right.plot(a["theta"], a["loss"], color=TRUTH, lw=1.0, label=r"$\ell$")
    right.annotate(
        r"$\sigma\to0$", (a["theta"][-1], a["loss"][-1]), xytext=(3, -2), textcoords="offset points", fontsize=7
    )
    lost = stored.numbers["lost"]["relaxed"]
    text = rf"$-f^{{**}}$ loses A at $\sigma={float(lost['A']):.2f}$, C at $\sigma={float(lost['C']):.2f}$"
    right.set(
        title=f"(b) slices, shifted by {step:g} each\n" + text,
        xlabel=r"$m$",
        ylabel="loss + shift",
        xlim=(a["means"][0], a["means"][-1] + 1.6),
    )
    _wells(right, settings["centers"], a)
    top = float((step * len(sigmas) - a["relaxed"][:, -1]).max())
    right.set_ylim(-0.9, top + 1.6)
    right.legend(loc="upper center", ncols=3)
    caption(figure, _CAPTION)
    return figure


def _wells(axis: Any, centers: list[float], arrays: dict[str, Any]) -> None:
    for name, center in zip("ABC", centers, strict=True):
        height = float(np.interp(center, arrays["theta"], arrays["loss"]))
        axis.annotate(
            name, (center, height), xytext=(0, -9), textcoords="offset points", ha="center", color=NEUTRAL, fontsize=8
        )
    low, _ = axis.get_ylim()
    axis.set_ylim(min(low, -0.75), None)
