"""Fig. 6: two moons; predictive probabilities of NUTS, SAM, SAM + Laplace and bSAM, and bSAM's training as a film."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.store import Stored
from figures.style import TEXT_WIDTH
from figures.toy_panels import PROBABILITY, probability_map, scatter_classes

__all__ = ["animate", "draw"]

METHOD_TITLES = {"sam": "SAM", "laplace": "SAM + Laplace", "tuned": r"SAM + Laplace, tuned $\delta_0$", "bsam": "bSAM"}
CASE_TITLES = {
    "demo": "demo settings",
    "matched_floor": "one prior, no damping",
    "matched_unit": "one prior, no damping",
}


def draw(stored: Stored) -> Figure:
    """One row for each case: NUTS on the same network, SAM, SAM + Laplace, bSAM."""
    cases = list(stored.settings["cases"])
    figure, grid = plt.subplots(len(cases), 5, figsize=(TEXT_WIDTH, 1.5 * len(cases) + 0.4), squeeze=False)
    first, second = stored.arrays["first_axis"], stored.arrays["second_axis"]
    for row, case in enumerate(cases):
        target = stored.settings["cases"][case]["reference"]
        found = stored.numbers[case]
        panels = [(f"nuts_{target}", "NUTS")] + [(f"{case}_{m}", t) for m, t in METHOD_TITLES.items()]
        for column, (key, title) in enumerate(panels):
            axes = grid[row, column]
            image = probability_map(axes, first, second, stored.arrays[key])
            scatter_classes(axes, stored.arrays["inputs"], stored.arrays["labels"], 3)
            axes.set_title(title, fontsize=7)
            if column:
                own = found[f"against_{target}"][key.removeprefix(f"{case}_")]["box"]
                ratio, error = own["log_doubt_ratio"]["mean"], own["mean_error"]["mean"]
                axes.set_xlabel(f"$R$ = {ratio:+.2f}, error {error:.3f}", fontsize=6)
        diagnosis = stored.numbers["references"][target]
        grid[row, 0].set_title(rf"NUTS, $\delta_0 = {diagnosis['prior_precision']:g}$", fontsize=7)
        prior = stored.settings["cases"][case]["laplace_prior"]
        grid[row, 0].set_ylabel(CASE_TITLES[case] + "\n" + rf"$\delta_0 = {prior:g}$", fontsize=7)
        state = "" if diagnosis["converged"] else ", not converged"
        grid[row, 0].set_xlabel(rf"$\hat R$ {diagnosis['r_hat_99_percent']:.2f}{state}", fontsize=6)
    figure.colorbar(image, ax=list(grid.ravel()), label="P(class 1)", aspect=30, pad=0.01)
    return figure


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
        first, second = arrays["frame_first_axis"], arrays["frame_second_axis"]
        shape = (len(second), len(first))
        samples = arrays["frame_samples"][frame].astype(float) / 100.0
        axes.imshow(
            samples.mean(axis=0).reshape(shape),
            origin="lower",
            extent=(first[0], first[-1], second[0], second[-1]),
            aspect="auto",
            vmin=0,
            vmax=1,
            cmap=PROBABILITY,
            interpolation="bilinear",
        )
        for sample in samples:
            if sample.min() < 0.5 < sample.max():
                axes.contour(first, second, sample.reshape(shape), [0.5], colors="#777777", linewidths=0.5)
        mean = arrays["frame_means"][frame].astype(float).reshape(shape) / 100.0
        if mean.min() < 0.5 < mean.max():
            axes.contour(first, second, mean, [0.5], colors="black", linewidths=1.6)
        scatter_classes(axes, arrays["inputs"], arrays["labels"], 6)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"bSAM, epoch {int(epochs[frame])}")
        return [axes]

    target = folder / "fig6.gif"
    FuncAnimation(figure, paint, frames=len(order)).save(target, writer=PillowWriter(fps=5), dpi=100)
    plt.close(figure)
    return target
