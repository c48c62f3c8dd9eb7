"""Upper bounds of quadratics over boxes: the last step of every bound in the search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["box_maximum"]

Array = NDArray[np.float64]


def box_maximum(slope: Array, matrix: Array, half: Array) -> Array:
    """Upper bounds (B,) of s.d + d^T K d / 2 over |d_j| <= half_j; slope (B, P), matrix K (B, P, P), half (B, P).

    Exact for P <= 2; otherwise the smaller of a separable bound and, where K is negative definite, the free maximum.
    Infinite entries of K give inf.
    """
    dim = slope.shape[1]
    if dim == 1:
        return _separable(slope, matrix[:, 0, :], half)
    if dim == 2:
        return _exact_plane(slope, matrix, half)
    return np.minimum(_diagonally_dominant(slope, matrix, half), _free(slope, matrix))


def _separable(slope: Array, curvature: Array, half: Array) -> Array:
    """max of sum_j s_j d_j + k_j d_j^2 / 2 over the box."""
    return np.asarray(_line(slope, curvature, half).sum(axis=1))


def _line(slope: Array, curvature: Array, half: Array) -> Array:
    """max of s d + k d^2 / 2 over |d| <= half, elementwise."""
    size = np.abs(slope)
    inside = size < -curvature * half
    safe = np.where(inside, curvature, -1.0)
    at_end = half * (size + 0.5 * curvature * half)
    return np.where(inside, -0.5 * size * size / safe, at_end)


def _exact_plane(slope: Array, matrix: Array, half: Array) -> Array:
    """The exact maximum for P = 2: four corners, four edges, the stationary point."""
    s0, s1 = slope[:, 0], slope[:, 1]
    k00, k01, k11 = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 1]
    w0, w1 = half[:, 0], half[:, 1]
    # On the edge d1 = +-w1 the function of d0 has slope s0 +- k01 w1, and likewise on the others.
    along = np.stack([s0 + k01 * w1, s0 - k01 * w1, s1 + k01 * w0, s1 - k01 * w0])
    curved = np.stack([k00, k00, k11, k11])
    reach = np.stack([w0, w0, w1, w1])
    end0, end1 = 0.5 * k00 * w0 * w0, 0.5 * k11 * w1 * w1
    fixed = np.stack([end1 + s1 * w1, end1 - s1 * w1, end0 + s0 * w0, end0 - s0 * w0])
    best = (fixed + _line(along, curved, reach)).max(axis=0)
    det = k00 * k11 - k01 * k01
    concave = (k00 < 0.0) & (k11 < 0.0) & (det > 0.0)
    safe = np.where(concave, det, 1.0)
    d0 = (k01 * s1 - k11 * s0) / safe
    d1 = (k01 * s0 - k00 * s1) / safe
    inside = concave & (np.abs(d0) <= w0) & (np.abs(d1) <= w1)
    return np.asarray(np.where(inside, np.maximum(best, 0.5 * (s0 * d0 + s1 * d1)), best))


def _diagonally_dominant(slope: Array, matrix: Array, half: Array) -> Array:
    """Replace 2 K_ij d_i d_j by |K_ij| (d_i^2 w_j / w_i + d_j^2 w_i / w_j), exact at the corners of like sign."""
    ratio = half[:, None, :] / np.maximum(half[:, :, None], 1e-300)
    diagonal = np.einsum("bii->bi", matrix)
    off = np.abs(matrix) * ratio
    return _separable(slope, diagonal + off.sum(axis=2) - np.abs(diagonal), half)


def _free(slope: Array, matrix: Array) -> Array:
    """The maximum over all d where K is negative definite (with room for rounding), else inf."""
    bound = np.full(slope.shape[0], np.inf)
    finite = np.isfinite(matrix).all(axis=(1, 2))
    if not finite.any():
        return bound
    index = np.flatnonzero(finite)
    values, vectors = np.linalg.eigh(matrix[index])
    scale = np.abs(values).max(axis=1)
    definite = values[:, -1] < -1e-9 * scale
    index, values, vectors = index[definite], values[definite], vectors[definite]
    along = np.einsum("bij,bi->bj", vectors, slope[index])
    bound[index] = -0.5 * (along * along / values).sum(axis=1)
    return bound
