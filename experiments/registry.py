"""What an experiment is: a name, a `run(context) -> Outcome`, and the claims it tests (see `experiments.catalogue`)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

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
    device: str | None = None
    """Of all deep runs; None is a GPU where there is one."""
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


def settle(holds: bool, *measured: ArrayLike) -> tuple[str, str]:
    """A judge's verdict and its condition: *held* or *refuted*, but *undecided* if something measured is NaN.

    Every comparison with NaN is false and Python's ``max`` can pass one over, so that a measurement that failed would
    count as the best or the worst, by its place in the list.
    """
    if any(bool(np.isnan(np.asarray(values, dtype=float)).any()) for values in measured):
        return "undecided", "something that it rests on could not be measured"
    return ("held" if holds else "refuted"), ""


@dataclass(frozen=True)
class Outcome:
    """The result of a run: JSON-able settings and numbers, claims, and arrays for the figures."""

    settings: Mapping[str, Any]
    numbers: Mapping[str, Any]
    claims: tuple[Claim, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """An experiment of the catalogue. ``where``: its module under `experiments` (with a function ``run``), with
    ``:NAME`` an entry of that module's ``RUNS``; or the function itself. ``extras``: beside ``experiments``.
    """

    name: str
    title: str
    where: str | Callable[[Context], Outcome]
    claims: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether it is a sweep of deep runs."""
        return isinstance(self.where, str) and self.where.startswith("deep.")

    def run(self, context: Context) -> Outcome:
        """Import what it needs and compute.

        Raises:
            InputError: a library is not installed; the sentence says how to get it.
        """
        try:
            outcome: Outcome = self._function()(context)
        except ModuleNotFoundError as error:
            missing = (error.name or "").split(".")[0]
            if missing in ("", "fenchel", "experiments", "figures"):
                raise
            extras = ",".join(("experiments", *self.extras))
            raise InputError(
                f"{self.name} needs {missing}, which is not installed: pip install -e '.[{extras}]', or make setup"
            ) from error
        return outcome

    def _function(self) -> Callable[[Context], Outcome]:
        if not isinstance(self.where, str):
            return self.where
        module, _, entry = self.where.partition(":")
        loaded = importlib.import_module(f"experiments.{module}")
        found: Callable[[Context], Outcome] = loaded.RUNS[entry] if entry else loaded.run
        return found
