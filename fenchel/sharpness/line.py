"""P = 1 without doubt: all roots of a function whose slope is bounded above, and window maxima of a loss.

A root-free interval is proved root-free from one side: where g(a) < 0 and g' <= M, g stays negative up to a + |g(a)|/M,
and where g(b) > 0 it is positive back to b - g(b)/M. Losses offer exactly such bounds of their curvature.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from fenchel.arrays import Array
from fenchel.losses import Loss

_MAX_CELLS = 4_000


def isolate_roots(
    function: Callable[[Array], Array],
    slope_upper: Callable[[Array, Array], Array],
    lo: float,
    hi: float,
    *,
    cells: int = 64,
) -> tuple[Array, bool]:
    """All roots (K,) of ``function`` in [lo, hi], to rounding, and whether every other interval is proved root-free.

    ``slope_upper(a, b)`` bounds the derivative from above on each interval [a, b]. Roots closer together than 1e-10 of
    the interval count once. The second answer is False where cells were left undecided: a touching root, a plateau.
    """
    edges = np.linspace(lo, hi, cells + 1)
    a, b = edges[:-1], edges[1:]
    width = 1e-10 * max(hi - lo, 1e-300)
    # Rounding of the function: without it a root on an edge could be argued away from both its sides.
    size = np.abs(function(edges))
    slack = 1e-14 * float(size[np.isfinite(size)].max(initial=0.0))
    small_a: list[Array] = []
    small_b: list[Array] = []
    roots: list[float] = []
    complete = True
    while a.size:
        if a.size > _MAX_CELLS:
            complete = False
            break
        ga, gb, rise = function(a), function(b), slope_upper(a, b)
        with np.errstate(invalid="ignore"):
            climb = np.where(np.isfinite(rise), rise * (b - a), np.inf)
        free = ((ga < 0.0) & (ga + climb < -slack)) | ((gb > 0.0) & (gb - climb > slack))
        falling = ~free & (rise < 0.0)
        for i in np.flatnonzero(falling & (ga >= 0.0) & (gb <= 0.0)):
            roots.append(_bisect(function, a[i], b[i], ga[i], gb[i]))
        a, b = a[~free & ~falling], b[~free & ~falling]
        tiny = b - a <= width
        small_a.append(a[tiny])
        small_b.append(b[tiny])
        a, b = a[~tiny], b[~tiny]
        middle = 0.5 * (a + b)
        a, b = np.concatenate([a, middle]), np.concatenate([middle, b])
    left, right = np.sort(np.concatenate(small_a)) if small_a else np.empty(0), np.empty(0)
    if left.size:
        right = np.sort(np.concatenate(small_b))
        breaks = np.flatnonzero(left[1:] > right[:-1] + width) + 1
        for chunk in np.split(np.arange(left.size), breaks):
            first, last = float(left[chunk[0]]), float(right[chunk[-1]])
            ends = function(np.array([first, last]))
            if ends[0] * ends[1] <= 0.0:
                roots.append(_bisect(function, first, last, ends[0], ends[1]))
            else:
                roots.append(0.5 * (first + last))
                complete = False
    found = np.sort(np.array(roots))
    keep = np.concatenate([[True], np.diff(found) > 2.0 * width]) if found.size else np.empty(0, dtype=bool)
    return found[keep], complete


def _bisect(function: Callable[[Array], Array], a: float, b: float, ga: float, gb: float) -> float:
    if ga == 0.0:
        return float(a)
    if gb == 0.0:
        return float(b)
    # A root at zero has no relative rounding to reach: there the size of the bracket's ends says what is enough.
    enough = max(1e-300, 1e-17 * max(abs(a), abs(b)))
    return float(brentq(lambda t: float(function(np.array([t]))[0]), a, b, xtol=enough, rtol=8.9e-16, maxiter=500))


class LineProfile:
    """A scalar loss on [lo, hi]: its stationary points, once and for all, and from them window maxima.

    ``complete`` says that no stationary point was missed; only then are window maxima proved.
    """

    def __init__(self, loss: Loss, lo: float, hi: float) -> None:
        self.loss, self.lo, self.hi = loss, lo, hi
        if loss.convex:
            # The maximum of a convex function over a window is at an end.
            self.stationary, self.complete = np.empty(0), True
        else:
            self.stationary, self.complete = isolate_roots(self.slope, self.curvature_upper, lo, hi, cells=256)
        self._tops = self.value(self.stationary) if self.stationary.size else np.empty(0)

    def value(self, x: Array) -> Array:
        """(n,) -> (n,)."""
        return np.asarray(self.loss(x[:, None]), dtype=float)

    def slope(self, x: Array) -> Array:
        """(n,) -> (n,)."""
        return self.loss.gradient(x[:, None])[:, 0]

    def curvature(self, x: Array) -> Array:
        """(n,) -> (n,)."""
        return self.loss.hessian(x[:, None])[:, 0, 0]

    def curvature_upper(self, a: Array, b: Array) -> Array:
        """An upper bound of l'' on each [a, b]."""
        return self.loss.hessian_upper(a[:, None], b[:, None])[:, 0, 0]

    def inner(self, a: Array, b: Array) -> Array:
        """The largest stationary value in each [a, b], -inf where there is none."""
        if not self.stationary.size:
            return np.full(a.shape, -np.inf)
        inside = (self.stationary >= a[:, None]) & (self.stationary <= b[:, None])
        return np.asarray(np.where(inside, self._tops, -np.inf).max(axis=1))

    def window(self, a: Array, b: Array) -> Array:
        """max of l over each [a, b]."""
        return np.maximum(np.maximum(self.value(a), self.value(b)), self.inner(a, b))
