"""Certified minimization of a max-loss over the line (P = 1): E_SAM of Eq. 1, and Eq. 12 at a fixed sigma.

Both are maxima over a perturbation, with kinks where two perturbations tie. Branch and bound over theta, with lower
bounds that follow several perturbations at once, so that a kink is bounded as sharply as a smooth minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fenchel.arrays import Array
from fenchel.losses import Loss
from fenchel.losses.accurate import EPS
from fenchel.sharpness.extent import confining_box
from fenchel.sharpness.line import LineProfile
from fenchel.sharpness.line_branching import OuterMinimum, branch
from fenchel.sharpness.proximal import proximal_sup

Values = Callable[[Array], Array]
_MAX_CELLS = 100_000


def minimize_sam_line(loss: Loss, rho: float, delta: float, *, tol: float = 1e-10) -> OuterMinimum:
    """min over theta of max_{|eps| <= rho} l(theta + eps) + delta/2 theta^2, for a continuous scalar loss; rho > 0."""
    lo, hi, proved = _sam_box(loss, rho, delta)
    profile = LineProfile(loss, lo - rho, hi + rho)

    def value(theta: Array) -> Array:
        return profile.window(theta - rho, theta + rho) + 0.5 * delta * theta * theta

    def slope(theta: Array) -> Array:
        sides = np.stack(
            [profile.value(theta + rho), profile.value(theta - rho), profile.inner(theta - rho, theta + rho)]
        )
        slopes = np.stack([profile.slope(theta + rho), profile.slope(theta - rho), np.zeros_like(theta)])
        return np.asarray(np.take_along_axis(slopes, sides.argmax(axis=0)[None, :], axis=0)[0] + delta * theta)

    def lower(a: Array, b: Array) -> Array:
        width = b - a
        parts = []
        for shift in (rho, -rho):
            parts.append(_below(profile, a + shift, b + shift))
        common = np.where(width < 2.0 * rho, profile.window(np.minimum(b - rho, a + rho), a + rho), -np.inf)
        parts.append((common, np.zeros_like(a), np.zeros_like(a)))
        return _minimum_of_maximum([(c + 0.5 * delta * a * a, s + delta * a, k + delta) for c, s, k in parts], width)

    proved = proved and profile.complete
    found = branch(lo, hi, value, slope, lower, tol, proved, _MAX_CELLS)
    inside = profile.stationary[np.abs(profile.stationary - found.argmin) <= rho]
    points = np.concatenate([found.argmin + rho, found.argmin - rho, inside])[:, None]
    moved = EPS * np.abs(loss.gradient(points)[:, 0]) * (np.abs(points[:, 0]) + rho)
    error = float((np.maximum(loss.rounding(points, 1), loss.rounding(points, -1)) + moved).max())
    error += 2.0 * EPS * abs(found.value)
    found = replace(found, lower=found.lower - error, upper=found.upper + error)
    if found.upper - found.lower > max(2.0 * tol, 1e-9) * max(1.0, abs(found.value)):
        message = found.message or f"rounding may have moved the ends by {error:.2g}"
        found = replace(found, certified=False, message=message)
    return found


def minimize_proximal_line(loss: Loss, sigma: float, delta: float, *, tol: float = 1e-9) -> OuterMinimum:
    """min over m of sup_eps [l(m + eps) - eps^2/(2 sigma^2)] + delta/2 m^2 for a scalar loss: Eq. 12 in m, sigma fixed.

    The term -log(sigma^2 delta)/2 of Eq. 12, constant in m, is left out. Where the supremum is infinite for every m
    (the loss grows like a quadratic steeper than 1/sigma^2) the result is +inf.
    """
    precision = 1.0 / (sigma * sigma)
    first = proximal_sup(loss, np.zeros(1), sigma, tol=tol)
    if np.isinf(first.lower):
        nothing = np.empty((0, 1))
        return OuterMinimum(np.inf, np.inf, np.inf, np.full(1, np.nan), nothing, first.certified, 0.0, first.message)
    lo, hi, proved = _box(loss, delta, first.upper)
    begin = (lo, 0.5 * lo, 0.0, 0.5 * hi, hi)
    reach = max(abs(float(proximal_sup(loss, np.array([m]), sigma, tol=1e-4).argmax[0])) for m in begin)
    span = 2.0 * (reach + sigma)
    grid = np.linspace(lo - span, hi + span, 4001)
    on_grid = np.asarray(loss(grid[:, None]), dtype=float)
    curve = LineProfile.__new__(LineProfile)
    curve.loss = loss

    def refined(x: Array, m: Array) -> tuple[Array, Array]:
        best = curve.value(x) - 0.5 * precision * np.square(x - m)
        for _ in range(5):
            bend = curve.curvature(x) - precision
            step = np.where(bend < 0.0, -(curve.slope(x) - precision * (x - m)) / np.where(bend < 0.0, bend, -1.0), 0.0)
            trial = x + np.clip(step, -0.1 * span, 0.1 * span)
            v = curve.value(trial) - 0.5 * precision * np.square(trial - m)
            x, best = np.where(v > best, trial, x), np.maximum(v, best)
        return x, best

    def worst(m: Array) -> Array:
        """The worst x, from the three highest peaks on the grid; feasible, so a lower bound whatever it misses."""
        peaks = np.empty((3, m.size))
        for chunk in np.array_split(np.arange(m.size), max(1, m.size // 128)):
            tall = on_grid - 0.5 * precision * np.square(grid - m[chunk, None])
            inner = tall[:, 1:-1]
            peak = (inner >= tall[:, :-2]) & (inner >= tall[:, 2:])
            order = np.argpartition(-np.where(peak, inner, -np.inf), 3, axis=1)[:, :3]
            peaks[:, chunk] = grid[1 + order].T
        x, tops = refined(peaks.ravel(), np.tile(m, 3))
        return np.asarray(x.reshape(3, -1)[tops.reshape(3, -1).argmax(axis=0), np.arange(m.size)])

    def value(m: Array) -> Array:
        x = worst(m)
        return curve.value(x) - 0.5 * precision * np.square(x - m) + 0.5 * delta * m * m

    def slope(m: Array) -> Array:
        return precision * (worst(m) - m) + delta * m

    def lower(a: Array, b: Array) -> Array:
        x = worst(np.concatenate([a, b]))
        tops = curve.value(x)
        parts = []
        for y, top in ((x[: a.size], tops[: a.size]), (x[a.size :], tops[a.size :])):
            away = y - a
            constant = top - 0.5 * precision * away * away + 0.5 * delta * a * a
            parts.append((constant, precision * away + delta * a, np.full_like(a, delta - precision)))
        return _minimum_of_maximum(parts, b - a)

    found = branch(lo, hi, value, slope, lower, tol, proved, _MAX_CELLS // 20)
    top = proximal_sup(loss, found.argmin, sigma, tol=0.1 * tol)
    upper = top.upper + 0.5 * delta * float(found.argmin[0]) ** 2
    closed = proved and upper - found.lower <= 3.0 * tol * max(1.0, abs(upper))
    best = max(found.value, float(top.values[0]) + 0.5 * delta * float(found.argmin[0]) ** 2)
    return OuterMinimum(
        best, found.lower, max(upper, best), found.argmin, found.minimizers, bool(closed), found.band, found.message
    )


def _sam_box(loss: Loss, rho: float, delta: float) -> tuple[float, float, bool]:
    start = LineProfile(loss, -rho, rho)
    level = float(start.window(np.array([-rho]), np.array([rho]))[0])
    return _box(loss, delta, level)


def _box(loss: Loss, delta: float, level: float) -> tuple[float, float, bool]:
    lo, hi, proved = confining_box(loss, delta, level)
    return float(lo[0]), float(hi[0]), proved


def _below(profile: LineProfile, a: Array, b: Array) -> tuple[Array, Array, Array]:
    """A quadratic in s = x - a below the loss on [a, b]: tangent or chord, (value, slope, curvature)."""
    va, vb = profile.value(a), profile.value(b)
    width = np.where(b > a, b - a, 1.0)
    if profile.loss.convex:
        # The tangent at the middle is below a convex loss, and second-order close.
        middle = 0.5 * (a + b)
        s = profile.slope(middle)
        return profile.value(middle) - 0.5 * s * width, s, np.zeros_like(a)
    rise = profile.curvature_upper(a, b)
    chord = (vb - va) / width
    finite = np.isfinite(rise)
    safe = np.where(finite, rise, 0.0)
    # l - M x^2/2 is concave, so above its chord: l >= chord - M/2 (x - a)(b - x).
    return np.where(finite, va, -np.inf), chord - 0.5 * safe * width, safe


def _minimum_of_maximum(parts: list[tuple[Array, Array, Array]], width: Array) -> Array:
    """min over s in [0, width] of the largest of the quadratics c + g s + k s^2/2: an end, a vertex or a crossing."""
    candidates = [np.zeros_like(width), width]
    for _, g, k in parts:
        candidates.append(-g / np.where(k > 0.0, k, np.inf))
    for i in range(len(parts)):
        for j in range(i):
            with np.errstate(invalid="ignore", over="ignore"):
                c, g, k = (parts[i][n] - parts[j][n] for n in range(3))
                root = np.sqrt(np.maximum(g * g - 2.0 * k * c, 0.0))
                q = -(g + np.where(g >= 0.0, root, -root))
                candidates.append(np.where(k != 0.0, q / np.where(k != 0.0, k, 1.0), -c / np.where(g != 0.0, g, 1.0)))
                candidates.append(2.0 * c / np.where(q != 0.0, q, 1.0))
    best = np.full(width.shape, np.inf)
    for s in candidates:
        s = np.clip(np.nan_to_num(s, nan=0.0, posinf=0.0, neginf=0.0), 0.0, width)
        tallest = np.full(width.shape, -np.inf)
        for c, g, k in parts:
            tallest = np.maximum(tallest, c + g * s + 0.5 * k * s * s)
        best = np.minimum(best, tallest)
    return best
