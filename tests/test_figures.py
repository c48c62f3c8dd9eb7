"""Every stored result can be drawn, and what cannot be drawn is said in one sentence."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from markdown_it import MarkdownIt

from experiments import store
from experiments.store import Stored
from figures import __main__ as command
from figures import fig1, render, report
from figures.sensitivity_plot import curves
from figures.style import caption, publication
from figures.table_plot import dots


@pytest.mark.parametrize("name", render.drawable())
def test_stored_results_draw(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "RENDERED", tmp_path)
    written = render.make(name)
    assert {path.suffix for path in written} >= {".pdf", ".png"}
    assert all(path.stat().st_size > 1000 for path in written if path.suffix in (".pdf", ".png", ".gif"))


def test_a_quick_run_is_drawn_where_there_is_a_full_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One's own seed is seen when it is asked for, and the figures of the full results stay as they are."""
    for suffix in (".json", ".npz"):
        shutil.copy(store.result_path("fig1", "full").with_suffix(suffix), tmp_path)
    monkeypatch.setenv("FENCHEL_RESULTS", str(tmp_path))
    monkeypatch.setattr(render, "RENDERED", tmp_path)
    assert command.main(["make", "fig1", "--scale", "quick"]) == 2
    full = json.loads((tmp_path / "fig1.json").read_text())
    (tmp_path / "fig1.quick.json").write_text(json.dumps({**full, "scale": "quick"}))
    shutil.copy(tmp_path / "fig1.npz", tmp_path / "fig1.quick.npz")
    seen = []
    draw = fig1.draw
    monkeypatch.setattr(fig1, "draw", lambda stored: seen.append(stored.scale) or draw(stored))
    assert command.main(["make", "all", "--scale", "quick"]) == 0
    assert command.main(["make", "fig1"]) == 0
    assert seen == ["quick", "full"]
    assert sorted(p.name for p in (tmp_path / "quick").iterdir()) == ["fig1.pdf", "fig1.png"]


@pytest.mark.parametrize("name", ["fig99", "style", "table_plot", "cost", "../fig1"])
def test_unknown_figures_exit_with_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["make", name]) == 2
    assert "unknown figure" in capsys.readouterr().err


def test_a_figure_without_result_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FENCHEL_RESULTS", str(tmp_path))
    assert command.main(["make", "worst_case"]) == 2
    assert "python -m experiments run worst_case" in capsys.readouterr().err


def _stored(settings: dict[str, Any], numbers: dict[str, Any], arrays: dict[str, np.ndarray]) -> Stored:
    return Stored("name", "title", "full", {"deviations": [], **settings}, numbers, (), {}, arrays)


def test_a_collapsed_network_is_a_cross_and_no_point_of_a_curve() -> None:
    """At the last rho one method guesses, with an ECE of 0: nothing of it may look like a good value."""
    arrays = {f"{m} rho": np.array([0.01, 0.1, 1.0]) for m in ("bSAM", "SAM-SGD")}
    for method, last in (("bSAM", 0.9), ("SAM-SGD", 0.1)):
        arrays[f"{method} accuracy"] = np.array([[0.91, 0.92], [0.90, 0.93], [last, last]])
        arrays[f"{method} ece"] = np.array([[0.03, 0.05], [0.02, 0.04], [0.0, 0.0]])
    figure = curves(
        _stored({"metrics": ["accuracy", "ece"], "selected rho": dict.fromkeys(("bSAM", "SAM-SGD"), 0.1)}, {}, arrays)
    )
    for axis in figure.axes:
        low, high = axis.get_ylim()
        lines = {line.get_label(): line for line in axis.get_lines() if line.get_marker() == "o"}
        assert len(lines["bSAM"].get_xdata()) == 3
        assert list(lines["SAM-SGD"].get_xdata()) == pytest.approx([0.1, 1.0])
        crosses = [line for line in axis.get_lines() if line.get_marker() == "x" and len(line.get_xdata())]
        assert [list(line.get_xdata()) for line in crosses] == [[10.0]]
        for band in axis.collections:  # no band is clipped
            ends = band.get_paths()[0].vertices[:, 1]
            assert low <= ends.min() <= ends.max() <= high


