"""f** of a quadratic loss in whitened coordinates: linear in mu, or a small semidefinite program with its own proof.

For l(x) = c + b.x + x^T H x / 2 the full family gives f** = f. A smaller family leaves correlations free, and the worst
ones are attained: isotropic, all variance along the top eigenvector of H; diagonal, the correlation matrix R that
maximizes tr(H R).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.moments.atoms import sigma_points

__all__ = ["quadratic_moment_problem"]

Array = NDArray[np.float64]


def quadratic_moment_problem(hessian: Array, structure: str, tol: float) -> tuple[Array, Array]:
    """Atoms (K, P) of equal weights with whitened moments that maximize E[x^T H x], and W of the family above H / 2.

    W - H/2 is positive semidefinite up to rounding, and tr W - E[x^T H x] / 2 <= ``tol`` unless the iteration stalls.
    """
    p = hessian.shape[0]
    off_diagonal = hessian - np.diag(np.diag(hessian))
    if structure == "full" or (structure == "diagonal" and not off_diagonal.any()):
        return sigma_points(p), 0.5 * hessian
    if structure == "isotropic":
        eigenvalues, vectors = np.linalg.eigh(hessian)
        if eigenvalues[-1] == eigenvalues[0]:
            return sigma_points(p), 0.5 * hessian
        top = np.sqrt(p) * vectors[:, -1]
        return np.stack([top, -top]), 0.5 * eigenvalues[-1] * np.eye(p)
    return _worst_correlation(hessian, off_diagonal, tol)


def _worst_correlation(hessian: Array, off_diagonal: Array, tol: float) -> tuple[Array, Array]:
    """Maximize tr(H R) over correlation matrices R = V V^T, one unit row of V (P, P) at a time.

    With P columns the factorization has no spurious local maxima for almost every H, and the dual variables it implies
    are made feasible by a shift, so that the bound does not rest on this.
    """
    p = hessian.shape[0]
    rows = np.random.default_rng(p).normal(size=(p, p))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    upper = np.diag(np.full(p, np.inf))
    best = np.inf
    for sweep in range(20000):
        norms = np.zeros(p)
        for i in range(p):
            pull = off_diagonal[i] @ rows
            norms[i] = np.linalg.norm(pull)
            if norms[i] > 0.0:
                rows[i] = pull / norms[i]
        if sweep % 10 == 0:
            diagonal = 0.5 * (norms + np.diag(hessian))
            shift = max(0.0, float(np.linalg.eigvalsh(0.5 * hessian - np.diag(diagonal))[-1]))
            total = float(np.sum(diagonal)) + p * shift
            if total < best:
                best, upper = total, np.diag(diagonal + shift)
            attained = 0.5 * float(np.sum(hessian * (rows @ rows.T)))
            if best - attained <= tol:
                break
    spread = np.sqrt(p) * rows.T
    return np.concatenate([spread, -spread]), upper
