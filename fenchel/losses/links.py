"""Scalar functions g of a linear predictor z = x.theta, with what a certificate needs to know about them: on an
interval [lo, hi], possibly infinite, kappa such that ``g(z0) + g'(z0) (z - z0) + kappa/2 (z - z0)^2`` lies above g.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from scipy.special import expit

from fenchel.arrays import Array
from fenchel.losses.inputs import positive_number

Tangent = tuple[Array, Array]
# A divided difference over a shorter step than this is mostly rounding: the curvature's supremum replaces it.
_SHORT_STEP = 1e-2
_ON_KINK = 1e-100


class Link(ABC):
    """A function g: R -> R, bounded below by a linear one; all methods broadcast over arrays of z."""

    convex: ClassVar[bool] = True
    continuous: ClassVar[bool] = True
    kinks: tuple[float, ...] = ()
    #: lim g(z)/z at -infinity and +infinity.
    slopes: tuple[float, float] = (0.0, 0.0)
    #: lim 2 g(z)/z^2 at +infinity.
    bend: ClassVar[float] = 0.0
    #: sup |g| is finite.
    bounded: ClassVar[bool] = False
    #: (a, c): g(z) = a z + h((z - c)^2) with h concave, the rule of closed forms; None where there is no such form.
    rule: tuple[float, float] | None = (0.0, 0.0)
    #: For certificates: g(z) = delta^2 f(z / delta) for the f that the checker knows under this name.
    name: ClassVar[str] = ""
    delta: float = 1.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def steepest(self) -> float:
        """sup |g'|: of a convex g the steeper of its slopes at infinity; inf where it is not known."""
        return max(map(abs, self.slopes)) if self.convex else np.inf

    @abstractmethod
    def value(self, z: Array) -> Array: ...

    @abstractmethod
    def slope(self, z: Array) -> Array:
        """g'(z); at a kink one of the subgradients."""

    @abstractmethod
    def curvature(self, z: Array) -> Array:
        """g''(z) where it exists, 0 at kinks and jumps."""

    @abstractmethod
    def curvature_sup(self, lo: Array, hi: Array) -> Array:
        """sup of g'' over [lo, hi]; inf where the interval contains a convex kink."""

    @abstractmethod
    def majorant_curvature(self, z0: Array, lo: Array, hi: Array, at: Tangent | None = None) -> Array:
        """kappa >= 0 such that the parabola of curvature kappa tangent at z0 is above g on [lo, hi].

        ``at`` is `tangent` (z0) where the caller has it already.
        """

    @abstractmethod
    def sup(self, lo: Array, hi: Array) -> Array:
        """sup of g over [lo, hi], limits at infinity included."""

    def tangent(self, z: Array) -> Tangent:
        """(g(z), g'(z))."""
        return self.value(z), self.slope(z)

    def below(self, z: Array) -> Tangent:
        """(value at z, slope) of a line below g: of convex links the tangent at z."""
        return self.tangent(z)

    def tail(self, z: Array) -> Array:
        """g(z) - slopes[1] z for z >= 0, without cancellation where it is small."""
        return self.value(z) - self.slopes[1] * z

    def majorant(self, z0: Array, lo: Array, hi: Array) -> tuple[Array, Array, Array]:
        """(v, s, kappa) with v + s (z - z0) + kappa/2 (z - z0)^2 >= g(z) on [lo, hi]; tangent at z0 unless steep."""
        at = self.tangent(z0)
        return at[0], at[1], self.majorant_curvature(z0, lo, hi, at)


def _chord_near_kink(link: Link, z0: Array, lo: Array, hi: Array) -> tuple[Array, Array, Array]:
    """The tangent parabola, but the chord over [lo, hi] where z0 is so near the kink that the parabola is steep."""
    value, slope, kappa = link.value(z0), link.slope(z0), link.majorant_curvature(z0, lo, hi)
    width = hi - lo
    steep = (lo < 0.0) & (hi > 0.0) & (np.abs(z0) < 0.1 * width) & np.isfinite(width)
    if steep.any():
        at_lo, at_hi = link.value(np.where(steep, lo, 0.0)), link.value(np.where(steep, hi, 1.0))
        rise = (at_hi - at_lo) / np.where(steep, width, 1.0)
        value = np.where(steep, at_lo + rise * np.where(steep, z0 - lo, 0.0), value)
        slope, kappa = np.where(steep, rise, slope), np.where(steep, 0.0, kappa)
    return value, slope, kappa


class _EvenLink(Link):
    """g = a z + even part about 0, whose g'' >= 0 (a measure) is even and does not increase with |z|.

    For such g the divided difference D(z) = 2 (g(z) - g(z0) - g'(z0)(z - z0)) / (z - z0)^2 increases up to z = -z0 and
    decreases after it (pair the points of the path from z0 to z symmetrically about 0), so its supremum over an
    interval is at the point of the interval nearest to -z0. Over the whole line this is the Jaakkola-Jordan bound.
    """

    def majorant_curvature(self, z0: Array, lo: Array, hi: Array, at: Tangent | None = None) -> Array:
        value, slope = self.tangent(z0) if at is None else at
        z = np.minimum(np.maximum(-z0, lo), hi)
        step = z - z0
        near = np.abs(step) < _SHORT_STEP
        safe = np.where(near, 1.0, step)
        excess = self.value(z) - value - slope * step
        kappa = np.asarray(2.0 * np.maximum(excess, 0.0) / (safe * safe))
        if near.any():
            ends = z[near], np.broadcast_to(z0, z.shape)[near]
            kappa[near] = self.curvature_sup(np.minimum(*ends), np.maximum(*ends))
        return np.asarray(kappa * (1.0 + 1e-11), dtype=float)

    def sup(self, lo: Array, hi: Array) -> Array:
        return np.maximum(self.value(np.asarray(lo)), self.value(np.asarray(hi)))


