"""The worst-case distributions of a whole plane of Gaussians: from the hull's facets to polished atoms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.lifted_curve import LiftedCurve
from fenchel.plane import Plane
from fenchel.two_atoms import climb, start_at, tangent_quadratic, with_fixed_atom

__all__ = ["PlaneAtoms"]

Array = NDArray[np.float64]
_BLOCK = 4000


class PlaneAtoms:
    """The worst-case atoms of every q: first the facet's vertices, then polished."""

    def __init__(self, plane: Plane, curve: LiftedCurve, facet: NDArray[np.intp], hull_value: Array) -> None:
        self.plane, self.curve, self.facet, self.hull_value = plane, curve, facet, hull_value
        count = plane.m.size
        self.atoms, self.weights = np.full((count, 3), np.nan), np.zeros((count, 3))
        self.planes, self.has_plane = np.zeros((count, 3)), np.zeros(count, dtype=bool)
        self.worst = np.full(count, -np.inf)

    def polished(self, gain: float) -> Array:
        """sup E[l] for every q; ``gain`` as in `climb`."""
        self.gain = gain
        nodes = np.append(self.curve.nodes, np.inf)
        corners = nodes[self.curve.vertices[self.facet]]
        escaping = np.isinf(corners[:, 2])
        self._two(np.flatnonzero(~escaping), corners)
        if escaping.any():
            self._escaping(np.flatnonzero(escaping), corners)
        self._three()
        return self.worst

    def _two(self, index: NDArray[np.intp], corners: Array) -> None:
        # A few thousand at a time stay in the processor's cache.
        for start in range(0, index.size, _BLOCK):
            self._two_block(index[start : start + _BLOCK], corners)

    def _two_block(self, index: NDArray[np.intp], corners: Array) -> None:
        m, s, corner = self.plane.m[index], self.plane.s[index], corners[index]
        floor = -self.hull_value[index]
        starts = [with_fixed_atom(self.plane.value, m, s, corner[:, k])[0] for k in range(3)]
        order = np.argsort(-np.stack(starts), axis=0)
        each = np.arange(m.size)
        log_t, best = np.zeros(m.size), np.full(m.size, -np.inf)
        for rank in range(3):
            # The nodes' own hull is a lower bound of the worst case: a climb that ends below it took the wrong branch.
            todo = np.flatnonzero(best < floor - 1e-9 * (1.0 + np.abs(floor)))
            if todo.size == 0:
                break
            start = start_at(m[todo], s[todo], corner[each[todo], order[rank, todo]])
            reached, value = climb(self.plane.derivatives, m[todo], s[todo], start, gain=self.gain)
            better = value > best[todo]
            log_t[todo[better]], best[todo[better]] = reached[better], value[better]
        t = np.exp(log_t)
        low, high, share = m - s * t, m + s / t, 1.0 / (1.0 + t * t)
        smooth = np.ones(index.size, dtype=bool)
        if self.plane.fixed_atoms:
            for k in range(3):
                value, other, weight = with_fixed_atom(self.plane.value, m, s, corner[:, k])
                with np.errstate(invalid="ignore"):
                    better = value > best + np.where(np.isfinite(best), 1e-13 * (1.0 + np.abs(best)), 0.0)
                best, low = np.where(better, value, best), np.where(better, corner[:, k], low)
                high, share = np.where(better, other, high), np.where(better, weight, share)
                smooth &= ~better
        self.worst[index] = best
        self.atoms[index] = np.column_stack([low, high, np.full(m.size, np.nan)])
        self.weights[index] = np.column_stack([share, 1.0 - share, np.zeros(m.size)])
        self.has_plane[index] = smooth & np.isfinite(best)

    def touch(self) -> None:
        """The quadratic that touches l at both atoms, for every q that has two."""
        index = np.flatnonzero(self.has_plane & (self.weights[:, 2] == 0.0))
        low, high = self.atoms[index, 0], self.atoms[index, 1]
        value, slope, _ = self.plane.derivatives(np.concatenate([low, high]))
        n = index.size
        bend = (slope[n:] - slope[:n]) / (2.0 * (high - low))
        first = slope[:n] - 2.0 * bend * low
        base = value[:n] - first * low - bend * low * low
        # Minus the touching quadratic, as the planes of the hull.
        self.planes[index] = -np.column_stack([base, first, bend])

    def _escaping(self, index: NDArray[np.intp], corners: Array) -> None:
        """A vertex at infinity: it carries variance at the rate of the loss's growth, the other two carry the mean."""
        m, s = self.plane.m[index], self.plane.s[index]
        low, high = corners[index, 0], corners[index, 1]
        share = np.clip((high - m) / (high - low), 0.0, 1.0)
        inner = np.clip((m - low) * (high - m), 0.0, s * s)
        value = share * self.plane.value(low) + (1.0 - share) * self.plane.value(high)
        spread = value + self.curve.growth * (s * s - inner)
        spread = np.where((m >= low) & (m <= high), spread, -np.inf)
        alone = self.plane.value(m) + self.curve.growth * s * s
        self.worst[index] = np.maximum(spread, alone)

    def _three(self) -> None:
        """Facets with three separate atoms: f** is affine in mu above each."""
        inside = np.flatnonzero(self.curve.interior())
        used = inside[np.isin(inside, self.facet)]
        if used.size > 40:  # pieces on which l is itself quadratic give many; their two-atom values are right
            used = used[:40]
        for k in used:
            corners = self.curve.vertices[k]
            if corners[2] >= self.curve.nodes.size:
                continue
            start = self.curve.nodes[corners]
            touching = tangent_quadratic(self.plane.derivatives, start, np.isin(start, self.plane.fixed))
            points, quadratic = touching if touching else (start, -self.curve.planes[k])
            self._apply(points, quadratic, np.arange(self.plane.m.size))
        behind = self.worst < -self.hull_value - 1e-9 * (1.0 + np.abs(self.hull_value))
        for k in np.unique(self.facet[behind]):
            corners = self.curve.vertices[k]
            if corners[2] < self.curve.nodes.size:
                here = np.flatnonzero(behind & (self.facet == k))
                self._apply(self.curve.nodes[corners], -self.curve.planes[k], here)

    def _apply(self, points: Array, quadratic: Array, index: NDArray[np.intp]) -> None:
        """Three given atoms for those of the q in ``index`` whose moments they can carry."""
        m, mu2 = self.plane.m[index], self.plane.mu2[index]
        system = np.stack([np.ones(3), points, points * points])
        weights = np.linalg.solve(system, np.stack([np.ones_like(m), m, mu2])).T
        value = weights @ self.plane.value(points)
        better = (weights >= 0.0).all(axis=1) & (value >= self.worst[index])
        at = index[better]
        self.worst[at] = value[better]
        self.atoms[at], self.weights[at] = points, weights[better]
        self.planes[at], self.has_plane[at] = -quadratic, True
