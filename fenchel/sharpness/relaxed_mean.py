"""Relaxed Bayes in the mean alone (Eq. 12 with sigma fixed): evaluation and global minimization over m.

E(m) = sup_eps [l(m + eps) - |eps|^2/(2 sigma^2)] + delta'/2 |m|^2; the constant -P/2 log(sigma^2 delta') is left out.

What its minimization is [derived here, checked in the tests]: with delta0 = 1/(1/delta' - sigma^2) > 0, Toland duality
gives

    min_m E(m) = min_x  l~(x) + delta0/2 |x|^2,   m* = (1 + sigma^2 delta0) x*,

where l~ is the least function above l whose curvature nowhere exceeds 1/sigma^2 (the closing of l by a parabola).
Where l~ = l this is the ordinary MAP problem: sigma only fills the wells that are sharper than 1/sigma^2.
"""

from __future__ import annotations

import time

import numpy as np
from scipy.optimize import minimize

from fenchel.arrays import Array
from fenchel.losses import Loss
from fenchel.losses.inputs import finite_points
from fenchel.search.maximize import local_maximizers
from fenchel.sharpness.extent import confining_box
from fenchel.sharpness.line_branching import OuterMinimum
from fenchel.sharpness.line_minimum import minimize_proximal_line
from fenchel.sharpness.minimax import Branches, branch_derivatives, descents
from fenchel.sharpness.proximal import proximal_sup
from fenchel.sharpness.sam import gathered, minorant_bound, spread_starts


def prior_precision(sigma: float, delta: float) -> float:
    """delta0 of Eq. 12 from delta' = 1/(sigma^2 + 1/delta0); inf or negative where delta' sigma^2 >= 1: no prior."""
    rest = 1.0 - sigma * sigma * delta
    return delta / rest if rest != 0.0 else np.inf


def minimize_proximal(
    loss: Loss,
    sigma: float,
    delta: float,
    *,
    tol: float = 1e-9,
    starts: Array | None = None,
    max_seconds: float = np.inf,
) -> OuterMinimum:
    """argmin over m of E(m) above, sigma and delta' = ``delta`` given (the constant in sigma left out).

    P = 1: certified by branch and bound. P >= 2: descent from many starts, the value at the best point certified; the
    lower bound is min_x l + delta0/2 |x|^2 for convex losses: ``certified`` says that the minimizer is the MAP's image.
    After ``max_seconds`` no further descent begins (P >= 2).
    """
    end = time.perf_counter() + max_seconds
    if loss.dim == 1:
        return minimize_proximal_line(loss, sigma, delta, tol=tol)
    zero = proximal_sup(loss, np.zeros(loss.dim), sigma, tol=1e-6)
    if np.isinf(zero.lower):
        empty = np.empty((0, loss.dim))
        nowhere = np.full(loss.dim, np.nan)
        return OuterMinimum(np.inf, np.inf, np.inf, nowhere, empty, zero.certified, 0.0, zero.message)
    lo, hi, _ = confining_box(loss, delta, zero.upper)
    nu = 1.0 / (sigma * sigma)
    # Perturbations to climb from; the certified searches below add what the climbs missed.
    pool = [_cloud(loss.dim, sigma * s) for s in (0.5, 2.0, 6.0)] + [zero.maximizers[:4]]

    def inner(m: Array, warm: Array | None) -> Branches:
        return _branches(loss, m, nu, np.vstack([*pool, *([] if warm is None else [warm])]))

    reach = max(3.0 * sigma, float(np.abs(zero.argmax).max()))
    axes = [np.linspace(lo[i] - reach, hi[i] + reach, 61) for i in range(min(loss.dim, 2))]
    if loss.dim == 2:
        net = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    else:
        net = np.random.default_rng(2).uniform(lo - reach, hi + reach, size=(4000, loss.dim))
    on_net = np.asarray(loss(net), dtype=float) - 0.5 * nu * np.square(net).sum(axis=1)

    def rough(m: Array) -> Array:
        inside = (on_net[None, :] + nu * m @ net.T).max(axis=1) - 0.5 * nu * np.square(m).sum(axis=1)
        return np.asarray(np.maximum(inside, loss(m)) + 0.5 * delta * np.square(m).sum(axis=1))

    delta0 = prior_precision(sigma, delta)
    lower, given = -np.inf, [] if starts is None else [finite_points(starts, "starts", loss.dim)]
    if np.isfinite(delta0) and delta0 > 0.0:
        x, bottom = _map_estimate(loss, delta0)
        lower = bottom if loss.convex else minorant_bound(loss, delta0)
        given.append((1.0 + sigma * sigma * delta0) * x[None, :])
    begin = spread_starts(rough, lo, hi, given=np.vstack(given) if given else None)
    pool += [proximal_sup(loss, m, sigma, tol=1e-4).maximizers[:3] for m in begin[:3]]
    radius = 0.5 * float((hi - lo).max())
    for _ in range(6):
        runs = descents(inner, list(begin), delta, radius=radius, end=end)
        best = min(runs, key=lambda run: run.value)
        top = proximal_sup(loss, best.theta, sigma, tol=0.1 * tol, starts=best.eps)
        penalty = 0.5 * delta * float(best.theta @ best.theta)
        settled = float(top.values[0]) + penalty <= best.value + 1e-10 * (1.0 + abs(best.value))
        if settled or time.perf_counter() > end:
            break
        pool.append(top.maximizers[:3])
        begin, radius = np.array([run.theta for run in runs]), 0.3 * radius
    return gathered(runs, float(top.values[0]) + penalty, lower, top.upper + penalty, tol)


