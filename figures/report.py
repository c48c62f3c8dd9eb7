"""The report: conclusions first, then a section a claim with its figure; Markdown and one HTML page."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from experiments import store
from experiments.files import written_whole
from experiments.registry import Claim, InputError
from figures.claims import CLAIMS, WITHDRAWN
from figures.render import RENDERED
from figures.table_text import grid

_HERE = Path(__file__).parent
_DECIDING = 3
"""Numbers shown with a claim; the others are folded."""
_SHORT = 250
_CSS = """
body{font:16px/1.5 Georgia,serif;max-width:60rem;margin:1.5rem auto;padding:0 1rem;color:#222;background:#fff}
h1,h2,h3,summary{font-family:Helvetica,Arial,sans-serif;line-height:1.2}h2{border-bottom:1px solid #ccc;margin-top:2rem}
table{border-collapse:collapse;font-size:.85rem;display:block;overflow-x:auto;max-width:100%}
td,th{border:1px solid #ccc;padding:.25rem .5rem;vertical-align:top;text-align:left}
code{background:#f3f3f3;padding:.1rem .3rem;font-size:.85em;overflow-wrap:anywhere}img{max-width:100%;height:auto}
summary{cursor:pointer;color:#0b4f8a}details{margin:.5rem 0}
b.v{border-radius:.25rem;padding:.05rem .4rem;color:#fff;background:#666;white-space:nowrap;font-weight:600}
b.held{background:#176d38}b.only{background:#8a6100}b.refuted{background:#a32020}
@media print{body{max-width:none}h2{break-after:avoid}img{break-inside:avoid}}
@media(max-width:30rem){
body>table:first-of-type :is(tbody,td){display:block}body>table:first-of-type thead{display:none}
body>table:first-of-type tr{display:flex;flex-wrap:wrap;gap:0 .4rem;padding:.2rem 0;border-top:1px solid #ccc}
body>table:first-of-type td{border:0;padding:0;line-height:1.3}
body>table:first-of-type td:nth-child(2){order:1;flex-basis:100%}
body>table:first-of-type td:nth-child(3){flex:1;overflow:hidden;
display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:2}}
"""
_CLASSES = {"held": "held", "held only if": "only", "refuted": "refuted"}


@dataclass(frozen=True)
class _Judged:
    """A claim in a stored run, with the verdict that stands."""

    run: store.Stored
    claim: Claim
    verdict: str
    reason: str


def write_report() -> list[Path]:
    """Write `figures/report.md` and `figures/report.html` (self-contained) from full results and drawn figures.

    What there are only quick runs of is shown in `figures/report.quick.html`, which is not kept: the report itself is
    the same wherever it is written.
    """
    stored = store.load_all()
    if not stored:
        raise InputError(f"no results are stored in {store.results_directory()}: python -m experiments run all")
    text = render_markdown(stored)
    files = {"report.md": text, "report.html": _page(text)}
    if any(run.scale != "full" for run in stored.values()):
        files["report.quick.html"] = _page(render_markdown(stored, quick=True))
    try:
        for name, content in files.items():
            with written_whole(_HERE / name) as temporary:
                temporary.write_text(content)
    except OSError as error:
        raise InputError(f"the report cannot be written to {_HERE}: {error.strerror or error}") from error
    return [_HERE / name for name in files]


def _page(text: str) -> str:
    body = MarkdownIt("commonmark").enable("table").render(text)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>Claims of SAM as an Optimal Relaxation of Bayes, tested</title><style>{_CSS}</style></head>"
        f"<body>{_embed_images(body)}</body></html>\n"
    )


def render_markdown(runs: Mapping[str, store.Stored] | None = None, *, quick: bool = False) -> str:
    """The report of ``runs`` (by default of all that are stored) as Markdown; with ``quick``, also of quick ones."""
    runs = store.load_all() if runs is None else runs
    stored = {name: run for name, run in runs.items() if quick or run.scale == "full"}
    found: dict[str, list[_Judged]] = {identity: [] for identity in CLAIMS}
    for run in stored.values():
        for claim in run.claims:
            found.setdefault(claim.id, []).append(_judged(run, claim))
    lines = [
        "# SAM as an Optimal Relaxation of Bayes: the claims, tested",
        "",
        "Every number comes from a stored run (`experiments/results`); every verdict is computed from the numbers. "
        "*Undecided* is not refuted: nothing was shown either way.",
        "",
    ]
    verdicts = {identity: _headline(found[identity]).replace("|", "\\|") for identity in CLAIMS}
    rows = [[f"[{i}](#{i.lower()}), {where}", _cell(says), verdicts[i]] for i, (where, says) in CLAIMS.items()]
    lines.append(grid(["claim", "says", "verdict"], rows))
    drawn: set[str] = set()
    for identity, (where, says) in CLAIMS.items():
        lines += ["", f'<h2 id="{identity.lower()}">{identity}. {html.escape(says)}</h2>', "", f"{where}.", ""]
        for judged in found[identity]:
            lines += _claim_lines(judged, first=judged.run.name not in drawn)
            drawn.add(judged.run.name)
        if not found[identity]:
            lines.append("No stored result tests this claim yet; `python -m experiments list` names the experiment.")
    lines += ["", "## Further figures and tables", ""]
    for run in stored.values():
        if run.name not in drawn:
            lines += [f'<h3 id="figure-{run.name}">{html.escape(run.title)}</h3>', "", *_figure_lines(run), ""]
    lines += ["", "## Runs", "", "<details><summary>Commands, revisions, times, devices</summary>", "", _runs(stored)]
    return "\n".join([*lines, "", "</details>"]).rstrip() + "\n"


def _judged(run: store.Stored, claim: Claim) -> _Judged:
    """Quick runs give no verdict; a withdrawn one is undecided until a newer test replaces it."""
    if run.scale != "full":
        return _Judged(run, claim, "not judged", "a quick run, which only shows that the code runs")
    if claim.id in WITHDRAWN and not claim.would_change:
        return _Judged(run, claim, "undecided", f"an earlier verdict is withdrawn: {WITHDRAWN[claim.id]}")
    # Claims stored before conditions had a place of their own say theirs in the statement.
    told = claim.statement if claim.verdict == "held only if" and len(claim.statement) < _SHORT else ""
    return _Judged(run, claim, claim.verdict, claim.condition or told)


def _badge(verdict: str, reason: str) -> str:
    mark = f'<b class="v {_CLASSES.get(verdict, "")}">{verdict}</b>'
    return f"{mark} {_text(reason)}" if reason else mark


def _headline(found: list[_Judged]) -> str:
    """The verdicts of all runs that judge; what was not run counts only where nothing else is there."""
    ran = [j for j in found if j.verdict not in ("not run", "not judged")] or found
    marks = dict.fromkeys(_badge(j.verdict, j.reason) for j in ran)
    return "; ".join(marks) if marks else _badge("not run", "")


def _claim_lines(judged: _Judged, *, first: bool) -> list[str]:
    run, claim = judged.run, judged.claim
    lines = [f"{_badge(judged.verdict, judged.reason)} ({run.name})", ""]
    # The sentence of a withdrawn verdict would say again what was withdrawn.
    lines += [_text(claim.statement), ""] if "withdrawn" not in judged.reason else []
    if first:
        lines += [f'<a id="figure-{run.name}"></a>', "", *_figure_lines(run, tables=False)]
    else:
        lines += [f"Figure: [{_text(run.title)}](#figure-{run.name})", ""]
    rows = [(name, _number(value)) for name, value in _flatten(claim.numbers)]
    deciding = [row for row in rows if len(row[1]) < 60][:_DECIDING]
    lines += _number_table(deciding)
    lines += ["<details><summary>All numbers, tolerance, second way, command</summary>", "", *_number_table(rows)]
    lines += [f"- Tolerance: {_text(claim.tolerance)}", f"- Second way: {_text(claim.second_way)}"]
    if claim.would_change:
        lines.append(f"- What would change it: {_text(claim.would_change)}")
    lines += [f"- Command: `{run.provenance['command']}`", ""]
    table = RENDERED / f"{run.name}.md"
    if table.exists() and first:
        lines += [_lower_headings(table.read_text()), ""]
    return [*lines, "</details>", ""]


def _number_table(rows: list[tuple[str, str]]) -> list[str]:
    if not rows:
        return []
    return [grid(["number", "value"], ([_cell(name), _cell(value)] for name, value in rows)), ""]


def _figure_lines(run: store.Stored, *, tables: bool = True) -> list[str]:
    name = run.name
    own = re.compile(rf"{re.escape(name)}(_.*)?$")
    lines = []
    for path in sorted(RENDERED.glob(f"{name}*.png")) + sorted(RENDERED.glob(f"{name}*.gif")):
        if own.match(path.stem):
            # What is read aloud, or stands there where images are not shown, says what the picture is of.
            lines += [f"![{_text(run.title)} ({path.stem})](rendered/{path.name})", ""]
    table = RENDERED / f"{name}.md"
    if table.exists() and tables:
        lines.append(_lower_headings(table.read_text()))
    return lines


def _lower_headings(text: str) -> str:
    """A table's own title becomes a heading of the third level: a page has one of the first."""
    return re.sub(r"^# ", "### ", text, flags=re.M)


def _runs(stored: dict[str, store.Stored]) -> str:
    rows = []
    for run in stored.values():
        p = run.provenance
        seconds = f"{p['wall_seconds']}{' after a resumption' if p.get('resumed') else ''}"
        said = [f"`{p['command']}`", str(p["seed"]), p["revision"], seconds, _cell(p["device"]), p["date"]]
        rows.append([run.name, run.scale, *said])
    return grid(["run", "scale", "command", "seed", "revision", "seconds", "device", "date"], rows)


def _flatten(numbers: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in numbers.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}: ")
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            columns = dict.fromkeys(key for row in value for key in row)
            yield from ((f"{name} ({len(value)}): {c}", [row[c] for row in value if c in row]) for c in columns)
        else:
            yield name, value


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

    return re.sub(r'src="(rendered/[^"]+)"', embed, body)
