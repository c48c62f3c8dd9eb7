"""Fig. 2: (a) the spaces of mu and lambda; (b) f and f** over mu; (c) over (m, sigma), with -l at sigma -> 0."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from experiments.store import Stored
from figures.style import EXACT, NEUTRAL, RELAXED, TEXT_WIDTH, TRUTH

_SLICE = "#8B0000"
_SHADES = ("#009E73", "#E69F00", "#CC79A7")


def draw(stored: Stored) -> Any:
    """Spaces on the left, the two surfaces beside them."""
    figure = plt.figure(figsize=(TEXT_WIDTH, 5.8))
    figure.set_layout_engine("none")
    spaces = figure.add_axes((0.085, 0.66, 0.36, 0.29))
    naturals = figure.add_axes((0.585, 0.66, 0.36, 0.29))
    _spaces(spaces, naturals)
    over_mu = figure.add_axes((-0.01, 0.04, 0.50, 0.54), projection="3d")
    over_std = figure.add_axes((0.48, 0.04, 0.50, 0.54), projection="3d")
    _surface_over_mu(over_mu, stored)
    _surface_over_std(over_std, stored)
    handles = [
        Line2D([], [], color=EXACT, lw=1.0, label=r"$f$ (mesh)"),
        Line2D([], [], color=RELAXED, lw=4.0, alpha=0.7, label=r"$f^{**}$ (surface)"),
        Line2D([], [], color=TRUTH, lw=1.8, label=r"$-\ell$ at $\sigma\to0$"),
        Line2D([], [], color=EXACT, lw=1.8, label=r"slices of $f$"),
        Line2D([], [], color=_SLICE, lw=1.8, label=r"slices of $f^{**}$"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=5, bbox_to_anchor=(0.5, 0.0), fontsize=7)
    return figure


def _spaces(left: Any, right: Any) -> None:
    """A grid of (m, sigma) in both spaces: lines of constant m are grey, of constant sigma coloured."""
    m = np.linspace(-2.2, 2.2, 201)
    left.fill_between(m, m * m, 6.0, color="#EEEEEE", lw=0)
    left.plot(m, m * m, color=TRUTH, lw=1.4)
    right.axhspan(-5.0, 0.0, color="#EEEEEE", lw=0)
    right.axhline(0.0, color=TRUTH, lw=1.2, ls="--")
    sds = np.linspace(0.35, 2.4, 60)
    for mean in (-1.5, -0.75, 0.0, 0.75, 1.5):
        left.plot(np.full(60, mean), mean**2 + sds**2, color=NEUTRAL, lw=0.5)
        right.plot(mean / sds**2, -0.5 / sds**2, color=NEUTRAL, lw=0.5)
    for sd, shade in zip((0.4, 0.7, 1.3), _SHADES, strict=True):
        left.plot(m, m * m + sd * sd, color=shade, label=rf"$\sigma={sd:g}$")
        right.plot(m / sd**2, np.full_like(m, -0.5 / sd**2), color=shade)
    left.text(0.0, 5.1, r"$\mathcal{M}$", ha="center", fontsize=11)
    left.text(1.62, 1.6, r"$\sigma=0$", fontsize=7)
    left.set(xlim=(-2.2, 2.2), ylim=(-0.3, 5.8), xlabel=r"$\mu^{(1)}=m$", ylabel=r"$\mu^{(2)}=\sigma^2+m^2$")
    left.set_title(r"(a) expectation parameters $\mu\in\mathcal{M}$ ...")
    left.legend(loc="lower left", handlelength=1.2, borderaxespad=0.1)
    right.text(0.0, -4.4, r"$\Omega$", ha="center", fontsize=11)
    right.set(xlim=(-9, 9), ylim=(-4.8, 0.9), xlabel=r"$\lambda^{(1)}=m/\sigma^2$")
    right.set_ylabel(r"$\lambda^{(2)}=-1/(2\sigma^2)$")
    right.set_title(r"... and natural parameters $\lambda\in\Omega$")


def _surface_over_mu(axis: Any, stored: Stored) -> None:
    a = stored.arrays
    mu1, rise = np.meshgrid(a["mu1"], a["rise"], indexing="ij")
    mu2 = mu1**2 + rise
    axis.plot_surface(
        mu1,
        mu2,
        a["relaxed_mu"],
        color=RELAXED,
        alpha=0.75,
        rstride=2,
        cstride=2,
        lw=0,
        antialiased=True,
        rasterized=True,
    )
    axis.plot_wireframe(mu1, mu2, a["expected_mu"], color=EXACT, lw=0.45, rcount=31, ccount=16)
    axis.plot(a["mu1"], a["mu1"] ** 2, -a["loss_mu"], color=TRUTH, lw=1.6, zorder=10)
    axis.set(xlabel=r"$\mu^{(1)}$", ylabel=r"$\mu^{(2)}$")
    axis.set_title(r"(b) $f$ and $f^{**}$ over $\mu$", y=0.98)
    _tidy(axis, (38.0, -76.0))


def _surface_over_std(axis: Any, stored: Stored) -> None:
    a = stored.arrays
    means, stds = np.meshgrid(a["means"], a["stds"], indexing="ij")
    axis.plot_surface(
        means,
        stds,
        a["relaxed"],
        color=RELAXED,
        alpha=0.75,
        rcount=80,
        ccount=40,
        lw=0,
        antialiased=True,
        rasterized=True,
    )
    axis.plot_wireframe(means, stds, a["expected"], color=EXACT, lw=0.4, rcount=41, ccount=16)
    axis.plot(a["means"], np.zeros_like(a["means"]), -a["loss"], color=TRUTH, lw=1.8, zorder=10)
    for sigma in stored.settings["slices"]:
        k = int(np.argmin(np.abs(a["stds"] - sigma)))
        level = np.full_like(a["means"], a["stds"][k])
        axis.plot(a["means"], level, a["expected"][:, k], color=EXACT, lw=1.6, zorder=9)
        axis.plot(a["means"], level, a["relaxed"][:, k], color=_SLICE, lw=1.6, zorder=9)
    axis.set(xlabel=r"$m$", ylabel=r"$\sigma$")
    axis.set_yticks([0.0, 0.5, 1.0, 1.5, 2.0])
    axis.yaxis.set_rotate_label(False)
    axis.set_title(r"(c) the same over $(m,\sigma)$, with slices", y=0.98)
    _tidy(axis, (32.0, -72.0))


def _tidy(axis: Any, view: tuple[float, float]) -> None:
    axis.view_init(*view)
    axis.patch.set_alpha(0.0)
    axis.tick_params(pad=-3, labelsize=6)
    axis.tick_params(axis="z", pad=2)  # else the axis runs through the minus signs
    axis.set_zticks([-4, -3, -2, -1])
    axis.set_zlabel(r"$f$, $f^{**}$", labelpad=-2)
    axis.xaxis.labelpad = axis.yaxis.labelpad = -6
    for pane in (axis.xaxis, axis.yaxis, axis.zaxis):
        pane.set_pane_color((1.0, 1.0, 1.0, 0.0))
        pane._axinfo["grid"].update(linewidth=0.3, color="#DDDDDD")
