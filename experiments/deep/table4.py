"""Table 4: how many sampled networks the prediction averages over, and claim D5."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.deep import deviations, plans, statistics, summary, verdicts
from experiments.deep.evaluate import METRICS
from experiments.deep.rows import Row
from experiments.deep.statistics import LARGER_IS_BETTER, mean_interval, paired
from experiments.deep.summary import Groups
from experiments.registry import Claim, Context, Outcome


def run(context: Context) -> Outcome:
    """Evaluate bSAM at the mean and averaged over 1 to 128 samples."""
    model = plans.tasks(context)[0]
    config = plans.tuned(model, "bsam", context)
    rows = plans.execute(context, plans.seeded([config], context, plans.SEEDS))
    counts = [str(k) for k in config.samples]
    groups: Groups = {}
    for label in ["mean", *counts]:
        groups.update(_at(rows, label))
    return Outcome(
        settings={
            **summary.provenance(rows),
            "counts": counts,
            "deviations": deviations.small(context, f"{summary.task(rows[0])} instead of ResNet-20-FRN/CIFAR-10"),
        },
        numbers={"table": summary.table(groups, ["Task", "Samples"])},
        claims=(judge(groups, counts),),
    )


def _at(rows: Sequence[Row], label: str) -> Groups:
    return summary.gather(rows, lambda row: (summary.task(row), label), lambda row: row["metrics"][label])


def judge(groups: Groups, counts: Sequence[str]) -> Claim:
    """D5: more samples help: the most against one, and each metric's slope over the logarithm of their number."""
    name = next(iter(groups))[0]
    most = groups[name, counts[-1]]
    differences: verdicts.Differences = {
        ("against one sample", m): (m, paired(most[m], groups[name, counts[0]][m])) for m in METRICS
    }
    x = np.log2([float(k) for k in counts])
    slopes = {m: mean_interval(statistics.slopes(x, np.stack([groups[name, k][m] for k in counts]))) for m in METRICS}
    found = verdicts.places(differences)
    over_mean = verdicts.places(
        {("against the mean", m): (m, paired(most[m], groups[name, "mean"][m])) for m in METRICS}
    )
    verdict = verdicts.judge_helps(found)
    rising = [m for m, d in slopes.items() if (d.mean > 0) == LARGER_IS_BETTER[m] and d.p < verdicts.LEVEL]
    shown = [f"{place.metric}: {place.status}" for place in over_mean]
    return verdict.claim(
        "D5",
        f"On {name}, averaging over {counts[-1]} samples against one; against the mean: {', '.join(shown)}.",
        {"most - one": verdicts.numbers(found), "most - mean": verdicts.numbers(over_mean)},
        f"slope over log2 of the number of samples favours more in {', '.join(rising) or 'no metric'}",
    )
