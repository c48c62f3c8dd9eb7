"""Stationary pairs (App. D) of SAM and of relaxed Bayes at a fixed sigma, the maps between them, and what each pair is.

SAM: grad l(theta + eps) + delta theta = 0 and grad l(theta + eps) = nu eps, |eps| = rho, nu > 0.
Relaxed: grad l(m + eps) + delta' m = 0 and grad l(m + eps) = eps / sigma^2.

Both systems close in the worst point x = theta + eps alone [derived here, checked in the tests]. SAM: eps points to the
origin, so with s = sign(|theta| - rho) the pairs are the stationary points of l(x) + delta/2 (|x| + s rho)^2 (|x| < rho
where s = -1), theta = (1 + s rho/|x|) x. Relaxed: the stationary points of l(x) + delta0/2 |x|^2, whatever sigma, with
delta0 = 1/(1/delta' - sigma^2): MAP solutions, m = (1 + sigma^2 delta0) x. A SAM pair maps to a prior of positive
precision exactly if |theta| > rho, and then delta0 = delta (1 + rho/|x|).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fenchel.arrays import Array
from fenchel.losses import Loss
from fenchel.sharpness.line import isolate_roots
from fenchel.sharpness.relaxed_mean import prior_precision


@dataclass(frozen=True)
class StationaryPair:
    """(theta, eps, nu), each of theta and eps (P,): the same triple is a SAM pair and a relaxed pair (Theorem 2).

    ``rho`` = |eps|; ``sigma`` = nu^(-1/2), the mapped standard deviation; ``delta`` serves as delta'.
    """

    theta: Array
    eps: Array
    nu: float
    delta: float

    @property
    def worst(self) -> Array:
        """x = theta + eps."""
        return self.theta + self.eps

    @property
    def rho(self) -> float:
        return float(np.linalg.norm(self.eps))

    @property
    def sigma(self) -> float:
        return float(self.nu**-0.5)

    @property
    def prior(self) -> float:
        """delta0 = 1/(1/delta - sigma^2); not a prior precision where it is negative or inf."""
        return prior_precision(self.sigma, self.delta)


def residual(loss: Loss, pair: StationaryPair) -> float:
    """The largest violation of the four conditions, relative to 1 + |grad l|."""
    slope = loss.gradient(pair.worst)
    first = np.abs(slope + pair.delta * pair.theta).max()
    second = np.abs(slope - pair.nu * pair.eps).max()
    return float(max(first, second) / (1.0 + np.abs(slope).max()))


def sam_pairs(loss: Loss, rho: float, delta: float) -> tuple[list[StationaryPair], bool]:
    """All SAM pairs for P = 1 (the second answer: whether that is proved); those met from many starts for P >= 2."""
    radius, proved = _radius(loss, rho, delta)
    if loss.dim == 1:
        points, complete = [], proved
        for sign in (1.0, -1.0):
            roots, done = _line_roots(loss, sign * rho, delta, radius)
            complete = complete and done
            points += [(theta, sign * rho) for theta in roots]
        pairs = [_pair(loss, np.array([t]), np.array([e]), delta) for t, e in points]
        return [p for p in pairs if p.nu > 1e-12], complete
    found = []
    for s in (1.0, -1.0):

        def field(x: Array, s: float = s) -> tuple[Array, Array]:
            size = np.maximum(np.linalg.norm(x, axis=1), 1e-300)[:, None]
            unit = x / size
            slope = loss.gradient(x) + delta * (x + s * rho * unit)
            turn = delta * s * rho / size[:, :, None]
            eye = np.eye(loss.dim)
            return slope, loss.hessian(x) + delta * eye + turn * (eye - unit[:, :, None] * unit[:, None, :])

        roots = _newton(field, _starts(loss.dim, radius if s > 0 else min(radius, rho)))
        sizes = np.linalg.norm(roots, axis=1)
        roots, sizes = roots[sizes > 1e-12], sizes[sizes > 1e-12]
        if s < 0.0:
            roots, sizes = roots[sizes < rho], sizes[sizes < rho]
        for x, size in zip(roots, sizes, strict=True):
            found.append(_pair(loss, (1.0 + s * rho / size) * x, -s * rho / size * x, delta))
    return [p for p in found if p.nu > 1e-12], False


def relaxed_pairs(loss: Loss, sigma: float, delta: float) -> tuple[list[StationaryPair], bool]:
    """All relaxed pairs at (sigma, delta') for P = 1, many for P >= 2: the stationary points of the MAP objective.

    Only pairs with eps != 0 are listed: those are the ones that map to a SAM problem.
    """
    delta0 = prior_precision(sigma, delta)
    if np.isinf(delta0):
        return [], True
    radius, proved = _radius(loss, 0.0, delta0)
    if loss.dim == 1:
        roots, complete = _line_roots(loss, 0.0, delta0, radius)
        points, complete = roots[:, None], complete and proved
    else:

        def field(x: Array) -> tuple[Array, Array]:
            return loss.gradient(x) + delta0 * x, loss.hessian(x) + delta0 * np.eye(loss.dim)

        points, complete = _newton(field, _starts(loss.dim, radius)), False
    stretch = delta0 / delta
    pairs = [_pair(loss, stretch * x, (1.0 - stretch) * x, delta) for x in points if np.abs(x).max() > 1e-12]
    return [p for p in pairs if p.rho > 1e-12 and p.nu > 1e-12], complete


def _pair(loss: Loss, theta: Array, eps: Array, delta: float) -> StationaryPair:
    slope = loss.gradient(theta + eps)
    return StationaryPair(theta, eps, float(slope @ eps) / float(eps @ eps), delta)


def _line_roots(loss: Loss, shift: float, delta: float, radius: float) -> tuple[Array, bool]:
    """Roots theta of l'(theta + shift) + delta theta in [-radius, radius]."""

    def function(t: Array) -> Array:
        return loss.gradient((t + shift)[:, None])[:, 0] + delta * t

    def slope_upper(a: Array, b: Array) -> Array:
        return loss.hessian_upper((a + shift)[:, None], (b + shift)[:, None])[:, 0, 0] + delta

    return isolate_roots(function, slope_upper, -radius, radius, cells=256)


def _radius(loss: Loss, rho: float, delta: float) -> tuple[float, bool]:
    """No pair has a worst point or a theta beyond this distance: there the slope of the quadratic part wins."""
    linear = loss.in_predictors()
    if linear is not None:
        steep = float(np.linalg.norm(linear.b))
        for g in linear.groups:
            steep += float(g.link.steepest * (g.weights @ np.linalg.norm(g.rows, axis=1)))
        eigen = np.linalg.eigvalsh(linear.H)
        rest = float(np.abs(eigen + delta).min())
        if rest > 1e-9 and np.isfinite(steep):
            return (steep + float(np.abs(eigen).max()) * rho + abs(delta) * rho) / rest * (
                1.0 + 1e-9
            ) + rho + 1e-9, True
    return 20.0 + 4.0 * rho, False


def _starts(dim: int, radius: float) -> Array:
    """Starts for Newton's method: dense near the origin, sparse far out."""
    if dim == 2:
        angle = 2.0 * np.pi * np.arange(20) / 20
        ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        radii = np.unique(
            np.concatenate([np.linspace(0.03, 1.0, 16) * min(radius, 6.0), np.geomspace(0.02, 1.0, 8) * radius])
        )
        return np.asarray((radii[:, None, None] * ring[None, :, :]).reshape(-1, 2))
    rng = np.random.default_rng(5)
    sphere = rng.normal(size=(200 * dim, dim))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    return np.asarray(sphere * rng.uniform(0.01, 1.0, size=(200 * dim, 1)) * min(radius, 10.0))


def _newton(field: Callable[[Array], tuple[Array, Array]], x: Array, steps: int = 60) -> Array:
    """Distinct roots (K, P) of a vector field by damped Newton steps from x (S, P)."""
    value, jacobian = field(x)
    size = np.linalg.norm(value, axis=1)
    eye = np.eye(x.shape[1])
    live = np.arange(x.shape[0])
    for _ in range(steps):
        # A little Levenberg damping, gone near the root, keeps singular Jacobians harmless.
        J, v, s = jacobian[live], value[live], size[live]
        normal = np.einsum("nki,nkj->nij", J, J)
        damping = 1e-12 + 1e-13 * np.einsum("nii->n", normal) + 1e-3 * np.minimum(s, 1.0) ** 2
        normal = normal + damping[:, None, None] * eye
        move = -np.linalg.solve(normal, np.einsum("nki,nk->ni", J, v)[:, :, None])[:, :, 0]
        length, rows = 1.0, np.arange(live.size)
        moved = np.zeros(live.size, dtype=bool)
        for _ in range(6):
            trial = x[live[rows]] + length * move[rows]
            v, J = field(trial)
            s = np.linalg.norm(v, axis=1)
            better = s < size[live[rows]] * (1.0 - 1e-3 * length)
            done = live[rows[better]]
            x[done], value[done], jacobian[done], size[done] = trial[better], v[better], J[better], s[better]
            moved[rows[better]] = True
            rows, length = rows[~better], 0.25 * length
            if not rows.size:
                break
        live = live[moved & (size[live] > 1e-15)]
        if not live.size:
            break
    good = np.flatnonzero(size <= 1e-10)
    kept: list[int] = []
    for i in good[np.argsort(size[good])]:
        if all(np.abs(x[i] - x[k]).max() > 1e-6 * (1.0 + np.abs(x[k]).max()) for k in kept):
            kept.append(int(i))
    return x[kept]
