"""App. E.3: the factor sqrt(N) in the s-update, and claim D7."""

from __future__ import annotations

from experiments.deep import deviations, plans, summary
from experiments.deep.evaluate import METRICS
from experiments.deep.statistics import paired
from experiments.deep.summary import Groups
from experiments.registry import Claim, Context, Outcome, register

__all__ = ["WITH", "WITHOUT", "judge", "run"]

WITH, WITHOUT = "with sqrt(N)", "without (Alg. 1)"


@register("sqrtn", "App. E.3: the s-update with and without the factor sqrt(N)", claims=("D7",), extras=("deep",))
def run(context: Context) -> Outcome:
    """Both versions of bSAM on LeNet-5, each with the hyperparameters of its own search."""
    rows = plans.execute(context, plans.sqrt_n(context))

    def label(row: dict[str, dict[str, bool]]) -> tuple[str, ...]:
        return (WITH if row["settings"]["sqrt_n"] else WITHOUT,)

    groups = summary.gather(rows, label)
    at_mean = summary.gather(rows, label, lambda row: row["metrics"]["mean"])
    return Outcome(
        settings={
            **summary.provenance(rows),
            "deviations": deviations.COMMON if context.scale == "full" else deviations.QUICK,
            "note": "both versions had the same search budget",
        },
        numbers={"table": summary.table(groups, ["s-update"], within=0)},
        claims=(judge(groups, at_mean),),
    )


def judge(groups: Groups, at_mean: Groups) -> Claim:
    """D7: without the factor is better beyond the interval in every metric, or in some."""
    found = {m: paired(groups[(WITHOUT,)][m], groups[(WITH,)][m]) for m in METRICS}
    means = {m: paired(at_mean[(WITHOUT,)][m], at_mean[(WITH,)][m]) for m in METRICS}
    better = [m for m, d in found.items() if d.favours(m) > 0]
    worse = [m for m, d in found.items() if d.favours(m) < 0]
    verdict = "held" if len(better) == len(METRICS) else "held only if" if better else "refuted"
    return Claim(
        id="D7",
        verdict=verdict,
        statement=(
            "On LeNet-5, each version tuned with the same budget, leaving the factor sqrt(N) out is better beyond the "
            f"interval in {', '.join(better) or 'no metric'} and worse in {', '.join(worse) or 'none'}."
        ),
        numbers={"without - with": {m: d.numbers() for m, d in found.items()}},
        tolerance="paired 95 % t interval over seeds",
        second_way="bootstrap, and predictions at the mean (sign in favour of leaving it out): "
        + ", ".join(f"{m} {found[m].favours(m, bootstrap=True):+d}/{means[m].favours(m):+d}" for m in METRICS),
    )
