"""Parabolas above the terms of a loss on intervals, chosen for an interval as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.losses.links import Link, SoftplusLink

__all__ = ["best_on_average"]

Array = NDArray[np.float64]


def best_on_average(link: Link, z: Array, reach: Array, variance: Array) -> tuple[Array, Array, Array]:
    """(v, s, kappa) with v + s d + kappa/2 d^2 >= g(z + d) for |d| <= reach, all of one shape.

    Of the parabolas with two contacts the one of least mean where d has mean 0 and this ``variance``: an even function
    is touched at +- sqrt(z^2 + variance), and where that leaves the interval at its end nearer to 0 and one other point
    (the bound by two moments on an interval). Without a rule about 0 it is the parabola of `Link.majorant`.
    """
    if link.rule is None:
        return link.majorant(z, z - reach, z + reach)
    size = np.abs(z)
    end, touch = size - reach, np.sqrt(size * size + variance)
    touch = np.where(touch > -end, size + variance / np.maximum(reach, 1e-300), touch)
    end = np.maximum(end, -touch)
    if isinstance(link, SoftplusLink):
        return _softplus(z, size, touch, end)
    value, slope = link.tangent(touch)
    kappa = link.majorant_curvature(touch, end, touch, (value, slope))
    # For z < 0 the mirror image: g(z) = g(-z) + tilt z.
    off, tilt = size - touch, 2.0 * link.rule[0]
    value = value + (slope + 0.5 * kappa * off) * off + tilt * np.minimum(z, 0.0)
    slope = slope + kappa * off
    return value, np.where(z < 0.0, tilt - slope, slope), kappa


def _softplus(z: Array, size: Array, touch: Array, end: Array) -> tuple[Array, Array, Array]:
    """The same for log(1 + exp z), by its even part log(1 + exp z) - z/2, with few temporaries.

    In many dimensions the search spends most of its time here.
    """
    slope = np.exp(-touch)
    slope += 1.0
    value = np.log(slope)
    value += 0.5 * touch
    np.divide(1.0, slope, out=slope)
    slope -= 0.5
    step = np.maximum(touch - end, 1e-150)
    np.abs(end, out=end)
    kappa = np.exp(-end)
    kappa += 1.0
    np.log(kappa, out=kappa)
    kappa += 0.5 * end
    kappa -= value
    kappa += slope * step
    kappa /= step
    kappa /= step
    kappa *= 2.0 * (1.0 + 1e-11)
    # g'' is nowhere larger than 1/4, whatever rounding makes of the divided difference.
    np.clip(kappa, 0.0, 0.25, out=kappa)
    off = np.subtract(size, touch, out=size)
    bent = kappa * off
    value += (slope + 0.5 * bent) * off
    value += 0.5 * z
    slope += bent
    return value, 0.5 + np.copysign(1.0, z) * slope, kappa
