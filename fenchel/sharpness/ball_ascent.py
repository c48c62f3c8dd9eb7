"""Local maximizers of a loss in a ball: projected ascent, Newton steps on the sphere, the trust-region problem."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from fenchel.arrays import Array
from fenchel.losses import Loss
from fenchel.search.ascent import distinct
from fenchel.search.bounds import LinearModel, UserModel

Model = LinearModel | UserModel


def model_of(loss: Loss, center: Array, radius: float) -> Model:
    """The loss in the coordinates of the unit ball."""
    basis = radius * np.eye(loss.dim)
    linear = loss.in_predictors()
    if linear is None:
        return UserModel(loss, center, basis, np.zeros((loss.dim, loss.dim)), np.zeros(loss.dim), 0.0)
    slope = linear.b + linear.H @ center
    constant = linear.c + float(linear.b @ center + 0.5 * center @ linear.H @ center)
    return LinearModel(linear, center, basis, -radius * radius * linear.H, radius * slope, constant)


def domain_of(loss: Loss, center: Array, radius: float) -> tuple[Array, Array] | None:
    """The loss's bounds in coordinates u, where they cut the ball."""
    if loss.bounds is None:
        return None
    lo, hi = (loss.bounds[0] - center) / radius, (loss.bounds[1] - center) / radius
    if (np.square(np.clip(0.0, lo, hi)).sum() > 1.0) or (lo > 1.0).any() or (hi < -1.0).any():
        raise ValueError("theta is so far outside the loss's bounds that the whole ball of radius rho misses them")
    if (lo <= -1.0).all() and (hi >= 1.0).all():
        return None
    return lo, hi


def spread_starts(dim: int) -> Array:
    """Points (S, dim) of the unit ball to climb from."""
    if dim == 1:
        return np.linspace(-1.0, 1.0, 65)[:, None]
    if dim == 2:
        angle = 2.0 * np.pi * np.arange(32) / 32
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.vstack([circle, 0.6 * circle[::3], 0.2 * circle[::6]])
    rng = np.random.default_rng(0)
    sphere = rng.normal(size=(min(24 * dim, 200), dim))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    axes = np.vstack([np.eye(dim), -np.eye(dim)])
    return np.vstack([axes, sphere, 0.5 * sphere[::2]])


def _project(u: Array, domain: tuple[Array, Array] | None) -> Array:
    for _ in range(1 if domain is None else 30):
        if domain is not None:
            u = np.clip(u, *domain)
        u = u / np.maximum(1.0, np.linalg.norm(u, axis=1))[:, None]
    return u if domain is None else np.clip(u, *domain)


def climb(model: Model, starts: Array, domain: tuple[Array, Array] | None, steps: int = 80) -> tuple[Array, Array]:
    """Distinct local maximizers on the ball: projected gradients with growing steps, then Newton on the KKT system."""
    u = _project(starts.copy(), domain)
    value, slope = model.tangent(u)
    length = 0.3 / np.maximum(np.linalg.norm(slope, axis=1), 1e-12)
    for _ in range(steps):
        trial = _project(u + length[:, None] * slope, domain)
        v, s = model.tangent(trial)
        better = v > value
        u = np.where(better[:, None], trial, u)
        slope = np.where(better[:, None], s, slope)
        value = np.where(better, v, value)
        length = np.where(better, 2.0 * length, 0.25 * length)
    if domain is None:
        u, value = polish(model, u, value)
    keep = distinct(u, value, radius=1e-6)
    return u[keep], value[keep]


