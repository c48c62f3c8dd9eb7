"""The figures of deep runs: tables with a panel a metric, and curves over rho; with what their tables say beside."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from experiments.store import Stored
from figures.sensitivity_plot import curves
from figures.table_plot import status
from figures.table_text import described

NAMES = ("fig4", "fig8", "sqrtn", "table1", "table2", "table3", "table4", "table5", "table6")
_NOTES = {
    "table1": "The published values are not known to us.",
    "table2": "Published: the authors' README; accuracy of bSAM on ResNet-18/CIFAR-100 is about 80.4 %. Their script "
    "divides the summed NLL by the last batch index, so with 50 batches every published NLL is 50/49 of the true one; "
    "the second NLL column is corrected.",
    "table6": "The published values of this table are not known to us; IVON is not in the paper.",
}
_CAPTIONS = {"table2": "Ours", "table6": "Bayesian methods average over samples"}


def draw(stored: Stored) -> Figure:
    """The curves of a sweep over rho, or the finished rows of a table."""
    return curves(stored) if "metrics" in stored.settings else status(stored)


def tables(stored: Stored) -> str:
    """As Markdown: ours, then the published values or those at the mean where there are any."""
    shown = [(_CAPTIONS.get(stored.name, ""), stored.numbers["table"])]
    if stored.name == "table2":
        shown.append(("Published", _published(stored)))
    if "table_mean" in stored.numbers:
        shown.append(("Predictions at the mean", stored.numbers["table_mean"]))
    return described(stored, shown, [_NOTES[stored.name]] if stored.name in _NOTES else [])


def _published(stored: Stored) -> dict[str, Any]:
    rows = []
    for row in stored.numbers["published"]["rows"]:
        cells: list[dict[str, Any]] = [{"text": row["task"]}, {"text": row["method"]}]
        for name, of in (("accuracy", "accuracy"), ("nll", "nll"), ("nll corrected", "nll"), ("ece", "ece")):
            cells.append({"mean": row[name], "of": of})
        rows.append([*cells, {"mean": row["auroc"], "of": "auroc"}])
    columns = ["Task", "Method", "Accuracy (%)", "NLL as printed", "NLL x 49/50", "ECE", "AUROC"]
    return {"columns": columns, "rows": rows}
