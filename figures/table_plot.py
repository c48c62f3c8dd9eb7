"""A table as a picture: one panel a metric, mean and standard deviation of each row."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.store import Stored
from figures.style import METHODS, NEUTRAL, TEXT_WIDTH, caption, origin

_TITLES = {"accuracy": "accuracy (%) ↑", "nll": "NLL ↓", "ece": "ECE ↓", "auroc": "AUROC ↑"}


def dots(stored: Stored) -> Figure:
    """Filled dots are best or tied. Rows that diverged or were not run are left out; a row of panels for each task."""
    import matplotlib.pyplot as plt

    cells = stored.numbers["table"]
    rows = [row for row in cells["rows"] if any(isinstance(c.get("mean"), float) for c in row)]
    heads = [head for head, cell in zip(cells["columns"], rows[0], strict=False) if "text" in cell]
    split = heads[0] == "Task"
    tasks = list(dict.fromkeys(str(row[0]["text"]) for row in rows)) if split else [""]
    mine = {task: [row for row in rows if not split or row[0]["text"] == task] for task in tasks}
    sizes = [0.3 + 0.17 * len(mine[task]) for task in tasks]
    height = sum(sizes) + 0.25 * len(tasks)
    figure, axes = plt.subplots(len(tasks), 4, figsize=(TEXT_WIDTH, height), squeeze=False, height_ratios=sizes)
    for line, task in zip(axes, tasks, strict=True):
        names = [list(zip(heads, row, strict=False))[split:] for row in mine[task]]
        labels = [", ".join(_label(head, cell) for head, cell in name) for name in names]
        for axis, (metric, title) in zip(line, _TITLES.items(), strict=True):
            _panel(axis, mine[task], metric)
            axis.set_title(title)
            axis.set_yticks(range(len(labels)), labels if axis is line[0] else [])
            axis.set_ylim(len(labels) - 0.4, -0.6)
        if len(tasks) > 1:
            line[0].set_ylabel(task.replace(" / ", " /\n"))
    seeds = {c["seeds"] for row in rows for c in row if "seeds" in c}
    spread = "one seed, so that there are no bars" if seeds == {1} else "means; bars: standard deviation over seeds"
    text = f"Dots: {spread}; arrows: which way is better."
    lacking = [
        str(row[1]["text"]) for row in cells["rows"] if split and row[0]["text"] in tasks and "mean" not in row[-1]
    ]
    if lacking:
        text += f" Not run: {', '.join(lacking)}."
    if any(c.get("best") for row in rows for c in row):
        among = "of its method's" if heads[0] == "Method" and len(heads) > 1 else ""
        text += f" Filled: best {among}, or not beaten beyond the paired 95 % interval.".replace(" ,", ",")
    caption(figure, f"{text} {f'{tasks[0]}.' if len(tasks) == 1 and split else '' if split else origin(stored)}")
    return figure


def _panel(axis: Any, rows: list[Any], metric: str) -> None:
    scale = 100 if metric == "accuracy" else 1
    drawn = [next(c for c in row if c.get("of") == metric) for row in rows]
    means = np.array([cell["mean"] * scale for cell in drawn])
    ends = np.array([cell.get("std", 0.0) * scale for cell in drawn])
    # A row farther out than three times the spread of the middle half would flatten the others: it becomes an arrow.
    low, high = np.quantile(means, (0.25, 0.75))
    room = 3.0 * (high - low) + 2.0 * float(np.median(ends))
    near = (means >= low - room) & (means <= high + room)
    left, right = (means - ends)[near].min(), (means + ends)[near].max()
    pad = 0.06 * (right - left) or 1.0
    for height, (row, cell, mean, end) in enumerate(zip(rows, drawn, means, ends, strict=True)):
        names = [str(c["text"]).split(" (")[0].split(" w/o")[0] for c in row if "text" in c]
        color = next((METHODS[name] for name in names if name in METHODS), NEUTRAL)
        face = color if cell.get("best") else "white"
        if near[height]:
            axis.errorbar(mean, height, xerr=end, fmt="o", markersize=4, color=color, markerfacecolor=face)
            continue
        side, mark, step = (left, "<", 5) if mean < left else (right, ">", -5)
        axis.plot(side, height, marker=mark, color=color, markerfacecolor=face, markersize=5)
        place = {
            "xytext": (step, 0),
            "textcoords": "offset points",
            "va": "center",
            "ha": "left" if step > 0 else "right",
        }
        axis.annotate(f"{mean:.3g}", (side, height), fontsize=6, **place)
    axis.set_xlim(left - pad, right + pad)
    axis.grid(axis="x", linewidth=0.3)


def _label(head: str, cell: Any) -> str:
    """A row's name: numbers say of what they are the values."""
    text = str(cell["text"])
    return f"{head.lower()} = {text}" if text.replace(".", "").isdigit() else text


def status(stored: Stored) -> Figure:
    """The finished rows; where there are none, a plain statement of what is missing."""
    import matplotlib.pyplot as plt

    cells = stored.numbers["table"]
    if any("mean" in c for row in cells["rows"] for c in row):
        return dots(stored)
    figure, axis = plt.subplots(figsize=(TEXT_WIDTH, 0.8))
    axis.axis("off")
    message = f"{len(cells['rows'])} rows, not run: they need a GPU and the data\n{stored.settings['command']}"
    axis.text(0.5, 0.5, message, ha="center", va="center", family="monospace", fontsize=7)
    return figure
