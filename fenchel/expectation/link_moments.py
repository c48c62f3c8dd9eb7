"""E[g(z)], E[g'(z)], E[g''(z)] for z ~ N(mean, sd^2) and a link g: closed forms where they exist, else quadrature.

Derivatives are those of E[g(z)] in the mean of z, so that kinks and jumps count (Bonnet and Price with g' and g''
understood as distributions).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from fenchel.arrays import Array
from fenchel.expectation.quadrature import PanelRule, gauss_legendre_panels
from fenchel.losses.bounded_links import BumpLink, IndicatorLink
from fenchel.losses.links import AbsLink, HuberLink, Link, ReLULink, SoftplusLink
from fenchel.losses.more_links import SquaredReLULink

# (value, slope, curvature, error): arrays (n,); error bounds what is wrong with value, slope and curvature alike.
LinkMoments = tuple[Array, Array, Array, Array]

_ROUNDING = 4e-15
# Standard deviations of a softplus argument up to which the trapezoidal rule on the Gaussian converges in 73 nodes:
# the integrand is analytic in a strip of half-width pi / sd, and the step is well below what 1e-16 needs there.
_NARROW = 1.5
_TRAPEZOID = np.linspace(-9.0, 10.5, 79)
# log(1 + exp(-t)), t >= 0, is below 1e-17 beyond t = 40.
_TAIL = gauss_legendre_panels(np.array([0.0, 1.0, 2.5, 5.0, 9.0, 16.0, 40.0]), 14)


def link_moments(link: Link, mean: Array, sd: Array) -> LinkMoments:
    """(E[g], d E[g]/d mean, d^2 E[g]/d mean^2, error) for z ~ N(mean, sd^2); mean and sd > 0 are (n,)."""
    known = {
        ReLULink: _relu,
        AbsLink: _absolute,
        IndicatorLink: _indicator,
        BumpLink: _bump,
        SoftplusLink: _softplus,
        SquaredReLULink: _squared_relu,
    }.get(type(link))  # a subclass may have changed its values
    if known is not None:
        value, slope, curvature = known(mean, sd)
    elif type(link) is HuberLink:
        value, slope, curvature = _huber(link.delta, mean, sd)
    else:
        return _by_quadrature(link, mean, sd)
    return value, slope, curvature, _ROUNDING * (np.abs(value) + np.abs(slope) + np.abs(curvature))


def _density(x: Array) -> Array:
    return np.asarray(np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi))


def _relu(mean: Array, sd: Array) -> tuple[Array, Array, Array]:
    x = mean / sd
    density, mass = _density(x), ndtr(x)
    return sd * (density + x * mass), mass, density / sd


def _squared_relu(mean: Array, sd: Array) -> tuple[Array, Array, Array]:
    x = mean / sd
    density, mass = _density(x), ndtr(x)
    value = np.square(sd) * np.maximum((1.0 + x * x) * mass + x * density, 0.0)
    return value, 2.0 * sd * np.maximum(density + x * mass, 0.0), 2.0 * mass


def _absolute(mean: Array, sd: Array) -> tuple[Array, Array, Array]:
    x = np.abs(mean) / sd
    # Both summands are positive: |z| = z + 2 (-z)^+ for a positive mean.
    value = np.abs(mean) + 2.0 * sd * np.maximum(_density(x) - x * ndtr(-x), 0.0)
    return value, np.sign(mean) * (1.0 - 2.0 * ndtr(-x)), 2.0 * _density(x) / sd


def _huber(delta: float, mean: Array, sd: Array) -> tuple[Array, Array, Array]:
    a, s = np.abs(mean), sd  # the link is even
    low, high = (-delta - a) / s, (delta - a) / s
    d_low, d_high = _density(low), _density(high)
    # Phi(high) - Phi(low) without cancellation: low <= 0 and |low| >= |high|.
    inside = np.where(high <= 0.0, ndtr(high) - ndtr(low), 1.0 - ndtr(low) - ndtr(-high))
    above, below = ndtr(-high), ndtr(low)
    square = (a * a + s * s) * inside + 2.0 * a * s * (d_low - d_high) + s * s * (low * d_low - high * d_high)
    right = (a - 0.5 * delta) * above + s * d_high
    left = -(a + 0.5 * delta) * below + s * d_low
    value = 0.5 * square + delta * (right + left)
    slope = a * inside + s * (d_low - d_high) + delta * (above - below)
    return value, np.sign(mean) * slope, inside


def _indicator(mean: Array, sd: Array) -> tuple[Array, Array, Array]:
    x = mean / sd
    density = _density(x) / sd
    return ndtr(x), density, -x * density / sd


def _bump(mean: Array, sd: Array) -> tuple[Array, Array, Array]:
    spread = 1.0 + sd * sd
    depth = np.exp(-0.5 * mean * mean / spread) / np.sqrt(spread)
    return -depth, depth * mean / spread, depth * (1.0 - mean * mean / spread) / spread


def _softplus(mean: Array, sd: Array) -> tuple[Array, Array, Array]:
    value, slope, curvature = np.empty_like(mean), np.empty_like(mean), np.empty_like(mean)
    narrow = sd <= _NARROW
    link = SoftplusLink()
    if narrow.any():
        step = _TRAPEZOID[1] - _TRAPEZOID[0]
        z = mean[narrow, None] + sd[narrow, None] * _TRAPEZOID
        weights = step * _density(_TRAPEZOID)
        value[narrow] = link.value(z) @ weights
        slope[narrow] = link.slope(z) @ weights
        curvature[narrow] = link.curvature(z) @ weights
    wide = ~narrow
    if wide.any():
        value[wide], slope[wide], curvature[wide] = _wide_softplus(mean[wide], sd[wide])
    return value, slope, curvature


def _wide_softplus(mean: Array, sd: Array) -> tuple[Array, Array, Array]:
    """softplus(z) = z^+ + log(1 + exp(-|z|)); the second part lives near 0, where the Gaussian is smooth."""
    t, weights = _TAIL
    value, slope, _ = _relu(mean, sd)
    right = _density((t - mean[:, None]) / sd[:, None]) / sd[:, None]
    left = _density((t + mean[:, None]) / sd[:, None]) / sd[:, None]
    e = np.exp(-t)
    value = value + (right + left) @ (weights * np.log1p(e))
    slope = slope + (left - right) @ (weights * e / (1.0 + e))
    return value, slope, (right + left) @ (weights * e / (1.0 + e) ** 2)


def _by_quadrature(link: Link, mean: Array, sd: Array) -> LinkMoments:
    """Stein's identities turn derivatives of E[g] into moments of g' (or of g, where g jumps)."""
    columns = []
    for m, s in zip(mean, sd, strict=True):
        # Where a link's character changes: a rule that breaks there does not depend on its points to see it.
        breaks = [(kink - m) / s for kink in (0.0, *link.kinks)]
        columns.append(_one(link, float(m), float(s), breaks))
    value, slope, curvature, error = np.array(columns).T
    return value, slope, curvature, error


def _one(link: Link, mean: float, sd: float, breaks: list[float]) -> tuple[float, float, float, float]:
    def integrand(x: Array) -> Array:
        z = mean + sd * x
        g = link.value(z)
        if link.continuous:
            slope = link.slope(z)
            return np.stack([g, slope, slope * x / sd])
        return np.stack([g, g * x / sd, g * (x * x - 1.0) / sd**2])

    found = PanelRule(breaks).expect(integrand)
    return float(found.value[0]), float(found.value[1]), float(found.value[2]), float(found.error.max())
