"""Gaussian expectations of functions on R^P, each with an error estimate: panels (P = 1), the trapezoidal
rule and adaptive boxes (P <= 3), scrambled Sobol points (any P).

All rules integrate a function of x ~ N(0, I) with values (k, n): k integrands at n points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fenchel.arrays import Array

Integrand = Callable[[Array], Array]
# The Gaussian mass beyond is 1e-20, and still 1e-15 of it after multiplication by x^4.
REACH = 9.3
_BATCH = 50_000
_MOST_BREAKS = 20


@dataclass(frozen=True)
class Estimate:
    """Expectations (k,) with estimated absolute errors (k,), and the number of points used.

    For quasi-Monte Carlo ``error`` is a standard error; otherwise it is the difference between two rules.
    """

    value: Array
    error: Array
    points: int
    method: str

    def within(self, tol: float, scale: Array) -> bool:
        """All errors are at most tol times scale."""
        return bool(np.all(self.error <= tol * scale))

    def plus(self, error: float) -> Estimate:
        """The same with a further error of the first expectation."""
        return replace(self, error=self.error + error * np.eye(self.error.size)[0])


def gauss_legendre_panels(edges: Array, degree: int) -> tuple[Array, Array]:
    """Composite Gauss-Legendre nodes and weights on the intervals between ``edges`` (increasing)."""
    x, w = np.polynomial.legendre.leggauss(degree)
    half = 0.5 * np.diff(edges)
    middle = 0.5 * (edges[1:] + edges[:-1])
    return (middle[:, None] + half[:, None] * x).ravel(), (half[:, None] * w).ravel()


def hidden(bend: float, step: float, dim: int) -> float:
    """What one dip or spike between neighbours on a lattice of this step contributes at most, where q is densest.

    Where no second derivative exceeds ``bend``, a function known at both ends of an interval leaves its chord by no
    more than bend step^2 / 8, and by two thirds of that in the mean.
    """
    return float(bend * step**2 / 12.0 * (step / np.sqrt(2.0 * np.pi)) ** dim)


def scan(function: Callable[[Array], Array], bend: float, tol: float) -> tuple[float, list[float]]:
    """A step so small that nothing above ``tol`` is `hidden` on the line, if affordable, and where to break panels.

    Breaks are set around the points where the function leaves the chord of its neighbours most, at several scales.
    """
    power = 12
    while True:
        step = 2.0 * REACH / 2**power
        x = -REACH + step * np.arange(2**power + 1)
        values = function(x)
        if power >= 20 or hidden(bend, step, 1) <= tol * float(np.abs(values).mean()):
            break
        power = min(20, power + 4)
    breaks: list[float] = []
    for stride in (1, 4, 16, 64, 256):
        # Only every stride-th point: the finer strides see what is narrower.
        coarse = values[::stride]
        rise = np.abs(np.diff(coarse, n=2))
        around = np.maximum(np.append(rise[1:], 0.0), np.insert(rise[:-1], 0, 0.0))
        peaks = np.flatnonzero((rise >= around) & (rise * stride * step > tol * float(np.abs(values).mean())))
        for index in peaks[np.argsort(-rise[peaks])[:_MOST_BREAKS]]:
            at = x[stride * (index + 1)]
            breaks += [at - 4.0 * stride * step, at, at + 4.0 * stride * step]
    return step, breaks


class PanelRule:
    """Adaptive panels of the standard normal on the line, broken at given points (kinks); bisected where needed."""

    def __init__(self, breaks: Sequence[float] = (), *, tol: float = 1e-13, max_panels: int = 4000) -> None:
        inside = [b for b in breaks if -REACH < b < REACH]
        self.edges = np.unique(np.concatenate([np.linspace(-REACH, REACH, 13), inside]))
        self.tol, self.max_panels = tol, max_panels
        self._fine, self._coarse = np.polynomial.legendre.leggauss(15), np.polynomial.legendre.leggauss(10)

    def expect(self, integrand: Integrand) -> Estimate:
        """integrand: x (n,) -> (k, n)."""
        lo, hi = self.edges[:-1], self.edges[1:]
        total, error, size, points, used = 0.0, 0.0, 0.0, 0, 0
        while lo.size:
            fine, magnitude = self._panels(integrand, lo, hi, self._fine)
            coarse, _ = self._panels(integrand, lo, hi, self._coarse)
            points += 25 * lo.size
            used += lo.size
            gap = np.abs(fine - coarse)  # (k, panels)
            size = np.maximum(size, magnitude.sum(axis=1))
            # The coarse rule's error; the fine rule's is far smaller wherever the integrand is smooth.
            bad = np.any(gap > self.tol * np.maximum(size, 1e-300)[:, None] * (hi - lo) / REACH, axis=0)
            bad &= (hi - lo > 1e-13) & (used + 2 * bad.sum() < self.max_panels)
            total = total + fine[:, ~bad].sum(axis=1)
            error = error + gap[:, ~bad].sum(axis=1)
            middle = 0.5 * (lo[bad] + hi[bad])
            lo, hi = np.concatenate([lo[bad], middle]), np.concatenate([middle, hi[bad]])
        return Estimate(np.asarray(total), np.asarray(error + 1e-15 * size), points, "adaptive panels")

    def _panels(self, integrand: Integrand, lo: Array, hi: Array, rule: tuple[Array, Array]) -> tuple[Array, Array]:
        half = 0.5 * (hi - lo)
        x = 0.5 * (lo + hi)[:, None] + half[:, None] * rule[0]
        values = integrand(x.ravel()).reshape(-1, *x.shape)
        weights = half[:, None] * rule[1] * np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi)
        return np.einsum("kpn,pn->kp", values, weights), np.einsum("kpn,pn->kp", np.abs(values), weights)
