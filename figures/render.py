"""From a stored result to files: `figures/NAME.py`, or `deep.py`, has `draw(stored)`, tables also `tables(stored)`."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

from experiments import store
from experiments.catalogue import EXPERIMENTS
from experiments.files import DAMAGE, written_whole
from experiments.registry import InputError
from figures import deep
from figures.style import publication

RENDERED = Path(__file__).parent / "rendered"


class FigureInputError(InputError):
    """A figure that does not exist or has no stored result; one sentence, shown without a traceback."""


def drawable(*, quick: bool = False) -> list[str]:
    """Names of the figures that have both a module and a stored result, or a quick one."""
    names = sorted(name for name in store.load_all() if _known(name))
    return [name for name in names if os.path.lexists(store.result_path(name, "quick"))] if quick else names


def _known(name: str) -> bool:
    return name in EXPERIMENTS and (name in deep.NAMES or Path(__file__).with_name(f"{name}.py").exists())


def make(name: str, *, quick: bool = False) -> list[Path]:
    """Draw one figure to `figures/rendered/NAME.{pdf,png}`; its tables to NAME.md.

    With ``quick`` the quick run is drawn, to `figures/rendered/quick`, also where there is a full one. ``draw`` returns
    one figure, or several by suffix (stored as NAME_SUFFIX).

    Raises:
        FigureInputError: no such figure, or its experiment has not been run.
    """
    if not _known(name):
        known = ", ".join(sorted(filter(_known, EXPERIMENTS)))
        raise FigureInputError(f"unknown figure {name!r}; there are {known}")
    path = store.result_path(name, "quick") if quick else store.shown_path(name)
    if not os.path.lexists(path):
        kind = "quick" if quick else "stored"
        raise FigureInputError(f"figure {name!r} has no {kind} result; run `python -m experiments run {name}` first")
    mpl.use("Agg")
    # The fonts carry no dates of their own, and fontTools says so for each of them.
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    stored = store.load(path)
    try:
        return _write(name, stored, RENDERED / "quick" if quick else RENDERED)
    except OSError as error:
        raise FigureInputError(f"figures cannot be written to {RENDERED}: {error.strerror or error}") from error
    except DAMAGE as error:
        again = f"python -m experiments run {name} --scale {stored.scale} --force"
        kind = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise FigureInputError(f"{path} does not hold what is drawn ({kind}); compute it again: {again}") from error


def _write(name: str, stored: store.Stored, folder: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    folder.mkdir(exist_ok=True)
    module = deep if name in deep.NAMES else importlib.import_module(f"figures.{name}")
    written = []
    with publication():
        drawn = module.draw(stored)
        figures = drawn if isinstance(drawn, Mapping) else {"": drawn}
        for suffix, figure in figures.items():
            for kind in ("pdf", "png"):
                target = folder / f"{name}{'_' if suffix else ''}{suffix}.{kind}"
                # A fixed date keeps the files equal when the result is equal.
                metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
                with written_whole(target) as temporary:
                    figure.savefig(temporary, format=kind, metadata=metadata)
                written.append(target)
            plt.close(figure)
    if hasattr(module, "tables"):
        target = folder / f"{name}.md"
        with written_whole(target) as temporary:
            temporary.write_text(module.tables(stored))
        written.append(target)
    if hasattr(module, "animate"):
        written.append(module.animate(stored, folder))
    return written
