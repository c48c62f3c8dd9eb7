"""Table 2: with augmentation, beside the published values."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from experiments.store import Stored
from figures.table_plot import status
from figures.table_text import texts

__all__ = ["draw", "tables"]


def draw(stored: Stored) -> Figure:
    """What was run, or what running it needs."""
    return status(stored)


def tables(stored: Stored) -> dict[str, str]:
    """Markdown, LaTeX and HTML, with the published values below ours."""
    note = (
        "Published: the authors' README; accuracy of bSAM on ResNet-18/CIFAR-100 is about 80.4 %. Their script divides "
        "the summed NLL by the last batch index, so with 50 batches every published NLL is 50/49 of the true one; the "
        "second NLL column is corrected."
    )
    return texts(stored, [("Ours", stored.numbers["table"]), ("Published", _published(stored))], [note])


def _published(stored: Stored) -> dict[str, Any]:
    rows = []
    for row in stored.numbers["published"]["rows"]:
        cells: list[dict[str, Any]] = [{"text": row["task"]}, {"text": row["method"]}]
        for name, of in (("accuracy", "accuracy"), ("nll", "nll"), ("nll corrected", "nll"), ("ece", "ece")):
            cells.append({"mean": row[name], "of": of})
        rows.append([*cells, {"mean": row["auroc"], "of": "auroc"}])
    columns = ["Task", "Method", "Accuracy (%)", "NLL as printed", "NLL x 49/50", "ECE", "AUROC"]
    return {"columns": columns, "rows": rows}
