"""From a stored result to files: `figures/NAME.py` has `draw(stored)`, tables also `tables(stored)`."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

from experiments import store
from experiments.registry import InputError
from figures.style import publication

__all__ = ["RENDERED", "FigureInputError", "drawable", "make"]

RENDERED = Path(__file__).parent / "rendered"
_HOUSE = {"__main__", "render", "report", "style", "claims"}


class FigureInputError(InputError):
    """A figure that does not exist or has no stored result; one sentence, shown without a traceback."""


def drawable() -> list[str]:
    """Names of the figures that have both a module and a stored result."""
    modules = {m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])} - _HOUSE
    return sorted(modules & set(store.load_all()))


def make(name: str) -> list[Path]:
    """Draw one figure to `figures/rendered/NAME.{pdf,png}`; tables also as .md, .tex and .html.

    ``draw`` returns one figure, or several by suffix (stored as NAME_SUFFIX).

    Raises:
        FigureInputError: no such figure, or its experiment has not been run.
    """
    if name in _HOUSE or not (Path(__file__).parent / f"{name}.py").exists():
        raise FigureInputError(f"unknown figure {name!r}; there are {', '.join(drawable()) or 'none'}")
    path = store.shown_path(name)
    if not path.exists():
        raise FigureInputError(f"figure {name!r} has no stored result; run `python -m experiments run {name}` first")
    mpl.use("Agg")
    # The fonts carry no dates of their own, and fontTools says so for each of them.
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    import matplotlib.pyplot as plt

    stored = store.load(path)
    module = importlib.import_module(f"figures.{name}")
    RENDERED.mkdir(exist_ok=True)
    written = []
    with publication():
        drawn = module.draw(stored)
        figures = drawn if isinstance(drawn, Mapping) else {"": drawn}
        for suffix, figure in figures.items():
            for kind in ("pdf", "png"):
                target = RENDERED / f"{name}{'_' if suffix else ''}{suffix}.{kind}"
                # A fixed date keeps the files equal when the result is equal.
                metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
                figure.savefig(target, metadata=metadata)
                written.append(target)
            plt.close(figure)
    if hasattr(module, "tables"):
        for kind, text in module.tables(stored).items():
            target = RENDERED / f"{name}.{kind}"
            target.write_text(text)
            written.append(target)
    if hasattr(module, "animate"):
        written.append(module.animate(stored, RENDERED))
    return written
