"""Table 4: how many sampled networks the prediction averages over, and claim D5."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from experiments.deep import deviations, plans, summary
from experiments.deep.evaluate import METRICS
from experiments.deep.rows import Row
from experiments.deep.statistics import paired
from experiments.deep.summary import Groups
from experiments.registry import Claim, Context, Outcome, register

__all__ = ["judge", "run"]


@register("table4", "Table 4: Monte Carlo samples in model averaging", claims=("D5",), extras=("deep",))
def run(context: Context) -> Outcome:
    """Evaluate bSAM at the mean and averaged over 1 to 128 samples."""
    configs = plans.table4(context)
    rows = plans.execute(context, configs)
    counts = [str(k) for k in configs[0].samples]
    groups: Groups = {}
    for label in ["mean", *counts]:
        groups.update(_at(rows, label))
    return Outcome(
        settings={
            **summary.provenance(rows),
            "counts": counts,
            "deviations": (
                [*deviations.COMMON, "LeNet-5/FashionMNIST instead of ResNet-20-FRN/CIFAR-10"]
                if context.scale == "full"
                else deviations.QUICK
            ),
        },
        numbers={"table": summary.table(groups, ["Task", "Samples"])},
        claims=(judge(groups, counts),),
    )


def _at(rows: Sequence[Row], label: str) -> Groups:
    return summary.gather(rows, lambda row: (summary.task(row), label), lambda row: row["metrics"][label])


def judge(groups: Groups, counts: list[str]) -> Claim:
    """D5: the most samples beat one sample, no doubling hurts, and averaging beats the mean."""
    name = next(iter(groups))[0]
    against_one, against_mean, hurts = {}, {}, []
    boot = {}
    for metric in METRICS:
        most = groups[name, counts[-1]][metric]
        one = paired(most, groups[name, counts[0]][metric])
        mean = paired(most, groups[name, "mean"][metric])
        against_one[metric], against_mean[metric] = one, mean
        boot[metric] = (one.favours(metric, bootstrap=True), mean.favours(metric, bootstrap=True))
        for fewer, more in pairwise(counts):
            if paired(groups[name, more][metric], groups[name, fewer][metric]).favours(metric) < 0:
                hurts.append(f"{metric} from {fewer} to {more}")
    helped = [m for m, d in against_one.items() if d.favours(m) > 0]
    over_mean = [m for m, d in against_mean.items() if d.favours(m) > 0]
    under_mean = [m for m, d in against_mean.items() if d.favours(m) < 0]
    if len(helped) == len(METRICS) and not hurts and len(over_mean) == len(METRICS):
        verdict = "held"
    else:
        verdict = "held only if" if helped or over_mean else "refuted"
    return Claim(
        id="D5",
        verdict=verdict,
        statement=(
            f"On {name}, {counts[-1]} samples are better than one in {', '.join(helped) or 'no metric'} and better "
            f"than the mean in {', '.join(over_mean) or 'no metric'} (worse in {', '.join(under_mean) or 'none'}); "
            f"doubling hurts beyond the interval in: {', '.join(hurts) or 'none'}."
        ),
        numbers={
            f"{counts[-1]} samples - 1": {m: d.numbers() for m, d in against_one.items()},
            f"{counts[-1]} samples - mean": {m: d.numbers() for m, d in against_mean.items()},
        },
        tolerance="paired 95 % t interval over seeds",
        second_way="bootstrap over seeds, sign against one sample and against the mean: "
        + ", ".join(f"{m} {a:+d}/{b:+d}" for m, (a, b) in boot.items()),
    )
