"""Branch and bound over boxes in model coordinates, many boxes at a time."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fenchel.search.ascent import distinct
from fenchel.search.bounds import LinearModel, UserModel
from fenchel.search.box_quadratic import box_maximum
from fenchel.search.confine import Setting
from fenchel.search.enclose import box_around, global_majorants
from fenchel.search.starts import climb

__all__ = ["BranchAndBound"]

Array = NDArray[np.float64]
# Temporaries of about this many numbers stay in the cache's reach.
_BATCH_ENTRIES = 400_000
_MOST_ANCHORS = 24
_ANCHORS_A_BOX = 2
# From this dimension on the terms' parabolas are chosen for the box as a whole, which matters where boxes are large
# beside the scale on which the terms bend, and anchors are tried only near them, where they alone help.
_MANY = 3
_SPREAD = 0.7
_FIRST_CUTS = {1: 4, 2: 7, 3: 2}


class BranchAndBound:
    """The search for sup h: ``best`` <= sup h <= ``upper`` at every moment after `run`.

    A box is closed once h is proved to be at most ``best`` + half the tolerance on it. Each box is bounded by a
    quadratic tangent to h at its center, and by quadratics tangent at the nearest good local maximizers; near a
    maximizer the latter are exact, so that boxes there close at a finite size.
    """

    def __init__(
        self,
        setting: Setting,
        points: Array,
        values: Array,
        *,
        tol: float,
        max_boxes: int,
        deadline: float | None,
    ) -> None:
        self.setting, self.model = setting, setting.model
        self.tol, self.max_boxes, self.deadline = tol, max_boxes, deadline
        self.boxes = 0
        self.upper = np.inf
        self.message = ""
        width = sum(g.rows.shape[0] for g in self.model.groups) if isinstance(self.model, LinearModel) else 4
        self.batch = max(64, _BATCH_ENTRIES // (width + self.model.dim**2))
        # Beside a jump the anchor that bounds may be any.
        self.anchors_a_box = _ANCHORS_A_BOX if self.model.continuous else _MOST_ANCHORS
        self.spread = _SPREAD if self.model.dim >= _MANY else 0.0
        self._adopt(points, values)

    def run(self) -> None:
        """Search until every box is closed, or the budget is spent."""
        room = self._target() - self.best
        majorants = global_majorants(self.setting, self.best, self.points[0], room)
        if majorants:
            self.upper = max(majorants[-1].top, self.best)
            if majorants[-1].top <= self._target():
                return
            axes = np.eye(self.model.dim)
            if isinstance(self.model, LinearModel) and self.model.dim > 2 and self.model.whitened:
                # Along its flat directions the least majorant has to be split; the others it closes by itself.
                axes = np.linalg.eigh(majorants[-1].concave)[1]
                self._rotate(self.model, axes)
            center, half = box_around(majorants, self.best, axes)
        elif self.setting.domain is not None:
            center, half = self.setting.domain
        else:
            return
        centers, halves = _grid(center, half, _FIRST_CUTS.get(self.model.dim, 1))
        self._branch(centers, halves, np.full(centers.shape[0], self.upper))

    def _rotate(self, model: LinearModel, axes: Array) -> None:
        self.model = model.rotated(axes)
        self.setting = replace(self.setting, model=self.model)
        self._adopt(self.points @ axes, self.values)

    def _target(self) -> float:
        return self.best + 0.5 * self.tol * max(1.0, abs(self.best))

    def _adopt(self, points: Array, values: Array) -> None:
        """Take over the points known, best first."""
        keep = distinct(points, values)[:256]
        self.points, self.values = points[keep], values[keep]
        self.best = float(self.values[0])
        # Maximizers far below the best rarely bound anything.
        good = self.values >= self.best - 0.2 * (1.0 + abs(self.best))
        self.anchors = self.model.anchors(self.points[good][:_MOST_ANCHORS])

    def _branch(self, center: Array, half: Array, bound: Array) -> None:
        closed, top = -np.inf, self.upper
        while center.shape[0]:
            if self.boxes >= self.max_boxes or (self.deadline is not None and time.perf_counter() > self.deadline):
                self.message = f"stopped after {self.boxes} boxes with {center.shape[0]} of them open"
                break
            now: slice | NDArray[np.intp] = slice(None)
            rest = center[:0], half[:0], bound[:0]
            if center.shape[0] > self.batch:
                # The boxes of the largest bounds first, so that the bracket is as good as it can be at any time.
                order = np.argpartition(-bound, self.batch)
                now, later = order[: self.batch], order[self.batch :]
                rest = center[later], half[later], bound[later]
            c, w, b = center[now], half[now], bound[now]
            b, weights = self._bound(c, w, b)
            open_ = b > self._target()
            closed = max(closed, float(b[~open_].max(initial=-np.inf)))
            c, w, b = _split(c[open_], w[open_], b[open_], weights[open_])
            still = rest[2] > self._target()
            closed = max(closed, float(rest[2][~still].max(initial=-np.inf)))
            center = np.concatenate([rest[0][still], c])
            half = np.concatenate([rest[1][still], w])
            bound = np.concatenate([rest[2][still], b])
        self.upper = min(top, max(self.best, closed, float(bound.max(initial=-np.inf))))

    def _bound(self, center: Array, half: Array, inherited: Array) -> tuple[Array, Array]:
        """Upper bounds (B,) of h on the boxes, and what the bounds add per axis (B, D).

        A bound that came out as NaN is no bound, hence fmin.
        """
        self.boxes += center.shape[0]
        value, slope, matrix = self.model.majorant(center, half, self.spread)
        bound = np.fmin(inherited, value + box_maximum(slope, matrix, half))
        rising = np.flatnonzero(bound > self.best)
        self._improve(center[rising], self.model.value(center[rising]) if self.spread else value[rising])
        open_ = np.flatnonzero(bound > self._target())
        if open_.size:
            apart = np.square(center[open_, None, :] - self.anchors.u).sum(axis=2)
            if self.model.dim >= _MANY and self.model.continuous:
                near = apart.min(axis=1) <= 2.0 * np.square(half[open_]).sum(axis=1)
                open_, apart = open_[near], apart[near]
            nearest = np.argsort(apart, axis=1)[:, : self.anchors_a_box]
            for k in range(nearest.shape[1]):
                c, w = center[open_], half[open_]
                v, s, K = self.model.anchored(self.anchors, nearest[:, k], c, w)
                bound[open_] = np.fmin(bound[open_], v + box_maximum(s, K, w))
                left = bound[open_] > self._target()
                open_, nearest = open_[left], nearest[left]
                if open_.size == 0:
                    break
        if isinstance(self.model, UserModel):
            quadratic = self.model.from_majorizer(center)
            if quadratic is not None:
                bound = np.fmin(bound, quadratic[0] + box_maximum(quadratic[1], quadratic[2], half))
        return bound, self.model.error_weights(matrix)

    def _improve(self, center: Array, value: Array) -> None:
        """Climb from points that beat the best one known."""
        better = np.flatnonzero(value > self.best + 1e-13 * (1.0 + abs(self.best)))
        if better.size == 0:
            return
        starts = center[better[np.argsort(-value[better])[:16]]]
        points, values = climb(self.setting, starts, self.deadline)
        if values[0] > self.best or self.points.shape[0] < _MOST_ANCHORS:
            self._adopt(np.vstack([self.points, points]), np.concatenate([self.values, values]))


def _grid(center: Array, half: Array, cuts: int) -> tuple[Array, Array]:
    """The box (center, half), each (D,), cut into cuts^D equal boxes."""
    dim = center.shape[0]
    steps = (2.0 * np.arange(cuts) + 1.0) / cuts - 1.0
    mesh = np.stack(np.meshgrid(*[steps] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    # Rounding must not open gaps between neighbours.
    return center + mesh * half, np.broadcast_to(half / cuts * (1.0 + 1e-14), mesh.shape)


def _split(center: Array, half: Array, bound: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Halve each box across the axis along which its bound loses most."""
    axis = np.argmax((weights + 1e-3) * half * half, axis=1)
    rows = np.arange(center.shape[0])
    narrow, shift = half.copy(), np.zeros_like(center)
    narrow[rows, axis] *= 0.5
    shift[rows, axis] = narrow[rows, axis]
    return (
        np.concatenate([center - shift, center + shift]),
        np.concatenate([narrow, narrow]),
        np.concatenate([bound, bound]),
    )
