"""How much a metric moves with rho: what Figures 4 and 8 draw, and claim D2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.deep import deviations, plans, summary
from experiments.deep.statistics import LARGER_IS_BETTER, paired
from experiments.deep.summary import NAMES, Groups
from experiments.registry import Claim, Context, Outcome

__all__ = ["judge", "outcome"]


def outcome(context: Context, metrics: Sequence[str]) -> Outcome:
    """The curves of ``metrics`` over rho for the three SAM variants, with the verdict on them."""
    rows = plans.execute(context, plans.sensitivity(context))
    groups = summary.gather(rows, lambda row: (NAMES[row["settings"]["method"]], repr(float(row["settings"]["rho"]))))
    centers = {NAMES[m]: plans.tuned("lenet5", m, context).rho for m in plans.SWEEP_METHODS}
    arrays = {}
    for method in centers:
        rhos = _rhos(groups, method)
        arrays[f"{method} rho"] = np.array(rhos)
        for metric in metrics:
            arrays[f"{method} {metric}"] = np.stack([groups[method, repr(r)][metric] for r in rhos])
    return Outcome(
        settings={
            **summary.provenance(rows),
            "selected rho": centers,
            "grid": "seven values over two decades, the selected rho in the middle",
            "metrics": list(metrics),
            "deviations": deviations.ABLATIONS if context.scale == "full" else deviations.QUICK,
        },
        numbers={"table": summary.table(groups, ["Method", "rho"], mark=False)},
        claims=(judge(groups, centers, metrics),),
        arrays=arrays,
    )


def judge(groups: Groups, centers: dict[str, float], metrics: Sequence[str]) -> Claim:
    """D2: bSAM's range over the grid is below that of both others, seed by seed."""
    ranges: dict[str, dict[str, NDArray[np.float64]]] = {}
    deviations_: dict[str, dict[str, NDArray[np.float64]]] = {}
    below: dict[str, dict[str, NDArray[np.float64]]] = {}
    best_at_edge = []
    for method in centers:
        rhos = _rhos(groups, method)
        for metric in metrics:
            values = np.stack([groups[method, repr(r)][metric] for r in rhos])
            ranges.setdefault(metric, {})[method] = np.ptp(values, axis=0)
            deviations_.setdefault(metric, {})[method] = values.std(axis=0)
            mean = values.mean(1) * (1 if LARGER_IS_BETTER[metric] else -1)
            top = int(mean.argmax())
            near = [i for i, r in enumerate(rhos) if rhos[top] / 10.5 <= r <= rhos[top]]
            below.setdefault(metric, {})[method] = np.ptp(values[near], axis=0)
            if method == "bSAM" and top == len(rhos) - 1:
                best_at_edge.append(metric)
    wins = {m: _smaller(ranges[m]) for m in metrics}
    deviation_wins = {m: _smaller(deviations_[m]) for m in metrics}
    below_wins = {m: _smaller(below[m]) for m in metrics}
    least = [m for m, w in wins.items() if all(w.values())]
    near_least = [m for m, w in below_wins.items() if all(w.values())]
    if len(least) == len(metrics) and len(near_least) == len(metrics):
        verdict = "held"
    else:
        verdict = "held only if" if least or near_least else "refuted"
    edge = (
        f" bSAM's best {', '.join(best_at_edge)} lies at the upper end of its grid: larger rho was not run, so its "
        "grid shows no side above the optimum, which is where the others lose most."
        if best_at_edge
        else ""
    )
    return Claim(
        id="D2",
        verdict=verdict,
        statement=(
            "Over two decades of rho around each method's selected value bSAM's range is the smallest beyond the "
            f"interval in {', '.join(least) or 'no metric'} (of {', '.join(metrics)}); within the decade below each "
            f"method's best rho in {', '.join(near_least) or 'no metric'}.{edge}"
        ),
        numbers={
            "best mean over the grid": _best(groups, centers, metrics),
            "range over the grid": _means(ranges),
            "range over the decade below the best": _means(below),
            "bSAM - other, range": {
                f"{m}, {other}": paired(ranges[m]["bSAM"], ranges[m][other]).numbers()
                for m in metrics
                for other in ranges[m]
                if other != "bSAM"
            },
        },
        tolerance="paired 95 % t interval over seeds of the difference of ranges",
        second_way=(
            "standard deviation over the grid instead of the range, bootstrap interval: smallest in "
            + (", ".join(m for m in metrics if all(_smaller(deviations_[m], bootstrap=True).values())) or "no metric")
            + "; with the t interval in "
            + (", ".join(m for m, w in deviation_wins.items() if all(w.values())) or "no metric")
        ),
    )


def _smaller(found: dict[str, NDArray[np.float64]], *, bootstrap: bool = False) -> dict[str, bool]:
    others = [method for method in found if method != "bSAM"]
    return {o: paired(found["bSAM"], found[o]).sign(bootstrap=bootstrap) < 0 for o in others}


def _means(found: dict[str, dict[str, NDArray[np.float64]]]) -> dict[str, Any]:
    return {f"{metric}, {method}": float(v.mean()) for metric, by in found.items() for method, v in by.items()}


def _best(groups: Groups, methods: Iterable[str], metrics: Sequence[str]) -> dict[str, Any]:
    found = {}
    for method in methods:
        for metric in metrics:
            means = {rho: float(groups[method, repr(rho)][metric].mean()) for rho in _rhos(groups, method)}
            rho = max(means, key=lambda r, m=means, up=LARGER_IS_BETTER[metric]: m[r] if up else -m[r])  # type: ignore[misc]
            found[f"{metric}, {method}"] = {"rho": rho, "value": means[rho]}
    return found


def _rhos(groups: Groups, method: str) -> list[float]:
    return sorted(float(label[1]) for label in groups if label[0] == method)
