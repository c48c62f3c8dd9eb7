"""Table 3: bSAM with and without the noise of line 3, and claim D4."""

from __future__ import annotations

from dataclasses import replace

from experiments.deep import deviations, plans, summary, verdicts
from experiments.deep.rows import Row
from experiments.deep.summary import Groups, Label
from experiments.registry import Claim, Context, Outcome

WITH, WITHOUT = "bSAM (Alg. 1)", "bSAM w/o noise"


def run(context: Context) -> Outcome:
    """Train what is missing and compare with noise against without, seed by seed, at the same tuned settings."""
    pairs = [plans.tuned(model, "bsam", context) for model in plans.tasks(context)]
    configs = [replace(config, noise=noise) for config in pairs for noise in (True, False)]
    rows = plans.execute(context, plans.seeded(configs, context, plans.SEEDS))

    def label(row: Row) -> Label:
        return summary.task(row), WITH if row["settings"]["noise"] else WITHOUT

    groups = summary.gather(rows, label)
    at_mean = summary.gather(rows, label, summary.at_mean)
    return Outcome(
        settings={**summary.provenance(rows), "deviations": deviations.small(context)},
        numbers={"table": summary.table(groups, ["Task", "Method"])},
        claims=(judge(groups, at_mean),),
    )


def judge(groups: Groups, at_mean: Groups) -> Claim:
    """D4: the noise of line 3 helps."""
    found = verdicts.against(groups, WITH, WITHOUT)
    means = verdicts.judge_helps(verdicts.against(at_mean, WITH, WITHOUT))
    return verdicts.judge_helps(found).claim(
        "D4",
        "Sampling the point of linearization (line 3) against taking the mean, at settings tuned with noise.",
        {"with - without": verdicts.numbers(found)},
        f"predictions at the mean instead of averages: {means.word}",
    )
