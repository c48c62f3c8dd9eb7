"""Tables as Markdown; of a table's plain cells the best and what cannot be told from it are bold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from experiments.store import Stored

_DIGITS = {"accuracy": (2, 100.0), "nll": (4, 1.0), "ece": (4, 1.0), "auroc": (4, 1.0)}
_NOTE = "Mean ± standard deviation over seeds; bold: best, or not beaten beyond the paired 95 % interval."


def grid(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown, without a newline at its end."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def described(stored: Stored, tables: Sequence[tuple[str, dict[str, Any]]], notes: Sequence[str] = ()) -> str:
    """``tables``, (caption, cells) pairs, under the title of the run, with its source, notes and deviations below."""
    p = stored.provenance
    source = f"{stored.scale} run, {stored.settings.get('device') or 'nothing trained'}; `{p['command']}`"
    lines = [source, _NOTE, *notes, *stored.settings.get("deviations", [])]
    shown = [f"{caption}\n\n{_of_cells(cells)}" if caption else _of_cells(cells) for caption, cells in tables]
    return "\n\n".join([f"# {stored.title}", *shown, "\n".join(f"- {line}" for line in lines)]) + "\n"


def _of_cells(cells: dict[str, Any]) -> str:
    rows = [[f"**{_plain(cell)}**" if cell.get("best") else _plain(cell) for cell in row] for row in cells["rows"]]
    return grid(cells["columns"], rows)


def _plain(cell: dict[str, Any]) -> str:
    if "text" in cell:
        return str(cell["text"])
    if cell["mean"] in ("nan", "inf", "-inf"):
        return "diverged"
    digits, scale = _DIGITS[cell["of"]]
    value = f"{cell['mean'] * scale:.{digits}f}"
    if cell.get("seeds") == 1:
        return f"{value} (one seed)"
    return value if "std" not in cell else f"{value} ± {cell['std'] * scale:.{digits}f}"
