"""Local minimization of max_eps l(theta + eps) - penalty(eps) + delta/2 |theta|^2 in any dimension, kinks included.

Each local maximizer eps_k of the inner problem is a branch V_k(theta) with a gradient and, by the implicit function
theorem, a Hessian. A step minimizes the largest of the branches' quadratic models in a trust region (a small convex
program over the branches' weights); at a kink several branches stay active, and the step is Newton's on all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, nnls

from fenchel.arrays import Array
from fenchel.losses import Loss


@dataclass(frozen=True)
class Branches:
    """The inner local maximizers at theta: eps (K, P), values (K,) best first, slopes (K, P), Hessians (K, P, P)."""

    eps: Array
    values: Array
    slopes: Array
    bends: Array


@dataclass(frozen=True)
class Descent:
    """A local minimizer theta (P,), the branches active there with their weights, |sum w_k grad V_k + delta theta|."""

    theta: Array
    value: float
    eps: Array
    values: Array
    weights: Array
    residual: float
    steps: int


def descents(
    inner: Callable[[Array, Array | None], Branches], starts: list[Array], delta: float, *, radius: float, end: float
) -> list[Descent]:
    """`descend` from the first of ``starts``, and from as many of the others as begin before ``end`` on the clock."""
    runs: list[Descent] = []
    for theta in starts:
        if runs and time.perf_counter() > end:
            break
        runs.append(descend(inner, theta, delta, radius=radius, end=end))
    return runs


def descend(
    inner: Callable[[Array, Array | None], Branches],
    theta: Array,
    delta: float,
    *,
    radius: float = 0.5,
    steps: int = 120,
    end: float = np.inf,
) -> Descent:
    """From ``theta`` to a local minimizer, or as far as it comes before ``end`` on the clock.

    ``inner(theta, warm)`` climbs to the inner maximizers from warm (K, P).
    """
    branches = inner(theta, None)
    best = _top(branches, theta, delta)
    weights = np.zeros(branches.values.size)
    count = 0
    for count in range(1, steps + 1):
        move, weights, predicted = _step(branches, theta, delta, radius)
        length = float(np.linalg.norm(move))
        if length <= 1e-15 * (1.0 + float(np.linalg.norm(theta))) or radius < 1e-14 or time.perf_counter() > end:
            break
        trial = theta + move
        # Every eighth step looks for branches afresh, so that one that was never met cannot stay hidden.
        fresh = inner(trial, None if count % 8 == 0 else branches.eps)
        value = _top(fresh, trial, delta)
        gain = best - value
        if gain >= 0.1 * max(best - predicted, 0.0) and gain >= -1e-15 * (1.0 + abs(best)):
            small = gain <= 1e-15 * (1.0 + abs(best)) and length < 1e-9
            theta, branches, best = trial, fresh, value
            radius = max(radius, 2.0 * length) if length > 0.8 * radius else radius
            if small:
                break
        else:
            merged = inner(theta, fresh.eps)
            if _top(merged, theta, delta) > best + 1e-12 * (1.0 + abs(best)):
                best = _top(merged, theta, delta)
            branches = merged
            radius = 0.3 * min(radius, length)
    branches = inner(theta, branches.eps)
    weights, residual = _balance(branches, theta, delta)
    active = weights > 1e-6
    return Descent(
        theta,
        _top(branches, theta, delta),
        branches.eps[active],
        branches.values[active],
        weights[active],
        residual,
        count,
    )


def _top(branches: Branches, theta: Array, delta: float) -> float:
    return float(branches.values.max()) + 0.5 * delta * float(theta @ theta)


def _step(branches: Branches, theta: Array, delta: float, radius: float) -> tuple[Array, Array, float]:
    """min over |d|_inf <= radius of max_k V_k + g_k.d + d^T B d / 2, B the weighted Hessian made positive."""
    dim, count = theta.size, branches.values.size
    weights = _balance(branches, theta, delta)[0]
    bend = np.einsum("k,kij->ij", weights, branches.bends) + delta * np.eye(dim)
    eigen, vectors = np.linalg.eigh(0.5 * (bend + bend.T))
    B = (vectors * np.maximum(np.abs(eigen), 1e-6 * max(1.0, float(np.abs(eigen).max())))) @ vectors.T
    base = branches.values.max()
    offsets = branches.values - base
    slopes = branches.slopes + delta * theta

    def objective(z: Array) -> float:
        return float(z[-1] + 0.5 * z[:-1] @ B @ z[:-1])

    scale = max(1.0, float(np.abs(slopes).max()))
    result = minimize(
        objective,
        np.zeros(dim + 1),
        jac=lambda z: np.append(B @ z[:-1], 1.0),
        constraints=[
            {
                "type": "ineq",
                "fun": lambda z: (z[-1] - offsets - slopes @ z[:-1]) / scale,
                "jac": lambda z: np.hstack([-slopes, np.ones((count, 1))]) / scale,
            }
        ],
        bounds=[(-radius, radius)] * dim + [(None, None)],
        method="SLSQP",
        options={"maxiter": 60, "ftol": 1e-16},
    )
    move = np.clip(np.nan_to_num(result.x[:-1]), -radius, radius)
    predicted = float((offsets + slopes @ move).max() + 0.5 * move @ B @ move) + base
    polished = _newton(branches, slopes, offsets, B, weights)
    if polished is not None and np.abs(polished).max() <= radius:
        model = float((offsets + slopes @ polished).max() + 0.5 * polished @ B @ polished) + base
        if model <= predicted + 1e-12 * (1.0 + abs(base)):
            move, predicted = polished, model
    return move, weights, predicted + 0.5 * delta * float(theta @ theta)


def _newton(branches: Branches, slopes: Array, offsets: Array, B: Array, weights: Array) -> Array | None:
    """The step that equalizes the active branches and balances their slopes; exact where SLSQP is not."""
    active = np.flatnonzero((weights > 1e-6) & (offsets > -1e-3 * (1.0 + np.abs(branches.values).max())))
    k, dim = active.size, B.shape[0]
    if k == 0 or k > dim + 1:
        return None
    system = np.zeros((dim + k + 1, dim + k + 1))
    system[:dim, :dim] = B
    system[:dim, dim : dim + k] = slopes[active].T
    system[dim : dim + k, :dim] = slopes[active]
    system[dim : dim + k, -1] = -1.0
    system[-1, dim : dim + k] = 1.0
    target = np.concatenate([np.zeros(dim), -offsets[active], [1.0]])
    try:
        solution = np.linalg.solve(system, target)
    except np.linalg.LinAlgError:
        return None
    if (solution[dim : dim + k] < -1e-9).any():
        return None
    return np.asarray(solution[:dim])


def _balance(branches: Branches, theta: Array, delta: float) -> tuple[Array, float]:
    """Weights (K,) on nearly tied branches that make |sum w_k grad V_k + delta theta| smallest, and that length."""
    band = 1e-7 * (1.0 + abs(float(branches.values.max())))
    near = np.flatnonzero(branches.values >= branches.values.max() - band)
    slopes = (branches.slopes[near] + delta * theta).T
    weights = np.zeros(branches.values.size)
    weights[near] = convex_weights(slopes)
    return weights, float(np.linalg.norm(slopes @ weights[near]))


def convex_weights(vectors: Array) -> Array:
    """The convex combination (K,) of the columns of ``vectors`` (P, K) whose length is least."""
    heavy = 1e4 * (1.0 + float(np.abs(vectors).max()))
    dim, count = vectors.shape
    raw, _ = nnls(np.vstack([vectors, np.full((1, count), heavy)]), np.append(np.zeros(dim), heavy))
    return np.asarray(raw / raw.sum())


def branch_derivatives(loss: Loss, points: Array, eps: Array, nu: Array, free: Array) -> tuple[Array, Array]:
    """Slopes (K, P) and Hessians (K, P, P) of V_k at worst points ``points`` = theta + eps.

    ``free`` (K,) marks perturbations that solve a proximal problem with precision nu; the others sit on the sphere
    with multiplier nu, or (nu = 0) strictly inside it, where V_k is constant.
    """
    slopes = np.atleast_2d(loss.gradient(points))
    hessians = np.asarray(loss.hessian(points)).reshape(-1, points.shape[1], points.shape[1])
    dim = points.shape[1]
    bends = np.zeros_like(hessians)
    for k in range(points.shape[0]):
        H = hessians[k]
        if free[k]:
            bends[k] = H + H @ np.linalg.pinv(nu[k] * np.eye(dim) - H) @ H
        elif nu[k] > 0.0:
            system = np.zeros((dim + 1, dim + 1))
            system[:dim, :dim] = H - nu[k] * np.eye(dim)
            system[:dim, dim] = -eps[k]
            system[dim, :dim] = eps[k]
            moved = np.linalg.lstsq(system, np.vstack([-H, np.zeros((1, dim))]), rcond=1e-12)[0][:dim]
            bends[k] = H @ (np.eye(dim) + moved)
        else:
            slopes[k] = 0.0
    return slopes, 0.5 * (bends + bends.transpose(0, 2, 1))
