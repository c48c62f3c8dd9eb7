"""Laplace approximations of the theory losses: at the maximum a posteriori, or at a point such as a SAM solution."""

from __future__ import annotations

from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.bayes.exact import posterior_modes
from fenchel.checks import check_problem
from fenchel.errors import DomainError
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.losses.inputs import finite_vector


def map_estimate(loss: Loss, prior: Gaussian) -> Array:
    """The maximum a posteriori (P,): the best of the local minima found of l(theta) - log p(theta)."""
    check_problem(loss, prior=prior)
    point = posterior_modes(loss, prior)[0]
    # Newton's method removes the error that a quasi-Newton line search leaves, as long as it helps.
    for _ in range(20):
        gradient = np.asarray(loss.gradient(point)) + prior.precision @ (point - prior.mean)
        hessian = np.asarray(loss.hessian(point)) + prior.precision
        if np.linalg.eigvalsh(hessian)[0] <= 0.0:
            break
        step = np.linalg.solve(hessian, gradient)
        candidate = point - step
        after = np.asarray(loss.gradient(candidate)) + prior.precision @ (candidate - prior.mean)
        if not np.linalg.norm(after) < np.linalg.norm(gradient):
            break
        point = candidate
    return np.asarray(point)


def laplace(loss: Loss, prior: Gaussian, *, at: Any = None, structure: str = "full") -> Gaussian:
    """N(theta, (Hess l(theta) + prior precision)^-1) at theta = ``at`` (P,), by default the MAP.

    ``structure`` "diagonal" keeps the diagonal of the precision (the usual diagonal Laplace), "full" all of it.

    Raises:
        ValueError: ``at`` has the wrong shape or the structure is unknown.
        DomainError: the curvature at ``at`` is not positive definite.
    """
    if structure not in ("full", "diagonal"):
        raise ValueError(f"structure must be full or diagonal, got {structure!r}.")
    check_problem(loss, prior=prior)
    point = map_estimate(loss, prior) if at is None else finite_vector(at, "at")
    if point.shape != (loss.dim,) or not np.isfinite(point).all():
        raise ValueError(f"at must be a finite point of shape ({loss.dim},), got shape {point.shape}.")
    precision = np.asarray(loss.hessian(point)) + prior.precision
    if structure == "diagonal":
        diagonal = np.diag(precision)
        if (diagonal <= 0.0).any():
            raise DomainError("the diagonal curvature at this point is not positive: no Laplace approximation.")
        return Gaussian(point, 1.0 / diagonal)
    if np.linalg.eigvalsh(precision)[0] <= 0.0:
        raise DomainError("the curvature at this point is not positive definite: no Laplace approximation.")
    cov = np.linalg.inv(precision)
    return Gaussian(point, 0.5 * (cov + cov.T))
