"""Theorem 1: numeric against theoretical value for every case, the covariance going to zero, the counterexamples."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.store import Stored
from figures.style import EXACT, METHODS, NEUTRAL, RELAXED, TEXT_WIDTH, caption

_MARKS = {"full": ("o", EXACT), "diagonal": ("s", METHODS["SAM-Adam"]), "isotropic": ("^", RELAXED)}
_CAPTION = r"""
$\mathrm{sup}_\theta$, $\mathrm{sup}_\mu$: the right and the left side of Eq. 10, the supremum over $\theta$
(certified) and over Gaussians, found independently. (a) Their relative difference for every loss and $\lambda'$,
by the family of the Gaussians. (b) What the best Gaussian misses while its standard deviation is kept above a
floor: it shrinks as the square of the floor for every loss, so the lines nearly coincide. (c) Gaussians with a
fixed standard deviation $\sigma$, over whose mean $m$ the supremum is taken: the theorem fails, by more the larger
$\sigma$. The hump's gap is known in closed form: black dashes.
"""


def draw(stored: Stored) -> Any:
    """Three panels."""
    figure, axes = plt.subplots(1, 3, figsize=(TEXT_WIDTH, 2.5))
    _agreement(axes[0], stored)
    _shrinking(axes[1], stored)
    _fixed_covariance(axes[2], stored)
    caption(figure, _CAPTION)
    return figure


def _agreement(axis: Any, stored: Stored) -> None:
    """The two suprema against each other, and their relative difference."""
    seen = set()
    for entry in stored.numbers["table"].values():
        for row in entry["rows"]:
            if not row["both_finite"]:
                continue
            mark, color = _MARKS[row["structure"]]
            label = row["structure"] if row["structure"] not in seen else None
            seen.add(row["structure"])
            gap = max(abs(row["difference"]) / max(1.0, abs(row["over_theta"])), 1e-16)
            axis.plot(max(abs(row["over_theta"]), 1e-2), gap, mark, color=color, ms=3.5, alpha=0.8, label=label)
    axis.axhline(1e-6, color=NEUTRAL, lw=0.8, ls="--")
    axis.set(
        xscale="log", yscale="log", xlabel=r"$|\mathrm{sup}_\theta|$", ylabel="relative difference", ylim=(1e-17, 1e-4)
    )
    axis.set_title(r"(a) $\mathrm{sup}_\mu$ against $\mathrm{sup}_\theta$")
    axis.text(axis.get_xlim()[1], 1.4e-6, "tolerance", color=NEUTRAL, fontsize=6, va="bottom", ha="right")
    axis.legend(loc="lower left")


def _shrinking(axis: Any, stored: Stored) -> None:
    """What the best Gaussian misses while its standard deviation is kept above a floor."""
    shown = 0
    for name, entry in stored.numbers["table"].items():
        row = next((r for r in entry["rows"] if r["both_finite"] and r["path"]), None)
        if row is None or "quadratic" in name or shown >= 5:
            continue
        path = np.array(row["path"], dtype=float)
        miss = np.maximum(row["over_theta"] - path[:, 1], 1e-13)
        color = (EXACT, METHODS["SAM-Adam"], METHODS["VOGN"], METHODS["IVON"], RELAXED)[shown % 5]
        style = ("o-", "s--", "^:", "v-.", "d--")[shown % 5]
        axis.loglog(
            path[:, 0], miss, style, ms=3.5, mfc="none", lw=0.9, color=color, label=name.split(" (")[0].split(",")[0]
        )
        shown += 1
    axis.set(xlabel="floor of the standard deviation", ylabel=r"$\mathrm{sup}_\theta-\mathrm{sup}_\mu$")
    axis.set_title("(b) the covariance goes to zero")
    axis.legend(loc="lower right", fontsize=6)


def _fixed_covariance(axis: Any, stored: Stored) -> None:
    claim = next(c for c in stored.claims if c.id == "A5")
    styles = (("o-", EXACT), ("s-", RELAXED))
    for (name, rows), (style, color) in zip(claim.numbers["fixed_covariance"].items(), styles, strict=False):
        label = r"hump $e^{-\theta^2/2}$" if "hump" in name else r"three wells, $\lambda_2=-0.2$"
        axis.loglog([r["sd"] for r in rows], [r["gap"] for r in rows], style, ms=3, color=color, label=label)
        if "closed_form" in rows[0]:
            sd = np.geomspace(rows[0]["sd"], rows[-1]["sd"], 100)
            axis.loglog(sd, 1.0 - 1.0 / np.sqrt(1.0 + sd * sd), color="black", lw=0.8, ls="--", zorder=5)
    axis.set(xlabel=r"fixed $\sigma$", ylabel=r"$\mathrm{sup}_\theta-\mathrm{sup}_m$")
    axis.set_title("(c) fixed covariance: it fails")
    axis.legend(loc="lower right")
