"""The losses and Gaussians on which the claims about Theorem 1 and f** are tested."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fenchel import Gaussian
from fenchel import losses as L
from fenchel.arrays import Array
from fenchel.losses.bounded_links import BumpLink
from fenchel.losses.links import SoftplusLink


def wells(dim: int, seed: int = 0) -> L.LinearPredictorLoss:
    """A nonconvex coercive loss: bumps along random directions, a few softplus terms, and a quadratic."""
    rng = np.random.default_rng(100 * dim + seed)
    bumps = L.Terms(
        BumpLink(), rng.normal(size=(4 * dim, dim)), 2.0 * rng.normal(size=4 * dim), rng.uniform(0.5, 2.0, 4 * dim)
    )
    smooth = L.Terms(SoftplusLink(), rng.normal(size=(5, dim)), rng.normal(size=5), np.ones(5))
    return L.LinearPredictorLoss([bumps, smooth], H=0.2 * np.eye(dim))


def losses_by_dimension() -> Iterator[tuple[str, L.Loss]]:
    """Convex and nonconvex losses with P = 1, 2, 3."""
    yield "three wells", L.ThreeWells()
    yield "absolute value", L.Absolute(0.4)
    yield "Huber", L.Huber(0.7)
    yield "Cauchy (user's function)", cauchy(0.4)
    for dim in (1, 2, 3):
        rng = np.random.default_rng(dim)
        yield f"logistic regression, P = {dim}", L.LogisticRegression(rng.normal(size=(30, dim)), np.arange(30) % 2)
        yield f"wells, P = {dim}", wells(dim)
        root = rng.normal(size=(dim, dim))
        yield f"quadratic, P = {dim}", L.Quadratic(root @ root.T, rng.normal(size=dim), 0.3)


def cauchy(center: float) -> L.UserLoss:
    """log(1 + (theta - center)^2), through the interface for a user's own loss."""
    slack = 1e-3

    def slope(theta: Array) -> Array:
        return np.asarray(2.0 * (theta - center) / (1.0 + (theta - center) ** 2))

    # log(1 + u) <= slack u + slack - 1 - log(slack), the tangent of the logarithm at 1 + u = 1 / slack.
    bound = L.Quadratic(
        [[2.0 * slack]], [-2.0 * slack * center], slack * center**2 + slack - 1.0 - float(np.log(slack))
    )
    return L.from_function(
        lambda theta: np.log1p((theta[:, 0] - center) ** 2), slope, 1, curvature=2.0, majorizer=bound
    )


def quartic(bounds: tuple[float, float] | None = None) -> L.UserLoss:
    """theta^4: no quadratic majorizes it on the line."""
    return L.from_function(
        lambda theta: theta[:, 0] ** 4,
        lambda theta: 4.0 * theta**3,
        1,
        hessian=lambda theta: 12.0 * theta[:, :, None] ** 2,
        curvature=np.inf if bounds is None else 12.0 * max(abs(b) for b in bounds) ** 2,
        bounds=bounds,
    )


def hump() -> L.UserLoss:
    """exp(-theta^2 / 2): bounded, largest at 0, where a Gaussian of fixed width only sees its neighbourhood."""
    return L.from_function(
        lambda theta: np.exp(-0.5 * theta[:, 0] ** 2),
        lambda theta: -theta * np.exp(-0.5 * theta**2),
        1,
        curvature=0.45,
        majorizer=L.Quadratic([[0.0]], [0.0], 1.0),
    )


def spike(height: float, base: L.Loss) -> L.UserLoss:
    """``base`` with its value at exactly 0 raised by ``height``: different from it on a null set only."""

    def value(theta: Array) -> Array:
        return np.asarray(base(theta) + height * (theta[:, 0] == 0.0))

    return L.from_function(value, base.gradient, 1, curvature=np.inf)


def random_gaussians(dim: int, count: int, structure: str, seed: int) -> list[Gaussian]:
    """Gaussians with means of size 2 and standard deviations from 0.05 to 2.5."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        mean, scale = 2.0 * rng.normal(size=dim), float(np.exp(rng.uniform(-3.0, 0.9)))
        root = rng.normal(size=(dim, dim)) / np.sqrt(dim) + 0.3 * np.eye(dim)
        full = Gaussian(mean, scale**2 * (root @ root.T + 0.1 * np.eye(dim)))
        found.append(full.with_structure(structure))  # type: ignore[arg-type]
    return found
