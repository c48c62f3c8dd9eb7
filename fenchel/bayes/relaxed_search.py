"""The inner maximizations of Eq. 18: all branches of f* at one lambda', with a certificate or by local searches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.search.maximize import local_maximizers, maximize

_SEARCH_SECONDS = 20.0

# (loss, lam1, lam2, starts, q) -> maximizers (K, P), lower and upper bound of f*, certified; None outside the domain.
Search = Callable[[Loss, Array, Array, Array, Gaussian], tuple[Array, float, float, bool] | None]


def seconds_left(end: float) -> float:
    """What one global search may take: 20 seconds, and no more than what is left until ``end`` on the clock."""
    return min(_SEARCH_SECONDS, max(1e-3, end - time.perf_counter()))


def certified_search(tol: float, end: float) -> Search:
    """f* by branch and bound, to the relative tolerance ``tol``, or as far as it comes in `seconds_left`."""

    def search(loss: Loss, lam1: Array, lam2: Array, starts: Array, q: Gaussian) -> Any:
        given = starts if len(starts) else None
        found = maximize(loss, lam1, lam2, tol=tol, starts=given, max_seconds=seconds_left(end))
        if not np.isfinite(found.lower):
            return None
        return found.maximizers, found.lower, found.upper, found.certified

    return search


def local_search(dim: int, rng: np.random.Generator | None) -> Search:
    """f* by climbing from fixed random directions about q and from the known maximizers; a lower bound only."""
    # The same directions every time: the value must not jump from one evaluation to the next.
    rng = rng or np.random.default_rng(0)
    directions = rng.standard_normal((20 * dim, dim))
    radii = np.exp(rng.uniform(np.log(1.0), np.log(100.0), (20 * dim, 1)))

    def search(loss: Loss, lam1: Array, lam2: Array, starts: Array, q: Gaussian) -> Any:
        far = q.mean + radii / np.sqrt(dim) * directions @ np.linalg.cholesky(q.cov).T
        points, values = local_maximizers(loss, lam1, lam2, np.vstack([starts, -starts, q.mean, far]))
        return (points, float(values[0]), np.inf, False) if len(values) and np.isfinite(values[0]) else None

    return search


def sharpened(loss: Loss, lam1: Array, lam2: Array, atoms: Array) -> Array:
    """Maximizers after two Newton steps where these are tiny and concave, without repetitions."""
    theta = atoms
    for _ in range(2):
        slope = np.asarray(loss.gradient(theta)) + lam1 + 2.0 * theta @ lam2
        hessian = -(np.asarray(loss.hessian(theta)) + 2.0 * lam2)
        bends = np.linalg.eigvalsh(hessian)
        concave = bends[:, 0] > 1e-14 * bends[:, -1]
        hessian[~concave] = np.eye(loss.dim)
        step = np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
        small = concave & (np.abs(step).max(axis=1) < 1e-3 * (1.0 + np.abs(theta).max(axis=1)))
        theta = np.where(small[:, None], theta + step, theta)
    kept: list[int] = []
    for k in range(len(theta)):
        if all(np.abs(theta[k] - theta[j]).max() > 1e-6 * (1.0 + np.abs(theta[k]).max()) for j in kept):
            kept.append(k)
    return np.asarray(theta[kept])
