"""Links beyond the built-in losses: any concave function of the square, and the squared ReLU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fenchel.arrays import Array
from fenchel.losses.links import Link, Tangent

Function = Callable[[Array], Array]
_PROBES = np.concatenate([[0.0], np.logspace(-6, 6, 97)])


class SquareConcaveLink(Link):
    """a z + h(z^2) with h concave and nondecreasing on [0, inf): the rule of `fenchel.closed`.

    h, its derivative dh and second derivative d2h act on arrays of u = z^2. Its tangent in u at z0^2 is above h, so
    that in z the parabola of curvature 2 h'(z0^2) tangent at z0 is above the link everywhere.
    """

    convex = False

    def __init__(self, h: Function, dh: Function, d2h: Function, slope: float) -> None:
        if not (callable(h) and callable(dh) and callable(d2h)):
            raise TypeError("h, dh and d2h must be callable")
        self.h, self.dh, self.d2h = h, dh, d2h
        self.rule = (float(slope), 0.0)
        # Its growth is not known beyond "at most quadratic", so nothing may be concluded from slopes.
        self.slopes = (np.nan, np.nan)
        values, rates, bends = (np.asarray(f(_PROBES), dtype=float) for f in (h, dh, d2h))
        if any(part.shape != _PROBES.shape or not np.isfinite(part).all() for part in (values, rates, bends)):
            raise ValueError("h, dh and d2h must return one finite number for each u >= 0, also at u = 0")
        if (rates < 0.0).any() or (bends > 0.0).any():
            raise ValueError("h must be nondecreasing and concave, but dh < 0 or d2h > 0 at some u >= 0")
        chords, lengths = np.diff(values), np.diff(_PROBES)
        room = 1e-9 * (1.0 + np.abs(values[1:]))
        if (chords > rates[:-1] * lengths + room).any() or (chords < rates[1:] * lengths - room).any():
            raise ValueError("dh is not the derivative of a concave h: a chord's slope leaves [dh(right), dh(left)]")

    def value(self, z: Array) -> Array:
        return np.asarray(self.rule[0] * z + self.h(np.square(z))) if self.rule else np.asarray(self.h(np.square(z)))

    def slope(self, z: Array) -> Array:
        return np.asarray((self.rule[0] if self.rule else 0.0) + 2.0 * z * self.dh(np.square(z)))

    def curvature(self, z: Array) -> Array:
        u = np.square(z)
        return np.asarray(2.0 * self.dh(u) + 4.0 * u * self.d2h(u))

    def curvature_sup(self, lo: Array, hi: Array) -> Array:
        # h'' <= 0 and h' does not increase.
        return np.asarray(2.0 * self.dh(np.square(np.minimum(np.maximum(0.0, lo), hi))))

    def majorant_curvature(self, z0: Array, lo: Array, hi: Array, at: Tangent | None = None) -> Array:
        return np.asarray(2.0 * self.dh(np.square(z0)) * np.ones(np.broadcast(z0, lo, hi).shape))

    def below(self, z: Array) -> Tangent:
        # h does not decrease.
        a = self.rule[0] if self.rule else 0.0
        return a * z + self.h(np.zeros_like(z)), np.full_like(z, a)

    def sup(self, lo: Array, hi: Array) -> Array:
        ends = np.maximum(np.abs(lo), np.abs(hi))
        finite = np.isfinite(ends)
        ends = np.where(finite, ends, 0.0)
        a = self.rule[0] if self.rule else 0.0
        return np.where(finite, np.abs(a) * ends + self.h(np.square(ends)), np.inf)


class SquaredReLULink(Link):
    """max(z, 0)^2: of quadratic growth on one side."""

    name = "squared-relu"
    rule = None
    bend = 2.0
    slopes = (0.0, np.inf)

    def value(self, z: Array) -> Array:
        return np.square(np.maximum(z, 0.0))

    def slope(self, z: Array) -> Array:
        return 2.0 * np.maximum(z, 0.0)

    def curvature(self, z: Array) -> Array:
        return np.where(np.asarray(z) > 0.0, 2.0, 0.0)

    def curvature_sup(self, lo: Array, hi: Array) -> Array:
        return np.where(hi > 0.0, 2.0, 0.0) + 0.0 * lo

    def majorant_curvature(self, z0: Array, lo: Array, hi: Array, at: Tangent | None = None) -> Array:
        # From z0 > 0 the excess over the tangent is (z - z0)^2 down to z = 0; from z0 <= 0 it is z^2 for z > 0. Either
        # way its ratio to (z - z0)^2 grows with z.
        low = np.minimum(z0, 0.0)
        reach = np.minimum(hi, 1e150)
        from_left = np.square(np.maximum(reach, 0.0) / np.maximum(reach - low, 1e-100))
        r = np.maximum(z0 - np.minimum(reach, 0.0), 1e-100)
        from_right = np.where(reach >= 0.0, 1.0, (2.0 * z0 * r - z0 * z0) / (r * r))
        return 2.0 * np.where(z0 > 0.0, from_right, np.where(reach > 0.0, from_left, 0.0)) * (1.0 + 1e-14)

    def sup(self, lo: Array, hi: Array) -> Array:
        return self.value(hi)
