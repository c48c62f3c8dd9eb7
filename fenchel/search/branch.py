"""Branch and bound over boxes in model coordinates, many boxes at a time."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fenchel.search.ascent import distinct
from fenchel.search.bounds import LinearModel, UserModel
from fenchel.search.box_quadratic import Concave, box_maximum, relaxed
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
# beside the scale on which the terms bend, and what a bound rules out is cut off, which leaves so little around the
# maximizers that anchors help beside jumps alone.
_MANY = 3
_SPREAD = 0.7
# A wave holds this share of the open boxes: to sort them all for every batch would take longer than to bound them.
_WAVES = 8
# Of a batch so many of the highest boxes are looked at for a better point.
_PROBES = 64
# A search that has found enough ends after so many boxes.
_LONG = 20_000
_FIRST_CUTS = {1: 4, 2: 7, 3: 2}


class BranchAndBound:
    """The search for sup h: ``best`` <= sup h <= ``upper`` at every moment after `run`.

    A box is closed once h is proved to be at most ``best`` + half the tolerance on it. Each box is bounded by a
    quadratic. In one and two dimensions it is tangent to h at the center, and others are tangent at the nearest good
    local maximizers; near a maximizer the latter are exact, so that boxes there close at a finite size. In more, the
    box is cut down to where the bound, a concave function, exceeds the target (range reduction by duality: Ryoo and
    Sahinidis, J. Global Optimization 8, 1996).
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
        enough: float = np.inf,
    ) -> None:
        self.setting, self.model = setting, setting.model
        self.tol, self.max_boxes, self.deadline, self.enough = tol, max_boxes, deadline, enough
        self.boxes = 0
        self.upper = np.inf
        self.message = ""
        self.narrowed = False
        width = sum(g.rows.shape[0] for g in self.model.groups) if isinstance(self.model, LinearModel) else 4
        self.batch = max(64, _BATCH_ENTRIES // (width + self.model.dim**2))
        self.many = self.model.dim >= _MANY
        # Beside a jump the anchor that bounds may be any.
        self.anchors_a_box = _MOST_ANCHORS if not self.model.continuous else 0 if self.many else _ANCHORS_A_BOX
        self.spread = _SPREAD if self.many else 0.0
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
        while center.shape[0] and not self._spent():
            # The boxes of the largest bounds first, so that the bracket is as good as it can be at any time.
            take = max(self.batch, center.shape[0] // _WAVES)
            order = np.argpartition(-bound, take) if center.shape[0] > take else np.arange(center.shape[0])
            wave = [(center[order[take:]], half[order[take:]], bound[order[take:]])]
            for first in range(0, min(take, order.size), self.batch):
                now = order[first : min(first + self.batch, take)]
                if self._spent():
                    wave.append((center[now], half[now], bound[now]))
                    continue
                c, w, b, weights = self._bound(center[now], half[now], bound[now])
                open_ = b > self._target()
                closed = max(closed, float(b[~open_].max(initial=-np.inf)))
                wave.append(_split(c[open_], w[open_], b[open_], weights[open_]))
            center, half, bound = (np.concatenate(parts) for parts in zip(*wave, strict=True))
            still = bound > self._target()
            closed = max(closed, float(bound[~still].max(initial=-np.inf)))
            center, half, bound = center[still], half[still], bound[still]
        if center.shape[0]:
            self.message = f"stopped after {self.boxes} boxes with {center.shape[0]} of them open"
        if self.narrowed:
            closed = max(closed, self._target())
        self.upper = min(top, max(self.best, closed, float(bound.max(initial=-np.inf))))

    def _spent(self) -> bool:
        late = self.deadline is not None and time.perf_counter() > self.deadline
        return late or self.boxes >= (min(self.max_boxes, _LONG) if self.best > self.enough else self.max_boxes)

    def _bound(self, center: Array, half: Array, inherited: Array) -> tuple[Array, Array, Array, Array]:
        """The boxes, less what is ruled out of them (center, half), upper bounds (B,) of h on them, and what the bounds
        add per axis (B, D).

        A bound that came out as NaN is no bound, hence fmin.
        """
        self.boxes += center.shape[0]
        value, slope, matrix = self.model.majorant(center, half, self.spread)
        above, concave = relaxed(slope, matrix, half) if self.many else (box_maximum(slope, matrix, half), None)
        bound = np.fmin(inherited, value + above)
        self._improve(center, bound, None if self.many else value)
        open_ = np.flatnonzero(bound > self._target())
        if open_.size and self.anchors_a_box:
            self._anchor(bound, open_, center, half)
        if isinstance(self.model, UserModel):
            quadratic = self.model.from_majorizer(center)
            if quadratic is not None:
                bound = np.fmin(bound, quadratic[0] + box_maximum(quadratic[1], quadratic[2], half))
        if concave is not None:
            center, half = self._narrowed(center, half, bound, value, concave)
        return center, half, bound, self.model.error_weights(matrix)

    def _narrowed(
        self, center: Array, half: Array, bound: Array, value: Array, concave: Concave
    ) -> tuple[Array, Array]:
        """The open boxes without parts where h <= value + ``concave`` is at most the target; ``bound`` of the rest."""
        open_ = np.flatnonzero(bound > self._target())
        if open_.size:
            self.narrowed = True
            rounding = 1e-12 * (np.abs(value[open_]) + np.abs(concave.top[open_]))
            excess = np.maximum(value[open_] + concave.top[open_] - self._target(), 0.0) + rounding
            lo, hi = concave.part(open_, excess)
            center, half = center.copy(), half.copy()
            center[open_] += 0.5 * (lo + hi) * half[open_]
            half[open_] *= 0.5 * np.maximum(hi - lo, 0.0)
            bound[open_[(lo > hi).any(axis=1)]] = self._target()
        return center, half

    def _anchor(self, bound: Array, open_: NDArray[np.intp], center: Array, half: Array) -> None:
        """Lower the bounds of the boxes ``open_`` by quadratics tangent at the nearest anchors."""
        apart = np.square(center[open_, None, :] - self.anchors.u).sum(axis=2)
        nearest = np.argsort(apart, axis=1)[:, : self.anchors_a_box]
        for k in range(nearest.shape[1]):
            c, w = center[open_], half[open_]
            v, s, K = self.model.anchored(self.anchors, nearest[:, k], c, w)
            bound[open_] = np.fmin(bound[open_], v + box_maximum(s, K, w))
            left = bound[open_] > self._target()
            open_, nearest = open_[left], nearest[left]
            if open_.size == 0:
                break

    def _improve(self, center: Array, bound: Array, value: Array | None) -> None:
        """Climb from centers that beat the best point known; ``value`` (B,) of h at the centers where it is known."""
        rising = np.flatnonzero(bound > self.best)
        if value is None:
            rising = rising[np.argsort(-bound[rising])[:_PROBES]]
        here = self.model.value(center[rising]) if value is None else value[rising]
        better = here > self.best + 1e-13 * (1.0 + abs(self.best))
        if not better.any():
            return
        starts = center[rising[better][np.argsort(-here[better])[:16]]]
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
