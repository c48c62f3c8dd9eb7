"""Worst-case distributions on the line with two or three atoms, polished to machine precision, many at a time.

With mean m and standard deviation s the two-atom distributions are one curve: atoms m - s t and m + s / t with
weights 1 / (1 + t^2) and t^2 / (1 + t^2), t > 0. E[l] is stationary along it where the chord's slope is the mean of the
slopes at its ends, which is when one quadratic touches l at both.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Derivatives", "climb", "start_at", "tangent_quadratic", "with_fixed_atom"]

Array = NDArray[np.float64]
_STEPS = 20
# u (n,) -> l, l', l'' in units of u; l is -inf outside of the domain.
Derivatives = Callable[[Array], tuple[Array, Array, Array]]


def climb(derivatives: Derivatives, m: Array, s: Array, log_t: Array, *, gain: float = 1e-12) -> tuple[Array, Array]:
    """Safeguarded Newton ascent of E[l] in log t from (n,) starts; returns log t and E[l].

    It stops where the next step would gain less than ``gain`` relative; what is returned was evaluated, not predicted.
    """
    best, kept, direction = np.full(m.size, -np.inf), log_t.copy(), np.zeros(m.size)
    trial, live = log_t.copy(), np.arange(m.size)
    for _ in range(_STEPS):
        value, slope, bend = _along(derivatives, m[live], s[live], trial[live])
        risen = value >= best[live]
        up = live[risen]
        best[up], kept[up] = value[risen], trial[up]
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = np.where(bend < 0.0, -slope / bend, 0.3 * np.sign(slope))
        direction[up] = np.clip(np.nan_to_num(newton[risen]), -0.5, 0.5)
        direction[live[~risen]] *= 0.25
        t = np.exp(kept[live])
        expected = np.abs(direction[live]) * s[live] * t / (1.0 + t * t)
        expected[risen] *= np.abs(np.nan_to_num(slope[risen]))
        with np.errstate(invalid="ignore"):
            live = live[(expected > gain * (1.0 + np.abs(best[live]))) | ~np.isfinite(best[live])]
        if live.size == 0:
            break
        trial[live] = kept[live] + direction[live]
    if gain < 1e-15:
        # E[l] no longer resolves these steps, but its slope does, and the touching quadratic needs it.
        for _ in range(3):
            value, slope, bend = _along(derivatives, m, s, kept)
            close = (bend < 0.0) & (np.abs(slope) < -1e-4 * bend)
            kept[close] -= slope[close] / bend[close]
        best = np.where(close, value, best)
    return kept, best


def _along(derivatives: Derivatives, m: Array, s: Array, log_t: Array) -> tuple[Array, Array, Array]:
    """E[l], and slope and bend in log t, both divided by the same positive number."""
    t = np.exp(log_t)
    reach_low, reach_high = s * t, s / t
    low, high = m - reach_low, m + reach_high
    value, slope, curvature = derivatives(np.concatenate([low, high]))
    n = m.size
    rise, length = value[n:] - value[:n], reach_low + reach_high
    # 1 - weight would lose a far atom's weight to rounding.
    weight, other = 1.0 / (1.0 + t * t), t * t / (1.0 + t * t)
    mean = weight * value[:n] + other * value[n:]
    with np.errstate(invalid="ignore"):
        excess = rise / length - 0.5 * (slope[:n] + slope[n:])
        # d low = -s t, d high = -s / t.
        d_rise = -slope[n:] * reach_high + slope[:n] * reach_low
        d_length = reach_low - reach_high
        bend = (d_rise - rise / length * d_length) / length
        bend = bend + 0.5 * (curvature[:n] * reach_low + curvature[n:] * reach_high)
    return np.where(np.isnan(mean), -np.inf, mean), excess, bend


def with_fixed_atom(
    value: Callable[[Array], Array], m: Array, s: Array, fixed: Array
) -> tuple[Array, Array, Array, Array]:
    """(E[l], other atom, weights of both) of the two-atom distributions with a given atom; -inf where there is none."""
    gap = m - fixed
    possible = np.abs(gap) > 1e-12 * (s + np.abs(m))
    safe = np.where(possible, gap, 1.0)
    other = np.where(possible, m + s * s / safe, m)
    total = s * s + safe * safe
    share = s * s / total
    mean = share * value(fixed) + safe * safe / total * value(other)
    return np.where(possible, mean, -np.inf), other, share, safe * safe / total


def start_at(m: Array, s: Array, fixed: Array) -> Array:
    """log t of the two-atom distribution one of whose atoms is ``fixed``; 0 (the symmetric one) where that is m."""
    gap = m - fixed
    ratio = np.where(gap == 0.0, 1.0, np.abs(gap) / s)
    return np.asarray(np.where(gap > 0.0, 1.0, -1.0) * np.log(ratio))


def tangent_quadratic(
    derivatives: Derivatives, start: Array, fixed: NDArray[np.bool_], *, steps: int = 12
) -> tuple[Array, Array] | None:
    """The quadratic A + B u + C u^2 touching l at three points near ``start`` (3,): (points, (A, B, C)), or None.

    ``fixed`` points (at jumps of l, at the ends of its domain) stay where they are; there it only meets l.
    """
    u = start.copy()
    center = float(u.mean())
    for _ in range(steps):
        value, slope, curvature = derivatives(u)
        x = u - center
        # Unknowns A, B, C and the moves d of the points; the value condition is stationary in d at a touching point.
        system = np.zeros((6, 6))
        system[:3, :3] = np.column_stack([np.ones(3), x, x * x])
        solved = np.linalg.solve(system[:3, :3], value)
        mismatch = np.where(fixed, 0.0, slope - (solved[1] + 2.0 * solved[2] * x))
        system[:3, 3:] = -np.diag(mismatch)
        system[3:, :3] = np.where(fixed[:, None], 0.0, np.column_stack([np.zeros(3), np.ones(3), 2.0 * x]))
        system[3:, 3:] = np.diag(np.where(fixed, 1.0, 2.0 * solved[2] - curvature))
        try:
            step = np.linalg.solve(system, np.concatenate([np.zeros(3), mismatch]))
        except np.linalg.LinAlgError:
            return None
        move = step[3:]
        if not np.isfinite(move).all() or np.abs(move).max() > 0.2 * np.ptp(start):
            return None
        u = u + move
        if np.abs(move).max() <= 1e-12 * (1.0 + np.abs(u).max()):
            a, b, c = np.linalg.solve(np.column_stack([np.ones(3), u - center, (u - center) ** 2]), derivatives(u)[0])
            return u, np.array([a - b * center + c * center**2, b - 2.0 * c * center, c])
    return None
