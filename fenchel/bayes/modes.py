"""All local minima of l(theta) + (theta - m)^T Lambda (theta - m) / 2 that the posterior can notice, for P <= 2.

Branch and bound: with M above the Hessian on a box, a stationary point inside lies no more than r^T M r / 2 below the
value at the box's center. Boxes whose stationary points are all too high to matter are dropped; the others are halved
until the center tells the height to one unit, and descended from.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.spatial import cKDTree

from fenchel.arrays import Array
from fenchel.bayes.energy import Energy
from fenchel.errors import DomainError
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss

# Where the density is below exp(-DEPTH) of its maximum nothing is noticed.
DEPTH = 50.0
_MOST_MODES = 200
# So many descents begin inside a mode already known, where the height is not that of its parabola.
_MOST_AGAIN = 200
# Where the density of a link's argument may change its character, in units of the argument.
_STEPS = np.array([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 40.0])
_MOST_ROWS = 64


@dataclass(frozen=True)
class Modes:
    """Local minima (K, P), lowest first, and the box [lo, hi] (P,) that holds all that matters.

    ``doubt`` is empty where the box is proved, and else says what may have been missed.
    """

    points: Array
    lo: Array
    hi: Array
    doubt: str


def line_features(loss: Loss) -> Array:
    """theta at which the terms of a scalar loss of linear predictors jump, bend or have their wells; else empty."""
    linear = loss.in_predictors()
    found = [np.zeros(0)]
    if linear is not None and loss.dim == 1:
        for group in linear.groups:
            live = (group.rows[:, 0] != 0.0) & (group.weights > 0.0)
            rows, offsets = group.rows[live, 0], group.offsets[live]
            if rows.size <= _MOST_ROWS:
                at = np.concatenate([-_STEPS, _STEPS])[:, None] + np.array(group.link.kinks or (0.0,))
                found.append(((at.reshape(-1, 1) - offsets) / rows).ravel())
    return np.unique(np.concatenate(found))


def relevant_modes(
    loss: Loss, prior: Gaussian, known: Array, reach: float, *, end: float = np.inf, max_boxes: int = 100_000
) -> Modes:
    """The modes of the posterior exp(-l) prior, from those ``known`` (K, P) already; ``reach`` in prior sds.

    After ``end`` (of `time.perf_counter`) no more are looked for.

    Raises:
        DomainError: the posterior is improper.
    """
    energy = Energy(loss, prior)
    best = float(energy.value(known).min())
    lo, hi, doubt = _region(loss, prior, best + DEPTH + energy.jump, reach)
    if loss.convex:
        return Modes(known, lo, hi, doubt)
    found = list(known)
    cells = _cells(energy, lo, hi, best, max_boxes, end)
    box = None if loss.bounds is None else list(zip(lo, hi, strict=True))
    shapes = [_Shape.of(energy, point) for point in found]
    heights, again = energy.value(cells), 0
    lowest = np.flatnonzero(_lowest_around(cells, heights))
    for k in lowest[np.argsort(heights[lowest], kind="stable")]:
        cell = cells[k]
        around = [shape for shape in shapes if (np.abs(cell - shape.point) <= 2.0 * shape.width).all()]
        if any(shape.explains(cell, heights[k]) for shape in around) or (around and again >= _MOST_AGAIN):
            continue
        again += bool(around)
        if len(found) >= _MOST_MODES or time.perf_counter() > end:
            break
        method = "BFGS" if box is None else "L-BFGS-B"
        point = optimize.minimize(energy.one, cell, jac=True, method=method, bounds=box).x
        if not any((np.abs(point - shape.point) <= 1e-4 * shape.width).all() for shape in shapes):
            found.append(point)
            shapes.append(_Shape.of(energy, point))
    points = np.array(found)
    values = energy.value(points)
    order = np.argsort(values, kind="stable")
    return Modes(points[order][values[order] <= values.min() + DEPTH], lo, hi, doubt)


@dataclass(frozen=True)
class _Shape:
    """A mode: its height, its curvature (P, P), and its standard deviations (P,) by the curvature."""

    point: Array
    height: float
    bend: Array
    width: Array

    @classmethod
    def of(cls, energy: Energy, point: Array) -> _Shape:
        bend = energy.loss._hessian(point[None, :])[0] + energy.precision
        values, vectors = np.linalg.eigh(bend)
        values = np.maximum(values, 1e-3 * np.linalg.eigvalsh(energy.precision)[0])
        width = np.asarray(np.sqrt(np.square(vectors) @ (1.0 / values)))
        return cls(point, float(energy.value(point[None, :])[0]), bend, width)

    def explains(self, cell: Array, height: float) -> bool:
        """The height there is about that of this mode's parabola: no narrower well is seen inside it."""
        step = cell - self.point
        rise = 0.5 * float(step @ self.bend @ step)
        return abs(height - self.height - rise) <= 1.0 + 0.5 * abs(rise)


