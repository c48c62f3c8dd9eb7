"""Theorem 2 at one point: the values and derivatives that tie a maximizer in the ball to one of Eq. 18."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fenchel.arrays import Array
from fenchel.losses import Loss
from fenchel.sharpness.ball import BallMaximum
from fenchel.sharpness.proximal import proximal_sup


@dataclass(frozen=True)
class Duality:
    """min over nu of D(nu) against the maximum on the ball: lower <= gap <= upper, at the precision ``nu``.

    ``edge``: the proximal problem is unbounded for slightly smaller nu, so sigma^2 = 1/nu is the end of its domain.
    """

    nu: float
    lower: float
    upper: float
    edge: bool


def duality(loss: Loss, theta: Array, rho: float, ball: BallMaximum, *, tol: float = 1e-8) -> Duality:
    """The duality gap of the inner problem at theta (P,), by cutting planes on the convex function D.

    Each feasible eps gives the line nu (rho^2 - |eps|^2)/2 + l(theta + eps) below D; two of them bound the minimum from
    below, and a certified value of D at any nu bounds it from above.
    """
    slack = tol * (1.0 + abs(ball.lower))
    slopes = np.atleast_2d(loss.gradient(theta + ball.worst(slack)))
    guesses = sorted({float(n) for n in np.linalg.norm(slopes, axis=1) / rho if n > 0.0})
    best_nu, best = np.nan, np.inf
    low, high = 0.0, np.inf
    flat_low: tuple[float, float] | None = None
    flat_high: tuple[float, float] | None = None
    nu = guesses[-1] if guesses else 1.0
    queue = guesses[::-1]
    infinite = 0.0
    for _ in range(60):
        if queue:
            nu = queue.pop(0)
        found = proximal_sup(loss, theta, nu**-0.5, tol=0.05 * tol, starts=ball.maximizers[:8])
        if np.isinf(found.upper):
            low = infinite = max(low, nu)
        else:
            top = found.upper + 0.5 * nu * rho * rho
            if top < best:
                best_nu, best = nu, top
            if best - ball.lower <= slack:
                break
            # The line of the shortest and of the longest maximizer: the two ends of the subdifferential of D.
            tied = found.maximizers[found.values >= found.values[0] - 1e-12 * (1.0 + abs(found.values[0]))]
            sizes = np.square(tied).sum(axis=1)
            for eps, size in ((tied[sizes.argmax()], sizes.max()), (tied[sizes.argmin()], sizes.min())):
                value = float(loss(theta + eps))
                if size >= rho * rho and nu >= low:
                    low, flat_low = nu, (value, float(size))
                if size <= rho * rho and nu <= high:
                    high, flat_high = nu, (value, float(size))
        floor, cross = _crossing(flat_low, flat_high, rho)
        if best - floor <= 0.1 * slack:
            break
        if np.isinf(high):
            nu = 2.0 * max(nu, low)
        elif low == 0.0 and flat_low is None:
            nu = 0.25 * min(nu, high)
            if nu < 1e-12 * (1.0 + abs(ball.lower)) / (rho * rho):
                break
        else:
            nu = cross if low < cross < high and not np.isnan(cross) else 0.5 * (low + high)
            if high - low <= 1e-13 * high:
                break
            if infinite == low and high - low <= 1e-9 * high:
                break
    floor, _ = _crossing(flat_low, flat_high, rho)
    lower = max(0.0, min(floor, best) - ball.upper) if np.isfinite(floor) else 0.0
    edge = bool(
        np.isfinite(best_nu) and np.isinf(proximal_sup(loss, theta, (best_nu * (1.0 - 1e-5)) ** -0.5, tol=1e-3).lower)
    )
    return Duality(float(best_nu), float(lower), float(max(0.0, best - ball.lower)), edge)


def _crossing(first: tuple[float, float] | None, second: tuple[float, float] | None, rho: float) -> tuple[float, float]:
    """min over nu >= 0 of the larger of two lines v + nu (rho^2 - s)/2, s1 >= rho^2 >= s2, and where it is."""
    if second is None:
        return -np.inf, np.nan
    if first is None or first[1] == second[1]:
        return (second[0], 0.0) if second[1] < rho * rho else (max(second[0], first[0] if first else -np.inf), np.nan)
    nu = 2.0 * (first[0] - second[0]) / (first[1] - second[1])
    if nu <= 0.0:
        return max(first[0], second[0]), 0.0
    return second[0] + 0.5 * nu * (rho * rho - second[1]), nu
