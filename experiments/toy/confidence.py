"""What claims C2 and C3 ask of predictions, and how they are judged over data sets: pure functions of measures.

With c = max(p, 1 - p) the confidence of a prediction, its doubt is 1 - c; a method is overconfident where the log ratio
of its mean doubt to exact Bayes's is negative. Distance is the mean Kullback-Leibler divergence of the predicted from
the exact class probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from experiments.theory.posterior_metrics import bernoulli_kl
from fenchel.arrays import Array

Measures = Mapping[str, Mapping[str, Array]]
"""By method and measure, a value for each data set."""

NOTICEABLE = float(np.log(1.1))
"""Over- or underconfident: the mean doubt is off by more than a tenth."""
SHARE = 0.5
"""Close: this share of the way in predictive KL from SAM + Laplace to the ceiling, at least, and nearer than SAM."""
VARIANTS = {"bSAM": "Algorithm 1 as printed", "bSAM, sqrt(N)": "as derived, with the factor sqrt(N)"}


def doubt_ratio(p: Array, exact: Array) -> float:
    """Log ratio of the mean doubts; -inf for predictions without any."""
    with np.errstate(divide="ignore"):
        return float(np.log(np.minimum(p, 1 - p).mean() / np.minimum(exact, 1 - exact).mean()))


def measure(p: Array, exact: Array, regions: Mapping[str, slice]) -> dict[str, float]:
    """``kl_REGION`` and ``doubt_REGION`` for every region of points, and over ``both`` at equal weight."""
    found, both_doubt, exact_doubt = {}, 0.0, 0.0
    for name, at in regions.items():
        found[f"kl_{name}"] = bernoulli_kl(exact[at], p[at])
        found[f"doubt_{name}"] = doubt_ratio(p[at], exact[at])
        both_doubt += float(np.minimum(p[at], 1 - p[at]).mean())
        exact_doubt += float(np.minimum(exact[at], 1 - exact[at]).mean())
    found["kl_both"] = float(np.mean([found[f"kl_{name}"] for name in regions]))
    with np.errstate(divide="ignore"):
        found["doubt_both"] = float(np.log(both_doubt / exact_doubt))
    return found


def share_of_way(measures: Measures, bsam: str, where: str) -> Array:
    """How much of the way in predictive KL from SAM + Laplace to the ceiling bSAM goes; NaN where there is no way."""
    wide, top, own = (measures[name][f"kl_{where}"] for name in ("SAM + Laplace", "ceiling", bsam))
    way = wide - top
    return np.where(way > 0, (wide - own) / np.where(way > 0, way, 1.0), np.nan)


def parts(measures: Measures, bsam: str, *, share: float = SHARE, where: str = "box") -> dict[str, NDArray[np.bool_]]:
    """Data set by data set: SAM overconfident, SAM + Laplace underconfident, bSAM close."""
    kl = {name: values[f"kl_{where}"] for name, values in measures.items()}
    way = np.maximum(kl["SAM + Laplace"] - kl["ceiling"], 0.0)
    return {
        "SAM overconfident": measures["SAM"][f"doubt_{where}"] < -NOTICEABLE,
        "SAM + Laplace underconfident": measures["SAM + Laplace"][f"doubt_{where}"] > NOTICEABLE,
        "bSAM close": (kl["SAM + Laplace"] - kl[bsam] >= share * way) & (kl[bsam] < kl["SAM"]),
    }


def needed(
    by_place: Mapping[str, Measures], variants: Mapping[str, str], *, where: str = "box", place: str = ""
) -> dict[str, dict[str, int]]:
    """How many data sets are close if another share of the way is asked for."""
    return {
        f"{variant}, {place}{name}": {
            f"{share:g}": int(parts(measures, variant, share=share, where=where)["bSAM close"].sum())
            for share in (0.25, 0.5, 0.75, 0.9)
        }
        for variant in variants
        for name, measures in by_place.items()
    }


def would_change(what: str) -> str:
    """What would have changed the verdict of C2 or C3, which count by ``what``."""
    return (
        "draws that are close if another share of the way is asked for are in `share needed`; "
        f"a {what} counts once the interval of its share lies on one side of one half"
    )


def interval(count: int, total: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a share."""
    low = float(beta.ppf(0.025, count, total - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, total - count)) if count < total else 1.0
    return low, high


def decide(
    by_place: Mapping[str, Measures],
    *,
    where: str = "box",
    place: str = "",
    variants: Mapping[str, str] = VARIANTS,
) -> tuple[str, str, dict[str, Any]]:
    """A verdict, its condition and the counts, from all three parts at every place, for both forms of the algorithm.

    A place counts for the claim if the 95 % interval of the share of its data sets with all three parts lies above
    one half, against it if below. Held: for it at every place, for one of the two forms. Held
    only if: at some. Refuted: against it at every place for both. Else undecided.
    """
    signs: dict[str, dict[str, int]] = {variant: {} for variant in variants}
    shares: dict[str, Any] = {}
    for variant in variants:
        for name, measures in by_place.items():
            found = parts(measures, variant, where=where)
            whole = np.logical_and.reduce(list(found.values()))
            low, high = interval(int(whole.sum()), len(whole))
            signs[variant][name] = 1 if low > 0.5 else -1 if high < 0.5 else 0
            shares[f"{variant}, {place}{name}"] = {
                "all three": f"{int(whole.sum())} of {len(whole)}",
                "interval": [round(low, 3), round(high, 3)],
                **{part: f"{int(v.sum())} of {len(v)}" for part, v in found.items()},
            }
    good = [
        f"{variants[v]}: {place}{', '.join(p)}" for v in variants if (p := [k for k, s in signs[v].items() if s > 0])
    ]
    if by_place and any(all(s > 0 for s in by.values()) for by in signs.values()):
        return "held", "", shares
    if good:
        return "held only if", "; ".join(good), shares
    if by_place and all(s < 0 for by in signs.values() for s in by.values()):
        return "refuted", "", shares
    open_ = [f"{v}, {place}{p}" for v, by in signs.items() for p, s in by.items() if s == 0]
    return "undecided", "; ".join(open_) or ("some against" if by_place else "no draw counts"), shares
