"""Links of bounded range: the indicator and the bump."""

from __future__ import annotations

import numpy as np

from fenchel.arrays import Array
from fenchel.losses.links import _ON_KINK, Link, Tangent


class IndicatorLink(Link):
    """1 for z >= 0, else 0: the upper semicontinuous indicator."""

    name = "step"
    convex = False
    bounded = True
    continuous = False
    kinks = (0.0,)
    rule = None

    def value(self, z: Array) -> Array:
        return np.asarray(np.asarray(z) >= 0.0, dtype=float)

    def slope(self, z: Array) -> Array:
        return np.zeros_like(np.asarray(z, dtype=float))

    def curvature(self, z: Array) -> Array:
        return np.zeros_like(np.asarray(z, dtype=float))

    def curvature_sup(self, lo: Array, hi: Array) -> Array:
        return np.where((lo < 0.0) & (hi >= 0.0), np.inf, 0.0)

    def majorant_curvature(self, z0: Array, lo: Array, hi: Array, at: Tangent | None = None) -> Array:
        reach = np.maximum(lo, 0.0) - z0  # the nearest point of the interval where g = 1
        below = (z0 < 0.0) & (hi >= 0.0)
        safe = np.where(below, np.maximum(reach, _ON_KINK), 1.0)
        return np.where(below, 2.0 / (safe * safe) * (1.0 + 1e-14), 0.0)

    def majorant(self, z0: Array, lo: Array, hi: Array) -> tuple[Array, Array, Array]:
        kappa = self.majorant_curvature(z0, lo, hi)
        near = (z0 < 0.0) & (hi - lo > np.sqrt(20.0 / np.maximum(kappa, 1e-200)))
        return np.where(near, 1.0, self.value(z0)), self.slope(z0), np.where(near, 0.0, kappa)

    def sup(self, lo: Array, hi: Array) -> Array:
        return self.value(hi)

    def below(self, z: Array) -> Tangent:
        return np.zeros_like(z), np.zeros_like(z)


class BumpLink(Link):
    """-exp(-z^2/2): a well of depth 1 and width 1."""

    name = "bump"
    convex = False
    bounded = True
    steepest = float(np.exp(-0.5))  # at z = +-1

    def value(self, z: Array) -> Array:
        return np.asarray(-np.exp(-0.5 * np.square(z)))

    def slope(self, z: Array) -> Array:
        return np.asarray(z * np.exp(-0.5 * np.square(z)))

    def curvature(self, z: Array) -> Array:
        s = np.square(z)
        return np.asarray((1.0 - s) * np.exp(-0.5 * s))

    def curvature_sup(self, lo: Array, hi: Array) -> Array:
        # g'' falls from 1 at 0 to its minimum at |z| = sqrt 3 and rises to 0: the supremum is at the end nearest to
        # 0 or at the end farthest from it.
        near = np.minimum(np.maximum(0.0, lo), hi)
        far = np.maximum(np.abs(lo), np.abs(hi))
        finite = np.where(np.isfinite(far), far, 0.0)
        return np.maximum(self.curvature(near), np.where(np.isfinite(far), self.curvature(finite), 0.0))

    def majorant_curvature(self, z0: Array, lo: Array, hi: Array, at: Tangent | None = None) -> Array:
        # Everywhere: g is concave in z^2, and its tangent in z^2 has curvature exp(-z0^2/2) in z.
        everywhere = np.exp(-0.5 * np.square(z0))
        return np.maximum(np.minimum(everywhere, self.curvature_sup(np.minimum(lo, z0), np.maximum(hi, z0))), 0.0)

    def sup(self, lo: Array, hi: Array) -> Array:
        return np.maximum(self.value(np.asarray(lo)), self.value(np.asarray(hi)))

    def below(self, z: Array) -> Tangent:
        return -np.ones_like(z), np.zeros_like(z)
