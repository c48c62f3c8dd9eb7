"""Sphinx configuration: a gallery that is executed, pages in Markdown, and docstrings in which mathematics survives."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

import fenchel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the gallery draws a figure of the checkout

project = "fenchel"
author = "the authors of fenchel"
release = getattr(fenchel, "__version__", "")
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "sphinx_gallery.gen_gallery"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "fenchel"
html_copy_source = False
smartquotes = False  # lambda' has a prime, not an apostrophe
html_math_renderer = "mathml"
default_role = "py:obj"
exclude_patterns = ["gallery/*", "recipes/*"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Array": "Array", "Surrogate": "Surrogate", "Schedule": "Schedule"}
maximum_signature_line_length = 90

sphinx_gallery_conf: dict[str, Any] = {
    "examples_dirs": ["gallery", "recipes"],
    "gallery_dirs": ["auto_gallery", "auto_recipes"],
    "filename_pattern": r"/(gallery|recipes)/(?!.*(fsdp|processes))",  # pages that start processes are only shown
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
}

# ---- mathematics: MathML in the page itself, so that it needs neither a script nor a network -------------------------


def _visit_inline(self: Any, node: Any) -> None:
    self.body.append(tex2mathml(node.astext()))
    raise SkipNode


def _visit_block(self: Any, node: Any) -> None:
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


# ---- docstrings: plain English with f**, |eps| and <lambda', mu>, none of which may be read as markup ----------------

_CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
_MARKUP = re.compile(r"[*|\\]|_(?!\w)")


def plain_to_rst(lines: list[str]) -> list[str]:
    """Docstring lines as reStructuredText: markup characters escaped, indented displays kept line by line.

    A display is what is indented by four after an empty line that follows a paragraph; code between backticks stays.
    """
    out: list[str] = []
    base = ""  # the indentation of the paragraph before
    display = False
    for i, line in enumerate(lines):
        indent = line[: len(line) - len(line.lstrip())]
        if line.strip():
            after_blank = i > 0 and not lines[i - 1].strip()
            if display and len(indent) <= len(base):
                display = False
            elif not display and after_blank and len(indent) >= len(base) + 4:
                out += [f"{base}::", ""]
                display = True
            if not display:
                base = indent
        out.append(line if display else _escaped(line))
    return out


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    return "".join(part if i % 2 else _MARKUP.sub(r"\\\g<0>", part) for i, part in enumerate(parts))


def _on_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = plain_to_rst(lines)


def setup(app: Sphinx) -> None:
    """Register the MathML writer, and the docstrings' conversion before napoleon reads their sections."""
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    app.connect("autodoc-process-docstring", _on_docstring, priority=400)
