"""Every stored result can be drawn, and what cannot be drawn is said in one sentence."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from markdown_it import MarkdownIt

from figures import __main__ as command
from figures import render, report


@pytest.mark.parametrize("name", render.drawable())
def test_stored_results_draw(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "RENDERED", tmp_path)
    written = render.make(name)
    assert {path.suffix for path in written} >= {".pdf", ".png"}
    assert all(path.stat().st_size > 1000 for path in written if path.suffix in (".pdf", ".png", ".gif"))


@pytest.mark.parametrize("name", ["fig99", "style"])
def test_unknown_figures_exit_with_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["make", name]) == 2
    assert "unknown figure" in capsys.readouterr().err


def test_a_figure_without_result_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FENCHEL_RESULTS", str(tmp_path))
    assert command.main(["make", "worst_case"]) == 2
    assert "python -m experiments run worst_case" in capsys.readouterr().err


def test_long_lists_are_reported_by_their_ranges() -> None:
    """The report shows what a list holds, not a dump of it; the result file has every row."""
    numbers = {"rows": [{"loss": f"l{i % 8}", "gap": 10.0**-i} for i in range(9)], "few": [1.0, 2.5]}
    assert [(name, report._number(value)) for name, value in report._flatten(numbers)] == [
        ("rows (9): loss", "l0, l1, l2, l3, l4, l5, … (8 different)"),
        ("rows (9): gap", "1e-08 to 1 (9 values)"),
        ("few", "[1, 2.5]"),
    ]


class _Page(HTMLParser):
    """Anchors, links, headings and the order of what a reader meets."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.order: list[str] = []
        self.unclosed: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a" and str(values.get("href", "")).startswith("#"):
            self.links.append(str(values["href"])[1:])
        self.order.append(tag)
        if tag == "details":
            self.unclosed.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "details":
            self.unclosed.pop()


def test_the_report_leads_to_its_figures() -> None:
    """One heading of the first level, no link without a target, the first figure after the first claim's heading."""
    page = _Page()
    page.feed(MarkdownIt("commonmark").enable("table").render(report.render_markdown()))
    assert page.order.count("h1") == 1
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.links) <= set(page.ids)
    assert page.unclosed == []
    first = page.order.index("img")
    assert page.order[:first].count("h2") == 1


def test_the_committed_report_is_that_of_the_committed_results() -> None:
    assert Path(report.__file__).with_name("report.md").read_text() == report.render_markdown()
