"""A start in many dimensions: equally weighted atoms with q's moments, moved uphill together.

The atoms x_k maximize the mean of l among those with mean 0 and the family's second moments. At a maximum the slopes
of l are those of a quadratic there, grad l(x_k) = v + 2 W x_k, and this quadratic is a first guess of the majorant. The
moments are kept by projecting the slopes on the tangent space and by the affine map of the family after each step.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from fenchel.moments.atoms import repair_by_moving
from fenchel.moments.white_loss import WhiteLoss

__all__ = ["ensemble"]

Array = NDArray[np.float64]
_STEPS = 1000


def ensemble(white: WhiteLoss, count: int, deadline: float = np.inf) -> tuple[Array, Array] | None:
    """Atoms (count, P), each of weight 1 / count, and the coefficients (D,) of the quadratic; None where l is infinite.

    The quadratic touches l from above at its highest point over the atoms.
    """
    frame, weights = white.frame, np.full(count, 1.0 / count)
    found = repair_by_moving(frame, np.random.default_rng(frame.dim).normal(size=(count, frame.dim)), weights)
    if found is None:
        return None
    x = found[0]
    value, length, stalled = float(weights @ white.value(x)), 1.0, 0
    for _ in range(_STEPS):
        if not np.isfinite(value):
            return None
        slopes = white.gradient(x)
        moved = repair_by_moving(frame, x + length * (slopes - _affine(white, x, slopes)), weights)
        trial = -np.inf if moved is None else float(weights @ white.value(moved[0]))
        if moved is None or trial <= value:
            length *= 0.5
            if length < 1e-9:
                break
            continue
        stalled = stalled + 1 if trial - value < 1e-7 * max(1.0, abs(value)) else 0
        x, value, length = moved[0], trial, 1.3 * length
        if stalled > 3 or time.perf_counter() > deadline:
            break
    v, w = _quadratic(white, x, white.gradient(x))
    c = frame.coefficients(0.0, v, w)
    return x, c + (white.value(x) - frame.features(x) @ c).max() * np.eye(frame.size)[0]


def _affine(white: WhiteLoss, x: Array, slopes: Array) -> Array:
    """The slopes (K, P) of the quadratic of the family that is nearest to those given."""
    v, w = _quadratic(white, x, slopes)
    return np.asarray(v + 2.0 * x @ w)


def _quadratic(white: WhiteLoss, x: Array, slopes: Array) -> tuple[Array, Array]:
    """(v, W) by least squares, x having mean 0 and the family's second moments."""
    v = slopes.mean(axis=0)
    second = (slopes - v).T @ x / len(x)
    if white.frame.structure == "full":
        return v, 0.25 * (second + second.T)
    diagonal = np.diag(second)
    return v, 0.5 * np.diag(
        diagonal if white.frame.structure == "diagonal" else np.full_like(diagonal, diagonal.mean())
    )
