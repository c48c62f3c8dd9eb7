"""Other exponential families of App. B, as far as Theorem 1 needs them: Bernoulli, Gamma, fixed covariance.

Each gives both sides of Eq. 10 for a loss on its sample space: the supremum over its members of <lambda', mu> + E[l],
and the supremum over theta of <lambda', T(theta)> + l(theta), computed independently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import gammainccinv, gammaincinv, ndtr, psi

from fenchel.arrays import Array
from fenchel.expectation.expected_loss import expected_loss
from fenchel.expectation.quadrature import REACH, PanelRule
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.losses.inputs import finite_number, positive_number

Scalar = Callable[[Array], Array]


@dataclass(frozen=True)
class BothSides:
    """The two suprema of Eq. 10; ``member`` and ``theta`` attain (or, in the limit, approach) them."""

    over_mu: float
    over_theta: float
    member: tuple[float, ...]
    theta: float

    @property
    def gap(self) -> float:
        """over_theta - over_mu: 0 where the theorem holds, positive where no member comes near a maximizing Dirac."""
        return self.over_theta - self.over_mu if np.isfinite(self.over_theta) else 0.0


class Bernoulli:
    """theta in {0, 1}, T(theta) = theta, mu in (0, 1)."""

    def both_sides(self, loss: Scalar, lam: Any) -> BothSides:
        """loss: values at theta (n,) -> (n,)."""
        lam = finite_number(lam, "lam")
        ends = np.asarray(loss(np.array([0.0, 1.0])), dtype=float)

        def member(mu: float) -> float:
            return float(lam * mu + (1.0 - mu) * ends[0] + mu * ends[1])

        # Affine in mu, so the interior has no maximum: a bounded scalar search approaches an end.
        found = minimize_scalar(lambda mu: -member(mu), bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-14})
        at_ends = [member(1e-12), member(1.0 - 1e-12)]
        theta = np.array([0.0, 1.0])
        heights = lam * theta + ends
        best = max(-float(found.fun), *at_ends)
        return BothSides(best, float(heights.max()), (float(found.x),), float(theta[np.argmax(heights)]))


class Gamma:
    """theta > 0 with shape a and rate b, T(theta) = (log theta, theta), lambda = (a - 1, -b)."""

    @staticmethod
    def expectation(shape: float, rate: float) -> tuple[float, float]:
        """mu = (E[log theta], E[theta]).

        Raises:
            ValueError: shape or rate is not positive.
        """
        shape, rate = positive_number(shape, "shape"), positive_number(rate, "rate")
        return float(psi(shape) - np.log(rate)), shape / rate

    @staticmethod
    def expected(loss: Scalar, shape: float, rate: float) -> float:
        """E[l(theta)] by adaptive panels after the map of a standard normal to theta."""

        def integrand(x: Array) -> Array:
            lower = gammaincinv(shape, ndtr(np.minimum(x, 0.0)))
            upper = gammainccinv(shape, ndtr(-np.maximum(x, 0.0)))
            return np.asarray(loss(np.where(x < 0.0, lower, upper) / rate))[None, :]

        return float(PanelRule(tol=1e-11, max_panels=400).expect(integrand).value[0])

    def both_sides(self, loss: Scalar, lam: Any, *, starts: int = 8, largest_shape: float = 1e9) -> BothSides:
        """lam = (lam1, lam2) multiplies (log theta, theta); finite suprema need lam1 >= 0 (for l finite at 0).

        Members are searched over (log mean, log shape), shapes up to ``largest_shape``: the Dirac limit.
        """
        first, second = (finite_number(v, "lam") for v in lam)

        def member(x: Array) -> float:
            mean, shape = float(np.exp(x[0])), float(np.exp(x[1]))
            mu1, mu2 = self.expectation(shape, shape / mean)
            return first * mu1 + second * mu2 + self.expected(loss, shape, shape / mean)

        def pointwise(theta: Array) -> Array:
            return np.asarray(first * np.log(theta) + second * theta + loss(theta))

        bounds = [(-8.0, 8.0), (-1.0, np.log(largest_shape))]
        grid = [np.array([a, b]) for a in np.linspace(-3.0, 3.0, 2 * starts + 1) for b in (0.5, 3.0, 6.0)]
        grid.sort(key=lambda x: -member(x))
        best, at = -np.inf, grid[0]
        for x in grid[:3]:
            for _ in range(3):
                found = minimize(
                    lambda v: -member(v),
                    x,
                    method="Nelder-Mead",
                    bounds=bounds,
                    options={"xatol": 1e-9, "fatol": 1e-12},
                )
                x = np.array([found.x[0], bounds[1][1]])
                if -float(found.fun) > best:
                    best, at = -float(found.fun), found.x
        theta = np.exp(np.linspace(-12.0, 12.0, 24_001))
        heights = pointwise(theta)
        top = int(np.argmax(heights))
        near = minimize_scalar(
            lambda t: -float(pointwise(np.array([np.exp(t)]))[0]),
            bounds=(np.log(theta[top]) - 1e-3, np.log(theta[top]) + 1e-3),
            method="bounded",
            options={"xatol": 1e-12},
        )
        return BothSides(
            best, max(float(heights[top]), -float(near.fun)), tuple(np.exp(at).tolist()), float(np.exp(near.x))
        )


class FixedCovarianceGaussian:
    """N(m, sd^2) with sd fixed, P = 1: T(theta) = theta, and the family approaches no Dirac."""

    def __init__(self, sd: Any) -> None:
        self.sd = positive_number(sd, "sd")

    def both_sides(self, loss: Loss, lam1: Any, lam2: Any = 0.0, *, reach: float = 40.0) -> BothSides:
        """lam1 multiplies theta. A nonzero lam2 multiplies theta^2: the Gaussian family's pairing, sd held fixed."""
        first, second = finite_number(lam1, "lam1"), finite_number(lam2, "lam2")

        def member(m: float) -> float:
            q = Gaussian([m], self.sd**2)
            return first * m + second * (m * m + self.sd**2) + expected_loss(loss, q)

        def point(t: float) -> float:
            return first * t + second * t * t + float(loss(np.array([t])))

        means, theta = np.linspace(-reach, reach, 801), np.linspace(-reach, reach, 8001)
        # Where to look, by a lattice of the normal; what is found there is then integrated to full accuracy.
        x = np.linspace(-REACH, REACH, 301)
        weights = np.exp(-0.5 * x * x)
        around = loss((means[:, None] + self.sd * x).reshape(-1, 1)).reshape(means.size, -1)
        smoothed = first * means + second * means**2 + around @ weights / weights.sum()
        mean, over_mu = _line_maximum(member, means, smoothed)
        at, over_theta = _line_maximum(point, theta, first * theta + second * theta**2 + loss(theta[:, None]))
        return BothSides(over_mu, over_theta, (mean,), at)


def _line_maximum(function: Callable[[float], float], grid: Array, heights: Array) -> tuple[float, float]:
    """The maximizer and maximum around the highest point of an equidistant grid."""
    top, step = float(grid[np.argmax(heights)]), float(grid[1] - grid[0])
    found = minimize_scalar(
        lambda t: -function(t), bounds=(top - step, top + step), method="bounded", options={"xatol": 1e-12}
    )
    return max(((t, function(t)) for t in (float(found.x), top)), key=lambda pair: pair[1])
