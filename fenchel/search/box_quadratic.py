"""Upper bounds of quadratics over boxes: the last step of every bound in the search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Concave", "box_maximum", "relaxed"]

Array = NDArray[np.float64]
_SWEEPS = 3


@dataclass(frozen=True, eq=False)
class Concave:
    """Concave functions top - (y - peak)^T bowl (y - peak) / 2 above quadratics on |y_i| <= 1, y in half widths.

    ``top`` (B,), ``peak`` (B, P), ``bowl`` (B, P, P).
    """

    top: Array
    peak: Array
    bowl: Array

    def part(self, rows: NDArray[np.intp], excess: Array) -> tuple[Array, Array]:
        """(lo, hi) (R, P): outside of them on |y_i| <= 1 the functions ``rows`` are below top - excess; excess (R,)."""
        with np.errstate(invalid="ignore"):
            reach = np.sqrt(2.0 * excess[:, None] * np.einsum("bii->bi", np.linalg.inv(self.bowl[rows])))
            reach = reach * (1.0 + 1e-9) + 1e-12
            # Where there is no such function, nothing is left out.
            return np.fmax(-1.0, self.peak[rows] - reach), np.fmin(1.0, self.peak[rows] + reach)


def box_maximum(slope: Array, matrix: Array, half: Array) -> Array:
    """Upper bounds (B,) of s.d + d^T K d / 2 over |d_j| <= half_j; slope (B, P), matrix K (B, P, P), half (B, P).

    Exact for P <= 2; otherwise a semidefinite relaxation, exact where K is negative definite. Infinite entries of K
    give inf.
    """
    dim = slope.shape[1]
    if dim == 1:
        return _separable(slope, matrix[:, 0, :], half)
    if dim == 2:
        return _exact_plane(slope, matrix, half)
    return np.asarray(relaxed(slope, matrix, half)[0])


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
    concave = (k00 < 0.0) & (det > 0.0)
    safe = np.where(concave, det, 1.0)
    d0 = (k01 * s1 - k11 * s0) / safe
    d1 = (k01 * s0 - k00 * s1) / safe
    inside = concave & (np.abs(d0) <= w0) & (np.abs(d1) <= w1)
    return np.asarray(np.where(inside, np.maximum(best, 0.5 * (s0 * d0 + s1 * d1)), best))


def relaxed(slope: Array, matrix: Array, half: Array) -> tuple[Array, Concave]:
    """The semidefinite relaxation's dual, by coordinate descent: any D >= 0 with D - K > 0 bounds from above.

    Returns the bounds of `box_maximum`, and the concave functions that they are maxima of.

    In units of the half widths, s.d + d^T K d / 2 <= sum_i D_i / 2 + s^T (D - K)^-1 s / 2 on |d_i| <= 1. The descent
    starts from the diagonally dominant D, each exact step in one D_i keeps D - K positive definite, and rounding is
    harmless because the last D is checked and evaluated anew.
    """
    s = slope * half
    K = matrix * half[:, :, None] * half[:, None, :]
    finite = np.asarray(np.isfinite(K).all(axis=(1, 2)))
    if not finite.all():
        K = np.where(finite[:, None, None], K, 0.0)
    diagonal = np.einsum("bii->bi", K)
    row_sums = np.abs(K).sum(axis=2)
    radius = diagonal + row_sums - np.abs(diagonal)
    size = row_sums.max(axis=1) + np.abs(s).max(axis=1)
    D = np.maximum(radius, 0.0) + np.abs(s) + (1e-3 * size + 1e-280)[:, None]
    inverse = np.linalg.inv(_minus(D, K))
    y = np.einsum("bij,bj->bi", inverse, s)
    for _ in range(_SWEEPS):
        for i in range(D.shape[1]):
            a = inverse[:, i, i]
            # The bound as a function of a step in D_i is least where |y_i| becomes 1; the floor keeps D - K definite.
            step = np.maximum((np.maximum(np.abs(y[:, i]), 0.05) - 1.0) / a, -D[:, i])
            factor = step / (1.0 + step * a)
            column = inverse[:, :, i].copy()
            y -= (factor * y[:, i])[:, None] * column
            inverse -= (factor[:, None] * column)[:, :, None] * column[:, None, :]
            D[:, i] += step
    D += (1e-12 * size)[:, None]
    A = _minus(D, K)
    y = np.linalg.solve(A, s[:, :, None])[:, :, 0]
    bound = 0.5 * (D.sum(axis=1) + np.einsum("bi,bi->b", s, y)) + 1e-15 * size
    try:
        np.linalg.cholesky(A)
    except np.linalg.LinAlgError:
        bound = np.where(np.linalg.eigvalsh(A)[:, 0] > 0.0, bound, np.inf)
    bound, flat = np.where(finite, bound, np.inf), _separable(s, radius, np.ones_like(s))
    return np.where(finite, np.minimum(bound, flat), np.inf), Concave(bound, np.asarray(y), A)


def _minus(D: Array, K: Array) -> Array:
    A = -K
    np.einsum("bii->bi", A)[:] += D
    return A