def closing_on_line(loss: Loss, sigma: float, grid: Array) -> Array:
    """l~ on an even grid (n,), P = 1: minus the convex hull of |x|^2/(2 sigma^2) - l, an independent route to Eq. 12.

    Accurate to the grid's square; the grid must reach beyond every parabola's contact points.
    """
    bowl = np.square(grid) / (2.0 * sigma * sigma) - np.asarray(loss(grid[:, None]), dtype=float)
    hull: list[int] = []
    for i in range(grid.size):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (bowl[b] - bowl[a]) * (grid[i] - grid[a]) >= (bowl[i] - bowl[a]) * (grid[b] - grid[a]):
                hull.pop()
            else:
                break
        hull.append(i)
    return np.asarray(np.square(grid) / (2.0 * sigma * sigma) - np.interp(grid, grid[hull], bowl[hull]))


def _branches(loss: Loss, m: Array, nu: float, cloud: Array) -> Branches:
    points, _ = local_maximizers(loss, nu * m, -0.5 * nu * np.eye(loss.dim), m + cloud)
    eps = points - m
    slopes = np.atleast_2d(loss.gradient(points))
    rest = np.linalg.norm(slopes - nu * eps, axis=1)
    values = np.asarray(loss(points)) - 0.5 * nu * np.square(eps).sum(axis=1)
    keep = np.flatnonzero(rest <= 1e-6 * (1.0 + np.linalg.norm(slopes, axis=1)))
    keep = keep[np.argsort(-values[keep])[:12]] if keep.size else np.array([int(values.argmax())])
    slopes, bends = branch_derivatives(
        loss, points[keep], eps[keep], np.full(keep.size, nu), np.ones(keep.size, dtype=bool)
    )
    return Branches(eps[keep], values[keep], slopes, bends)


def _cloud(dim: int, radius: float) -> Array:
    if dim == 2:
        angle = 2.0 * np.pi * np.arange(12) / 12
        ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.asarray(radius * np.vstack([ring, np.zeros((1, 2))]))
    rng = np.random.default_rng(3)
    points = rng.normal(size=(8 * dim, dim))
    return np.asarray(radius * points / np.linalg.norm(points, axis=1, keepdims=True))


def _map_estimate(loss: Loss, delta0: float) -> tuple[Array, float]:
    """The best MAP point met and, for a convex loss, a proved lower bound of the MAP objective."""
    rng = np.random.default_rng(4)
    best, value = np.zeros(loss.dim), np.inf
    for start in np.vstack([np.zeros((1, loss.dim)), 2.0 * rng.normal(size=(1 if loss.convex else 7, loss.dim))]):
        run = minimize(
            lambda x: float(loss(x)) + 0.5 * delta0 * float(x @ x),
            start,
            jac=lambda x: loss.gradient(x) + delta0 * x,
            hess=lambda x: loss.hessian(x) + delta0 * np.eye(loss.dim),
            method="trust-exact",
            options={"gtol": 1e-11},
        )
        if run.fun < value:
            best, value = run.x, float(run.fun)
    slope = loss.gradient(best) + delta0 * best
    return best, value - 0.5 * float(slope @ slope) / delta0 - 64 * np.finfo(float).eps * (1.0 + abs(value))