def _lowest_around(cells: Array, heights: Array) -> NDArray[np.bool_]:
    """Which cells (K, P) are no higher than their neighbours: a well as deep as the cells can tell has such a one."""
    count = min(len(cells), 3 if cells.shape[1] == 1 else 9)
    if count < 2:
        return np.ones(len(cells), dtype=bool)
    _, near = cKDTree(cells).query(cells, k=count)
    return np.asarray(heights <= heights[near].min(axis=1))


def _cells(energy: Energy, lo: Array, hi: Array, best: float, max_boxes: int, end: float) -> Array:
    """Centers (K, P) of the boxes that may hold a stationary point that matters, as far as the limits allow."""
    low, high = lo[None, :], hi[None, :]
    kept = [np.zeros((0, lo.size))]
    boxes = 0
    while low.size:
        boxes += len(low)
        center = 0.5 * (low + high)
        room = energy.room(low, high)
        value = energy.value(center)
        best = min(best, float(value.min()))
        alive = value - room <= best + DEPTH
        # The jumps' own height does not shrink with the box.
        done = alive & (room - energy.jump <= 1.0)
        kept.append(center[done])
        rest = alive & ~done
        if boxes + 2 * int(rest.sum()) > max_boxes or time.perf_counter() > end:
            kept.append(center[rest])
            break
        low, high, center = low[rest], high[rest], center[rest]
        if not len(low):
            break
        axis = (high - low).argmax(axis=1)
        rows = np.arange(len(low))
        cut = center[rows, axis]
        right, left = low.copy(), high.copy()
        right[rows, axis], left[rows, axis] = cut, cut
        low, high = np.concatenate([low, right]), np.concatenate([left, high])
    return np.concatenate(kept)


def _region(loss: Loss, prior: Gaussian, level: float, reach: float) -> tuple[Array, Array, str]:
    """A box outside of which l + the prior's quadratic exceeds ``level``, and a doubt where that is not proved."""
    if loss.bounds is not None:
        return loss.bounds[0], loss.bounds[1], ""
    minorant = loss.minorant()
    center = prior.mean
    spread = reach * np.sqrt(np.diag(prior.cov))
    if minorant is None:
        _refuse_improper(loss, prior)
        return (
            center - spread,
            center + spread,
            f"modes beyond {reach:g} standard deviations of the prior are not excluded",
        )
    constant, slope, H = minorant
    matrix = H + prior.precision
    # In the prior's units: parameters of very different scales are no reason for doubt.
    factor = np.linalg.cholesky(prior.cov)
    bent = np.linalg.eigvalsh(factor.T @ H @ factor) + 1.0
    if bent[0] <= 1e-12 * max(1.0, float(bent[-1])):
        _refuse_improper(loss, prior)
        return center - spread, center + spread, "the loss's own growth does not confine the posterior"
    inverse = np.linalg.inv(matrix)
    pull = prior.precision @ prior.mean - slope
    peak = inverse @ pull
    lowest = constant + 0.5 * float(prior.mean @ prior.precision @ prior.mean) - 0.5 * float(pull @ peak)
    half = np.sqrt(2.0 * max(0.0, level - lowest) * np.diag(inverse)) * (1.0 + 1e-9)
    return peak - half, peak + half, ""


def _refuse_improper(loss: Loss, prior: Gaussian) -> None:
    """DomainError where the energy falls along a ray, far away."""
    directions = np.concatenate([np.eye(prior.dim), -np.eye(prior.dim)])
    if prior.dim > 1:
        extra = np.random.default_rng(0).normal(size=(64, prior.dim))
        directions = np.concatenate([directions, extra / np.linalg.norm(extra, axis=1, keepdims=True)])
    energy = Energy(loss, prior)
    size = float(np.sqrt(np.diag(prior.cov)).max())
    near, far = (energy.value(prior.mean + r * size * directions) for r in (1e3, 1e4))
    if (far <= near + 1.0).any():
        raise DomainError("the posterior is improper: the loss falls faster than the prior's logarithm does")
