"""The records that the rounds of column generation read and write: limits, start, candidates, what is established."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.moments.certificate import LowerBound, UpperBound
from fenchel.moments.polish import ActiveSet

__all__ = ["Budget", "Candidate", "Outcome", "Start", "distinct", "distinct_from", "merge"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """Limits of one computation; ``max_boxes`` holds for each global search."""

    max_rounds: int = 60
    max_seconds: float = 60.0
    max_boxes: int = 10_000_000


@dataclass(frozen=True)
class Start:
    """Whitened atoms (K, P), quadratics, proved bounds, and the active set of a nearby problem to begin from."""

    points: Array
    coefficients: tuple[Array, ...] = ()
    lower: LowerBound | None = None
    active: ActiveSet | None = None
    uppers: tuple[UpperBound | None, ...] = ()


@dataclass
class Outcome:
    """What the rounds have established so far."""

    lower: LowerBound | None = None
    upper: UpperBound | None = None
    local_lower: float = -np.inf
    rounds: int = 0
    boxes: int = 0
    atoms: int = 0
    message: str = ""
    unbounded: bool = False

    def offer_lower(self, bound: LowerBound) -> None:
        if self.lower is None or bound.value > self.lower.value:
            self.lower = bound

    def offer_upper(self, bound: UpperBound | None) -> None:
        if bound is not None and (self.upper is None or bound.value < self.upper.value):
            self.upper = bound

    def gap(self) -> float:
        if self.lower is None or self.upper is None:
            return np.inf
        return self.upper.value - self.lower.value


@dataclass(frozen=True)
class Candidate:
    """A quadratic, the local maximizers of l - Q found (x (K, P), values (K,)), and the lower bound they suggest."""

    coefficients: Array
    points: Array
    violations: Array
    lower: float


def distinct(points: Array, values: Array) -> tuple[Array, Array]:
    """One representative of points that coincide within 1e-6, the best first."""
    order = np.argsort(-values)
    points, values = points[order], values[order]
    if values.size < 2:
        return points, values
    size = 1.0 + np.linalg.norm(points, axis=1)
    close = np.linalg.norm(points[:, None, :] - points[None, :, :], axis=2) < 1e-6 * size[:, None]
    first = np.argmax(close, axis=1) == np.arange(values.size)
    return points[first], values[first]


def distinct_from(known: Array, points: Array) -> NDArray[np.bool_]:
    """Which points are none of the known ones, within 1e-6."""
    size = 1.0 + np.linalg.norm(points, axis=1)
    distance = np.linalg.norm(points[:, None, :] - known[None, :, :], axis=2)
    return np.asarray(np.min(distance, axis=1) >= 1e-6 * size, dtype=np.bool_)


def merge(points: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of one representative of every group of points that coincide within 1e-6, and each point's group."""
    size = 1.0 + np.linalg.norm(points, axis=1)
    close = np.linalg.norm(points[:, None, :] - points[None, :, :], axis=2) < 1e-6 * size[:, None]
    first, owner = np.unique(np.argmax(close, axis=1), return_inverse=True)
    return first, owner
