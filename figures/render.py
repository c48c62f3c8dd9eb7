"""From a stored result to files: `figures/NAME.py` has `draw(stored)`, tables also `tables(stored)`."""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

from experiments import store
from experiments.registry import DAMAGE, InputError, written_whole
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
    if not os.path.lexists(path):
        raise FigureInputError(f"figure {name!r} has no stored result; run `python -m experiments run {name}` first")
    mpl.use("Agg")
    # The fonts carry no dates of their own, and fontTools says so for each of them.
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    stored = store.load(path)
    try:
        return _write(name, stored)
    except OSError as error:
        raise FigureInputError(f"figures cannot be written to {RENDERED}: {error.strerror or error}") from error
    except DAMAGE as error:
        again = f"python -m experiments run {name} --scale {stored.scale} --force"
        kind = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise FigureInputError(f"{path} does not hold what is drawn ({kind}); compute it again: {again}") from error


def _write(name: str, stored: store.Stored) -> list[Path]:
    import matplotlib.pyplot as plt

    module = importlib.import_module(f"figures.{name}")
    written = []
    with publication():
        drawn = module.draw(stored)
        figures = drawn if isinstance(drawn, Mapping) else {"": drawn}
        for suffix, figure in figures.items():
            for kind in ("pdf", "png"):
                target = RENDERED / f"{name}{'_' if suffix else ''}{suffix}.{kind}"
                # A fixed date keeps the files equal when the result is equal.
                metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
                with written_whole(target) as temporary:
                    figure.savefig(temporary, format=kind, metadata=metadata)
                written.append(target)
            plt.close(figure)
    if hasattr(module, "tables"):
        for kind, text in module.tables(stored).items():
            target = RENDERED / f"{name}.{kind}"
            with written_whole(target) as temporary:
                temporary.write_text(text)
            written.append(target)
    if hasattr(module, "animate"):
        written.append(module.animate(stored, RENDERED))
    return written
