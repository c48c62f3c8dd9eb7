"""-f** of one link g(z) at given mean and variance of z, with its majorant and its worst-case distribution.

For g(z) = a z + h(z^2), h concave, Jensen's inequality in z^2 gives -f** = a mean + h(variance + mean^2), attained by
two atoms at +-sqrt(variance + mean^2) (the rule of `fenchel.closed`); for the indicator the value is Cantelli's, for
the squared ReLU variance + (mean^+)^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fenchel.arrays import Array
from fenchel.losses.bounded_links import IndicatorLink
from fenchel.losses.links import Link
from fenchel.losses.more_links import SquaredReLULink

Uncertainty = tuple[Array, Array]
_EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class ScalarForm:
    """All arrays (n,), one entry a term.

    ``value`` = -f** = sup E[g(z)]; the majorant ``value + slope (z - mean) + curvature/2 ((z - mean)^2 - variance)``
    lies above g everywhere. The worst case puts ``weight`` on ``atom`` and 1 - weight on ``other``; ``attained``
    is False where the supremum is only a limit (then the atoms mean nothing). ``error`` bounds what rounding
    did to ``value``, that of the mean and variance given included.
    """

    value: Array
    slope: Array
    curvature: Array
    atom: Array
    other: Array
    weight: Array
    error: Array
    attained: bool = True


def scalar_form(link: Link, mean: Array, variance: Array, uncertain: Uncertainty) -> ScalarForm | None:
    """The closed form of ``link`` at mean (n,) and variance (n,) > 0 of its argument; None where it has none.

    ``uncertain`` = (of the mean, of the variance), each (n,): how far rounding may have moved them.
    """
    if isinstance(link, IndicatorLink):
        return _cantelli(mean, variance, uncertain)
    if isinstance(link, SquaredReLULink):
        return _squared_relu(mean, variance, uncertain)
    if link.rule is None:
        return None
    a, center = link.rule
    offset = mean - center
    radius = np.hypot(np.sqrt(variance), offset)
    at, other = center + radius, center - radius
    # (1 -+ |offset|/radius)/2 without the cancellation where the offset is far larger than the deviation.
    small = 0.5 * (variance / radius) / (radius + np.abs(offset))
    weight = np.where(offset < 0.0, small, 1.0 - small)
    rest = np.where(offset < 0.0, 1.0 - small, small)
    # Twice the derivative of h at radius^2.
    curvature = (link.slope(at) - a) / radius
    slope = a + curvature * offset
    # E g over the two atoms, or g(at) + a (mean - at): what cancels in one does not in the other.
    high, low = link.value(at), link.value(other)
    steep = weight * np.abs(link.slope(at)) + rest * np.abs(link.slope(other))
    mixed = _EPS * (6.0 * (weight * np.abs(high) + rest * np.abs(low)) + 2.0 * steep * (abs(center) + radius))
    straight = _EPS * (3.0 * np.abs(high) + (3.0 * abs(a) + np.abs(link.slope(at))) * (np.abs(mean) + np.abs(at)))
    value = np.where(mixed < straight, weight * high + rest * low, high + a * (mean - at))
    error = np.minimum(mixed, straight) + _moved(slope, curvature, uncertain)
    return ScalarForm(value, slope, curvature, at, other, weight, error)


def _moved(slope: Array, curvature: Array, uncertain: Uncertainty) -> Array:
    """How far the value moves with the mean and the variance: its derivatives are the majorant's coefficients."""
    of_mean, of_variance = uncertain
    steps = np.abs(slope) * of_mean + 0.5 * np.abs(curvature) * (of_variance + of_mean * of_mean)
    return np.asarray(1.5 * steps)


def _cantelli(mean: Array, variance: Array, uncertain: Uncertainty) -> ScalarForm:
    """sup P(z >= 0): Cantelli's bound below the threshold, 1 from there on, not attained at mean = 0.

    Means nearer to 0 than the square root of rounding count as 0: the atom that attains is then too far to represent.
    """
    on_jump = np.abs(mean) <= 1e-7 * np.sqrt(variance)
    above = (mean > 0.0) | on_jump
    safe = np.where(on_jump, 1.0, mean)
    far = mean + variance / safe
    second = variance + mean * mean
    value = np.where(above, 1.0, variance / second)
    curvature = np.where(above, 0.0, 2.0 * np.square(mean / second))
    slope = np.where(above, 0.0, curvature * (mean - far))
    # Above the threshold both atoms have z >= 0; below it one sits on the jump.
    weight, other = mean * mean / second, np.zeros(mean.shape)
    # Where the mean may lie below the jump, the value may be Cantelli's there.
    below = np.maximum(uncertain[0] - mean, 0.0)
    either = below * below / (variance + below * below)
    error = 8.0 * _EPS * value + np.where(above, either, _moved(slope, curvature, uncertain))
    return ScalarForm(value, slope, curvature, far, other, weight, error, not bool(on_jump.any()))


def _squared_relu(mean: Array, variance: Array, uncertain: Uncertainty) -> ScalarForm:
    """variance + (mean^+)^2: by two atoms z >= 0 where mean > 0, else by a vanishing mass that escapes to infinity."""
    attained = mean > 1e-7 * np.sqrt(variance)
    positive = np.maximum(mean, 0.0)
    far = mean + variance / np.where(attained, mean, 1.0)
    weight, other = mean * mean / (variance + mean * mean), np.zeros(mean.shape)
    curvature = np.full(mean.shape, 2.0)
    value = variance + positive * positive
    error = 4.0 * _EPS * value + _moved(2.0 * positive, curvature, uncertain)
    return ScalarForm(value, 2.0 * positive, curvature, far, other, weight, error, bool(attained.all()))
