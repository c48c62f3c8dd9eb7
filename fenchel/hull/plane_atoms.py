"""The worst-case distributions of a whole plane of Gaussians: from the hull's facets to polished atoms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.hull.lifted_curve import LiftedCurve
from fenchel.hull.plane import Plane
from fenchel.hull.two_atoms import climb, start_at, tangent_quadratic, with_fixed_atom

__all__ = ["PlaneAtoms"]

Array = NDArray[np.float64]
_BLOCK = 4000
# So many triples of atoms are tried for the facets above which f** is affine.
_MOST_TRIPLES = 80


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
        low, high = m - s * t, m + s / t
        # 1 - weight would lose a far atom's weight to rounding.
        w_low, w_high = 1.0 / (1.0 + t * t), t * t / (1.0 + t * t)
        smooth = np.ones(index.size, dtype=bool)
        if self.plane.fixed_atoms:
            for k in range(3):
                value, other, w_fixed, w_other = with_fixed_atom(self.plane.value, m, s, corner[:, k])
                with np.errstate(invalid="ignore"):
                    better = value > best + np.where(np.isfinite(best), 1e-13 * (1.0 + np.abs(best)), 0.0)
                best, low = np.where(better, value, best), np.where(better, corner[:, k], low)
                high, w_low = np.where(better, other, high), np.where(better, w_fixed, w_low)
                w_high = np.where(better, w_other, w_high)
                smooth &= ~better
        self.worst[index] = best
        self.atoms[index] = np.column_stack([low, high, np.full(m.size, np.nan)])
        self.weights[index] = np.column_stack([w_low, w_high, np.zeros(m.size)])
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
        reached = np.isin(inside, self.facet)
        # Pieces on which l is itself quadratic give many such facets; their two-atom values are right. Facets that no q
        # fell into can be neighbours of one, by the nodes' coarseness.
        used = np.concatenate([inside[reached][:40], inside[~reached][:10]])
        queue = [self.curve.nodes[v] for v in self.curve.vertices[used] if v[2] < self.curve.nodes.size]
        everyone, done = np.arange(self.plane.m.size), 0
        while done < min(len(queue), _MOST_TRIPLES):
            start = queue[done]
            done += 1
            touching = tangent_quadratic(self.plane.derivatives, start, np.isin(start, self.plane.fixed))
            if touching is None:
                points, quadratic = start, _through(start, self.plane.value(start))
            else:
                points, quadratic = touching
            self._apply(points, quadratic, everyone)
            self._around(points)
            # Four points compete for three places: the nodes were too coarse to tell which.
            rivals = self._violators(points, quadratic) if len(queue) < _MOST_TRIPLES else np.zeros(0)
            for candidate in (np.sort(np.append(np.delete(points, k), rival)) for rival in rivals for k in range(3)):
                if len(queue) >= _MOST_TRIPLES:
                    break
                if not np.isclose(candidate, np.array(queue), atol=1e-6).all(axis=1).any():
                    queue.append(candidate)
        behind = self.worst < -self.hull_value - 1e-9 * (1.0 + np.abs(self.hull_value))
        for k in np.unique(self.facet[behind]):
            corners = self.curve.vertices[k]
            if corners[2] < self.curve.nodes.size:
                here = np.flatnonzero(behind & (self.facet == k))
                self._apply(self.curve.nodes[corners], -self.curve.planes[k], here)

    def _violators(self, points: Array, quadratic: Array) -> Array:
        """Peaks of l above a quadratic, away from its three points: nodes, refined by a few Newton steps."""
        u = self.curve.nodes
        gap = self.curve.values - (quadratic[0] + u * (quadratic[1] + quadratic[2] * u))
        peaks = u[1:-1][(gap[1:-1] >= gap[:-2]) & (gap[1:-1] >= gap[2:])]
        if peaks.size == 0:
            return np.zeros(0)
        spacing = np.interp(peaks, u[1:-1], 0.5 * (u[2:] - u[:-2]))
        found = peaks.copy()
        for _ in range(4):
            _, slope, bend = self.plane.derivatives(found)
            slope, bend = slope - quadratic[1] - 2.0 * quadratic[2] * found, bend - 2.0 * quadratic[2]
            step = np.where(bend < 0.0, -slope / np.where(bend < 0.0, bend, -1.0), 0.0)
            found = peaks + np.clip(found + step - peaks, -spacing, spacing)
        top = self.plane.value(found) - (quadratic[0] + found * (quadratic[1] + quadratic[2] * found))
        far = np.min(np.abs(found[:, None] - points), axis=1) > spacing
        return np.asarray(found[(top > 1e-11 * (1.0 + np.abs(self.curve.values).max())) & far])

    def _around(self, points: Array) -> None:
        """Around a triangle of three atoms the nodes cannot tell its sides: start from each of its points as well."""
        weights = _carried(points, self.plane.m, self.plane.mu2)
        least = weights.min(axis=1)
        near = np.flatnonzero((least < 0.0) & (least > -0.03))
        if near.size:
            repeated = np.broadcast_to(points, (self.plane.m.size, 3))
            for k in range(3):
                self._climb_from(near, repeated[near, k])

    def _climb_from(self, index: NDArray[np.intp], fixed: Array) -> None:
        """Two-atom climbs from the distributions with one given atom, kept where they are better."""
        m, s = self.plane.m[index], self.plane.s[index]
        log_t, value = climb(self.plane.derivatives, m, s, start_at(m, s, fixed), gain=self.gain)
        better = value > self.worst[index]
        at, t = index[better], np.exp(log_t[better])
        nothing = np.zeros(at.size)
        self.worst[at] = value[better]
        self.atoms[at] = np.column_stack([m[better] - s[better] * t, m[better] + s[better] / t, nothing + np.nan])
        self.weights[at] = np.column_stack([1.0 / (1.0 + t * t), t * t / (1.0 + t * t), nothing])
        self.has_plane[at] = True

    def _apply(self, points: Array, quadratic: Array, index: NDArray[np.intp]) -> None:
        """Three given atoms for those of the q in ``index`` whose moments they can carry."""
        weights = _carried(points, self.plane.m[index], self.plane.mu2[index])
        value = weights @ self.plane.value(points)
        better = (weights >= 0.0).all(axis=1) & (value >= self.worst[index])
        at = index[better]
        self.worst[at] = value[better]
        self.atoms[at], self.weights[at] = points, weights[better]
        self.planes[at], self.has_plane[at] = -quadratic, True


def _carried(points: Array, m: Array, mu2: Array) -> Array:
    """Weights (n, 3) with which three points have the moments; negative where they cannot."""
    system = np.stack([np.ones(3), points, points * points])
    return np.asarray(np.linalg.solve(system, np.stack([np.ones_like(m), m, mu2])).T)


def _through(u: Array, values: Array) -> Array:
    """The quadratic (A, B, C) through three points."""
    return np.asarray(np.linalg.solve(np.column_stack([np.ones(3), u, u * u]), values))
