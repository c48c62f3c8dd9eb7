"""Random small problems for the checks of the learning rules: convex and not, smooth and not, P = 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fenchel import losses
from fenchel.gaussian import Gaussian


def random_problems(count: int, seed: int) -> Iterator[tuple[str, losses.Loss, Gaussian]]:
    """(name, loss, prior), in turn: logistic, Huber, absolute and mixed regressions, three wells, quadratics."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        kind = ("logistic", "logistic", "huber", "absolute", "wells", "quadratic", "mixed")[k % 7]
        dim = 1 if kind == "wells" else 1 + (k // 7) % 2
        prior = Gaussian(0.3 * rng.standard_normal(dim), float(np.exp(rng.uniform(-1.0, 3.0))))
        yield f"{kind}, P = {dim}", _loss(kind, dim, rng), prior


def random_gaussian(prior: Gaussian, rng: np.random.Generator) -> Gaussian:
    """A Gaussian of full covariance about as wide as the prior, down to a hundredth of it."""
    dim = prior.dim
    scale = np.sqrt(float(prior.cov[0, 0])) * np.exp(rng.uniform(np.log(0.01), np.log(1.0)))
    root = rng.standard_normal((dim, dim))
    cov = scale**2 * (root @ root.T / dim + 0.1 * np.eye(dim))
    return Gaussian(prior.mean + np.sqrt(float(prior.cov[0, 0])) * rng.standard_normal(dim), cov)


def _loss(kind: str, dim: int, rng: np.random.Generator) -> losses.Loss:
    n = int(rng.integers(3, 25))
    X = rng.standard_normal((n, dim)) * np.exp(rng.uniform(-1.0, 1.0))
    truth = rng.standard_normal(dim)
    y = np.where(X @ truth + rng.logistic(size=n) > 0, 1.0, -1.0)
    if kind == "logistic":
        return losses.LogisticRegression(X, y)
    if kind == "wells":
        shift = float(rng.normal())
        return losses.ThreeWells().compose(np.eye(1) * float(np.exp(rng.uniform(-0.5, 0.5))), np.array([shift]))
    if kind == "quadratic":
        root = rng.standard_normal((dim, dim))
        return losses.Quadratic(root @ root.T, rng.standard_normal(dim), 0.5)
    residuals = X @ truth + 0.5 * rng.standard_normal(n)
    if kind == "mixed":
        convex = losses.LogisticRegression(X, y)
        return convex + losses.Absolute(0.5).compose(np.eye(dim)[:1])
    scalar = losses.Huber(0.5) if kind == "huber" else losses.Absolute(0.0)
    terms = [scalar.compose(x[None, :], np.array([-r])) for x, r in zip(X, residuals, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
