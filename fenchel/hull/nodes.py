"""Where a loss is sampled for its hull: kinks, jumps, and points that resolve its curvature."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.hull.window import FAR, Window
from fenchel.losses import Loss

__all__ = ["growth", "interval_tops", "jump_nodes", "sample_nodes"]

Array = NDArray[np.float64]


def growth(loss: Loss, window: Window) -> float:
    """lim sup l / u^2 at infinity: -inf for a bounded domain, inf for a loss that outgrows every quadratic."""
    if loss.bounds is not None:
        return -np.inf
    linear = loss.in_predictors()
    if linear is not None:
        # Links grow at most linearly, but for those with a bend, where their predictor goes to +infinity.
        bends = [
            sum(
                float(g.link.bend * (g.weights * np.maximum(side * g.rows[:, 0], 0.0) ** 2).sum())
                for g in linear.groups
            )
            for side in (1.0, -1.0)
        ]
        return float(0.5 * (linear.H[0, 0] + max(bends)) * window.scale**2)
    if np.isinf(loss.curvature) and loss.majorizer is None:
        return np.inf
    with np.errstate(all="ignore"):
        ratios = [
            float(np.max(loss._value(window.theta(np.array([[-far], [far]]))))) / far**2 for far in (FAR, 1e3 * FAR)
        ]
    if not np.isfinite(ratios).all() or ratios[1] > 10.0 * abs(ratios[0]) + 1.0:
        return np.inf
    return max(0.0, ratios[1])


def jump_nodes(loss: Loss, window: Window) -> Array:
    """u at which a loss of linear predictors may jump, on the side where it is higher."""
    found = [np.zeros(0)]
    linear = loss.in_predictors()
    if linear is not None:
        for group in linear.groups:
            if not group.link.continuous:
                live = group.rows[:, 0] != 0.0
                found += [(k - group.offsets[live]) / group.rows[live, 0] for k in group.link.kinks]
    at = window.u(np.unique(np.concatenate(found)))
    if at.size == 0:
        return at
    # Rounding of theta = center + scale u is of this size; the least move that reaches the higher side is wanted.
    unit = 2e-16 * (np.abs(at) + abs(window.center) / window.scale)
    moves = np.array([0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0])
    tried = at + moves[:, None] * unit
    heights = loss._value(window.theta(tried).reshape(-1, 1)).reshape(tried.shape)
    return np.asarray(tried[np.argmax(heights, axis=0), np.arange(at.size)])


def interval_tops(gap: Array, slope: Array, kappa: Array, width: Array) -> Array:
    """Upper bounds (k, n - 1) of g on the intervals between n nodes, from g and g' there and g'' <= kappa.

    g lies below the parabola of curvature kappa through either end; the smaller of the two is bounded.
    """
    left, right, rise, fall = gap[:, :-1], gap[:, 1:], slope[:, :-1], slope[:, 1:]
    bent = np.where(np.isfinite(kappa), kappa, 0.0)
    # The parabolas differ by a linear function, so that they cross once.
    start = right - fall * width + 0.5 * bent * width**2 - left
    tilt = fall - bent * width - rise
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = np.clip(np.nan_to_num(-start / tilt), 0.0, width)
        top_left = np.where(bent < 0.0, np.clip(-rise / bent, 0.0, cross), 0.0)
        top_right = np.where(bent < 0.0, np.clip(fall / bent, 0.0, width - cross), 0.0)
    from_left = [left + x * (rise + 0.5 * bent * x) for x in (cross, top_left)]
    from_right = [right + x * (0.5 * bent * x - fall) for x in (width - cross, top_right)]
    middle = np.maximum(from_left[0], from_right[0])
    top = np.maximum(np.maximum(middle, np.maximum(from_left[1], from_right[1])), np.maximum(left, right))
    return np.where(np.isposinf(kappa), np.inf, top)


def sample_nodes(
    loss: Loss, window: Window, extra: Array, *, count: int, finest: float, accuracy: float = 1e-4
) -> Array:
    """Nodes u: ``count`` spread evenly on the circle, features of the loss, ``extra``, and bisections where l bends.

    ``finest`` is the least standard deviation wanted: atoms lie at that distance around a kink.
    """
    angle = np.pi * (np.arange(count) + 0.5) / count - 0.5 * np.pi
    wide = np.tan(angle)
    near = np.linspace(-2.0, 2.0, count // 2)
    u = np.concatenate([wide, near, window.u(_features(loss, finest)), window.u(extra)])
    u = _separate(u[(u >= window.low) & (u <= window.high)], jump_nodes(loss, window))
    u = np.concatenate([[window.low], u]) if np.isfinite(window.low) and u[0] > window.low else u
    u = np.concatenate([u, [window.high]]) if np.isfinite(window.high) and u[-1] < window.high else u
    for _ in range(6):
        if u.size > 3 * count:
            break
        middle = 0.5 * (u[1:] + u[:-1])
        values, between = loss._value(window.theta(u[:, None])), loss._value(window.theta(middle[:, None]))
        scale = 1.0 + np.minimum(np.abs(values[1:]), np.abs(values[:-1]))
        bend = np.abs(between - 0.5 * (values[1:] + values[:-1])) / (scale * (1.0 + middle * middle))
        rough = bend > accuracy * np.maximum(1.0, bend.max() / 1e3)
        if not rough.any():
            break
        u = np.sort(np.concatenate([u, middle[rough]]))
    return u


def _separate(u: Array, kept: Array) -> Array:
    """Sorted nodes no two of which are within rounding of each other, ``kept`` among them."""
    apart = np.ones(u.size, dtype=bool)
    for point in kept:
        apart &= np.abs(u - point) > 1e-7 * (1.0 + np.abs(u))
    u = np.sort(u[apart])
    if u.size:
        u = u[np.append(True, np.diff(u) > 1e-7 * (1.0 + np.abs(u[1:])))]
    return np.unique(np.concatenate([u, kept]))


def _features(loss: Loss, finest: float) -> Array:
    """Points near the kinks and the nonconvex terms of a loss of linear predictors, at the scale of each."""
    linear = loss.in_predictors()
    if linear is None:
        return np.zeros(0)
    bumps = np.array([-3.5, -2.0, -1.0, 0.0, 1.0, 2.0, 3.5])
    steps = finest * 2.0 ** np.arange(-1, 7)
    around = np.concatenate([-steps, [0.0], steps])
    found = [np.zeros(0)]
    for group in linear.groups:
        live = group.rows[:, 0] != 0.0
        rows, offsets = group.rows[live, 0], group.offsets[live]
        if rows.size > 64:
            continue
        if not group.link.convex:
            found.append(((bumps[:, None] - offsets) / rows).ravel())
        found += [((kink - offsets) / rows + around[:, None]).ravel() for kink in group.link.kinks]
    return np.concatenate(found)