class SoftplusLink(_EvenLink):
    """log(1 + exp z)."""

    name = "softplus"
    slopes = (0.0, 1.0)
    rule = (0.5, 0.0)

    def value(self, z: Array) -> Array:
        return np.asarray(np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z))))

    def tail(self, z: Array) -> Array:
        return np.asarray(np.log1p(np.exp(-z)))

    def slope(self, z: Array) -> Array:
        return np.asarray(expit(z))

    def tangent(self, z: Array) -> Tangent:
        e = np.exp(-np.abs(z))
        return np.maximum(z, 0.0) + np.log1p(e), np.where(z >= 0.0, 1.0, e) / (1.0 + e)

    def curvature(self, z: Array) -> Array:
        e = np.exp(-np.abs(z))
        return np.asarray(e / (1.0 + e) ** 2)

    def curvature_sup(self, lo: Array, hi: Array) -> Array:
        return self.curvature(np.minimum(np.maximum(0.0, lo), hi))


class ReLULink(_EvenLink):
    """max(z, 0)."""

    name = "relu"
    kinks = (0.0,)
    slopes = (0.0, 1.0)
    rule = (0.5, 0.0)

    def value(self, z: Array) -> Array:
        return np.maximum(z, 0.0)

    def slope(self, z: Array) -> Array:
        return np.asarray(np.asarray(z) > 0.0, dtype=float)

    def curvature(self, z: Array) -> Array:
        return np.zeros_like(np.asarray(z, dtype=float))

    def curvature_sup(self, lo: Array, hi: Array) -> Array:
        return np.where((lo <= 0.0) & (hi >= 0.0), np.inf, 0.0)

    def majorant_curvature(self, z0: Array, lo: Array, hi: Array, at: Tangent | None = None) -> Array:
        return _two_piece_curvature(z0, lo, hi, 1.0)

    def majorant(self, z0: Array, lo: Array, hi: Array) -> tuple[Array, Array, Array]:
        return _chord_near_kink(self, z0, lo, hi)


class AbsLink(_EvenLink):
    """|z|."""

    name = "abs"
    kinks = (0.0,)
    slopes = (-1.0, 1.0)

    def value(self, z: Array) -> Array:
        return np.abs(z)

    def slope(self, z: Array) -> Array:
        return np.where(np.asarray(z) > 0.0, 1.0, -1.0)

    def curvature(self, z: Array) -> Array:
        return np.zeros_like(np.asarray(z, dtype=float))

    def curvature_sup(self, lo: Array, hi: Array) -> Array:
        return np.where((lo <= 0.0) & (hi >= 0.0), np.inf, 0.0)

    def majorant_curvature(self, z0: Array, lo: Array, hi: Array, at: Tangent | None = None) -> Array:
        return _two_piece_curvature(z0, lo, hi, 2.0)

    def majorant(self, z0: Array, lo: Array, hi: Array) -> tuple[Array, Array, Array]:
        return _chord_near_kink(self, z0, lo, hi)


def _two_piece_curvature(z0: Array, lo: Array, hi: Array, jump: float) -> Array:
    """The exact kappa for two affine pieces whose slope jumps by ``jump`` at 0; inf where z0 sits on the kink."""
    z = np.minimum(np.maximum(-z0, lo), hi)
    # The slope at z0 = 0 is that of the left piece, so only points to the right exceed the tangent there.
    crosses = ((z > 0.0) & (z0 <= 0.0)) | ((z < 0.0) & (z0 > 0.0))
    # Nearer than this the slope of the piece under z0 means nothing, and squares underflow.
    on_kink = (np.abs(z0) < _ON_KINK) & (crosses | ((z0 <= 0.0) & (hi > 0.0)))
    crosses &= ~on_kink
    step = np.where(crosses, z - z0, 1.0)
    kappa = np.where(crosses, 2.0 * jump * np.abs(z) / (step * step), 0.0)
    return np.where(on_kink, np.inf, kappa * (1.0 + 1e-14))


class HuberLink(_EvenLink):
    """z^2/2 for |z| <= delta, delta |z| - delta^2/2 beyond: delta^2 times that of z/delta with delta = 1."""

    name = "huber"

    def __init__(self, delta: float) -> None:
        self.delta = positive_number(delta, "delta")
        self.slopes = (-self.delta, self.delta)

    def value(self, z: Array) -> Array:
        inner = np.minimum(np.abs(z), self.delta)
        return np.asarray(inner * (np.abs(z) - 0.5 * inner))

    def slope(self, z: Array) -> Array:
        return np.clip(z, -self.delta, self.delta)

    def curvature(self, z: Array) -> Array:
        return np.where(np.abs(z) <= self.delta, 1.0, 0.0)

    def curvature_sup(self, lo: Array, hi: Array) -> Array:
        return np.where((lo <= self.delta) & (hi >= -self.delta), 1.0, 0.0)

    def __repr__(self) -> str:
        return f"HuberLink({self.delta:g})"
