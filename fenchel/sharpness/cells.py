"""Branch and bound over theta for E_SAM in few dimensions: where its minimum can lie, and a lower bound of it.

Every theta in a cell of center c and half-diagonal r < rho has the ball of radius rho - r around c within its own, so
E_SAM(theta) >= l(p) + delta/2 |theta|^2 for every p in that ball. One good p, found by climbing, bounds the cell.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.losses import Loss

__all__ = ["Cells", "cover", "lower_bound"]

Array = NDArray[np.float64]
_MOST_CELLS = 1_000_000
_SPENT = 400_000
_CLIMBS = 3
_CHUNK = 50_000


@dataclass(frozen=True)
class Cells:
    """Boxes center +- half (N, P), (P,); E_SAM >= ``lower`` (N,) on each, and about ``estimate`` (N,) at its center."""

    loss: Loss
    rho: float
    delta: float
    centers: Array
    half: Array
    lower: Array
    estimate: Array

    @classmethod
    def of(cls, loss: Loss, rho: float, delta: float, centers: Array, half: Array) -> Cells:
        """The cells with their bounds."""
        inner = rho - float(np.linalg.norm(half))
        parts = [_bounds(loss, centers[i : i + _CHUNK], inner, rho) for i in range(0, len(centers), _CHUNK)]
        low, high = (np.concatenate(side) if side else np.zeros(0) for side in zip(*parts, strict=True))
        nearest = np.clip(0.0, centers - half, centers + half)
        low = low + 0.5 * delta * np.square(nearest).sum(axis=1)
        return cls(loss, rho, delta, centers, half, low, high + 0.5 * delta * np.square(centers).sum(axis=1))

    def below(self, level: float) -> Cells:
        """The cells in which E_SAM may be below ``level``."""
        keep = self.lower < level
        return Cells(
            self.loss, self.rho, self.delta, self.centers[keep], self.half, self.lower[keep], self.estimate[keep]
        )

    def apart_from(self, points: Array) -> Array:
        """The center (P,) with the lowest estimate of those farther than rho from all ``points``; empty if none."""
        apart = np.ones(len(self.centers), dtype=bool)
        for point in points:
            apart &= np.linalg.norm(self.centers - point, axis=1) > self.rho
        order = np.flatnonzero(apart)
        return self.centers[order[np.argmin(self.estimate[order])]] if order.size else np.zeros(0)

    def halved(self) -> Cells:
        """Every cell cut in two along every axis."""
        dim, half = self.half.size, 0.5 * self.half
        signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
        centers = (self.centers[:, None, :] + half * signs).reshape(-1, dim)
        return Cells.of(self.loss, self.rho, self.delta, centers, half)


def cover(loss: Loss, rho: float, delta: float, lo: Array, hi: Array) -> Cells | None:
    """The box [lo, hi] in cells of half-diagonal at most rho / 2; None where there would be too many."""
    counts = np.ceil((hi - lo) * np.sqrt(lo.size) / rho)
    if not np.prod(counts) <= _MOST_CELLS:
        return None
    half = 0.5 * (hi - lo) / counts
    axes = [lo[i] + half[i] * (2.0 * np.arange(int(counts[i])) + 1.0) for i in range(lo.size)]
    centers = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, lo.size)
    return Cells.of(loss, rho, delta, centers, half)


def lower_bound(cells: Cells, best: float, tol: float, end: float = np.inf) -> float:
    """A lower bound of min E_SAM over the cells, given that E_SAM takes the value ``best``: no sharper than ``tol``.

    After ``end`` on the clock no further cells are cut.
    """
    aim = best - tol * max(1.0, abs(best))
    rounding = 1e-12 * max(1.0, abs(best))
    spent = 0
    for level in _levels(cells, aim):
        spent += len(level.centers)
        low = min(float(level.lower.min(initial=np.inf)), aim)
        most = spent + len(level.centers) * 2**level.half.size
        if low >= aim or most > _SPENT or time.perf_counter() > end:
            return low - rounding
    return aim - rounding


def _levels(cells: Cells, aim: float) -> Iterator[Cells]:
    while len(cells.centers):
        cells = cells.below(aim)
        yield cells
        cells = cells.halved()


def _bounds(loss: Loss, centers: Array, inner: float, outer: float) -> tuple[Array, Array]:
    """Largest losses met within the ``inner`` and the ``outer`` radius of the centers (N, P): (N,) each.

    From the best of the directions to the sides and corners of a cube, by climbing on the inner sphere.
    """
    dim = centers.shape[1]
    low = np.asarray(loss._value(centers), dtype=float)
    high, direction = low, np.zeros_like(centers)
    sides = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    for side in sides[np.any(sides != 0.0, axis=1)]:
        unit = side / np.linalg.norm(side)
        value = loss._value(centers + inner * unit)
        direction = np.where((value > low)[:, None], unit, direction)
        low = np.maximum(low, value)
    for _ in range(_CLIMBS):
        slope = loss._gradient(centers + inner * direction)
        size = np.linalg.norm(slope, axis=1, keepdims=True)
        direction = slope / np.where(size > 0.0, size, 1.0)
        low = np.maximum(low, loss._value(centers + inner * direction))
        high = np.maximum(high, loss._value(centers + outer * direction))
    return low, high
