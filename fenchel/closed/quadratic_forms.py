"""f** of a quadratic in any dimension and family."""

from __future__ import annotations

import numpy as np

from fenchel.arrays import Array
from fenchel.losses.accurate import EPS
from fenchel.results import Natural


def quadratic_biconjugate(
    H: Array, b: Array, c: float, mean: Array, cov: Array, structure: str
) -> tuple[float, Natural, Array, float]:
    """(f**, its gradient, worst covariance (P, P), error) of theta^T H theta / 2 + b.theta + c.

    -f** is the expectation under the covariance that maximizes tr(H S) among those with the family's moments: S itself
    (full: f** = f), a covariance of the same diagonal (diagonal), of the same trace (isotropic: lambda_max(H) tr S).
    ``error`` bounds what the numerical solution of the diagonal case leaves, and rounding; f** is the certified lower
    end but for the rounding.
    """
    worst, dominating, excess = worst_covariance(H, cov, structure)
    at_mean = 0.5 * float(mean @ H @ mean) + float(b @ mean) + c
    error = excess + expectation_rounding(H, b, c, mean, worst)
    if structure == "full":
        value = at_mean + 0.5 * float(np.sum(H * cov))
        return -value, Natural(-b, -0.5 * H), worst, error
    linear = b + H @ mean
    if structure == "diagonal":
        value = at_mean + 0.5 * float(dominating @ np.diagonal(cov))
        return -value, Natural(dominating * mean - linear, -0.5 * dominating), worst, error
    top = float(dominating[0])
    value = at_mean + 0.5 * top * float(np.trace(cov))
    return -value, Natural(top * mean - linear, np.asarray(-0.5 * top)), worst, error


def expectation_rounding(H: Array, b: Array, c: float, mean: Array, cov: Array) -> float:
    """A bound of the rounding of E[theta^T H theta / 2 + b.theta + c], by the sizes of what is added up."""
    size, bend = np.abs(mean), np.abs(H)
    deviation = np.sqrt(np.diagonal(cov))
    total = size @ bend @ size + deviation @ bend @ deviation + size @ np.abs(b) + abs(c)
    return EPS * (4.0 + 2.0 * mean.size) * float(total)


def worst_covariance(H: Array, cov: Array, structure: str) -> tuple[Array, Array, float]:
    """(S*, D, excess): S* maximizes tr(H S) under the family's constraints; diag(D) >= H is the multiplier (P,).

    ``excess`` >= 0 is tr(D S*)/2 - tr(H S*)/2, zero up to rounding except in the diagonal family for P >= 3.
    """
    if structure == "full":
        return cov, np.zeros(H.shape[0]), 0.0
    if structure == "isotropic":
        values, vectors = np.linalg.eigh(H)
        top = vectors[:, -1]
        return float(np.trace(cov)) * np.outer(top, top), np.full(H.shape[0], values[-1]), 0.0
    return _diagonal_worst(H, np.sqrt(np.diagonal(cov)))


def _diagonal_worst(H: Array, spread: Array) -> tuple[Array, Array, float]:
    """Maximize sum_ij H_ij s_i s_j v_i.v_j over unit vectors v_i, the rows of a root of the covariance's correlations.

    In P dimensions the vectors have no spurious local maxima generically; whatever the iteration did, the multiplier D
    is made feasible by a shift of its smallest eigenvalue, so that the bound is valid.
    """
    scaled = H * np.outer(spread, spread)
    signs = _balanced_signs(scaled - np.diag(np.diagonal(scaled)))
    if signs is not None:
        best = _feasible(scaled, signs[:, None])
    else:
        vectors = _coordinate_ascent(scaled)
        best = min((_feasible(scaled, v) for v in (vectors, _polished(scaled, vectors))), key=lambda pair: pair[2])
    correlation, dual, excess = best
    return correlation * np.outer(spread, spread), dual / spread**2, excess


def _feasible(scaled: Array, vectors: Array) -> tuple[Array, Array, float]:
    """(correlations, feasible multiplier, half the gap between the two)."""
    correlation = vectors @ vectors.T
    dual = np.einsum("ij,ij->i", scaled, correlation)
    smallest = float(np.linalg.eigvalsh(np.diag(dual) - scaled)[0])
    if smallest < -1e-14 * scaled.shape[0] * float(np.abs(scaled).max()):
        dual = dual - smallest
    return correlation, dual, 0.5 * max(float(dual.sum() - np.sum(scaled * correlation)), 0.0)


def _coordinate_ascent(scaled: Array) -> Array:
    """Unit vectors (P, P), each in turn turned along the pull of the others."""
    dim = scaled.shape[0]
    off = scaled - np.diag(np.diagonal(scaled))
    vectors = np.random.default_rng(0).normal(size=(dim, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    previous = -np.inf
    for _ in range(2000):
        for i in range(dim):
            pull = off[i] @ vectors
            length = np.linalg.norm(pull)
            if length > 0.0:
                vectors[i] = pull / length
        value = float(np.sum(off * (vectors @ vectors.T)))
        if value - previous <= 1e-15 * abs(value):
            break
        previous = value
    return vectors


def _polished(scaled: Array, vectors: Array) -> Array:
    """Newton steps for (diag(D) - H) V = 0, |v_i| = 1 at the rank found; least squares leaves rotations of V alone."""
    dim = scaled.shape[0]
    values, axes = np.linalg.eigh(vectors @ vectors.T)
    kept = values > 1e-5 * values[-1]
    V = axes[:, kept] * np.sqrt(values[kept])
    rank = V.shape[1]
    D = np.einsum("ij,ik,jk->i", scaled, V, V)
    for _ in range(8):
        V = V / np.linalg.norm(V, axis=1, keepdims=True)
        residual = (np.diag(D) - scaled) @ V
        # Unknowns: the entries of V row by row, then D.
        jacobian = np.zeros((dim * rank + dim, dim * rank + dim))
        jacobian[: dim * rank, : dim * rank] = np.kron(np.diag(D) - scaled, np.eye(rank))
        for i in range(dim):
            rows = slice(i * rank, (i + 1) * rank)
            jacobian[rows, dim * rank + i] = V[i]
            jacobian[dim * rank + i, rows] = V[i]
        step = np.linalg.lstsq(jacobian, -np.r_[residual.ravel(), np.zeros(dim)], rcond=1e-12)[0]
        V, D = V + step[: dim * rank].reshape(dim, rank), D + step[dim * rank :]
    return np.asarray(V / np.linalg.norm(V, axis=1, keepdims=True))


def _balanced_signs(off: Array) -> Array | None:
    """Signs e with e_i e_j off_ij >= 0 for all i, j (perfect correlation is then the worst case), or None."""
    dim = off.shape[0]
    signs = np.zeros(dim)
    for root in range(dim):
        if signs[root]:
            continue
        signs[root] = 1.0
        stack = [root]
        while stack:
            i = stack.pop()
            for j in np.flatnonzero(off[i]):
                if signs[j] == 0.0:
                    signs[j] = signs[i] * np.sign(off[i, j])
                    stack.append(int(j))
    return signs if (off * np.outer(signs, signs) >= 0.0).all() else None
