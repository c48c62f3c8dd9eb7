"""Table 3: bSAM with and without the noise of line 3, and claim D4."""

from __future__ import annotations

from experiments.deep import deviations, plans, summary
from experiments.deep.evaluate import METRICS
from experiments.deep.statistics import paired
from experiments.deep.summary import Groups
from experiments.registry import Claim, Context, Outcome, register

__all__ = ["WITH", "WITHOUT", "judge", "run"]

WITH, WITHOUT = "bSAM (Alg. 1)", "bSAM w/o noise"


@register("table3", "Table 3: the noise of line 3", claims=("D4",), extras=("deep",))
def run(context: Context) -> Outcome:
    """Train what is missing and compare with noise against without, seed by seed."""
    rows = plans.execute(context, plans.table3(context))
    groups = summary.gather(rows, lambda row: (summary.task(row), WITH if row["settings"]["noise"] else WITHOUT))
    at_mean = summary.gather(
        rows,
        lambda row: (summary.task(row), WITH if row["settings"]["noise"] else WITHOUT),
        lambda row: row["metrics"]["mean"],
    )
    return Outcome(
        settings={
            **summary.provenance(rows),
            "deviations": deviations.COMMON if context.scale == "full" else deviations.QUICK,
            "not run": "ResNet-20-FRN on CIFAR-10 and CIFAR-100: need a GPU and the data",
        },
        numbers={"table": summary.table(groups, ["Task", "Method"])},
        claims=(judge(groups, at_mean),),
    )


def judge(groups: Groups, at_mean: Groups) -> Claim:
    """D4: with noise is better beyond the interval somewhere, and nowhere worse."""
    numbers, verdicts, boot, means = {}, {}, {}, {}
    for name in sorted({label[0] for label in groups}):
        for metric in METRICS:
            difference = paired(groups[name, WITH][metric], groups[name, WITHOUT][metric])
            place = f"{name}, {metric}"
            numbers[place] = difference.numbers()
            verdicts[place] = difference.favours(metric)
            boot[place] = difference.favours(metric, bootstrap=True)
            means[place] = paired(at_mean[name, WITH][metric], at_mean[name, WITHOUT][metric]).favours(metric)
    better = [place for place, v in verdicts.items() if v > 0]
    worse = [place for place, v in verdicts.items() if v < 0]
    verdict = "held" if len(better) == len(verdicts) else "held only if" if better else "refuted"
    return Claim(
        id="D4",
        verdict=verdict,
        statement=(
            f"Noise in line 3 improves {len(better)} of {len(verdicts)} places beyond the interval "
            f"({'; '.join(better) or 'none'}) and worsens {len(worse)} ({'; '.join(worse) or 'none'}); in the rest the "
            "difference cannot be told from zero with these seeds. Not run on ResNet-20-FRN/CIFAR."
        ),
        numbers={"with - without": numbers},
        tolerance="paired 95 % t interval over seeds",
        second_way=(
            f"bootstrap over seeds: better in {sum(v > 0 for v in boot.values())}, worse in "
            f"{sum(v < 0 for v in boot.values())}; predictions at the mean: better in "
            f"{sum(v > 0 for v in means.values())}, worse in {sum(v < 0 for v in means.values())}"
        ),
    )