def polish(model: Model, u: Array, value: Array, rounds: int = 6) -> tuple[Array, Array]:
    """Newton on grad = nu u, |u| = 1 (on the sphere) or grad = 0 (inside), kept where the value does not fall."""
    dim = model.dim
    for _ in range(rounds):
        _, slope, hessian = model.derivatives(u)
        on_sphere = np.linalg.norm(u, axis=1) > 1.0 - 1e-7
        nu = np.where(on_sphere, np.einsum("ni,ni->n", slope, u), 0.0)
        jacobian = np.zeros((u.shape[0], dim + 1, dim + 1))
        jacobian[:, :dim, :dim] = hessian - nu[:, None, None] * np.eye(dim)
        jacobian[:, :dim, dim] = np.where(on_sphere[:, None], -u, 0.0)
        jacobian[:, dim, :dim] = np.where(on_sphere[:, None], u, 0.0)
        jacobian[:, dim, dim] = np.where(on_sphere, 0.0, 1.0)
        excess = np.where(on_sphere, 0.5 * (1.0 - np.square(u).sum(axis=1)), 0.0)
        target = np.concatenate([nu[:, None] * u - slope, excess[:, None]], axis=1)
        move = np.linalg.lstsq(jacobian[0], target[0])[0][None, :] if u.shape[0] == 1 else _solve(jacobian, target)
        small = np.linalg.norm(move[:, :dim], axis=1) < 0.3
        trial = _project(u + np.where(small[:, None], move[:, :dim], 0.0), None)
        v = model.value(trial)
        better = v >= value - 4e-16 * (1.0 + np.abs(value))
        u = np.where(better[:, None], trial, u)
        value = np.where(better, v, value)
    return u, value


def _solve(matrix: Array, target: Array) -> Array:
    scale = np.abs(matrix).max(axis=(1, 2), keepdims=True)
    regular = np.abs(np.linalg.det(matrix / scale)) > 1e-14
    safe = np.where(regular[:, None, None], matrix, np.eye(matrix.shape[1]))
    return np.asarray(np.where(regular[:, None], np.linalg.solve(safe, target[:, :, None])[:, :, 0], 0.0))


def trust_region(model: LinearModel) -> tuple[Array, float] | None:
    """Exact maximizers (1 or 2, P) of a quadratic on the unit ball and its dual bound: there is no duality gap.

    max c + g.u + u^T K u / 2 = min over nu >= max(0, largest eigenvalue) of c + nu/2 + g^T (nu - K)^-1 g / 2.
    """
    eigen, vectors = np.linalg.eigh(-model.concave)
    g = vectors.T @ model.linear
    if eigen[-1] < 0.0 and np.square(g / eigen).sum() <= 1.0:
        u = vectors @ (-g / eigen)
        return u[None, :], float(model.value(u[None, :])[0])
    low = max(0.0, float(eigen[-1]))
    size = np.linalg.norm(g)
    scale = max(abs(eigen[0]), abs(eigen[-1]), size)
    if scale == 0.0:
        return np.zeros((1, model.dim)), model.constant

    def norm(nu: float) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.sqrt(np.nan_to_num(np.square(g / (nu - eigen)), nan=0.0, posinf=np.inf).sum()))

    top = np.abs(low - eigen) <= 1e-12 * scale
    ready = np.where(top, 0.0, g / np.where(top, 1.0, low - eigen))
    if np.abs(g[top]).max(initial=0.0) <= 1e-13 * scale and np.linalg.norm(ready) <= 1.0 and top.any():
        # The hard case: the largest eigenvector completes the step to the sphere, with either sign.
        rest = np.sqrt(max(0.0, 1.0 - float(ready @ ready)))
        axis = np.zeros(model.dim)
        axis[np.flatnonzero(top)[-1]] = rest
        points = np.stack([ready + axis, ready - axis]) @ vectors.T
        bound = model.constant + 0.5 * low + 0.5 * float(g @ ready)
        return points, max(bound, float(model.value(points).max()))
    start = low + 1e-16 * scale
    while norm(start) < 1.0:
        start = low + 0.1 * (start - low)
    nu = float(brentq(lambda v: 1.0 - norm(v), start, low + 2.0 * size + 1e-300, xtol=1e-300, rtol=8.9e-16))
    u = vectors @ (g / (nu - eigen))
    u /= np.linalg.norm(u)
    bound = model.constant + 0.5 * nu + 0.5 * float(g @ (g / (nu - eigen)))
    return u[None, :], max(bound, float(model.value(u[None, :])[0]))
