"""How over- or underconfident predictions are, against those of the exact posterior: one stated measure for C2 and C3.

With c = max(p, 1 - p) the confidence of a prediction, its doubt is 1 - c. Over a distribution of inputs

    log doubt ratio  R = log( E[doubt of q] / E[doubt of exact Bayes] ),   R < 0 overconfident, R > 0 underconfident,

and E|p - p_exact|, which also sees errors that cancel in R. The thresholds of the parts of the claims were
set after a first look at bSAM's measures and before SAM's or Laplace's were known; they alone decide the verdicts:
overconfident R < -log 1.25, underconfident R > log 1.25, close |R| <= log 1.5 and E|p - p_exact| at most half of the
smaller of the two others' (SAM's and SAM + Laplace's).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLOSE", "CLOSE_ERROR", "MEASURE", "NOTICEABLE", "closer_than_half", "judge", "measure", "spread"]

Array = NDArray[np.float64]

NOTICEABLE = float(np.log(1.25))
CLOSE = float(np.log(1.5))
CLOSE_ERROR = 0.5

MEASURE = (
    "log ratio of the mean doubt 1 - max(p, 1 - p) to exact Bayes's, over fresh test points and over the plotted box; "
    "overconfident below -log 1.25, underconfident above log 1.25, close within log 1.5 and mean |p - p_exact| at most "
    "half that of both SAM and SAM + Laplace; thresholds set after a first look at bSAM's measures, before SAM's and "
    "Laplace's; they alone decide the verdict, the comparison by sign was added after the results were seen"
)


def measure(p: Array, exact: Array, labels: Array | None = None) -> dict[str, float]:
    """Measures of predictions p = P(class 1), (n,), against the exact ones, averaged over the inputs.

    ``log_doubt_ratio``, ``confidence_difference`` (positive: overconfident), ``mean_error`` = mean |p - p_exact|,
    ``max_error``, ``entropy`` and ``entropy_exact`` (nats); with ``labels`` in {0, 1} also ``nll`` and ``accuracy``.
    """
    doubt, exact_doubt = np.minimum(p, 1.0 - p), np.minimum(exact, 1.0 - exact)
    with np.errstate(divide="ignore"):  # predictions without any doubt have the ratio -inf
        ratio = float(np.log(doubt.mean() / exact_doubt.mean()))
    numbers = {
        "log_doubt_ratio": ratio,
        "confidence_difference": float((exact_doubt - doubt).mean()),
        "mean_error": float(np.abs(p - exact).mean()),
        "max_error": float(np.abs(p - exact).max()),
        "entropy": float(_entropy(p).mean()),
        "entropy_exact": float(_entropy(exact).mean()),
    }
    if labels is not None:
        numbers["nll"] = float(-np.log(np.where(labels == 1, p, 1.0 - p)).mean())
        numbers["nll_exact"] = float(-np.log(np.where(labels == 1, exact, 1.0 - exact)).mean())
        numbers["accuracy"] = float(((p > 0.5) == (labels == 1)).mean())
    return numbers


def judge(method: str, ratios: Iterable[float], errors: Iterable[float], others: Iterable[float]) -> bool:
    """Whether a part of the claim holds everywhere it was measured.

    Args:
        method: "sam" (overconfident), "laplace" (underconfident) or "bsam" (close).
        ratios: the method's log doubt ratios, one for each distribution of inputs.
        errors: its mean |p - p_exact|, likewise.
        others: the smaller of SAM's and SAM + Laplace's mean |p - p_exact|, likewise; used for "bsam".
    """
    values = list(ratios)
    if method == "sam":
        return all(r < -NOTICEABLE for r in values)
    if method == "laplace":
        return all(r > NOTICEABLE for r in values)
    return all(abs(r) <= CLOSE for r in values) and closer_than_half(errors, others)


def closer_than_half(errors: Iterable[float], others: Iterable[float]) -> bool:
    """Whether every error is at most half of the others' smaller one."""
    return all(e <= CLOSE_ERROR * o for e, o in zip(errors, others, strict=True))


def spread(rows: Iterable[Mapping[str, float]]) -> dict[str, Any]:
    """Mean, standard deviation, smallest and largest of every measure over seeds (or data sets)."""
    listed = list(rows)
    values = {key: np.array([row[key] for row in listed]) for key in listed[0]}
    return {
        key: {
            "mean": float(v.mean()),
            "std": float(v.std(ddof=1)) if len(v) > 1 else 0.0,
            "min": float(v.min()),
            "max": float(v.max()),
            "count": len(v),
        }
        for key, v in values.items()
    }


def _entropy(p: Array) -> Array:
    q = np.clip(p, 1e-300, 1.0)
    r = np.clip(1.0 - p, 1e-300, 1.0)
    return np.asarray(-p * np.log(q) - (1.0 - p) * np.log(r))
