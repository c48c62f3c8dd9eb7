"""E_q[l] for Gaussian q and its gradient in the expectation parameters (Eq. 7; the theorems of Bonnet and Price).

Losses of linear predictors reduce to one dimension a term, exactly, in any dimension: z_i = x_i.theta + o_i is
N(x_i.m + o_i, x_i^T S x_i). Other losses are integrated over R^P: adaptively for P <= 3, by quasi-Monte Carlo beyond.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fenchel.arrays import Array
from fenchel.checks import check_problem, check_tolerance, check_unbounded
from fenchel.expectation.lattices import adaptive_boxes, scrambled_sobol, trapezoid
from fenchel.expectation.link_moments import link_moments
from fenchel.expectation.quadrature import REACH, Estimate, Integrand, PanelRule, hidden, scan
from fenchel.gaussian import Gaussian
from fenchel.losses import LinearPredictorLoss, Loss

_CHUNK_ENTRIES = 2_000_000
_TOL = 1e-11


@dataclass(frozen=True)
class ExpectedLoss:
    """E_q[l] and its derivatives at a Gaussian q.

    ``value`` = E_q[l] = -f(mu), with ``error`` the estimated absolute error (a standard error where ``method`` is
    quasi-Monte Carlo). ``gradient`` (P,) = E_q[grad l] = d value / d m; ``hessian`` (P, P) = E_q[Hess l] = 2 d value /
    d S, both as distributions, so that kinks and jumps count; ``derivative_error`` is the largest estimated error of
    their entries. ``mu1`` (P,), ``mu2`` (the structure's block) are the gradient of E_q[l] in q's expectation
    parameters. ``smooth`` is False where the rules converge as slowly as on a nonsmooth loss.
    """

    value: float
    error: float
    gradient: Array
    hessian: Array
    mu1: Array
    mu2: Array
    derivative_error: float
    smooth: bool
    points: int
    method: str


def expected_loss(loss: Loss, q: Gaussian) -> float:
    """E_q[l], deterministic; to 1e-10 relative for losses of linear predictors and for smooth losses with P <= 3.

    `expected_loss_result` gives the error estimate. Raises ValueError where dimensions differ or l is not finite.
    """
    return expected_loss_result(loss, q, derivatives=False).value


def expected_loss_gradient(loss: Loss, q: Gaussian) -> tuple[Array, Array]:
    """d E_q[l] / d (mu1, mu2), in the blocks of q's structure; -grad f(mu) of Eq. 7."""
    result = expected_loss_result(loss, q)
    return result.mu1, result.mu2


def expected_loss_result(
    loss: Loss, q: Gaussian, *, derivatives: bool = True, tol: float = _TOL, points: int = 4096, seed: int = 0
) -> ExpectedLoss:
    """E_q[l] with gradient, Hessian and error estimate.

    Args:
        derivatives: without them, ``gradient`` and ``hessian`` are NaN.
        tol: relative tolerance of the adaptive rules (P <= 3).
        points, seed: Sobol points a scrambling, for general losses with P > 3.

    Raises:
        TypeError: loss is not a `Loss` or q not a `Gaussian`.
        ValueError: dimensions differ, the loss has ``bounds``, or it is not finite where q has mass.
    """
    check_problem(loss, q=q)
    check_tolerance(tol)
    check_unbounded(loss, "an expected loss")
    linear = loss.in_predictors()
    if linear is not None:
        return _of_predictors(linear, q)
    return _general(loss, q, derivatives, tol, points, seed)


def _of_predictors(loss: LinearPredictorLoss, q: Gaussian) -> ExpectedLoss:
    mean, cov, dim = q.mean, q.cov_block, loss.dim
    spread = _trace(loss.H, cov)
    value = loss.c + float(loss.b @ mean + 0.5 * mean @ loss.H @ mean + 0.5 * spread)
    gradient, hessian = loss.H @ mean + loss.b, loss.H.copy()
    error = 1e-16 * float(abs(loss.c) + np.abs(loss.b) @ np.abs(mean) + np.abs(mean) @ np.abs(loss.H) @ np.abs(mean))
    count, slack = 0, 0.0
    for group in loss.groups:
        step = max(1, _CHUNK_ENTRIES // max(dim, 80))
        for start in range(0, group.rows.shape[0], step):
            part = slice(start, start + step)
            rows, weights = group.rows[part], group.weights[part]
            sd = np.sqrt(_variances(rows, cov))
            center = rows @ mean + group.offsets[part]
            flat = sd == 0.0  # a row of zeros: the term is a constant
            if flat.any():
                value += float(weights[flat] @ group.link.value(center[flat]))
                rows, weights, sd, center = rows[~flat], weights[~flat], sd[~flat], center[~flat]
            if sd.size == 0:
                continue
            g, slope, curvature, off = link_moments(group.link, center, sd)
            value += float(weights @ g)
            gradient = gradient + (weights * slope) @ rows
            hessian = hessian + (rows * (weights * curvature)[:, None]).T @ rows
            error += float(weights @ off)
            slack += float((weights * off) @ np.square(rows).sum(axis=1))
            count += sd.size
    mu1, mu2 = _in_expectation(q, gradient, hessian)
    return ExpectedLoss(
        value, error + 4e-16 * abs(value), gradient, hessian, mu1, mu2, slack, True, count, "one-dimensional reduction"
    )


def _variances(rows: Array, block: Array) -> Array:
    if block.ndim == 2:
        # |L^T x|^2 is never negative, unlike x^T S x in floating point.
        return np.asarray(np.square(rows @ np.linalg.cholesky(block)).sum(axis=1))
    return np.asarray(np.square(rows) @ np.broadcast_to(block, (rows.shape[1],)))


def _trace(H: Array, block: Array) -> float:
    return float(np.sum(H * block) if block.ndim == 2 else np.sum(np.diagonal(H) * block))


def _general(loss: Loss, q: Gaussian, derivatives: bool, tol: float, points: int, seed: int) -> ExpectedLoss:
    dim = loss.dim
    root = np.linalg.cholesky(q.cov) if q.cov_block.ndim == 2 else np.diag(np.sqrt(np.diag(q.cov)))
    factor: Array = np.array(root, dtype=np.float64)
    packed = np.tril_indices(dim)

    def value_at(x: Array) -> Array:
        return _finite(loss._value(q.mean + x.reshape(-1, dim) @ factor.T), "l")

    def integrand(x: Array) -> Array:
        x = x.reshape(-1, dim)
        rows = [value_at(x)[None, :]]
        if derivatives:
            slope = _finite(loss._gradient(q.mean + x @ factor.T), "the gradient of l") @ factor  # in units of x
            # Stein's identity: E[Hess] in units of x is E[slope x^T], which counts kinks; the pointwise one does not.
            outer = 0.5 * (slope[:, :, None] * x[:, None, :] + x[:, :, None] * slope[:, None, :])
            rows += [slope.T, outer[:, packed[0], packed[1]].T]
        return np.concatenate(rows)

    bend = float(np.linalg.eigvalsh(factor.T @ _bend(loss, q, factor) @ factor)[-1]) if dim <= 3 else 0.0
    found = _integrate(value_at, integrand, dim, max(bend, 0.0), tol, points, seed)
    value, error = float(found.value[0]), float(found.error[0])
    smooth = dim > 3 or found.within(1e-6, np.abs(found.value) + abs(value))
    if not derivatives:
        nothing, square = np.full(dim, np.nan), np.full((dim, dim), np.nan)
        return ExpectedLoss(value, error, nothing, square, nothing, square, np.nan, smooth, found.points, found.method)
    inverse: Array = np.array(np.linalg.inv(factor), dtype=np.float64)
    gradient = inverse.T @ found.value[1 : 1 + dim]
    in_x = np.zeros((dim, dim))
    in_x[packed] = found.value[1 + dim :]
    in_x = in_x + np.tril(in_x, -1).T
    hessian = np.asarray(inverse.T @ in_x @ inverse)
    largest = float(np.abs(inverse).max())
    slack = max(largest * float(found.error[1 : 1 + dim].max()), largest**2 * float(found.error[1 + dim :].max()))
    mu1, mu2 = _in_expectation(q, gradient, hessian)
    return ExpectedLoss(value, error, gradient, hessian, mu1, mu2, slack, smooth, found.points, found.method)


def _bend(loss: Loss, q: Gaussian, factor: Array) -> Array:
    """A bound (P, P) of the Hessian where q has mass; 0 where none is known, and so nothing can be said with it."""
    reach = REACH * np.linalg.norm(factor, axis=1)
    bend = loss.hessian_upper((q.mean - reach)[None, :], (q.mean + reach)[None, :])[0]
    return bend if np.isfinite(bend).all() else np.zeros_like(bend)


def _integrate(
    value_at: Callable[[Array], Array], integrand: Integrand, dim: int, bend: float, tol: float, points: int, seed: int
) -> Estimate:
    """Expectations of ``integrand``, whose first row is ``value_at``.

    ``bend`` bounds its second derivative along every line: what a dip between the points used may hide.
    """
    if dim == 1:
        step, breaks = scan(value_at, bend, tol)
        found = PanelRule(breaks, tol=0.01 * tol).expect(integrand)
        return found.plus(hidden(bend, step, 1))
    if dim > 3:
        return scrambled_sobol(integrand, dim, points=points, seed=seed)
    near = value_at(np.concatenate([np.zeros((1, dim)), 3.0 * np.eye(dim), -3.0 * np.eye(dim)]))
    # A dip as deep as the loss varies is at least this wide.
    width = np.sqrt(np.ptp(near) / bend) if bend > 0.0 else np.inf
    found, step = trapezoid(integrand, dim, tol=0.1 * tol, step=0.5 * width)
    if found.within(tol, np.maximum(np.abs(found.value), np.abs(found.value[0]))):
        return found if step <= width else found.plus(hidden(bend, step, dim))
    if not np.all(found.error <= 1e-6 * np.abs(found.value).max()):  # not smooth: more than that the points ran out
        boxes = adaptive_boxes(integrand, dim, tol=tol)
        found = boxes if boxes.error[0] < found.error[0] else found
    return found if step <= width else found.plus(hidden(bend, step, dim))


def _finite(values: Array, name: str) -> Array:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite where q has mass, but it is NaN or infinite there")
    return values


def _in_expectation(q: Gaussian, gradient: Array, hessian: Array) -> tuple[Array, Array]:
    """Chain rule from (m, S) to (mu1, mu2): S = mu2 - mu1 mu1^T in the structure's blocks."""
    if q.structure == "full":
        return gradient - hessian @ q.mean, 0.5 * hessian
    diagonal = np.diagonal(hessian)
    if q.structure == "diagonal":
        return gradient - diagonal * q.mean, 0.5 * diagonal
    average = diagonal.mean()
    return gradient - average * q.mean, np.asarray(0.5 * average)
