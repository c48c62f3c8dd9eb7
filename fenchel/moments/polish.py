"""Newton's method on the optimality conditions of the moment problem, once its active atoms are known.

With atoms x_k, weights w_k and the quadratic Q = c . features, optimality reads
    sum_k w_k features(x_k) = target,   l(x_k) = Q(x_k),   grad l(x_k) = grad Q(x_k),
a square system. The linear program finds which atoms; this finds where, to rounding error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.moments.white_loss import WhiteLoss

__all__ = ["ActiveSet", "polish"]

Array = NDArray[np.float64]
_STEPS = 20


@dataclass(frozen=True)
class ActiveSet:
    """Atoms (K, P), weights (K,), coefficients (D,), and the largest scaled violation of the conditions."""

    points: Array
    weights: Array
    coefficients: Array
    residual: float


def polish(white: WhiteLoss, start: ActiveSet) -> ActiveSet | None:
    """Newton from ``start``; an atom with a slope sits on a kink or a jump and moves along it only.

    Returns the best point met, or None where the iteration cannot begin (an atom without finite derivatives).
    Atoms whose weight turns negative are dropped and the iteration restarted.
    """
    current, best, normals = start, None, _normals(white, start)
    for _ in range(max(1, start.weights.size - 1)):
        best = _newton(white, current, normals)
        if best is None or best.weights.min() >= -1e-13:
            return best
        keep = best.weights > best.weights.min()
        normals = normals[keep]
        current = ActiveSet(current.points[keep], current.weights[keep], current.coefficients, np.inf)
    return best


def _normals(white: WhiteLoss, start: ActiveSet) -> Array:
    """Unit vectors (K, P) across the kink or jump that an atom sits on, zero for an atom on none."""
    slope = white.slope(start.coefficients, start.points)
    size = 1.0 + np.max(np.abs(white.gradient(start.points)), axis=1)
    norm = np.linalg.norm(slope, axis=1)
    held = norm > 1e-5 * size
    return np.where(held[:, None], slope / np.where(held, norm, 1.0)[:, None], 0.0)


def _newton(white: WhiteLoss, start: ActiveSet, normals: Array) -> ActiveSet | None:
    frame = white.frame
    x, w, c = start.points, start.weights, start.coefficients
    count, size = w.size, frame.size
    best: ActiveSet | None = None
    stalled = 0
    for _ in range(_STEPS):
        value, gradient, hessian = white.value(x), white.gradient(x), white.hessian(x)
        features, jacobian = frame.features(x), frame.jacobians(x)
        gap = value - features @ c
        slope = gradient - jacobian @ c
        slope = slope - np.sum(slope * normals, axis=1, keepdims=True) * normals
        moment = frame.target - w @ features
        if not (np.all(np.isfinite(gap)) and np.all(np.isfinite(slope)) and np.all(np.isfinite(hessian))):
            return best
        scale = 1.0 + np.max(np.abs(value))
        growth = 1.0 + np.sum(x * x, axis=1)
        residual = max(
            float(np.max(np.abs(gap) / growth)) / scale,
            float(np.max(np.abs(slope) / growth[:, None])) / scale,
            float(np.max(np.abs(moment))),
        )
        if best is None or residual < best.residual:
            stalled = 0 if best is None or residual < 0.5 * best.residual else stalled + 1
            best = ActiveSet(x, w, c, residual)
        else:
            stalled += 1
        if residual < 1e-15 or stalled > 2:
            break
        curvature = 2.0 * frame.quadratic(c)[2] - hessian
        if not np.all(np.isfinite(curvature)) or float(np.max(np.abs(curvature))) < 1e-12:
            return best
        inverse = _curvature_inverse(curvature, normals)
        newton = np.einsum("kij,kj->ki", inverse, slope)
        response = inverse @ jacobian
        system = np.zeros((size + count, size + count))
        system[:size, :size] = -np.einsum("k,kpd,kpe->de", w, jacobian, response)
        system[:size, size:] = features.T
        system[size:, :size] = features + np.einsum("kpd,kp->kd", jacobian, newton)
        right = np.concatenate(
            [moment - np.einsum("k,kpd,kp->d", w, jacobian, newton), gap + np.sum(slope * newton, axis=1)]
        )
        if not (np.all(np.isfinite(system)) and np.max(np.abs(system)) < 1e100):
            return best
        step = _solve(system, right)
        x = white.snap(x + newton - response @ step[:size])
        c = c + step[:size]
        w = w + step[size:]
    return best


def _curvature_inverse(curvature: Array, normals: Array) -> Array:
    """Inverse of hess(Q - l) at each atom, kept positive definite; on the tangent plane of a kink or jump."""
    dim = curvature.shape[1]
    across = normals[:, :, None] * normals[:, None, :]
    tangent = np.eye(dim) - across
    scale = float(np.max(np.abs(curvature)))
    if dim == 1:
        return np.asarray(tangent / np.maximum(curvature, 1e-9 * scale))
    eigenvalues, vectors = np.linalg.eigh(tangent @ curvature @ tangent + scale * across)
    inverse = (vectors / np.maximum(eigenvalues, 1e-9 * scale)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    return np.asarray(tangent @ inverse @ tangent)


def _solve(system: Array, right: Array) -> Array:
    """Least-norm solution of the equilibrated system: it is singular where weights or majorant are not unique."""
    row = np.max(np.abs(system), axis=1)
    row = np.where(row > 1e-200, row, 1.0)
    column = np.max(np.abs(system / row[:, None]), axis=0)
    column = np.where(column > 1e-200, column, 1.0)
    scaled = system / row[:, None] / column
    solution = np.linalg.lstsq(scaled, right / row, rcond=1e-12)[0]
    return np.asarray(solution / column)
