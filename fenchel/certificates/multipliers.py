"""Multipliers that close a box: with them a quadratic is bounded above on the box."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from fenchel.arrays import Array


def pulls(value: float, tilt: Array, matrix: Array) -> list[Array]:
    """Multipliers that may close the box: none, the best of one axis if the quadratic is concave, the best of all.

    There are none where the quadratic is positive on the way to the corner that its slope points to.
    """
    if not (np.isfinite(value) and np.isfinite(tilt).all() and np.isfinite(matrix).all()):
        return []
    corner = np.sign(tilt)
    rise, bend = float(np.abs(tilt).sum()), float(corner @ matrix @ corner)
    along = 1.0 if rise + bend >= 0.0 else -rise / bend
    if value + along * rise + 0.5 * along**2 * bend > 0.0:
        return []
    bends, axes = np.linalg.eigh(matrix)
    dim = tilt.size
    choices = []
    if bends[-1] < 0.0:
        peak = np.linalg.solve(-matrix, tilt)
        if value + 0.5 * float(tilt @ peak) <= 0.0:
            return [np.zeros(dim)]
        axis = int(np.argmax(np.abs(peak)))
        if abs(peak[axis]) > 1.0:
            # The maximum on the face y = +-1 nearest to the peak has this multiplier.
            inverse = np.linalg.inv(-matrix)
            pull = (abs(peak[axis]) - 1.0) / inverse[axis, axis]
            choices.append(pull * np.eye(dim)[axis])
    turned = np.square(tilt @ axes)

    def bound(pull: float) -> float:
        return value + 0.5 * pull * dim + 0.5 * float(np.sum(turned / (pull - bends)))

    least = max(0.0, float(bends[-1]) * (1.0 + 1e-9) + 1e-300)
    scale = max(least, float(np.sqrt(turned.sum())), 1e-300)
    found = minimize_scalar(lambda t: bound(least + scale * np.exp(t)), bounds=(-30.0, 5.0), method="bounded")
    pull = least + scale * float(np.exp(found.x))
    choices += [np.full(dim, pull)] if bound(pull) <= 0.0 else []
    return choices


def floats(found: Any) -> tuple[float, Array, Array]:
    value, slope, matrix = found
    dim = slope.nrows()
    bent = np.array([float(x) for x in matrix.entries()]).reshape(dim, dim)
    return float(value), np.array([float(x) for x in slope.entries()]), 0.5 * (bent + bent.T)
