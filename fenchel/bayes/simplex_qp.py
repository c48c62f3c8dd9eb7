"""min_w 1/2 w^T Q w - c.w over the simplex: a small active-set method, exact up to rounding."""

from __future__ import annotations

import numpy as np

from fenchel.arrays import Array


def simplex_qp(Q: Array, c: Array, *, max_steps: int = 500) -> Array:
    """The minimizer w (K,) of 1/2 w^T Q w - c.w over w >= 0, sum w = 1; Q (K, K) positive semidefinite.

    A tiny multiple of the identity picks one of several minimizers.
    """
    size = c.size
    # Beside a large Q the row of the constraint sum w = 1 would be lost in rounding.
    unit = max(1.0, float(np.trace(Q)) / size)
    Q, c = Q / unit, c / unit
    Q = Q + 1e-13 * max(float(np.trace(Q)), 1e-300) / size * np.eye(size)
    support = [int(np.argmin(0.5 * np.diag(Q) - c))]
    w = np.zeros(size)
    w[support] = 1.0
    for _ in range(max_steps):
        target = _on_support(Q, c, support)
        step = target - w[support]
        if target.min() < 0.0:
            falling = step < 0.0
            ratios = np.full(len(support), np.inf)
            ratios[falling] = -w[support][falling] / step[falling]
            k = int(ratios.argmin())
            w[support] = np.maximum(w[support] + ratios[k] * step, 0.0)
            w[support[k]] = 0.0
            del support[k]
            continue
        w[:] = 0.0
        w[support] = target
        slope = Q @ w - c
        excess = slope - slope[support].mean()
        worst = int(excess.argmin())
        if excess[worst] >= -1e-11 * (1.0 + np.abs(slope).max()) or worst in support:
            break
        support.append(worst)
    return np.asarray(w / w.sum())


def _on_support(Q: Array, c: Array, support: list[int]) -> Array:
    """The minimizer over the affine hull of a face."""
    k = len(support)
    system = np.ones((k + 1, k + 1))
    system[:k, :k] = Q[np.ix_(support, support)]
    system[k, k] = 0.0
    return np.asarray(np.linalg.lstsq(system, np.r_[c[support], 1.0], rcond=1e-15)[0][:k])
