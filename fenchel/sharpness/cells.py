"""Branch and bound over theta for E_SAM in few dimensions: where its minimum can lie, and a lower bound of it.

Every theta in a cell of center c and half-diagonal r < rho has the ball of radius rho - r around c within its own, so
E_SAM(theta) >= l(p) + delta/2 |theta|^2 for every p in that ball. Good p, found by climbing, bound the cell; its halves
climb on from there, so that the bound is as sharp as the cell is small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.arrays import Array
from fenchel.losses import Loss
from fenchel.losses.accurate import EPS

_MOST_CELLS = 500_000
_SPENT = 200_000
_CHUNK = 10_000
_CLIMBS = 3
# Points of the unit ball of a cell: how far those are apart that it climbs from, and their first steps.
_APART, _STEP = 0.5, 0.2
# Cells of this half-diagonal, in units of rho, only climb on from where the larger ones came to.
_SMALL = 0.005


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
    points: Array
    """(N, K, P + 1): K points of the unit ball from where halves climb on, each with the length of its next step."""

    @classmethod
    def of(cls, loss: Loss, rho: float, delta: float, centers: Array, half: Array, points: Array) -> Cells:
        """The cells with their bounds, climbing from ``points`` among others."""
        # Points and cells are off by roundings of the centers.
        reach = float(np.linalg.norm(half)) + 4.0 * EPS * float(np.abs(centers).max(initial=rho))
        chunks = range(0, max(len(centers), 1), _CHUNK)
        parts = [_climbed(loss, centers[i : i + _CHUNK], points[i : i + _CHUNK], rho, reach) for i in chunks]
        low, high, points = (np.concatenate(found) for found in zip(*parts, strict=True))
        nearest = np.clip(0.0, centers - half, centers + half)
        low = low + 0.5 * delta * np.square(nearest).sum(axis=1)
        return cls(loss, rho, delta, centers, half, low, high + 0.5 * delta * np.square(centers).sum(axis=1), points)

    def below(self, level: float) -> Cells:
        """The cells in which E_SAM may be below ``level``."""
        keep = self.lower < level
        rest = (values[keep] for values in (self.lower, self.estimate, self.points))
        return Cells(self.loss, self.rho, self.delta, self.centers[keep], self.half, *rest)

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
        return Cells.of(self.loss, self.rho, self.delta, centers, half, np.repeat(self.points, 2**dim, axis=0))


def cover(loss: Loss, rho: float, delta: float, lo: Array, hi: Array, end: float = np.inf) -> Cells | None:
    """The box [lo, hi] in cells of half-diagonal at most rho / 2; None where there would be too many.

    More than could be bounded before ``end`` on the clock are too many, by the time that the first of them take.
    """
    counts = np.ceil((hi - lo) * np.sqrt(lo.size) / rho)
    if not np.prod(counts) <= _MOST_CELLS:
        return None
    half = 0.5 * (hi - lo) / counts
    axes = [lo[i] + half[i] * (2.0 * np.arange(int(counts[i])) + 1.0) for i in range(lo.size)]
    centers = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, lo.size)
    points = np.empty((len(centers), 0, lo.size + 1))
    if len(centers) > _CHUNK:
        begin = time.perf_counter()
        Cells.of(loss, rho, delta, centers[:_CHUNK], half, points[:_CHUNK])
        now = time.perf_counter()
        if (now - begin) * len(centers) / _CHUNK > end - now:
            return None
    return Cells.of(loss, rho, delta, centers, half, points)


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


def _climbed(loss: Loss, centers: Array, points: Array, rho: float, reach: float) -> tuple[Array, Array, Array]:
    """Largest losses met within rho - ``reach`` and rho of the centers (N, P), (N,) each; and from where to climb on.

    The former less what rounding may have added. Projected gradients in the smaller balls, from the best of the given
    ``points`` and of some all around.
    """
    (n, dim), inner = centers.shape, rho - reach

    def at(of: Callable[[Array], Array], u: Array, radius: float) -> Array:
        found = np.asarray(of((centers[:, None, :] + radius * u).reshape(-1, dim)), dtype=float)
        return found.reshape(*u.shape[:2], *found.shape[1:])

    if reach > _SMALL * rho:
        around = np.concatenate([_around(dim), np.full((len(_around(dim)), 1), _STEP)], axis=1)
        points = np.concatenate([points, np.broadcast_to(around, (n, *around.shape))], axis=1)
    value = at(loss._value, points[..., :-1], inner)
    chosen = _apart(points[..., :-1], value, 2 * dim)
    value = np.take_along_axis(value, chosen, axis=1)
    points = np.take_along_axis(points, chosen[..., None], axis=1)
    u, length = points[..., :-1], points[..., -1]
    for _ in range(_CLIMBS):
        slope = at(loss._gradient, u, inner)
        size = np.linalg.norm(slope, axis=2)
        trial = u + (length / np.where(size > 0.0, size, 1.0))[..., None] * slope
        trial /= np.maximum(1.0, np.linalg.norm(trial, axis=2))[..., None]
        moved = at(loss._value, trial, inner)
        better = moved > value
        u, value = np.where(better[..., None], trial, u), np.maximum(moved, value)
        length = np.where(better, 2.0 * length, 0.25 * length)
    outer = np.maximum(value, at(loss._value, u, rho))
    best = np.take_along_axis(u, value.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    low = value.max(axis=1) - loss.rounding(centers + inner * best, -1)
    return low, outer.max(axis=1), np.concatenate([u, length[..., None]], axis=2)


def _apart(points: Array, value: Array, count: int) -> NDArray[np.int64]:
    """Which of the points (N, K, P) to climb from (N, count): the best, the best of those not near it, and so on."""
    chosen, left = np.empty((len(points), count), dtype=np.int64), value
    for k in range(count):
        chosen[:, k] = np.argmax(left, axis=1)
        best = np.take_along_axis(points, chosen[:, k, None, None], axis=1)
        left = np.where(np.linalg.norm(points - best, axis=2) < _APART, -np.inf, left)
    return chosen


def _around(dim: int) -> Array:
    """Points of the unit ball: its center, and some of the sphere, all around."""
    if dim == 2:
        angle = 2.0 * np.pi * np.arange(16) / 16
        return np.vstack([np.zeros((1, 2)), np.stack([np.cos(angle), np.sin(angle)], axis=1)])
    sides = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    return np.asarray(sides / np.maximum(np.linalg.norm(sides, axis=1, keepdims=True), 1.0))
