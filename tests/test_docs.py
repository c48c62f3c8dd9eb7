"""The documentation does what it says: examples run as printed, links lead somewhere, mathematics survives."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "gallery").glob("plot_*.py"))
ALONE = 15
"""The first block of a gallery page has fewer lines than this."""


def first_block(page: Path) -> str:
    """The code of a page's first block: what a reader copies."""
    pytest.importorskip("sphinx_gallery")
    from sphinx_gallery.py_source_parser import split_code_and_text_blocks

    _, blocks = split_code_and_text_blocks(page)
    return next(block.content for block in blocks if block.type == "code")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_first_block_of_a_page_is_short_and_runs_alone(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = first_block(page)
    assert sum(bool(line.strip()) for line in code.splitlines()) < ALONE
    _run(code, tmp_path, monkeypatch)


def readme_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)


@pytest.mark.parametrize("code", readme_blocks(), ids=lambda code: code.strip().splitlines()[-1][:30])
def test_the_readme_runs_as_printed(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(code, tmp_path, monkeypatch)


def test_the_readme_names_files_and_targets_that_exist() -> None:
    files = re.findall(r'(?:\]\(|src=")(?!https?:)([^)"#]+)', (ROOT / "README.md").read_text())
    assert len(files) > 3
    assert [name for name in files if not (ROOT / name).exists()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"\bmake ([a-z-]+)", re.sub(r"figures make", "", (ROOT / "README.md").read_text())))
    assert named - {"and"} <= targets


def _run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    for word, package in (("torch", "torch"), ("from_expression", "flint"), ("fit_laplace", "laplace")):
        if word in code:
            pytest.importorskip(package)
    monkeypatch.chdir(folder)
    exec(compile(code, "example", "exec"), {"__name__": "example"})


class _Html(HTMLParser):
    """Anchors, internal links and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.ids.add(value)
            if name in ("href", "src") and value and not re.match(r"[a-z]+:", value):
                self.links.add(unquote(value))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, _Html]:
    """The built site by file, its gallery not executed; a warning of the builder is an error."""
    pytest.importorskip("sphinx_gallery")
    pytest.importorskip("furo")
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("auto_*", "sg_*"))
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-D", "plot_gallery=0", "docs", "out"]
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {}
    for path in (folder / "out").rglob("*.html"):
        pages[path] = _Html()
        pages[path].feed(path.read_text())
    return pages


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_every_internal_link_leads_somewhere(site: dict[Path, _Html]) -> None:
    broken = []
    for path, page in site.items():
        for link in page.links:
            file, _, anchor = link.partition("#")
            target = (path.parent / file.partition("?")[0]).resolve() if file else path
            if not target.exists() or (anchor and target in site and anchor not in site[target].ids):
                broken.append((path.name, link))
    assert not broken


def test_every_equation_leads_to_what_computes_it(site: dict[Path, _Html]) -> None:
    """No name on the theory page is without its place in the reference, and formulas are MathML, not source."""
    text = next(path for path in site if path.name == "theory.html" and path.parent.name != "api").read_text()
    names = re.findall(r'(<a [^>]*>)?<code class="xref py py-obj[^"]*">(.*?)</code>', text)
    assert len(names) > 20
    assert [name for link, name in names if not link] == []
    assert text.count("<math") > 40
    assert "$" not in re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)


@pytest.mark.parametrize("module", ["fenchel", "fenchel.losses", "fenchel.optim", "fenchel.predict"])
def test_docstrings_survive_in_the_reference(site: dict[Path, _Html], module: str) -> None:
    """What a docstring says first is on the page letter by letter: no <lambda', mu>, f** or |eps| is lost."""
    read = _plain(" ".join(" ".join(page.text) for path, page in site.items() if path.parent.name == "api"))
    members = [getattr(importlib.import_module(module), name) for name in importlib.import_module(module).__all__]
    documented = [m for m in members if inspect.isfunction(m) or inspect.isclass(m)]
    assert len(documented) > 3
    lost = [m.__name__ for m in documented if _plain(inspect.getdoc(m).split("\n\n")[0]) not in read]  # type: ignore[union-attr]
    assert not lost
    if module == "fenchel":
        assert "<lambda',mu>" in read
        assert "f**(mu)" in read


def _plain(text: str) -> str:
    return re.sub(r"[\s`]+", "", text)
