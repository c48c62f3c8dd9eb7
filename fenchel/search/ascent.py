"""Local maximization of h from many starts at once: safeguarded Newton steps, no certificate."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from fenchel.search.bounds import Model

__all__ = ["ascend", "distinct"]

Array = NDArray[np.float64]
_CLIMBS = 4
_MOST_STEPS = 60
_MOST_HALVINGS = 25


def ascend(
    model: Model,
    starts: Array,
    *,
    domain: tuple[Array, Array] | None = None,
    deadline: float | None = None,
) -> tuple[Array, Array]:
    """Points (S, D) and values (S,) after climbing from starts (S, D) in model coordinates.

    For a convex loss the first steps maximize the minorant tangent to l (which cannot descend); then Newton
    steps with the modulus of the Hessian's eigenvalues, shortened until h rises. ``domain`` = (lo, hi) is never left.
    After ``deadline`` (of `time.perf_counter`) the points are handed back as they are.
    """
    u = starts.copy()
    if model.convex and model.whitened and domain is None:
        for _ in range(_CLIMBS):
            u = u + model.tangent(u)[1]
    value, slope, hessian = (part.copy() for part in model.derivatives(u))
    active = np.arange(u.shape[0])
    # Below a jump every step is cut short: going on would only creep towards it.
    for _ in range(_MOST_STEPS if model.continuous else _MOST_STEPS // 6):
        if deadline is not None and time.perf_counter() > deadline:
            break
        step, gain = _newton_step(u[active], slope[active], hessian[active], domain)
        # A gain below the noise cannot be seen, and only halves steps in vain.
        noise = model.noise(u[active], value[active], slope[active])
        rising = gain > noise
        active, step, gain, noise = active[rising], step[rising], gain[rising], noise[rising]
        if active.size == 0:
            break
        length, todo, moved = 1.0, np.arange(active.size), []
        for _ in range(_MOST_HALVINGS if model.continuous else _MOST_HALVINGS // 3):
            rows = active[todo]
            trial = u[rows] + length * step[todo]
            if domain is not None:
                trial = np.clip(trial, *domain)
            v, s, m = model.derivatives(trial)
            better = v >= value[rows] + 1e-4 * length * gain[todo]
            if better.all():
                u[rows], value[rows], slope[rows], hessian[rows] = trial, v, s, m
                moved.append(rows)
                break
            done = rows[better]
            u[done], value[done], slope[done], hessian[done] = trial[better], v[better], s[better], m[better]
            moved.append(done)
            length *= 0.25
            todo = todo[~better & (length * gain[todo] > noise[todo])]
            if todo.size == 0:
                break
        active = np.concatenate(moved)
    return _sharpened(model, u, value, slope, hessian, domain)


def _sharpened(
    model: Model, u: Array, value: Array, slope: Array, hessian: Array, domain: tuple[Array, Array] | None
) -> tuple[Array, Array]:
    """One more full step where it shortens the gradient and costs no more than rounding: h is flat at its maxima."""
    step, _ = _newton_step(u, slope, hessian, domain)
    trial = u + step if domain is None else np.clip(u + step, *domain)
    v, s = model.tangent(trial)
    better = (np.square(s).sum(axis=1) < np.square(slope).sum(axis=1)) & (v >= value - 1e-15 * (1.0 + np.abs(value)))
    return np.where(better[:, None], trial, u), np.where(better, v, value)


def _newton_step(u: Array, slope: Array, hessian: Array, domain: tuple[Array, Array] | None) -> tuple[Array, Array]:
    """Ascent steps (S, D) with the curvature's modulus in place of the curvature, and slope.step (S,)."""
    if domain is not None:
        # Coordinates held by the domain's faces stay where they are.
        held = ((u <= domain[0]) & (slope < 0.0)) | ((u >= domain[1]) & (slope > 0.0))
        slope = np.where(held, 0.0, slope)
        free = ~held
        hessian = np.where(free[:, :, None] & free[:, None, :], hessian, -np.eye(u.shape[1]))
    if slope.shape[1] == 1:
        step = slope / np.maximum(np.abs(hessian[:, 0, :]), 1e-8)
    else:
        values, vectors = np.linalg.eigh(hessian)
        size = np.abs(values)
        size = np.maximum(size, 1e-8 * size.max(axis=1, keepdims=True, initial=0.0) + 1e-12)
        step = np.einsum("bij,bj->bi", vectors, np.einsum("bij,bi->bj", vectors, slope) / size)
    return step, np.einsum("bi,bi->b", step, slope)


def distinct(points: Array, values: Array, *, radius: float = 1e-5) -> NDArray[np.intp]:
    """Indices of points (K, D) that differ by more than radius (relative above 1), best value first."""
    order = np.argsort(-values, kind="stable")
    placed = points[order]
    apart = np.abs(placed[:, None, :] - placed[None, :, :]).max(axis=2, initial=0.0)
    near = apart <= radius * (1.0 + np.abs(placed).max(axis=1, initial=0.0))
    # A point goes if one kept before it is near; points near a dropped one stay.
    dropped = np.zeros(order.size, dtype=bool)
    for i in range(order.size):
        if not dropped[i]:
            dropped[i + 1 :] |= near[i + 1 :, i]
    return order[~dropped]
