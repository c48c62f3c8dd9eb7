"""Discrete distributions with prescribed moments: repair of a residual, starting designs, coinciding atoms.

An upper bound on f** is only one if its atoms have q's moments. A linear program, or Newton's method, leaves a
residual; it is never ignored but removed, by a move of the atoms or by mixing in atoms that cancel it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.moments.moment_frame import MomentFrame

__all__ = [
    "design",
    "distinct",
    "distinct_from",
    "merge",
    "moment_error",
    "repair_by_mixing",
    "repair_by_moving",
    "sigma_points",
]

Array = NDArray[np.float64]


def moment_error(frame: MomentFrame, points: Array, weights: Array) -> float:
    """Largest deviation of the whitened moments from q's, whose size is 1."""
    return float(np.max(np.abs(weights @ frame.features(points) - frame.target)))


def repair_by_moving(frame: MomentFrame, points: Array, weights: Array) -> tuple[Array, Array] | None:
    """The atoms moved by the affine map of the family that restores the moments exactly; None if degenerate."""
    weights = weights / np.sum(weights)
    for _ in range(2):  # the second pass removes the rounding error of the first
        centred = points - weights @ points
        if frame.structure == "full":
            covariance = (centred * weights[:, None]).T @ centred
            eigenvalues, vectors = np.linalg.eigh(covariance)
            if eigenvalues[0] <= 1e-3:
                return None
            points = centred @ (vectors / np.sqrt(eigenvalues)) @ vectors.T
        else:
            variance = weights @ centred**2
            if frame.structure == "isotropic":
                variance = np.full(frame.dim, np.mean(variance))
            if np.min(variance) <= 1e-3:
                return None
            points = centred / np.sqrt(variance)
    return points, weights


def repair_by_mixing(frame: MomentFrame, points: Array, weights: Array) -> tuple[Array, Array] | None:
    """The atoms kept where they are, and sigma points of a slightly shifted Gaussian mixed in to cancel the residual.

    (1 - e) (mu + r) + e mu'' = mu with mu'' the moments of the mixed-in points, e of the size of the residual r.
    None where r is so large that e would reach 1/2.
    """
    weights = weights / np.sum(weights)
    residual = weights @ frame.features(points) - frame.target
    size = float(np.max(np.abs(residual)))
    if size == 0.0:
        return points, weights
    mix = 8.0 * frame.dim * size
    if mix >= 0.5:
        return None
    shifted = frame.target - residual * (1.0 - mix) / mix
    mean = shifted[1 : 1 + frame.dim]
    covariance = _second_moment(frame, shifted) - np.outer(mean, mean)
    # No moment was shifted by more than 1 / (8 dim), so that the eigenvalues are at least 1 - 1/8 - 1/64.
    eigenvalues, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(eigenvalues * frame.dim)
    extra = np.concatenate([mean + root.T, mean - root.T])
    return (
        np.concatenate([points, extra]),
        np.concatenate([(1.0 - mix) * weights, np.full(2 * frame.dim, mix / (2 * frame.dim))]),
    )


def _second_moment(frame: MomentFrame, expectation: Array) -> Array:
    """A matrix E x x^T of the family from expected features."""
    p = frame.dim
    second = expectation[1 + p :]
    if frame.structure == "full":
        matrix = np.zeros((p, p))
        matrix[frame.pairs] = second
        return matrix + np.triu(matrix, 1).T
    if frame.structure == "diagonal":
        return np.diag(second)
    return np.asarray(second[0] / p * np.eye(p))


def sigma_points(dim: int) -> Array:
    """The 2 P points +-sqrt(P) e_i: with equal weights they have mean 0 and covariance I."""
    basis = np.sqrt(dim) * np.eye(dim)
    return np.concatenate([basis, -basis])


def design(dim: int) -> Array:
    """Starting atoms in whitened coordinates: rays by geometric radii, dense near q, and a few far away.

    The far ones let mass escape to infinity where the supremum is not attained.
    """
    far = np.array([30.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8])
    if dim == 1:
        near = np.sinh(np.linspace(0.0, np.arcsinh(16.0), 81)[1:])
        radii = np.concatenate([near, far])
        return np.concatenate([[0.0], radii, -radii])[:, None]
    directions = _directions(dim)
    if dim <= 3:
        radii = np.geomspace(0.25, 12.0, 12 if dim == 2 else 9)
    else:
        radii = np.sqrt(dim) * np.geomspace(0.3, 4.0, 7) if dim <= 5 else np.array([1.0, 2.0, 4.0])
    near = (radii[:, None, None] * directions).reshape(-1, dim)
    axes = np.concatenate([np.eye(dim), -np.eye(dim)])
    far_points = (far[:, None, None] * axes).reshape(-1, dim)
    return np.concatenate([np.zeros((1, dim)), sigma_points(dim), near, far_points])


def _directions(dim: int) -> Array:
    """Unit vectors in +- pairs: even on the circle, fixed pseudo-random up to P = 16, the axes above."""
    if dim == 2:
        angle = np.pi * np.arange(12) / 12
        half = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    elif dim > 16:
        # The linear program has of the order of dim^2 rows here, and every column is paid for.
        half = np.eye(dim)
    else:
        count = 40 if dim == 3 else 20 * dim
        half = np.random.default_rng(dim).normal(size=(count, dim))
        half = np.concatenate([np.eye(dim), half / np.linalg.norm(half, axis=1, keepdims=True)])
    return np.concatenate([half, -half])


def distinct(points: Array, values: Array) -> tuple[Array, Array]:
    """One representative of points that coincide within 1e-6, the best first."""
    order = np.argsort(-values)
    points, values = points[order], values[order]
    if values.size < 2:
        return points, values
    size = 1.0 + np.linalg.norm(points, axis=1)
    close = np.linalg.norm(points[:, None, :] - points[None, :, :], axis=2) < 1e-6 * size[:, None]
    first = np.argmax(close, axis=1) == np.arange(values.size)
    return points[first], values[first]


def distinct_from(known: Array, points: Array) -> NDArray[np.bool_]:
    """Which points are none of the known ones, within 1e-6."""
    size = 1.0 + np.linalg.norm(points, axis=1)
    distance = np.linalg.norm(points[:, None, :] - known[None, :, :], axis=2)
    return np.asarray(np.min(distance, axis=1) >= 1e-6 * size, dtype=np.bool_)


def merge(points: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of one representative of every group of points that coincide within 1e-6, and each point's group."""
    size = 1.0 + np.linalg.norm(points, axis=1)
    close = np.linalg.norm(points[:, None, :] - points[None, :, :], axis=2) < 1e-6 * size[:, None]
    first, owner = np.unique(np.argmax(close, axis=1), return_inverse=True)
    return first, owner
