"""How far a scalar loss can exceed given quadratics anywhere on the line, from its curvature bounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.hull.lifted_curve import LiftedCurve
from fenchel.hull.nodes import interval_tops
from fenchel.hull.plane import Plane

__all__ = ["excess_over"]

Array = NDArray[np.float64]


def excess_over(plane: Plane, curve: LiftedCurve, planes: Array) -> Array:
    """An upper bound of sup_u l(u) + (A + B u + C u^2) for each plane (n, 3)."""
    u = curve.nodes
    if not plane.bounded:
        far = 10.0 ** np.arange(3, 10)
        u = np.concatenate([-far[::-1], u, far])
    values, slopes = plane.value(u), plane.slope(u)
    bend, width = plane.bend(u[:-1], u[1:]), np.diff(u)
    excess = np.zeros(planes.shape[0])
    step = max(1, 100_000 // u.size)
    for start in range(0, planes.shape[0], step):
        block = slice(start, start + step)
        a, b, c = planes[block].T[:, :, None]
        gap, slope = values + a + u * (b + c * u), slopes + b + 2.0 * c * u
        half = 0.5 * width
        with np.errstate(invalid="ignore"):
            rise = np.maximum(bend + 2.0 * c, 0.0) * (0.5 * half * half)
            left = gap[:, :-1] + np.maximum(slope[:, :-1], 0.0) * half
            top = np.maximum(left, gap[:, 1:] - np.minimum(slope[:, 1:], 0.0) * half) + rise
        row, column = np.nonzero(top > 1e-10)
        tops = _finer(plane, planes[start + row], u[column], u[column + 1])
        np.maximum.at(excess, start + row, tops)
        if not plane.bounded:
            # The outermost nodes are 1e9 scales away: beyond, l keeps to its growth, so falling is all that counts.
            falling = (slope[:, 0] >= 0.0) & (slope[:, -1] <= 0.0)
            excess[block] = np.where(falling, excess[block], np.inf)
    return excess


def _finer(plane: Plane, planes: Array, low: Array, high: Array, *, parts: int = 16) -> Array:
    """Upper bounds of l + (A + B u + C u^2) on [low, high] (n,), each cut into ``parts``."""
    u = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, parts + 1)
    a, b, c = planes.T[:, :, None]
    flat = u.ravel()
    gap = plane.value(flat).reshape(u.shape) + a + u * (b + c * u)
    slope = plane.slope(flat).reshape(u.shape) + b + 2.0 * c * u
    bend = plane.bend(u[:, :-1].ravel(), u[:, 1:].ravel()).reshape(low.size, parts)
    width = np.diff(u, axis=1)
    tops = interval_tops(gap, slope, bend + 2.0 * c, width)
    if plane.loss.convex:  # then l is below its chord, kinks or not
        chord = np.maximum(gap[:, 1:], gap[:, :-1]) + np.maximum(-2.0 * c, 0.0) * width**2 / 8.0
        tops = np.minimum(tops, chord)
    return np.asarray(tops.max(axis=1, initial=0.0))
