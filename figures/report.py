"""The report: every claim with its verdict, numbers, second way, figure and command; Markdown and one HTML page."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from experiments import store
from experiments.registry import Claim
from figures.claims import CLAIMS
from figures.render import RENDERED

__all__ = ["render_markdown", "write_report"]

_HERE = Path(__file__).parent
_CSS = """
body{font:16px/1.5 Georgia,serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1,h2,h3{font-family:Helvetica,Arial,sans-serif;line-height:1.2}h2{border-bottom:1px solid #ccc;margin-top:2.5rem}
table{border-collapse:collapse;font-size:.85rem;display:block;overflow-x:auto}
td,th{border:1px solid #ccc;padding:.25rem .5rem;vertical-align:top;text-align:left}
code{background:#f3f3f3;padding:.1rem .3rem;font-size:.85em}img{max-width:100%}
"""


def write_report() -> list[Path]:
    """Write `figures/report.md` and `figures/report.html` (self-contained) from results and drawn figures."""
    text = render_markdown()
    markdown = _HERE / "report.md"
    markdown.write_text(text)
    body = MarkdownIt("commonmark").enable("table").render(text)
    page = _HERE / "report.html"
    page.write_text(
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>Claims of SAM as an Optimal Relaxation of Bayes, tested</title><style>{_CSS}</style></head>"
        f"<body>{_embed_images(body)}</body></html>\n"
    )
    return [markdown, page]


def render_markdown() -> str:
    """The report as Markdown."""
    stored = store.load_all()
    again = store.load_all(quick=True)
    found: dict[str, list[tuple[store.Stored, Claim]]] = {claim: [] for claim in CLAIMS}
    for run in stored.values():
        for claim in run.claims:
            found.setdefault(claim.id, []).append((run, claim))
    lines = [
        "# SAM as an Optimal Relaxation of Bayes: the claims, tested",
        "",
        "Every number comes from a stored run (`experiments/results`); every verdict is computed from the numbers.",
        "",
        "| claim | where | says | verdict |",
        "|---|---|---|---|",
    ]
    for identity, (where, says) in CLAIMS.items():
        lines.append(f"| [{identity}](#{identity.lower()}) | {where} | {_cell(says)} | {_headline(found[identity])} |")
    for identity, (where, says) in CLAIMS.items():
        lines += [
            "",
            f"## {identity}",
            "",
            f"**{where}.** {_text(says)}.",
            "",
            f"**Verdict: {_headline(found[identity])}.**",
            "",
        ]
        for run, claim in found[identity]:
            lines += _claim_lines(run, claim, again.get(run.name))
        if not found[identity]:
            lines.append("No stored result tests this claim yet; `python -m experiments list` names the experiment.")
    lines += ["", "## Runs", "", "| run | scale | command | seed | revision | seconds | device | date |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for run in [*stored.values(), *again.values()]:
        p = run.provenance
        seconds = f"{p['wall_seconds']}{' after a resumption' if p.get('resumed') else ''}"
        row = [
            run.name,
            run.scale,
            f"`{p['command']}`",
            p["seed"],
            p["revision"],
            seconds,
            _cell(p["device"]),
            p["date"],
        ]
        lines.append(f"| {' | '.join(map(str, row))} |")
    lines += ["", "## Figures and tables", ""]
    for run in stored.values():
        lines += [f"### {run.title}", "", *_figure_lines(run.name), ""]
    return "\n".join(lines).rstrip() + "\n"


def _claim_lines(run: store.Stored, claim: Claim, again: store.Stored | None) -> list[str]:
    lines = [f"### {claim.id} in {run.name} ({run.scale}): {claim.verdict}", "", _text(claim.statement), ""]
    rows = list(_flatten(claim.numbers))
    if rows:
        lines += ["| number | value |", "|---|---|"]
        lines += [f"| {_cell(name)} | {_cell(_number(value))} |" for name, value in rows]
        lines.append("")
    lines += [f"- Tolerance: {_text(claim.tolerance)}", f"- Second way: {_text(claim.second_way)}"]
    lines.append(f"- Command: `{run.provenance['command']}`")
    if again is not None:
        verdicts = [c.verdict for c in again.claims if c.id == claim.id]
        lines.append(f"- Quick run on this machine ({again.provenance['date']}): {', '.join(verdicts) or 'not tested'}")
    images = sorted(RENDERED.glob(f"{run.name}*.png"))
    if images:
        lines.append("- Figure: " + ", ".join(f"[{p.stem}](#figures-and-tables)" for p in images))
    return [*lines, ""]


def _figure_lines(name: str) -> list[str]:
    own = re.compile(rf"{re.escape(name)}(_.*)?$")
    lines = []
    for path in sorted(RENDERED.glob(f"{name}*.png")) + sorted(RENDERED.glob(f"{name}*.gif")):
        if own.match(path.stem):
            lines += [f"![{path.stem}](rendered/{path.name})", ""]
    table = RENDERED / f"{name}.md"
    if table.exists():
        lines.append(table.read_text())
    return lines or ["(not drawn)"]


def _headline(found: list[tuple[store.Stored, Claim]]) -> str:
    verdicts = list(dict.fromkeys(claim.verdict for _, claim in found))
    return " / ".join(verdicts) if verdicts else "not run"


def _flatten(numbers: Any, prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in numbers.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            rows += _flatten(value, f"{name}: ")
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            columns = dict.fromkeys(key for row in value for key in row)
            rows += [(f"{name} ({len(value)}): {c}", [row[c] for row in value if c in row]) for c in columns]
        else:
            rows.append((name, value))
    return rows


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return _summary(value) if len(value) > 6 else f"[{', '.join(_number(v) for v in value)}]"
    return str(value)


def _summary(values: list[Any]) -> str:
    """A long list in short: the range of numbers, the distinct other values; the result file has them all."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return f"{_number(min(values))} to {_number(max(values))} ({len(values)} values)"
    distinct = list(dict.fromkeys(_number(v) for v in values))
    return ", ".join(distinct[:6]) + (f", … ({len(distinct)} different)" if len(distinct) > 6 else "")


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """Plain text as Markdown: the two stars of f** are not emphasis."""
    return str(text).replace("*", "\\*").replace("<", "&lt;").replace("\n", " ")


def _embed_images(body: str) -> str:
    def embed(match: re.Match[str]) -> str:
        path = _HERE / html.unescape(match.group(1))
        kind = path.suffix.lstrip(".")
        return f'src="data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"'

    body = re.sub(r'src="(rendered/[^"]+)"', embed, body)
    return re.sub(r"<h2>([A-D]\d)</h2>", lambda m: f'<h2 id="{m[1].lower()}">{m[1]}</h2>', body)
