"""What an experiment is: a name, a `run(context) -> Outcome`, and the claims it tests."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

__all__ = [
    "Claim",
    "Context",
    "Experiment",
    "InputError",
    "Outcome",
    "Stopped",
    "all_experiments",
    "find",
    "piece",
    "register",
]

Scale = Literal["quick", "full"]
VERDICTS = ("held", "refuted", "held only if", "undecided", "not run")


class InputError(ValueError):
    """Input from the command line that cannot be used; one sentence, shown without a traceback."""


class Stopped(Exception):
    """A sweep stopped before its end, as it was told to; one sentence says how far it is."""


@dataclass(frozen=True)
class Context:
    """What a run is given. ``partial`` holds finished pieces, so that an interrupted run resumes."""

    scale: Scale
    seed: int
    data: Path | None
    jobs: int
    partial: Path
    progress: bool
    scheduler: str | None = None
    precision: str | None = None
    """Of all deep runs, in place of what is planned."""
    datasets: tuple[str, ...] = ()
    """The user's own image data sets, for Table 1 in place of the paper's."""
    deadline: float | None = None
    """The `time.monotonic` at which a sweep stops, to be continued."""
    plan: bool = False
    """Print what a sweep would train and what it would take, and train nothing."""
    force: bool = False
    repeated: set[str] = field(default_factory=set)
    """Keys of the rows that this run has computed again already."""


@dataclass(frozen=True)
class Claim:
    """One tested claim: verdict, what was measured, how exactly, and how it was checked a second time."""

    id: str
    verdict: str
    statement: str
    numbers: Mapping[str, Any]
    tolerance: str
    second_way: str
    condition: str = ""
    """Under which it held, or why it is undecided."""
    would_change: str = ""
    """The numbers or settings that would have changed the verdict."""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict of claim {self.id} must be one of {VERDICTS}, got {self.verdict!r}")


@dataclass(frozen=True)
class Outcome:
    """The result of a run: JSON-able settings and numbers, claims, and arrays for the figures."""

    settings: Mapping[str, Any]
    numbers: Mapping[str, Any]
    claims: tuple[Claim, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A registered experiment."""

    name: str
    title: str
    run: Callable[[Context], Outcome]
    claims: tuple[str, ...]
    extras: tuple[str, ...]


_REGISTRY: dict[str, Experiment] = {}
_PACKAGES = ("experiments.theory", "experiments.toy", "experiments.deep")


def register(
    name: str, title: str, *, claims: tuple[str, ...] = (), extras: tuple[str, ...] = ()
) -> Callable[[Callable[[Context], Outcome]], Callable[[Context], Outcome]]:
    """Register ``run(context) -> Outcome`` under ``name``; ``extras`` are the optional dependencies it needs."""

    def decorate(run: Callable[[Context], Outcome]) -> Callable[[Context], Outcome]:
        _REGISTRY[name] = Experiment(name, title, run, claims, extras)
        return run

    return decorate


def all_experiments() -> dict[str, Experiment]:
    """Every registered experiment by name, in a natural order (fig1, fig2, ..., fig10)."""
    for package in _PACKAGES:
        for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
            try:
                importlib.import_module(f"{package}.{info.name}")
            except ModuleNotFoundError as error:
                if error.name and error.name.split(".")[0] in ("fenchel", "experiments", "figures"):
                    raise
                print(f"{info.name}: left out, the library {error.name!r} is not installed", file=sys.stderr)
    return dict(sorted(_REGISTRY.items(), key=lambda item: _natural_order(item[0])))


def find(name: str) -> Experiment:
    """The experiment called ``name``.

    Only the module of the same name is imported where there is one: `fig1` must not wait for torch.

    Raises:
        InputError: there is no such experiment.
    """
    if name not in _REGISTRY:
        for package in _PACKAGES:
            root = Path(next(iter(importlib.import_module(package).__path__)))
            if (root / f"{name}.py").exists():
                importlib.import_module(f"{package}.{name}")
    if name not in _REGISTRY and name not in all_experiments():
        raise InputError(f"unknown experiment {name!r}; `python -m experiments list` names them all")
    return _REGISTRY[name]


def piece(context: Context, key: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays of one finished piece of a run: computed once, then read back when an interrupted run resumes.

    ``compute`` returns arrays or numbers by name; everything comes back as arrays (0-d for numbers). Object
    arrays are refused, since nothing here is ever pickled.
    """
    path = context.partial / f"{key}.npz"
    if not path.exists():
        arrays = {k: np.asarray(v) for k, v in compute().items()}
        bad = [k for k, v in arrays.items() if v.dtype == object]
        if bad:
            raise TypeError(f"piece {key!r} holds object arrays {bad}; only plain arrays can be stored")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    with np.load(path, allow_pickle=False) as stored:
        return {k: stored[k] for k in stored.files}


def _natural_order(name: str) -> tuple[str, int, str]:
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0), name
