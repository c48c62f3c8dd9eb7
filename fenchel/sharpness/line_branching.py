"""Branch and bound for the minimum of a function of one variable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fenchel.arrays import Array

Values = Callable[[Array], Array]


@dataclass(frozen=True)
class OuterMinimum:
    """lower <= min E <= upper = E(argmin); ``minimizers`` (K, P): all points found whose E is within ``band`` of it."""

    value: float
    lower: float
    upper: float
    argmin: Array
    minimizers: Array
    certified: bool
    band: float
    message: str = ""


def branch(
    lo: float,
    hi: float,
    value: Values,
    slope: Values,
    lower: Callable[[Array, Array], Array],
    tol: float,
    proved: bool,
    max_cells: int,
) -> OuterMinimum:
    edges = np.linspace(lo, hi, 129)
    values = value(edges)
    best = float(values.min())
    argmin = float(edges[values.argmin()])
    a, b = edges[:-1], edges[1:]
    closed = np.inf
    kept: list[tuple[Array, Array]] = []
    count = 0
    message = ""
    while a.size:
        count += a.size
        bound = lower(a, b)
        middle = 0.5 * (a + b)
        here = value(middle)
        if here.min() < best:
            best, argmin = float(here.min()), float(middle[here.argmin()])
        slack = tol * max(1.0, abs(best))
        done = bound >= best - 0.5 * slack
        closed = min(closed, float(bound[done].min(initial=np.inf)))
        # Cells that stay within the band of the best value hold the minimizers.
        near = done & (here <= best + slack)
        tiny = ~done & (b - a <= 1e-13 * max(1.0, hi - lo))
        closed = min(closed, float(bound[tiny].min(initial=np.inf)))
        kept.append((a[near | tiny], b[near | tiny]))
        a, b, middle = a[~done & ~tiny], b[~done & ~tiny], middle[~done & ~tiny]
        if count > max_cells:
            message = f"stopped with {a.size} cells open"
            closed = min(closed, float(bound[~done & ~tiny].min(initial=np.inf)))
            kept.append((a, b))
            break
        a, b = np.concatenate([a, middle]), np.concatenate([middle, b])
    first, last = (np.concatenate([pair[i] for pair in kept]) for i in (0, 1))
    points = _refined(first, last, value, slope, np.array([argmin]))
    values = value(points)
    if values.min() <= best:
        best, argmin = float(values.min()), float(points[values.argmin()])
    slack = tol * max(1.0, abs(best))
    points = points[values <= best + slack]
    certified = bool(proved and best - closed <= slack)
    bottom = min(closed, best) - 64 * np.finfo(float).eps * (1.0 + abs(best))
    return OuterMinimum(best, bottom, best, np.array([argmin]), points[:, None], certified, slack, message)


def _refined(first: Array, last: Array, value: Values, slope: Values, extra: Array) -> Array:
    """One point a cluster of cells: bisection on the sign of the slope, which finds smooth minima and kinks alike."""
    order = np.argsort(first)
    first, last = first[order], np.maximum.accumulate(last[order])
    if first.size == 0:
        return extra
    breaks = np.flatnonzero(first[1:] > last[:-1] + 1e-7 * (1.0 + np.abs(last[:-1]))) + 1
    a = np.array([first[chunk[0]] for chunk in np.split(np.arange(first.size), breaks)])
    b = np.array([last[chunk[-1]] for chunk in np.split(np.arange(first.size), breaks)])
    pad = 1e-6 * (1.0 + np.abs(a)) + 0.5 * (b - a)
    left, right = a - pad, b + pad
    good = (slope(left) < 0.0) & (slope(right) > 0.0)
    for _ in range(80):
        middle = 0.5 * (left + right)
        rising = slope(middle) >= 0.0
        left, right = np.where(rising, left, middle), np.where(rising, middle, right)
    middle = 0.5 * (left + right)
    rough = 0.5 * (a + b)
    better = good & (value(middle) <= value(rough) + 1e-12 * (1.0 + np.abs(value(rough))))
    points = np.where(better, middle, rough)
    return np.asarray(np.concatenate([points, extra]) if (value(extra) < value(points).min() - 1e-14).any() else points)