def test_tables_have_a_row_of_panels_for_each_task_on_its_own_scale() -> None:
    """MNIST and FashionMNIST do not share an axis, and one bad method becomes an arrow with its value."""

    def row(task: str, method: str, nll: float) -> list[dict[str, Any]]:
        metrics = {"accuracy": 0.9, "nll": nll, "ece": 0.01, "auroc": 0.9}
        cells = [{"mean": value, "std": 0.01 * value, "of": metric} for metric, value in metrics.items()]
        return [{"text": task}, {"text": method}, *cells]

    methods = ("SGD", "SAM-SGD", "VOGN", "Adam", "bSAM")
    rows = [row("A", m, 0.050 + 0.001 * k) for k, m in enumerate(methods)]
    rows += [row("B", m, 5.0 if m == "SGD" else 0.250 + 0.001 * k) for k, m in enumerate(methods)]
    columns = ["Task", "Method", "Accuracy (%)", "NLL", "ECE", "AUROC"]
    figure = dots(_stored({}, {"table": {"columns": columns, "rows": rows}}, {}))
    assert len(figure.axes) == 8
    first, second = figure.axes[1], figure.axes[5]
    assert 0.04 < first.get_xlim()[0] < first.get_xlim()[1] < 0.07
    assert 0.2 < second.get_xlim()[0] < second.get_xlim()[1] < 0.3
    assert [text.get_text() for text in second.texts] == ["5"]
    assert "A" in figure.axes[0].get_ylabel()
    assert "B" in figure.axes[4].get_ylabel()


@pytest.mark.parametrize("width", [3.3, 6.9])
def test_captions_stay_within_the_figure(width: float) -> None:
    """Formulas are not broken, which would show their source, and no line runs out of the figure."""
    import matplotlib.pyplot as plt

    with publication():
        figure = plt.figure(figsize=(width, 2.0))
        caption(figure, r"Words of $\sigma^2 = \rho/|\nabla\ell|$ and $f^{**}$ in turn, many. " * 8)
        figure.canvas.draw()
        (text,) = figure.findobj(lambda artist: "Words" in str(getattr(artist, "get_text", str)()))
        assert all(line.count("$") % 2 == 0 for line in text.get_text().splitlines())
        assert text.get_window_extent().x1 <= figure.bbox.x1
    plt.close(figure)


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
        self.described: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a" and str(values.get("href", "")).startswith("#"):
            self.links.append(str(values["href"])[1:])
        self.order.append(tag)
        if tag == "img":
            self.described.append(str(values.get("alt", "")))
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
    # What stands in a picture's place says what it is of, and not the name of a file.
    assert min(len(text.split()) for text in page.described) > 3, page.described


def test_the_committed_report_is_that_of_the_committed_results() -> None:
    assert Path(report.__file__).with_name("report.md").read_text() == report.render_markdown()


def test_a_damaged_result_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("FENCHEL_RESULTS", str(tmp_path))
    for damaged in ("{", "[]", '{"name": 3}', '{"claims": 3}'):
        (tmp_path / "fig2.json").write_text(damaged)
        assert command.main(["make", "fig2"]) == 2
        text = capsys.readouterr().err
        assert "fig2.json" in text
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize("part", ["settings", "numbers", "arrays"])
def test_a_foreign_result_is_one_sentence(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    record = json.loads(store.result_path("fig3", "full").read_text())
    monkeypatch.setenv("FENCHEL_RESULTS", str(tmp_path))
    store.result_path("fig3", "full").write_text(json.dumps(record | {"arrays": [], part: type(record[part])()}))
    assert command.main(["make", "fig3"]) == 2
    text = capsys.readouterr().err
    assert "fig3.json does not hold what is drawn" in text
    assert "--force" in text
    assert len(text.splitlines()) == 1


def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(render, "RENDERED", tmp_path / "file")
    monkeypatch.setattr(report, "_HERE", tmp_path / "file")
    monkeypatch.setattr(report, "_embed_images", lambda body: body)
    for arguments in (["make", "fig1"], ["report"]):
        assert command.main(arguments) == 2
        text = capsys.readouterr().err
        assert "cannot be written to" in text
        assert len(text.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
