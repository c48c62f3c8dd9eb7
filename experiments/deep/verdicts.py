"""From paired differences to a verdict: what was shown, what was shown to be absent, and what was not shown.

The thresholds were stated before the runs that they judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from experiments.deep.evaluate import METRICS
from experiments.deep.statistics import LARGER_IS_BETTER, Difference, paired
from experiments.deep.summary import Groups
from experiments.registry import Claim

WORTH = {"accuracy": 0.002, "nll": 0.005, "ece": 0.002, "auroc": 0.002}
"""Differences worth having; an interval within them shows that there is none."""
LEVEL = 0.05
TOLERANCE = f"paired t tests over seeds, Holm-corrected, {LEVEL:.0%}; a difference worth having: {WORTH}"
CHANCE = 2.0
"""A network is collapsed if its accuracy is below this many times that of guessing."""


@dataclass(frozen=True)
class Place:
    """One comparison: where (task, ..., metric), in which metric, and what it shows of "a is better than b"."""

    where: tuple[str, ...]
    metric: str
    difference: Difference
    status: str

    @property
    def name(self) -> str:
        """As in the report."""
        return ", ".join(self.where)


@dataclass(frozen=True)
class Verdict:
    """A word of `claims.md`, its condition, and the number that would have changed it."""

    word: str
    condition: str
    would_change: str

    def claim(self, identity: str, statement: str, numbers: Mapping[str, Any], second_way: str) -> Claim:
        """The claim in the report; ``second_way`` is how it comes out otherwise."""
        return Claim(identity, self.word, statement, numbers, TOLERANCE, second_way, self.condition, self.would_change)


def collapsed(accuracy: float, classes: int) -> bool:
    """Whether a network does not do better than guessing, or diverged."""
    return not accuracy > CHANCE / classes


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given; one that is not a number counts as 1."""
    values = [1.0 if np.isnan(v) else v for v in p]
    adjusted, running = [0.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        running = max(running, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = running
    return adjusted


Differences = dict[tuple[str, ...], tuple[str, Difference]]


def places(differences: Differences) -> list[Place]:
    """The comparisons by their place: better or worse after Holm's correction, same if within `WORTH`, else open."""
    adjusted = holm([d.p for _, d in differences.values()])
    found = []
    for p, (where, (metric, d)) in zip(adjusted, differences.items(), strict=True):
        sign = (1 if d.mean > 0 else -1) * (1 if LARGER_IS_BETTER[metric] else -1)
        within = -WORTH[metric] < d.low and d.high < WORTH[metric]
        status = ("better" if sign > 0 else "worse") if p < LEVEL else "same" if within else "open"
        found.append(Place(where, metric, d, status))
    return found


def _names(found: Iterable[Place]) -> str:
    return "; ".join(place.name for place in found) or "none"


def against(groups: Groups, better: str, other: str) -> list[Place]:
    """The groups (task, ``better``) against (task, ``other``), in every task and metric."""
    tasks = sorted({label[0] for label in groups})
    return places({(t, m): (m, paired(groups[t, better][m], groups[t, other][m])) for t in tasks for m in METRICS})


def judge_helps(found: Sequence[Place]) -> Verdict:
    """Whether a is better than b: shown in half of the places at least and reversed in none.

    *held only if*: so in every place of some tasks only, or in half of the places with a reversal in others.
    *refuted*: reversed in half of the places and shown in none, or a difference worth having excluded everywhere.
    """
    by = {s: [place for place in found if place.status == s] for s in ("better", "worse", "same", "open")}
    better, worse, still_open = by["better"], by["worse"], by["open"]
    need = ceil(len(found) / 2)
    change = (
        f"it is better in {len(better)} of {len(found)} places, worse in {len(worse)}, the same within a difference "
        f"worth having in {len(by['same'])}; held needs {need} better and none worse"
    )
    if not found:
        return Verdict("undecided", "nothing to compare with", change)
    if len(better) >= need and not worse:
        return Verdict("held", "", change)
    if not better and (len(worse) >= need or not still_open):
        return Verdict("refuted", "", change)
    tasks = sorted({place.where[0] for place in found})
    good = [t for t in tasks if _held_on([place for place in found if place.where[0] == t])]
    if good and len(tasks) > 1:
        return Verdict("held only if", "on " + " and ".join(good), change)
    if len(better) >= need:
        return Verdict("held only if", f"judged by {_names(better)}; it is the reverse in {_names(worse)}", change)
    sizes = [f"{place.name}: {place.difference.detectable:.2g}" for place in still_open]
    return Verdict("undecided", "detectable would have been " + "; ".join(sizes) if sizes else "mixed", change)


def _held_on(found: Sequence[Place]) -> bool:
    statuses = [place.status for place in found]
    return statuses.count("better") >= ceil(len(found) / 2) and "worse" not in statuses


def judge_best(found: Mapping[tuple[str, ...], Sequence[Place]]) -> tuple[Verdict, dict[str, str]]:
    """Whether one method is best or tied: its comparisons with every other, by (task, metric); and each place's state.

    A place is *beaten* if any other is better after Holm's correction over all comparisons, *best or tied* if none is
    and the best other's mean is ahead by no more than a difference worth having, else *open*. Another that diverged is
    not ahead.
    """
    states: dict[str, str] = {}
    tasks: dict[str, list[str]] = {}
    for where, comparisons in found.items():
        ahead = [-place.difference.mean * (1 if LARGER_IS_BETTER[place.metric] else -1) for place in comparisons]
        behind = max((value for value in ahead if not np.isnan(value)), default=np.inf)
        if any(place.status == "worse" for place in comparisons):
            state = "beaten"
        else:
            state = "best or tied" if behind <= WORTH[where[-1]] else "open"
        states[", ".join(where)] = state
        tasks.setdefault(where[0], []).append(state)
    every = list(states.values())
    good, beaten = every.count("best or tied"), every.count("beaten")
    change = (
        f"best or tied in {good} of {len(every)} places, beaten in {beaten}; held needs all, refuted needs half beaten"
    )
    if not every:
        return Verdict("undecided", "nothing to compare with", change), states
    if good == len(every):
        return Verdict("held", "", change), states
    if 2 * beaten >= len(every):
        return Verdict("refuted", "", change), states
    whole = [task for task, s in tasks.items() if all(state == "best or tied" for state in s)]
    if whole:
        return Verdict("held only if", "on " + " and ".join(whole), change), states
    if 2 * good >= len(every) and beaten:
        names = "; ".join(name for name, state in states.items() if state != "best or tied")
        return Verdict("held only if", f"not judged by {names}", change), states
    return Verdict("undecided", "open in " + "; ".join(n for n, s in states.items() if s == "open"), change), states


def numbers(found: Sequence[Place]) -> dict[str, Any]:
    """Every comparison as plain numbers."""
    return {
        place.name: {**place.difference.numbers(), "status": place.status, "detectable": place.difference.detectable}
        for place in found
    }
