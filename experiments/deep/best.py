"""Claim D3: bSAM is best or tied in accuracy, NLL, ECE and AUROC. Judged in Tables 1, 2 and 6 alike."""

from __future__ import annotations

from dataclasses import replace

from experiments.deep import verdicts
from experiments.deep.evaluate import METRICS
from experiments.deep.statistics import paired
from experiments.deep.summary import Groups
from experiments.registry import Claim

OURS = "IVON"
"""Ours to compare with, not among the paper's methods."""


def judge(groups: Groups, at_mean: Groups, *, doubt: str = "") -> Claim:
    """From metrics over seeds by (task, method), averaged over samples; and those at the mean, as the second way.

    ``doubt`` says why bSAM may not have been at its best; with it nothing is refuted.
    """
    verdict, states, found = _judged(groups, leave_out=(OURS,))
    if doubt and verdict.word == "refuted":
        verdict = replace(verdict, word="undecided", condition=doubt)
    means = {label: at_mean[label] if label[1] == "bSAM" else values for label, values in groups.items()}
    with_ivon = _judged(groups, leave_out=())[0]
    return verdict.claim(
        "D3",
        f"bSAM against the paper's other methods: {_counts(states)}.",
        {
            "places": states,
            "bSAM - other": verdicts.numbers([place for places in found.values() for place in places]),
        },
        (
            f"bSAM at its mean instead of averages: {_judged(means, leave_out=(OURS,))[0].word}; "
            f"counting IVON as well: {with_ivon.word}"
        ),
    )


def _judged(
    groups: Groups, *, leave_out: tuple[str, ...]
) -> tuple[verdicts.Verdict, dict[str, str], dict[tuple[str, ...], list[verdicts.Place]]]:
    differences: verdicts.Differences = {}
    for task in dict.fromkeys(label[0] for label in groups):
        others = [label[1] for label in groups if label[0] == task and label[1] not in ("bSAM", *leave_out)]
        for metric in METRICS:
            for other in others:
                d = paired(groups[task, "bSAM"][metric], groups[task, other][metric])
                differences[task, other, metric] = metric, d
    found: dict[tuple[str, ...], list[verdicts.Place]] = {}
    for place in verdicts.places(differences):
        found.setdefault((place.where[0], place.metric), []).append(place)
    return *verdicts.judge_best(found), found


def _counts(states: dict[str, str]) -> str:
    return ", ".join(
        f"{state} in {sum(s == state for s in states.values())} of {len(states)} places"
        for state in ("best or tied", "beaten", "open")
    )
