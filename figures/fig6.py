"""Fig. 6: two moons; NUTS, SAM, SAM + Laplace, bSAM and the best diagonal Gaussian; bSAM's training as a film."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.store import Stored
from figures.style import TEXT_WIDTH, caption
from figures.toy_panels import TITLES, probability_map, scatter_classes, shade, strips

PANELS = ("exact Bayes", "SAM", "SAM + Laplace", "bSAM", "bSAM, sqrt(N)", "ceiling")
_MAPS_CAPTION = r"""
Colour: predicted probability of class 1, white: one half. Black line: the decision boundary; thin lines:
probabilities 0.1, 0.25, 0.75, 0.9. Crosses: class 0; discs: class 1. $N$: number of data, $\varepsilon$: their noise,
$\delta_0$: precision of the prior, the same in a row. Exact Bayes: NUTS. bSAM is Algorithm 1 as printed, and with the
factor $\sqrt{N}$ in its update of $s$. Best diagonal: the variational optimum among Gaussians with a diagonal
covariance, as a yardstick. Number below a map: mean Kullback-Leibler divergence from the predictions of NUTS, averaged
over the draws that judge. Last row: the authors' demo, whose posterior NUTS does not reach; only the order is compared.
"""
_DRAWS_CAPTION = r"""
One dot: one draw of the data, mean over seeds; bar: the median. Top: doubt is the mean of 1 minus the larger class
probability, over the box and over test inputs at equal weight; 0 means as much of it as NUTS, a unit is a factor of e.
Bottom: mean Kullback-Leibler divergence of the predicted from NUTS's class probabilities there. $N$: number of data,
$\varepsilon$: their noise, $\delta_0$: precision of the prior. Best diagonal: as above.
"""


def draw(stored: Stored) -> dict[str, Figure]:
    """The maps of one draw at every place and of the demo; as a second figure, the measures of every judging draw."""
    return {"": _maps(stored), "draws": _draws(stored)}


def _maps(stored: Stored) -> Figure:
    places = [*stored.settings["places"], "demo"]
    figure, grid = plt.subplots(len(places), len(PANELS), figsize=(TEXT_WIDTH, 1.12 * len(places) + 0.3), squeeze=False)
    first, second = stored.arrays["first_axis"], stored.arrays["second_axis"]
    for row, place in enumerate(places):
        measures = stored.numbers[place].get("measures", {})
        for axes, name in zip(grid[row], PANELS, strict=True):
            if row == 0:
                axes.set_title(TITLES.get(name, name), fontsize=7)
            if f"{place}/map/{name}" not in stored.arrays:
                axes.axis("off")
                continue
            image = probability_map(axes, first, second, stored.arrays[f"{place}/map/{name}"])
            scatter_classes(axes, stored.arrays[f"{place}/inputs"], stored.arrays[f"{place}/labels"], 2)
            if name in measures:
                axes.set_xlabel(f"{measures[name]['kl_both']['mean']:.3f}", fontsize=6, labelpad=1)
        label = grid[row, 1] if place == "demo" else grid[row, 0]
        label.set_ylabel("the demo" if place == "demo" else _short(stored, place), fontsize=6)
    figure.colorbar(image, ax=list(grid.ravel()), label="P(class 1)", aspect=30, pad=0.01)
    caption(figure, _MAPS_CAPTION)
    return figure


def _draws(stored: Stored) -> Figure:
    places = [p for p in stored.settings["places"] if stored.numbers[p]["measures"]]
    titles = {place: _short(stored, place).replace("\n", ", ") for place in places}
    figure = strips(titles, stored.arrays, "both", "NUTS")
    caption(figure, _DRAWS_CAPTION)
    return figure


def _short(stored: Stored, place: str) -> str:
    at = stored.numbers[place]["place"]
    return rf"$N = {at['num']}$, $\varepsilon = {at['noise']:g}$" + "\n" + rf"$\delta_0 = {at['delta0']:g}$"


def animate(stored: Stored, folder: Path) -> Path:
    """The boundaries of 8 posterior samples (grey) and of the mean (black) while bSAM trains: fig6.gif."""
    arrays = stored.arrays
    figure, axes = plt.subplots(figsize=(3.0, 2.3))
    epochs = arrays["frame_epochs"]
    # The last frame is shown a little longer.
    order = [*range(len(epochs)), *[len(epochs) - 1] * 6]

    def paint(position: int) -> list[Axes]:
        frame = order[position]
        axes.clear()
        first, second = arrays["first_axis"], arrays["second_axis"]
        shape = (len(second), len(first))
        samples = arrays["frame_samples"][frame].astype(float) / 100.0
        shade(axes, first, second, samples.mean(axis=0).reshape(shape))
        for sample in samples:
            if sample.min() < 0.5 < sample.max():
                axes.contour(first, second, sample.reshape(shape), [0.5], colors="#777777", linewidths=0.5)
        mean = arrays["frame_means"][frame].astype(float).reshape(shape) / 100.0
        if mean.min() < 0.5 < mean.max():
            axes.contour(first, second, mean, [0.5], colors="black", linewidths=1.6)
        scatter_classes(axes, arrays["demo/inputs"], arrays["demo/labels"], 6)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"bSAM, the demo, epoch {int(epochs[frame])}")
        return [axes]

    target = folder / "fig6.gif"
    FuncAnimation(figure, paint, frames=len(order)).save(target, writer=PillowWriter(fps=5), dpi=100)
    plt.close(figure)
    return target
