"""A table's plain cells as Markdown, LaTeX and HTML; the best and what cannot be told from it are bold."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from experiments.store import Stored

__all__ = ["texts"]

_DIGITS = {"accuracy": (2, 100.0), "nll": (4, 1.0), "ece": (4, 1.0), "auroc": (4, 1.0)}
_NOTE = "Mean ± standard deviation over seeds; bold: best, or not beaten beyond the paired 95 % interval."


def texts(stored: Stored, tables: Sequence[tuple[str, dict[str, Any]]], notes: Sequence[str] = ()) -> dict[str, str]:
    """One text a format: `md`, `tex`, `html`. ``tables`` are (caption, cells) pairs."""
    p = stored.provenance
    source = f"{stored.scale} run, {stored.settings.get('device') or 'nothing trained'}; `{p['command']}`"
    lines = [_NOTE, *notes, *stored.settings.get("deviations", [])]
    return {
        "md": "\n\n".join(
            (
                f"# {stored.title}",
                *(_markdown(caption, cells) for caption, cells in tables),
                "\n".join(f"- {line}" for line in [source, *lines]) + "\n",
            )
        ),
        "tex": "\n\n".join(_latex(f"{stored.title}. {caption}".strip(), cells) for caption, cells in tables) + "\n",
        "html": (
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
            f"<title>{html.escape(stored.title)}</title><style>body{{font-family:Georgia,serif;margin:2rem}}"
            "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.25rem .6rem}</style></head><body>"
            f"<h1>{html.escape(stored.title)}</h1>"
            + "".join(_html(caption, cells) for caption, cells in tables)
            + "<ul>"
            + "".join(f"<li>{html.escape(line)}</li>" for line in [source.replace("`", ""), *lines])
            + "</ul></body></html>\n"
        ),
    }


def _plain(cell: dict[str, Any], plus_minus: str) -> str:
    if "text" in cell:
        return str(cell["text"])
    if cell["mean"] in ("nan", "inf", "-inf"):
        return "diverged"
    digits, scale = _DIGITS[cell["of"]]
    value = f"{cell['mean'] * scale:.{digits}f}"
    if cell.get("seeds") == 1:
        return f"{value} (one seed)"
    return value if "std" not in cell else f"{value} {plus_minus} {cell['std'] * scale:.{digits}f}"


def _markdown(caption: str, cells: dict[str, Any]) -> str:
    lines = [caption, ""] if caption else []
    lines.append("| " + " | ".join(cells["columns"]) + " |")
    lines.append("|" + "---|" * len(cells["columns"]))
    for row in cells["rows"]:
        shown = [f"**{_plain(c, '±')}**" if c.get("best") else _plain(c, "±") for c in row]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _escape(text: str) -> str:
    for old, new in (("\\", r"\textbackslash "), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#"), ("<", "$<$")):
        text = text.replace(old, new)
    return text


def _latex(caption: str, cells: dict[str, Any]) -> str:
    count = len(cells["columns"])
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{'l' * count}}}", r"\hline"]
    lines += [" & ".join(_escape(c) for c in cells["columns"]) + r" \\", r"\hline"]
    for row in cells["rows"]:
        shown = []
        for cell in row:
            text = _plain(cell, r"$\pm$")
            text = _escape(text) if "text" in cell else text
            shown.append(rf"\textbf{{{text}}}" if cell.get("best") else text)
        lines.append(" & ".join(shown) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", rf"\caption{{{_escape(caption)}}}", r"\end{table}"])


def _html(caption: str, cells: dict[str, Any]) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in cells["columns"])
    body = []
    for row in cells["rows"]:
        shown = [html.escape(_plain(c, "±")) for c in row]
        shown = [f"<b>{s}</b>" if c.get("best") else s for s, c in zip(shown, row, strict=True)]
        body.append("<tr>" + "".join(f"<td>{s}</td>" for s in shown) + "</tr>")
    return f"<h2>{html.escape(caption)}</h2><table><tr>{head}</tr>{''.join(body)}</table>"
