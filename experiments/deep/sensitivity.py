"""How much a metric moves with rho: what Figures 4 and 8 draw, and claim D2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from experiments.deep import deviations, plans, summary, verdicts
from experiments.deep.config import Config
from experiments.deep.evaluate import METRICS
from experiments.deep.rows import Row
from experiments.deep.statistics import LARGER_IS_BETTER, paired
from experiments.deep.summary import NAMES
from experiments.registry import Claim, Context, Outcome

SWEPT = ("sam-sgd", "sam-adam", "bsam")
SIDE = 3
"""Points of the first grid on either side of the chosen rho, three a decade."""
WINDOW = 2
"""Points of the window on either side of a method's best rho: five points, 1.3 decades, for everybody."""
MORE = 3
"""Points that a grid may be longer, on a side where the window would not fit."""

Curves = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""By method and metric, an array (rho, seed), rho ascending."""


def outcome(context: Context, metrics: Sequence[str]) -> Outcome:
    """The curves of ``metrics`` over rho for the three SAM variants, with the verdict on them."""
    model = plans.tasks(context)[0]
    centers = {method: plans.tuned(model, method, context) for method in SWEPT}
    side = 1 if context.scale == "quick" else SIDE
    grids = dict.fromkeys(SWEPT, (-side, side))
    while True:
        configs = {m: [_at(centers[m], k, context) for k in range(low, high + 1)] for m, (low, high) in grids.items()}
        every = [c for many in configs.values() for c in many]
        rows = plans.execute(context, plans.seeded(every, context, plans.ABLATION_SEEDS))
        curves, rhos = _curves(rows)
        longer = {m: _longer(grids[m], _best(curves[NAMES[m]], "accuracy"), side) for m in SWEPT}
        if longer == grids:
            break
        grids = longer
    arrays: dict[str, NDArray[np.float64]] = {}
    for method, values in curves.items():
        arrays[f"{method} rho"] = rhos[method]
        arrays |= {f"{method} {metric}": values[metric] for metric in metrics}
    classes = 10
    groups = summary.gather(rows, lambda row: (NAMES[row["settings"]["method"]], repr(float(row["settings"]["rho"]))))
    return Outcome(
        settings={
            **summary.provenance(rows),
            "task": summary.task(rows[0]),
            "selected rho": {NAMES[m]: c.rho for m, c in centers.items()},
            "grid": "three values a decade around each method's chosen rho, longer where its best was near an end",
            "metrics": list(metrics),
            "collapsed": [
                f"{method}, rho = {rho:g}"
                for method, values in curves.items()
                for rho, accuracy in zip(rhos[method], values["accuracy"].mean(1), strict=True)
                if verdicts.collapsed(float(accuracy), classes)
            ],
            "deviations": deviations.small(context, f"{summary.task(rows[0])} instead of ResNet-20-FRN/CIFAR-100"),
        },
        numbers={"table": summary.table(groups, ["Method", "rho"], mark=False)},
        claims=(judge(curves, rhos, metrics, classes),),
        arrays=arrays,
    )


def _at(center: Config, step: int, context: Context) -> Config:
    samples = (8 if context.scale == "quick" else plans.SAMPLES,)
    if step == 0:
        return center  # shared with the tables
    return replace(center, samples=samples, rho=float(f"{center.rho * 10 ** (step / 3):.4g}"))


def _longer(grid: tuple[int, int], best: int, side: int) -> tuple[int, int]:
    """One more point at the end to which the window around ``best`` (an index) does not fit."""
    low, high = grid
    reach = min(WINDOW, side)
    if best < reach and low > -side - MORE:
        low -= 1
    if best > high - low - reach and high < side + MORE:
        high += 1
    return low, high


def _curves(rows: Sequence[Row]) -> tuple[dict[str, dict[str, NDArray[np.float64]]], dict[str, NDArray[np.float64]]]:
    groups = summary.gather(rows, lambda row: (NAMES[row["settings"]["method"]], repr(float(row["settings"]["rho"]))))
    curves, rhos = {}, {}
    for method in dict.fromkeys(label[0] for label in groups):
        order = sorted(float(label[1]) for label in groups if label[0] == method)
        curves[method] = {m: np.stack([groups[method, repr(r)][m] for r in order]) for m in METRICS}
        rhos[method] = np.array(order)
    return curves, rhos


def _best(values: Mapping[str, NDArray[np.float64]], metric: str, classes: int = 10) -> int:
    """The index of the best mean; collapsed networks are left out."""
    mean = values[metric].mean(1) * (1 if LARGER_IS_BETTER[metric] else -1)
    gone = [verdicts.collapsed(float(a), classes) for a in values["accuracy"].mean(1)]
    return int(np.argmax(np.where(gone, -np.inf, np.nan_to_num(mean, nan=-np.inf))))


def judge(curves: Curves, rhos: Mapping[str, NDArray[np.float64]], metrics: Sequence[str], classes: int) -> Claim:
    """D2: over equally many points around each method's own best, bSAM's metrics move least, seed by seed."""
    ranges: dict[str, dict[str, NDArray[np.float64]]] = {}
    spreads: dict[str, dict[str, NDArray[np.float64]]] = {}
    cut, collapsed = [], []
    for method, values in curves.items():
        for metric in metrics:
            best, last = _best(values, metric, classes), len(rhos[method]) - 1
            window = slice(max(0, best - WINDOW), best + WINDOW + 1)
            if best < WINDOW or best > last - WINDOW:
                cut.append(f"{method}, {metric}")
            inside = values[metric][window]
            gone = [verdicts.collapsed(float(a), classes) for a in values["accuracy"][window].mean(1)]
            if any(gone) and metric in ("ece", "auroc"):  # a network that guesses is calibrated, and says nothing
                collapsed.append(f"{method}, {metric}")
                inside = inside if all(gone) else inside[np.logical_not(gone)]
            ranges.setdefault(metric, {})[method] = np.ptp(inside, axis=0)
            spreads.setdefault(metric, {})[method] = inside.std(axis=0)
    found, second = _places(ranges), _places(spreads)
    verdict = verdicts.judge_helps(found)
    verdict = replace(verdict, condition=verdict.condition.removeprefix("on "))  # "against SAM-SGD" is no task
    if cut:
        condition = "; ".join(filter(None, [verdict.condition, "the grid ends within the window of " + ", ".join(cut)]))
        word = "undecided" if verdict.word in ("held", "refuted") else verdict.word
        verdict = replace(verdict, word=word, condition=condition)
    return verdict.claim(
        "D2",
        (
            f"Range of {', '.join(metrics)} over five values of rho (1.3 decades) around each method's own best, bSAM "
            f"against the others. Collapsed networks within a window: {', '.join(collapsed) or 'none'}."
        ),
        {
            "best rho": {
                f"{method}, {m}": float(rhos[method][_best(v, m, classes)])
                for method, v in curves.items()
                for m in metrics
            },
            "range": {f"{m}, {method}": float(v.mean()) for m, by in ranges.items() for method, v in by.items()},
            "bSAM - other, range": verdicts.numbers(found),
        },
        f"standard deviation over the window instead of the range: {verdicts.judge_helps(second).word}",
    )


def _places(by_metric: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> list[verdicts.Place]:
    # A smaller range is better in every metric, so ranges are compared as something of which less is more.
    differences: verdicts.Differences = {
        (f"against {other}", f"range of {metric}"): (metric, paired(_signed(found["bSAM"], metric), _signed(v, metric)))
        for metric, found in by_metric.items()
        for other, v in found.items()
        if other != "bSAM"
    }
    return verdicts.places(differences)


def _signed(ranges: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    return -ranges if LARGER_IS_BETTER[metric] else ranges


RUNS = {"fig4": partial(outcome, metrics=("accuracy",)), "fig8": partial(outcome, metrics=METRICS)}
