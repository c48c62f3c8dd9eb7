"""KL divergences and normalizers of Gaussians, each with a bound of what rounding did to it.

Both are sums of large numbers that cancel where a covariance is nearly singular or two Gaussians lie far apart, so that
a bracket made with them must allow for `Rounded.error`; it is inf where rounding decides whether a matrix is positive.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from fenchel.arrays import Array
from fenchel.losses.accurate import EPS


class Rounded(NamedTuple):
    """A number and a bound of its distance from the exact one."""

    value: float
    error: float


def kl_divergence(mean: Array, cov: Array, mean0: Array, cov0: Array) -> Rounded:
    """KL(N(mean, cov) || N(mean0, cov0)); covariances as (P, P), (P,) or 0-d, the two need not agree in shape."""
    dim = mean.size
    step = mean - mean0
    if cov.ndim < 2 and cov0.ndim < 2:
        ratio = np.broadcast_to(cov / cov0, (dim,))
        logs, far = np.log(np.broadcast_to(cov, (dim,))), step * step / cov0
        logs0 = np.log(np.broadcast_to(cov0, (dim,)))
        value = 0.5 * float(np.sum(ratio - 1.0 + far + logs0 - logs))
        size = float(np.sum(ratio + 1.0 + 4.0 * far + np.abs(logs0) + np.abs(logs)))
        return Rounded(max(0.0, value), EPS * (2.0 + np.sqrt(dim)) * size)
    own, prior = Factor(dense(cov, dim)), Factor(dense(cov0, dim))
    trace, distance = float(np.square(prior.solve(own.lower)).sum()), float(np.square(prior.solve(step)).sum())
    value = 0.5 * (trace + distance - dim + prior.logdet - own.logdet)
    doubt = prior.doubt + own.doubt
    moved = doubt * trace + prior.doubt * distance + dim * doubt
    # The difference of the means is rounded once, each entry.
    moved += 3.0 * EPS * np.sqrt(distance * prior.spread) * float(np.linalg.norm(step / prior.scale))
    size = trace + distance + dim + prior.size + own.size
    return _checked(max(0.0, value), 2.0 * moved + EPS * (dim + 4.0) * size, doubt)


def log_normalizer(lam1: Array, lam2: Array, mean0: Array, cov0: Array) -> Rounded:
    """log of the integral of N(theta; mean0, cov0) exp(lam1.theta + theta^T lam2 theta), blocks in any shapes.

    With cov0 = L L^T, W = I - 2 L^T lam2 L and g the slope of the exponent at mean0 it is
    exponent(mean0) + |W^-1/2 L^T g|^2 / 2 - log det W / 2; the prior is never inverted. Its error is inf where W is
    not positive beyond rounding.
    """
    dim = mean0.size
    # lam2 mean0, and the sizes of what is added up in it.
    bent, bent_size = times(lam2, mean0), times(np.abs(lam2), np.abs(mean0))
    slope, slope_size = lam1 + 2.0 * bent, np.abs(lam1) + 2.0 * bent_size
    at = float(mean0 @ (lam1 + bent))
    at_size = float(np.abs(mean0) @ (np.abs(lam1) + bent_size))
    unit = EPS * (2.0 * dim + 8.0)
    if lam2.ndim < 2 and cov0.ndim < 2:
        shift = -2.0 * np.broadcast_to(cov0 * lam2, (dim,))
        width = 1.0 + shift
        if not (width > 0.0).all():
            return Rounded(np.inf, np.inf)
        doubts = 4.0 * EPS * (1.0 + np.abs(shift)) / width
        squares, logs = slope * slope * cov0 / width, np.log1p(shift)
        error = np.sum(doubts * (1.0 + squares) + 2.0 * unit * np.abs(slope) * slope_size * cov0 / width)
        error += unit * (at_size + np.sum(squares + np.abs(logs)))
        return _checked(at + 0.5 * float(np.sum(squares - logs)), float(error), float(doubts.max()))
    prior = Factor(dense(cov0, dim))
    L, M = prior.lower, dense(lam2, dim)
    W = np.eye(dim) - 2.0 * L.T @ M @ L
    try:
        inner = Factor(0.5 * (W + W.T), unit * (np.eye(dim) + 2.0 * np.abs(L).T @ np.abs(M) @ np.abs(L)))
    except np.linalg.LinAlgError:
        return Rounded(np.inf, np.inf)
    # The prior's own factor is that of a covariance within the relative distance prior.doubt.
    doubt = inner.doubt + prior.doubt * (1.0 + inner.inverse_trace)
    pulled = inner.solve(L.T @ slope)
    far = float(pulled @ pulled)
    off = np.abs(inner.inverse) @ (np.abs(L).T @ slope_size)
    value = at + 0.5 * far - 0.5 * inner.logdet
    moved = 2.0 * doubt * (dim + far) + 2.0 * unit * float(np.abs(pulled) @ off)
    return _checked(value, moved + unit * (at_size + far + inner.size), doubt)


class Factor:
    """The Cholesky factor ``lower`` of a matrix, and ``doubt``: the exact matrix is within (1 +- doubt) of L L^T.

    ``noise`` (P, P) bounds entry by entry how far the matrix given is from the exact one. ``scale`` are the roots of
    its diagonal, ``spread`` bounds the largest eigenvalue of the inverse of what is left after scaling by them.
    """

    def __init__(self, matrix: Array, noise: Array | None = None) -> None:
        dim = matrix.shape[0]
        self.lower = np.asarray(np.linalg.cholesky(matrix), dtype=float)
        self.scale = np.asarray(np.sqrt(np.diag(matrix)), dtype=float)
        self.inverse: Array = solve_triangular(self.lower, np.eye(dim), lower=True)
        scaled = self.inverse * self.scale
        self.spread = float(np.square(scaled).sum())
        self.inverse_trace = float(np.square(self.inverse).sum())
        off = EPS * (dim + 2.0) * np.outer(self.scale, self.scale) + (0.0 if noise is None else noise)
        size = np.abs(self.inverse)
        # Twice: the inverse of the factor is rounded as well.
        self.doubt = 2.0 * float(np.linalg.norm(size @ off @ size.T))
        if not self.doubt < 0.1:
            self.doubt = np.inf
        logs = np.log(np.diag(self.lower))
        self.logdet, self.size = 2.0 * float(logs.sum()), 2.0 * float(np.abs(logs).sum())

    def solve(self, right: Array) -> Array:
        """L^-1 times a vector or a matrix."""
        return np.asarray(solve_triangular(self.lower, right, lower=True))


def _checked(value: float, error: float, doubt: float) -> Rounded:
    """Where first-order bounds do not hold, or where numbers overflowed, nothing is known."""
    known = np.isfinite(value) and np.isfinite(error) and doubt < 0.1
    return Rounded(value, error if known else np.inf)


def times(block: Array, vector: Array) -> Array:
    """A matrix given in any family's shape, times a vector."""
    return np.asarray(block @ vector if block.ndim == 2 else block * vector)


def dense(block: Array, dim: int) -> Array:
    """(P, P), (P,) or 0-d as (P, P)."""
    return block if block.ndim == 2 else np.diag(np.broadcast_to(block, (dim,))).astype(float)
