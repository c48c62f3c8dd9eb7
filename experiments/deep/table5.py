"""Table 5: m of m-sharpness for bSAM and SAM-SGD, and claim D6."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from experiments.deep import deviations, plans, summary
from experiments.deep.evaluate import METRICS
from experiments.deep.statistics import mean_interval, paired
from experiments.deep.summary import NAMES, Groups
from experiments.registry import Claim, Context, Outcome, register

__all__ = ["judge", "run"]


@register("table5", "Table 5: m-sharpness", claims=("D6",), extras=("deep",))
def run(context: Context) -> Outcome:
    """Train both methods with every m on the same batches."""
    rows = plans.execute(context, plans.table5(context))
    groups = summary.gather(rows, lambda row: (NAMES[row["settings"]["method"]], str(row["settings"]["parts"])))
    batch = f"batch {plans.TABLE5_BATCH} instead of 200, so that 16 sub-batches divide it"
    return Outcome(
        settings={
            **summary.provenance(rows),
            "deviations": [*deviations.ABLATIONS, batch] if context.scale == "full" else deviations.QUICK,
        },
        numbers={"table": summary.table(groups, ["Method", "m"])},
        claims=(judge(groups),),
    )


def judge(groups: Groups) -> Claim:
    """D6: each metric's slope over log2 m, a least-squares line a seed, favours larger m."""
    numbers, signs, boot, ends = {}, {}, {}, {}
    for method in sorted({label[0] for label in groups}):
        parts = [label[1] for label in groups if label[0] == method]
        x = np.log2([float(m) for m in parts])
        for metric in METRICS:
            values = np.stack([groups[method, m][metric] for m in parts])
            slope = mean_interval(_slopes(x, values))
            place = f"{method}, {metric}"
            numbers[place] = {**slope.numbers(), "what": "slope per doubling of m"}
            signs[place], boot[place] = slope.favours(metric), slope.favours(metric, bootstrap=True)
            ends[place] = paired(values[-1], values[0]).favours(metric)
    better = [p for p, s in signs.items() if s > 0]
    worse = [p for p, s in signs.items() if s < 0]
    verdict = "held" if len(better) == len(signs) else "held only if" if better else "refuted"
    return Claim(
        id="D6",
        verdict=verdict,
        statement=(
            f"Over m = 1 to {parts[-1]} the slope favours larger m beyond the interval in {len(better)} of "
            f"{len(signs)} places ({'; '.join(better) or 'none'}), smaller m in {len(worse)} "
            f"({'; '.join(worse) or 'none'})."
        ),
        numbers=numbers,
        tolerance="95 % t interval over seeds of the slope of a line in log2 m",
        second_way=(
            f"bootstrap over seeds: larger m in {sum(v > 0 for v in boot.values())}, smaller in "
            f"{sum(v < 0 for v in boot.values())}; the largest m against m = 1, paired: better in "
            f"{'; '.join(p for p, v in ends.items() if v > 0) or 'none'}, worse in "
            f"{'; '.join(p for p, v in ends.items() if v < 0) or 'none'}"
        ),
    )


def _slopes(x: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    centered = x - x.mean()
    return np.asarray(centered @ values / (centered @ centered))
