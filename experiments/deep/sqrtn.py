"""App. E.3: the factor sqrt(N) in the s-update, and claim D7."""

from __future__ import annotations

from dataclasses import replace

from experiments.deep import deviations, plans, spaces, summary, verdicts
from experiments.deep.rows import Row
from experiments.deep.summary import Groups, Label
from experiments.registry import Claim, Context, Outcome

WITH, WITHOUT = "with sqrt(N)", "without (Alg. 1)"


def run(context: Context) -> Outcome:
    """Both versions of bSAM, each with the settings of its own search."""
    few = (8,) if context.scale == "quick" else (plans.SAMPLES,)
    configs, edges, doubts = [], [], []
    for model in plans.tasks(context):
        doubts += [plans.weakness(model), plans.weakness(model, "bsam-sqrt-n")]
        with_factor = replace(plans.tuned(model, "bsam-sqrt-n", context), samples=few)
        configs += [plans.tuned(model, "bsam", context), with_factor]
        edges += [f"{model}: {n}" for n in spaces.at_edges(with_factor, spaces.SPACES["bsam-sqrt-n"])]
    rows = plans.execute(context, plans.seeded(configs, context, plans.SEEDS))

    def label(row: Row) -> Label:
        return summary.task(row), WITH if row["settings"]["sqrt_n"] else WITHOUT

    groups = summary.gather(rows, label)
    at_mean = summary.gather(rows, label, lambda row: row["metrics"]["mean"])
    return Outcome(
        settings={
            **summary.provenance(rows),
            "deviations": deviations.small(context),
            "note": "both versions had the same search budget",
            "settings of the variant at an edge of the first ranges": edges,
        },
        numbers={"table": summary.table(groups, ["Task", "s-update"])},
        claims=(judge(groups, at_mean, doubt="; ".join(filter(None, doubts))),),
    )


def judge(groups: Groups, at_mean: Groups, *, doubt: str = "") -> Claim:
    """D7: without the factor works better.

    ``doubt`` says why a version may not have been at its best; with it nothing is refuted, nor held without condition.
    """
    found = verdicts.against(groups, WITHOUT, WITH)
    verdict = verdicts.judge_helps(found)
    if doubt and verdict.word in ("held", "refuted"):
        word, condition = ("held only if", "at the settings found: ") if verdict.word == "held" else ("undecided", "")
        verdict = replace(verdict, word=word, condition=condition + doubt)
    means = verdicts.judge_helps(verdicts.against(at_mean, WITHOUT, WITH))
    return verdict.claim(
        "D7",
        "Leaving the factor sqrt(N) out of the s-update against keeping it, each tuned with the same budget.",
        {"without - with": verdicts.numbers(found)},
        f"predictions at the mean instead of averages: {means.word}",
    )
