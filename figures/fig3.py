"""Fig. 3: predictive probabilities of one separable draw, and how far every method is from exact Bayes over all."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.store import Stored
from figures.style import TEXT_WIDTH, caption
from figures.toy_panels import TITLES, probability_map, scatter_classes, strips

PANELS = ("exact Bayes", "SAM", "SAM + Laplace", "bSAM", "bSAM, sqrt(N)")
_MAPS_CAPTION = r"""
Colour: predicted probability of class 1, white: one half. Black line: the decision boundary; thin lines:
probabilities 0.1, 0.25, 0.75, 0.9. Crosses: class 0; discs: class 1. $\delta_0$: precision of the prior. bSAM is
Algorithm 1 as printed, and with the factor $\sqrt{N}$ in its update of $s$. Below a map: the settings, chosen on other
draws ($\rho$: radius, 0 is the maximum a posteriori; $\gamma$: damping).
"""
_DRAWS_CAPTION = r"""
One dot: one separable draw of the data; bar: the median. Top: doubt is the mean of 1 minus the larger class
probability over a box around the data, 0 means as much of it as exact Bayes, a unit is a factor of e. Bottom: mean
Kullback-Leibler divergence of the predicted from the exact class probabilities there. $\delta_0$: precision of the
prior. Best diagonal: the variational optimum among Gaussians with a diagonal covariance, as a yardstick. $f^{**}$: the
optimum of relaxed Bayes (Eq. 18) among them, certified.
"""


def draw(stored: Stored) -> dict[str, Figure]:
    """The maps at the example's prior; as a second figure, doubt and predictive KL of every judging draw."""
    return {"": _maps(stored), "draws": _draws(stored)}


def _maps(stored: Stored) -> Figure:
    figure, grid = plt.subplots(1, len(PANELS), figsize=(TEXT_WIDTH, 1.75), sharex=True, sharey=True)
    arrays, prior = stored.arrays, f"{stored.settings['example prior']:g}"
    settings = stored.numbers["separable"][prior]["settings"]
    for axes, name in zip(grid, PANELS, strict=True):
        image = probability_map(axes, arrays["first_axis"], arrays["second_axis"], arrays[f"map/{name}"])
        scatter_classes(axes, arrays["inputs"], arrays["labels"], 5)
        axes.set_title(TITLES.get(name, name))
        below = settings.get(name, f"draw {int(arrays['example'])}, delta_0 {prior}")
        axes.set_xlabel(re.sub(r"(rho|gamma|delta_0) ", r"$\\\1$ = ", below), fontsize=7)
    figure.colorbar(image, ax=list(grid), label="P(class 1)", shrink=0.9, aspect=16, pad=0.01)
    caption(figure, _MAPS_CAPTION)
    return figure


def _draws(stored: Stored) -> Figure:
    titles = {f"separable/{prior:g}": rf"$\delta_0 = {prior:g}$" for prior in stored.settings["priors"]}
    figure = strips(titles, stored.arrays, "box", "exact Bayes")
    caption(figure, _DRAWS_CAPTION)
    return figure
