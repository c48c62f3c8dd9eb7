"""Local maximization of h from many starts at once: safeguarded Newton steps, no certificate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.bounds import Model

__all__ = ["ascend", "distinct"]

Array = NDArray[np.float64]


def ascend(model: Model, starts: Array, *, steps: int = 60, climbs: int = 6) -> tuple[Array, Array, Array]:
    """Points (S, D), values (S,) and gradient norms (S,) after climbing from starts (S, D) in model coordinates.

    For a convex loss the first ``climbs`` steps maximize the minorant tangent to l (which cannot descend); then
    Newton steps with the Hessian's eigenvalues made negative, halved until h does not fall.
    """
    u = starts.copy()
    if model.convex and model.whitened:
        for _ in range(climbs):
            u = u + model.tangent(u)[1]
    value, slope, hessian = (part.copy() for part in model.derivatives(u))
    active = np.ones(u.shape[0], dtype=bool)
    for _ in range(steps):
        index = np.flatnonzero(active)
        if index.size == 0:
            break
        step, gain = _newton_step(slope[index], hessian[index])
        settled = gain <= 4e-16 * (1.0 + np.abs(value[index]))
        length = np.ones(index.size)
        moved = np.zeros(index.size, dtype=bool)
        todo = ~settled
        new_value, new_slope, new_hessian = value[index], slope[index], hessian[index]
        new_u = u[index]
        for _ in range(30):
            rows = np.flatnonzero(todo)
            if rows.size == 0:
                break
            trial = u[index[rows]] + length[rows, None] * step[rows]
            v, s, m = model.derivatives(trial)
            better = v >= value[index[rows]] + 1e-4 * length[rows] * gain[rows]
            done = rows[better]
            new_u[done], new_value[done], new_slope[done], new_hessian[done] = (
                trial[better],
                v[better],
                s[better],
                m[better],
            )
            moved[done] = True
            todo[done] = False
            length[rows[~better]] *= 0.25
        u[index], value[index], slope[index], hessian[index] = new_u, new_value, new_slope, new_hessian
        active[index] = moved
    return u, value, np.linalg.norm(slope, axis=1)


def _newton_step(slope: Array, hessian: Array) -> tuple[Array, Array]:
    """Ascent steps (S, D) with the curvature's modulus in place of the curvature, and their predicted slopes (S,)."""
    if slope.shape[1] == 1:
        size = np.maximum(np.abs(hessian[:, 0, :]), 1e-8)
        step = slope / size
    else:
        values, vectors = np.linalg.eigh(hessian)
        size = np.maximum(np.abs(values), 1e-8 * np.abs(values).max(axis=1, keepdims=True) + 1e-12)
        step = np.einsum("bij,bj->bi", vectors, np.einsum("bij,bi->bj", vectors, slope) / size)
    return step, np.einsum("bi,bi->b", step, slope)


def distinct(points: Array, values: Array, *, radius: float = 1e-5) -> Array:
    """Indices of points (K, D) that differ by more than radius (relative above 1), best value first."""
    order = np.argsort(-values, kind="stable")
    kept: list[int] = []
    for i in order:
        if all(np.abs(points[i] - points[k]).max() > radius * (1.0 + np.abs(points[k]).max()) for k in kept):
            kept.append(int(i))
    return np.array(kept, dtype=int)
