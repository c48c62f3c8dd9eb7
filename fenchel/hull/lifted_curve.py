"""The curve theta -> (theta, theta^2, -l(theta)) of a scalar loss and the lower facets of its convex hull.

f** is the largest closed convex function below this curve (see `fenchel.moments`). The hull is not computed in R^3 but
after a projective map that takes the parabola to a circle and theta = infinity to a point of it: with
theta = center + scale u and u = tan(phi / 2), dividing (1, u, u^2, -l) by 1 + u^2 gives (cos phi, sin phi) and the
height -l / (1 + u^2). Mass that escapes to infinity is then an ordinary vertex, and the facets are a triangulation
of a polygon inscribed in the circle, which is well conditioned whatever the range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from fenchel.hull.window import Window

__all__ = ["LiftedCurve"]

Array = NDArray[np.float64]
Integers = NDArray[np.intp]


@dataclass(frozen=True)
class LiftedCurve:
    """Nodes u (n,) in increasing order, values l (n,), and lower facets of the curve's hull.

    Facet k has the vertices ``vertices[k]`` (three node numbers, increasing; n stands for infinity) and the majorant
    ``planes[k]`` = (A, B, C): l(u) <= -(A + B u + C u^2) at every node, with equality at the vertices.
    """

    window: Window
    nodes: Array
    values: Array
    growth: float
    vertices: Integers
    planes: Array

    @classmethod
    def build(cls, window: Window, nodes: Array, values: Array, growth: float) -> LiftedCurve:
        """``growth`` = lim sup l / u^2 at infinity, -inf where the nodes' range is bounded."""
        open_ended = np.isfinite(growth)
        weight = 1.0 / (1.0 + nodes * nodes)
        circle = np.column_stack([(1.0 - nodes * nodes) * weight, 2.0 * nodes * weight])
        height = -values * weight
        if open_ended:
            circle, height = np.vstack([circle, [-1.0, 0.0]]), np.append(height, -growth)
        spread = max(float(np.ptp(height)), 1e-12 * float(np.abs(height).max()), 1e-300)
        z = (height - height.min()) / spread
        middle = circle.mean(axis=0) if not open_ended else np.zeros(2)
        # The apex makes the hull solid even where the curve is flat (a quadratic loss); its facets are not wanted.
        hull = ConvexHull(np.vstack([np.column_stack([circle, z]), [*middle, 3.0]]), qhull_options="Qt")
        apex = circle.shape[0]
        lower = (hull.simplices != apex).all(axis=1) & (hull.equations[:, 2] < 0.0)
        vertices = np.sort(hull.simplices[lower], axis=1)
        planes = _planes(nodes, values, growth, vertices)
        # Rounding can leave slivers whose plane cuts through the curve; the facets around them cover their place.
        weighted = np.stack([weight, nodes * weight, nodes * nodes * weight])
        sound = (planes @ weighted + values * weight).max(axis=1) <= 1e-10 * spread
        return cls(window, nodes, values, growth, vertices[sound], planes[sound])

    def interior(self) -> NDArray[np.bool_]:
        """Facets none of whose sides joins neighbouring nodes: three separate atoms."""
        # With infinity, number n, the last node and the first are two apart; without it they are the domain's ends.
        count = self.nodes.size + 1
        gaps = np.diff(np.column_stack([self.vertices, self.vertices[:, :1] + count]), axis=1)
        return np.asarray((gaps > 1).all(axis=1))

    def locate(self, mu1: Array, mu2: Array) -> tuple[Integers, Array]:
        """The facet above which each point (mu1, mu2) (in units of u) lies, and f** of the nodes' hull there."""
        moments = np.column_stack([np.ones_like(mu1), mu1, mu2])
        facet, value = np.empty(mu1.size, dtype=np.intp), np.empty(mu1.size)
        step = max(1, 400_000 // self.planes.shape[0])
        for start in range(0, mu1.size, step):
            heights = moments[start : start + step] @ self.planes.T
            best = np.argmax(heights, axis=1)
            facet[start : start + step] = best
            value[start : start + step] = heights[np.arange(best.size), best]
        return self._contained(mu1, mu2, facet, value)

    def _contained(self, mu1: Array, mu2: Array, facet: Integers, value: Array) -> tuple[Integers, Array]:
        """Where facets share a plane (up to rounding), the one that contains the point."""
        away = np.flatnonzero(self._shares(mu1, mu2, self.vertices[facet]).min(axis=-1) < -1e-9)
        step = max(1, 400_000 // self.planes.shape[0])
        for start in range(0, away.size, step):
            index = away[start : start + step]
            inside = self._shares(mu1[index, None], mu2[index, None], self.vertices[None, :, :]).min(axis=-1)
            facet[index] = np.argmax(inside, axis=1)
        return facet, value

    def _shares(self, mu1: Array, mu2: Array, vertices: Integers) -> Array:
        """Barycentric coordinates (..., 3) on the disc of the points with respect to facets."""
        finite = vertices < self.nodes.size
        u = self.nodes[np.where(finite, vertices, 0)]
        weight = 1.0 / (1.0 + u * u)
        c, s = np.where(finite, 2.0 * weight - 1.0, -1.0), np.where(finite, 2.0 * u * weight, 0.0)
        x, y = 2.0 / (1.0 + mu2) - 1.0, 2.0 * mu1 / (1.0 + mu2)
        areas = [
            (c[..., j] - x) * (s[..., k] - y) - (c[..., k] - x) * (s[..., j] - y) for j, k in ((1, 2), (2, 0), (0, 1))
        ]
        whole = areas[0] + areas[1] + areas[2]
        return np.stack(areas, axis=-1) / np.where(whole == 0.0, 1e-300, whole)[..., None]


def _planes(u: Array, values: Array, growth: float, vertices: Integers) -> Array:
    """(A, B, C): minus the parabola through a facet's three nodes, by divided differences."""
    finite = vertices[:, 2] < u.size
    third = np.where(finite, vertices[:, 2], 0)
    x, y, z = u[vertices[:, 0]], u[vertices[:, 1]], np.where(finite, u[third], np.inf)
    f, g, h = values[vertices[:, 0]], values[vertices[:, 1]], values[third]
    first = (g - f) / (y - x)
    second = np.where(finite, ((h - g) / (z - y) - first) / (z - x), growth)
    return -np.column_stack([f - first * x + second * x * y, first - second * (x + y), second])
