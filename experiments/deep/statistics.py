"""Differences between methods over seeds: paired t intervals, and the bootstrap as the second way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LARGER_IS_BETTER = {"accuracy": True, "nll": False, "ece": False, "auroc": True}


@dataclass(frozen=True)
class Difference:
    """The mean over seeds of a - b, with two 95 % intervals; ``low``, ``high`` are Student's."""

    mean: float
    low: float
    high: float
    p: float
    bootstrap_low: float
    bootstrap_high: float
    seeds: int

    def sign(self, *, bootstrap: bool = False) -> int:
        """+1 or -1 where the interval excludes zero, else 0."""
        low, high = (self.bootstrap_low, self.bootstrap_high) if bootstrap else (self.low, self.high)
        return 1 if low > 0 else -1 if high < 0 else 0

    def favours(self, metric: str, *, bootstrap: bool = False) -> int:
        """+1 where a is better than b beyond the interval, -1 where it is worse, else 0."""
        return self.sign(bootstrap=bootstrap) * (1 if LARGER_IS_BETTER[metric] else -1)

    @property
    def detectable(self) -> float:
        """The difference that a test at 5 % would have found with a probability of 80 %, were the spread as it is."""
        half = (self.high - self.low) / 2
        t = float(stats.t.ppf(0.975, self.seeds - 1))
        return half / t * (t + float(stats.t.ppf(0.8, self.seeds - 1)))

    def numbers(self) -> dict[str, Any]:
        """As plain numbers."""
        return {
            "difference": self.mean,
            "interval": [self.low, self.high],
            "p": self.p,
            "bootstrap": [self.bootstrap_low, self.bootstrap_high],
            "seeds": self.seeds,
        }


def paired(a: Sequence[float] | NDArray[Any], b: Sequence[float] | NDArray[Any]) -> Difference:
    """The difference of two methods run with the same seeds (data order and initial weights in common).

    Raises:
        ValueError: unequal numbers of seeds, or fewer than two.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"paired runs need equal numbers of seeds, got {first.shape} and {second.shape}")
    return mean_interval(first - second)


def mean_interval(values: Sequence[float] | NDArray[Any]) -> Difference:
    """Mean and 95 % intervals of values that are independent over seeds.

    Raises:
        ValueError: fewer than two values.
    """
    d = np.asarray(values, dtype=float)
    if d.ndim != 1 or len(d) < 2:
        raise ValueError(f"an interval needs at least two seeds, got {d.size}")
    mean, error = float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d)))
    if not np.isfinite(mean):
        return Difference(mean, float("nan"), float("nan"), float("nan"), float("nan"), float("nan"), len(d))
    half = float(stats.t.ppf(0.975, len(d) - 1)) * error
    certain = 1.0 if mean == 0 else 0.0
    p = float(2 * stats.t.sf(abs(mean) / error, len(d) - 1)) if error > 0 else certain
    rng = np.random.default_rng(0)
    means = d[rng.integers(0, len(d), (10_000, len(d)))].mean(1)
    low, high = (float(v) for v in np.quantile(means, (0.025, 0.975)))
    return Difference(mean, mean - half, mean + half, p, low, high, len(d))


def slopes(x: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The slopes (seeds,) of least-squares lines through values (n, seeds) at x (n,)."""
    centered = x - x.mean()
    return np.asarray(centered @ values / (centered @ centered))


def spread(values: Sequence[float] | NDArray[Any]) -> tuple[float, float]:
    """Mean and standard deviation over seeds."""
    d = np.asarray(values, dtype=float)
    with np.errstate(invalid="ignore"):  # of networks that diverged
        return float(d.mean()), float(d.std(ddof=1)) if len(d) > 1 else 0.0
