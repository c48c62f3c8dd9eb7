"""A start for losses that hardly change in some directions: the problem in the other directions, solved first.

Along rows x_i that almost lie in a subspace, l(x) is a function of x_1, the coordinates in that subspace, plus terms
of first order in the others, x_2. Let Q_0 be optimal for l(x_1, 0) with atoms a_k of weights w_k, and R_k what is left
of the slopes d l / d x_2 at (a_k, 0) after their regression g + G x_1. To first order the best quadratic is
    Q_0(x_1) + (g + G x_1).x_2 + x_2^T C^(1/2) x_2 / 2,   C = sum_k w_k R_k R_k^T,
and the best atoms are (a_k, C^(-1/2) R_k). The linear program of the rounds cannot resolve these terms beside those of
order one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fenchel.moments.atoms import sigma_points
from fenchel.moments.certificate import make_upper
from fenchel.moments.cutting_plane import cutting_plane
from fenchel.moments.rounds import Budget, Start
from fenchel.moments.white_loss import Minor, WhiteLoss

__all__ = ["nested_start"]

Array = NDArray[np.float64]
# Directions along which the rows are smaller than this share of the largest are minor.
_SHARE = 0.02
# Of a bound on the curvature of l along the minor directions: what Q grows beyond C^(1/2) / 2.
_GROWTHS = (0.0, 0.25, 1.0, 4.0, 16.0, 64.0)


def nested_start(white: WhiteLoss, start: Start, tol: float, budget: Budget) -> Start:
    """``start`` with the atoms and quadratics that the problem in the major directions leads to, if any are minor."""
    split = white.split(_SHARE)
    if split is None:
        return start
    inner = split.major
    begin = nested_start(inner, Start(np.zeros((0, inner.frame.dim))), tol, budget)
    found = cutting_plane(inner, tol=tol, start=begin, budget=replace(budget, max_seconds=budget.max_seconds / 3.0))
    lower, upper = found.lower, found.upper
    if lower is None or upper is None or lower.coefficients is None:
        return start
    points, weights = upper.points, upper.weights
    slopes = white.gradient(points @ split.kept.T) @ split.left
    fit, rest = _regression(points, weights, slopes, affine=white.frame.structure == "full")
    variance, axes = np.linalg.eigh((rest * weights[:, None]).T @ rest)
    spread = np.sqrt(np.maximum(variance, 0.0))
    # What Q gains by growing along directions that hardly matter stays far below the tolerance.
    floor = 1e-4 * tol * max(1.0, abs(upper.value)) / spread.size
    bend = white.bend(split.left) + floor * np.eye(spread.size)
    minors = [0.5 * (axes * spread) @ axes.T + growth * bend for growth in _GROWTHS]
    quadratics = tuple(_extended(white, split, lower.coefficients, fit, minor) for minor in minors)
    moved = spread > 1e-3 * np.sqrt(np.trace(bend))
    spreads = [
        _spread(split, points, weights, rest @ (axes[:, live] / spread[live]), axes[:, live], axes[:, ~live])
        for live in (moved, np.zeros_like(moved))
    ]
    return replace(
        start,
        points=np.concatenate([start.points, *(x for x, _ in spreads)]),
        coefficients=start.coefficients + quadratics,
        uppers=tuple(make_upper(white, x, w) for x, w in spreads),
    )


def _regression(points: Array, weights: Array, slopes: Array, *, affine: bool) -> tuple[Array, Array]:
    """Weighted least squares of slopes (K, P - r) on (1, points): coefficients (1 + r, P - r), and what is left."""
    design = np.concatenate([np.ones((weights.size, 1)), points if affine else np.zeros_like(points)], axis=1)
    root = np.sqrt(weights)[:, None]
    fit = np.linalg.lstsq(root * design, root * slopes, rcond=1e-12)[0]
    return fit, slopes - design @ fit


def _extended(white: WhiteLoss, split: Minor, inner: Array, fit: Array, minor: Array) -> Array:
    """Coefficients of Q_0(x_1) + (g + G x_1).x_2 + x_2^T minor x_2."""
    u, v, w = split.major.frame.quadratic(inner)
    if white.frame.structure == "diagonal":
        minor = np.diag(np.diag(minor))
    cross = 0.5 * split.left @ fit[1:].T @ split.kept.T
    w = split.kept @ w @ split.kept.T + cross + cross.T + split.left @ minor @ split.left.T
    return white.frame.coefficients(u, split.kept @ v + split.left @ fit[0], w)


def _spread(
    split: Minor, points: Array, weights: Array, shift: Array, along: Array, across: Array
) -> tuple[Array, Array]:
    """Atoms (x_1, x_2) and weights: x_2 is ``shift`` (K, d) ``along`` axes, sigma points on those ``across``."""
    around = sigma_points(across.shape[1]) @ across.T if across.size else np.zeros((1, across.shape[0]))
    minor = ((shift @ along.T)[:, None, :] + around[None, :, :]).reshape(-1, across.shape[0])
    x = np.repeat(points, around.shape[0], axis=0) @ split.kept.T + minor @ split.left.T
    return x, np.repeat(weights / around.shape[0], around.shape[0])
