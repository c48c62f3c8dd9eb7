"""Atoms on the jumps of a loss (indicators of half-spaces), which no gradient leads to and rounding can push off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.arrays import Array
from fenchel.losses.base import Loss

# Relative: more than what rounding does to a predictor.
_BEYOND = 4e-15


@dataclass(frozen=True)
class JumpPlanes:
    """The hyperplanes rows (J, P) . x + offsets (J,) = 0 at which a loss jumps; none for a continuous one."""

    rows: Array
    offsets: Array

    @classmethod
    def of(cls, loss: Loss) -> JumpPlanes:
        """The planes of a loss of linear predictors; a user's loss is taken to be continuous."""
        rows, offsets = [np.zeros((0, loss.dim))], [np.zeros(0)]
        linear = loss.in_predictors()
        if linear is not None:
            for group in linear.groups:
                if not group.link.continuous:
                    for kink in group.link.kinks:
                        rows.append(group.rows)
                        offsets.append(group.offsets - kink)
        found = np.concatenate(rows)
        live = np.any(found != 0.0, axis=1)
        return cls(found[live], np.concatenate(offsets)[live])

    def lowest(self, v: Array, w: Array) -> Array:
        """(J, P): where the quadratic v.x + x^T W x is least on each plane; nothing where it is not convex."""
        if self.offsets.size == 0 or np.linalg.eigvalsh(w)[0] <= 1e-12 * max(1e-300, float(np.abs(w).max())):
            return np.zeros((0, self.rows.shape[1]))
        inverse = np.linalg.inv(w)
        free = -0.5 * inverse @ v
        along = self.rows @ inverse
        short = (self.rows @ free + self.offsets) / np.einsum("jp,jp->j", along, self.rows)
        return np.asarray(free - short[:, None] * along)

    def snap(self, points: Array, value: Callable[[Array], Array], within: float = 1e-11) -> Array:
        """Points (K, P) nearly on a plane (``within``, relative), moved onto the side on which the loss is higher."""
        if self.offsets.size == 0 or points.shape[0] == 0:
            return points
        norms = np.linalg.norm(self.rows, axis=1)
        distance = (points @ self.rows.T + self.offsets) / norms
        reach = 1.0 + np.abs(self.offsets / norms) + np.linalg.norm(points, axis=1)[:, None]
        nearest = np.argmin(np.abs(distance) / reach, axis=1)
        each = np.arange(points.shape[0])
        distance, reach = distance[each, nearest], reach[each, nearest]
        close = np.abs(distance) <= within * reach
        if not close.any():
            return points
        normal = (self.rows / norms[:, None])[nearest]

        def beside(side: float, which: NDArray[np.bool_]) -> Array:
            return np.asarray(points + np.where(which, side * reach - distance, 0.0)[:, None] * normal)

        # A point on the upper side already, but within rounding of the plane, would not stay there.
        best = beside(_BEYOND, close & (np.abs(distance) < _BEYOND * reach))
        height = value(best)
        for side in (_BEYOND, -_BEYOND, 5.0 * _BEYOND, -5.0 * _BEYOND):
            moved = beside(side, close)
            level = value(moved)
            higher = level > height + 1e-9 * (1.0 + np.abs(height))
            best = np.where(higher[:, None], moved, best)
            height = np.where(higher, level, height)
        return best
