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

from fenchel.losses import Loss

__all__ = ["LiftedCurve", "Window", "growth", "interval_tops", "jump_nodes", "sample_nodes"]

Array = NDArray[np.float64]
Integers = NDArray[np.intp]

_FAR = 1e7


@dataclass(frozen=True)
class Window:
    """theta = center + scale u; the domain of u is [low, high], infinite unless the loss has bounds."""

    center: float
    scale: float
    low: float
    high: float

    @classmethod
    def around(cls, loss: Loss, means: Array, stds: Array) -> Window:
        lowest, highest = float(means.min()), float(means.max())
        center, scale = 0.5 * (lowest + highest), max(0.5 * (highest - lowest), float(stds.max()))
        if loss.bounds is None:
            return cls(center, scale, -np.inf, np.inf)
        return cls(center, scale, (loss.bounds[0][0] - center) / scale, (loss.bounds[1][0] - center) / scale)

    def theta(self, u: Array) -> Array:
        return self.center + self.scale * u

    def u(self, theta: Array) -> Array:
        return (theta - self.center) / self.scale


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


def growth(loss: Loss, window: Window) -> float:
    """lim sup l / u^2 at infinity: -inf for a bounded domain, inf for a loss that outgrows every quadratic."""
    if loss.bounds is not None:
        return -np.inf
    linear = loss.in_predictors()
    if linear is not None:
        # Links grow at most linearly, but for those with a bend, where their predictor goes to +infinity.
        bends = [
            sum(
                float(g.link.bend * (g.weights * np.maximum(side * g.rows[:, 0], 0.0) ** 2).sum())
                for g in linear.groups
            )
            for side in (1.0, -1.0)
        ]
        return float(0.5 * (linear.H[0, 0] + max(bends)) * window.scale**2)
    if np.isinf(loss.curvature) and loss.majorizer is None:
        return np.inf
    with np.errstate(all="ignore"):
        ratios = [
            float(np.max(loss._value(window.theta(np.array([[-far], [far]]))))) / far**2 for far in (_FAR, 1e3 * _FAR)
        ]
    if not np.isfinite(ratios).all() or ratios[1] > 10.0 * abs(ratios[0]) + 1.0:
        return np.inf
    return max(0.0, ratios[1])


def jump_nodes(loss: Loss, window: Window) -> Array:
    """u at which a loss of linear predictors may jump, on the side where it is higher."""
    found = [np.zeros(0)]
    linear = loss.in_predictors()
    if linear is not None:
        for group in linear.groups:
            if not group.link.continuous:
                live = group.rows[:, 0] != 0.0
                found += [(k - group.offsets[live]) / group.rows[live, 0] for k in group.link.kinks]
    at = window.u(np.unique(np.concatenate(found)))
    if at.size == 0:
        return at
    # Rounding of theta = center + scale u is of this size; the least move that reaches the higher side is wanted.
    unit = 2e-16 * (np.abs(at) + abs(window.center) / window.scale)
    moves = np.array([0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0])
    tried = at + moves[:, None] * unit
    heights = loss._value(window.theta(tried).reshape(-1, 1)).reshape(tried.shape)
    return np.asarray(tried[np.argmax(heights, axis=0), np.arange(at.size)])


def interval_tops(gap: Array, slope: Array, kappa: Array, width: Array) -> Array:
    """Upper bounds (k, n - 1) of g on the intervals between n nodes, from g and g' there and g'' <= kappa.

    g lies below the parabola of curvature kappa through either end; the smaller of the two is bounded.
    """
    left, right, rise, fall = gap[:, :-1], gap[:, 1:], slope[:, :-1], slope[:, 1:]
    bent = np.where(np.isfinite(kappa), kappa, 0.0)
    # The parabolas differ by a linear function, so that they cross once.
    start = right - fall * width + 0.5 * bent * width**2 - left
    tilt = fall - bent * width - rise
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = np.clip(np.nan_to_num(-start / tilt), 0.0, width)
        top_left = np.where(bent < 0.0, np.clip(-rise / bent, 0.0, cross), 0.0)
        top_right = np.where(bent < 0.0, np.clip(fall / bent, 0.0, width - cross), 0.0)
    from_left = [left + x * (rise + 0.5 * bent * x) for x in (cross, top_left)]
    from_right = [right + x * (0.5 * bent * x - fall) for x in (width - cross, top_right)]
    middle = np.maximum(from_left[0], from_right[0])
    top = np.maximum(np.maximum(middle, np.maximum(from_left[1], from_right[1])), np.maximum(left, right))
    return np.where(np.isposinf(kappa), np.inf, top)


def sample_nodes(
    loss: Loss, window: Window, extra: Array, *, count: int, finest: float, accuracy: float = 1e-4
) -> Array:
    """Nodes u: ``count`` spread evenly on the circle, features of the loss, ``extra``, and bisections where l bends.

    ``finest`` is the least standard deviation wanted: atoms lie at that distance around a kink.
    """
    angle = np.pi * (np.arange(count) + 0.5) / count - 0.5 * np.pi
    wide = np.tan(angle)
    near = np.linspace(-2.0, 2.0, count // 2)
    u = np.concatenate([wide, near, window.u(_features(loss, finest)), window.u(extra)])
    u = _separate(u[(u >= window.low) & (u <= window.high)], jump_nodes(loss, window))
    u = np.concatenate([[window.low], u]) if np.isfinite(window.low) and u[0] > window.low else u
    u = np.concatenate([u, [window.high]]) if np.isfinite(window.high) and u[-1] < window.high else u
    for _ in range(6):
        if u.size > 3 * count:
            break
        middle = 0.5 * (u[1:] + u[:-1])
        values, between = loss._value(window.theta(u[:, None])), loss._value(window.theta(middle[:, None]))
        scale = 1.0 + np.minimum(np.abs(values[1:]), np.abs(values[:-1]))
        bend = np.abs(between - 0.5 * (values[1:] + values[:-1])) / (scale * (1.0 + middle * middle))
        rough = bend > accuracy * np.maximum(1.0, bend.max() / 1e3)
        if not rough.any():
            break
        u = np.sort(np.concatenate([u, middle[rough]]))
    return u


def _separate(u: Array, kept: Array) -> Array:
    """Sorted nodes no two of which are within rounding of each other, ``kept`` among them."""
    apart = np.ones(u.size, dtype=bool)
    for point in kept:
        apart &= np.abs(u - point) > 1e-7 * (1.0 + np.abs(u))
    u = np.sort(u[apart])
    if u.size:
        u = u[np.append(True, np.diff(u) > 1e-7 * (1.0 + np.abs(u[1:])))]
    return np.unique(np.concatenate([u, kept]))


def _features(loss: Loss, finest: float) -> Array:
    """Points near the kinks and the nonconvex terms of a loss of linear predictors, at the scale of each."""
    linear = loss.in_predictors()
    if linear is None:
        return np.zeros(0)
    bumps = np.array([-3.5, -2.0, -1.0, 0.0, 1.0, 2.0, 3.5])
    steps = finest * 2.0 ** np.arange(-1, 7)
    around = np.concatenate([-steps, [0.0], steps])
    found = [np.zeros(0)]
    for group in linear.groups:
        live = group.rows[:, 0] != 0.0
        rows, offsets = group.rows[live, 0], group.offsets[live]
        if rows.size > 64:
            continue
        if not group.link.convex:
            found.append(((bumps[:, None] - offsets) / rows).ravel())
        found += [((kink - offsets) / rows + around[:, None]).ravel() for kink in group.link.kinks]
    return np.concatenate(found)
