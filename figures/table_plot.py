"""A table as a picture: one panel a metric, mean and standard deviation of each row."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from experiments.store import Stored
from figures.style import METHODS, NEUTRAL, TEXT_WIDTH

__all__ = ["dots", "status"]

_TITLES = {"accuracy": "accuracy (%) ↑", "nll": "NLL ↓", "ece": "ECE ↓", "auroc": "AUROC ↑"}


def dots(cells: dict[str, Any]) -> Figure:
    """Filled dots are best or tied. Rows that diverged or were not run are left out."""
    import matplotlib.pyplot as plt

    rows = [row for row in cells["rows"] if any(isinstance(c.get("mean"), float) for c in row)]
    figure, axes = plt.subplots(1, 4, figsize=(TEXT_WIDTH, 0.6 + 0.16 * max(len(rows), 4)), sharey=True)
    names = [[str(c["text"]) for c in row if "text" in c] for row in rows]
    shared = names[0][0] if len({name[0] for name in names}) == 1 and len(names[0]) > 1 else ""
    labels = [", ".join(name[1:] if shared else name) for name in names]
    for axis, (metric, title) in zip(axes, _TITLES.items(), strict=True):
        scale = 100 if metric == "accuracy" else 1
        for height, row in enumerate(rows):
            cell = next(c for c in row if c.get("of") == metric)
            color = next((METHODS[str(c["text"])] for c in row if c.get("text") in METHODS), NEUTRAL)
            axis.errorbar(
                cell["mean"] * scale,
                height,
                xerr=cell.get("std", 0.0) * scale,
                fmt="o",
                markersize=4,
                color=color,
                markerfacecolor=color if cell.get("best") else "white",
            )
        axis.set_title(title)
        axis.set_yticks(range(len(rows)), labels)
        axis.grid(axis="x", linewidth=0.3)
    axes[0].invert_yaxis()
    marks = ["bars: standard deviation over seeds"]
    if any(c.get("best") for row in rows for c in row):
        marks.insert(0, "filled: best, or not beaten beyond the paired 95 % interval")
    figure.suptitle("; ".join(filter(None, [shared, *marks])), fontsize=7)
    return figure


def status(stored: Stored) -> Figure:
    """The finished rows; where there are none, a plain statement of what is missing."""
    import matplotlib.pyplot as plt

    cells = stored.numbers["table"]
    if any("mean" in c for row in cells["rows"] for c in row):
        return dots(cells)
    figure, axis = plt.subplots(figsize=(TEXT_WIDTH, 0.8))
    axis.axis("off")
    message = f"{len(cells['rows'])} rows, not run: they need a GPU and the data\n{stored.settings['command']}"
    axis.text(0.5, 0.5, message, ha="center", va="center", family="monospace", fontsize=7)
    return figure
