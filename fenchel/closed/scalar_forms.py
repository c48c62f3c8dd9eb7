"""-f** of one link g(z) at given mean and variance of z, with its majorant and its worst-case distribution.

For g(z) = a z + h(z^2), h concave, Jensen's inequality in z^2 gives -f** = a mean + h(variance + mean^2), attained by
two atoms at +-sqrt(variance + mean^2) (the rule of `fenchel.closed`); for the indicator the value is Cantelli's, for
the squared ReLU variance + (mean^+)^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.losses.links import IndicatorLink, Link
from fenchel.losses.more_links import SquaredReLULink

__all__ = ["ScalarForm", "scalar_form"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ScalarForm:
    """All arrays (n,), one entry a term.

    ``value`` = -f** = sup E[g(z)]; the majorant ``value + slope (z - mean) + curvature/2 ((z - mean)^2 - variance)``
    lies above g everywhere. The worst case puts ``weight`` on ``atom`` and 1 - weight on ``other``; ``attained``
    is False where the supremum is only a limit (then the atoms reach a smaller value).
    """

    value: Array
    slope: Array
    curvature: Array
    atom: Array
    other: Array
    weight: Array
    attained: bool = True


def scalar_form(link: Link, mean: Array, variance: Array) -> ScalarForm | None:
    """The closed form of ``link`` at mean (n,) and variance (n,) > 0 of its argument; None where it has none."""
    if isinstance(link, IndicatorLink):
        return _cantelli(mean, variance)
    if isinstance(link, SquaredReLULink):
        return _squared_relu(mean, variance)
    if link.rule is None:
        return None
    a, center = link.rule
    offset = mean - center
    radius = np.hypot(np.sqrt(variance), offset)
    at = center + radius
    value = link.value(at) + a * (mean - at)
    # Twice the derivative of h at radius^2.
    curvature = (link.slope(at) - a) / radius
    slope = a + curvature * offset
    return ScalarForm(value, slope, curvature, at, center - radius, 0.5 * (1.0 + offset / radius))


def _cantelli(mean: Array, variance: Array) -> ScalarForm:
    """sup P(z >= 0): Cantelli's bound below the threshold, 1 from there on, not attained at mean = 0.

    Means nearer to 0 than the square root of rounding count as 0: the atom that attains is then too far to represent.
    """
    spread = np.sqrt(variance)
    on_jump = np.abs(mean) <= 1e-7 * spread
    above = (mean > 0.0) | on_jump
    safe = np.where(on_jump, 1.0, mean)
    far = np.where(on_jump, spread, mean + variance / safe)
    second = variance + mean * mean
    value = np.where(above, 1.0, variance / second)
    curvature = np.where(above, 0.0, 2.0 / (far * far))
    slope = np.where(above, 0.0, curvature * (mean - far))
    # Above the threshold both atoms have z >= 0; below it one sits on the jump.
    weight = np.where(on_jump, 0.5, mean * mean / second)
    other = np.where(on_jump, -far, 0.0)
    return ScalarForm(value, slope, curvature, far, other, weight, not bool(on_jump.any()))


def _squared_relu(mean: Array, variance: Array) -> ScalarForm:
    """variance + (mean^+)^2: by two atoms z >= 0 where mean > 0, else by a vanishing mass that escapes to infinity."""
    spread = np.sqrt(variance)
    attained = mean > 1e-7 * spread
    positive = np.maximum(mean, 0.0)
    far = mean + np.where(attained, variance / np.where(attained, mean, 1.0), spread)
    weight = np.where(attained, mean * mean / (variance + mean * mean), 0.5)
    other = np.where(attained, 0.0, mean - spread)
    curvature = np.full(mean.shape, 2.0)
    value = variance + positive * positive
    return ScalarForm(value, 2.0 * positive, curvature, far, other, weight, bool(attained.all()))
