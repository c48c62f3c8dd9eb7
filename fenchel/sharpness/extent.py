"""Where a regularized loss can have its minimum: the box to which a minorant confines it."""

from __future__ import annotations

import numpy as np

from fenchel.arrays import Array
from fenchel.losses import Loss


def confining_box(loss: Loss, delta: float, level: float) -> tuple[Array, Array, bool]:
    """(lo, hi, proved): {l + delta/2 |theta|^2 <= level} lies in the box.

    Where no minorant is known the box is only sampled for (``proved`` False). ValueError where nothing grows.
    """
    if loss.bounds is not None:
        return loss.bounds[0], loss.bounds[1], True
    minorant = loss.minorant()
    if minorant is not None:
        constant, slope, H = minorant
        matrix = H + delta * np.eye(loss.dim)
        if np.linalg.eigvalsh(matrix)[0] > 1e-12 * max(1.0, np.abs(matrix).max()):
            inverse = np.linalg.inv(matrix)
            center = -inverse @ slope
            room = 2.0 * max(0.0, level - (constant - 0.5 * float(slope @ inverse @ slope)))
            half = np.sqrt(room * np.diagonal(inverse)) * (1.0 + 1e-9) + 1e-9
            return center - half, center + half, True
    return _sampled_box(loss, delta, level)


def _sampled_box(loss: Loss, delta: float, level: float) -> tuple[Array, Array, bool]:
    """Double the radius until the sphere is above the level; for a convex loss in one dimension that is a proof."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(64 * loss.dim, loss.dim)) if loss.dim > 1 else np.array([[-1.0], [1.0]])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radius = 1.0
    for _ in range(40):
        values = loss(radius * directions) + 0.5 * delta * radius * radius
        if (np.atleast_1d(values) > level + 1e-9 * (1.0 + abs(level))).all():
            box = np.full(loss.dim, radius if loss.convex else 2.0 * radius)
            return -box, box, bool(loss.convex and loss.dim == 1)
        radius *= 2.0
    raise ValueError("the objective does not grow at infinity, so it has no minimizer: delta must be larger")
