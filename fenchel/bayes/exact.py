"""The exact posterior p(theta) exp(-l(theta)) / Z: quadrature for P <= 2, NUTS beyond (see `fenchel.bayes.mcmc`)."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from fenchel.arrays import Array
from fenchel.bayes.cubature import Nodes, adaptive_nodes, uniform_nodes
from fenchel.bayes.energy import Energy
from fenchel.bayes.modes import DEPTH, line_features, relevant_modes
from fenchel.bayes.posterior import ExactPosterior
from fenchel.checks import check_problem, check_seconds, check_tolerance
from fenchel.errors import DomainError
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss

# Prior mass beyond 12 standard deviations is below 1e-31.
_PRIOR_REACH = 12.0


def joint_log_density(loss: Loss, prior: Gaussian) -> Callable[[Array], Array]:
    """theta (n, P) -> log p(theta) - l(theta), (n,); -inf outside the box of a bounded loss."""
    precision, mean = prior.precision, prior.mean
    constant = 0.5 * (np.linalg.slogdet(precision)[1] - prior.dim * np.log(2.0 * np.pi))
    bounds = loss.bounds

    def log_joint(theta: Array) -> Array:
        shifted = theta - mean
        values = constant - 0.5 * np.einsum("ni,ij,nj->n", shifted, precision, shifted) - loss(theta)
        if bounds is not None:
            inside = ((theta >= bounds[0]) & (theta <= bounds[1])).all(axis=1)
            values = np.where(inside, values, -np.inf)
        return np.asarray(values)

    return log_joint


def posterior_modes(loss: Loss, prior: Gaussian, starts: Array | None = None) -> Array:
    """Local maxima (K, P) of the posterior, best first, from a scan of the prior and from ``starts`` (S, P)."""
    log_joint = joint_log_density(loss, prior)
    factor = np.linalg.cholesky(prior.cov)
    if prior.dim <= 2:
        count = 2001 if prior.dim == 1 else 61
        axis = np.linspace(-8.0, 8.0, count)
        grid = np.stack(np.meshgrid(*[axis] * prior.dim, indexing="ij"), axis=-1)
        values = log_joint(prior.mean + grid.reshape(-1, prior.dim) @ factor.T).reshape(grid.shape[:-1])
        peak = np.ones(values.shape, dtype=bool)
        for axis_index in range(prior.dim):
            for shift in (1, -1):
                peak &= values >= np.roll(values, shift, axis=axis_index)
        candidates = grid[peak & np.isfinite(values)]
        order = np.argsort(-values[peak & np.isfinite(values)])[:8]
        scan = prior.mean + candidates[order] @ factor.T
    else:
        scan = np.zeros((0, prior.dim))
    points = np.vstack([scan, prior.mean[None], np.zeros((0, prior.dim)) if starts is None else starts])
    precision = prior.precision

    def objective(theta: Array) -> tuple[float, Array]:
        shifted = theta - prior.mean
        value = float(loss(theta)) + 0.5 * float(shifted @ precision @ shifted)
        return value, np.asarray(loss.gradient(theta)) + precision @ shifted

    box = None if loss.bounds is None else list(zip(loss.bounds[0], loss.bounds[1], strict=True))
    found = []
    for point in points:
        start = point if loss.bounds is None else np.clip(point, *loss.bounds)
        method = "BFGS" if box is None else "L-BFGS-B"
        found.append(optimize.minimize(objective, start, jac=True, method=method, bounds=box).x)
    values = log_joint(np.array(found))
    kept: list[Array] = []
    for k in np.argsort(-values):
        if all(np.abs(found[k] - other).max() > 1e-4 * (1.0 + np.abs(other).max()) for other in kept):
            kept.append(found[k])
    return np.array(kept)


def exact_posterior(
    loss: Loss,
    prior: Gaussian,
    *,
    method: str = "auto",
    tol: float = 1e-10,
    rng: np.random.Generator | None = None,
    draws: int = 4000,
    chains: int = 4,
    max_seconds: float | None = None,
) -> ExactPosterior:
    """The exact posterior p(theta) exp(-l(theta)) / Z of the total loss ``loss`` under the Gaussian ``prior``.

    Args:
        method: "quadrature" (P <= 2), "nuts" (logistic regressions of any P), or "auto": quadrature where possible.
        tol: relative tolerance of the quadrature.
        rng, draws, chains: for NUTS: seed source, draws a chain, chains.
        max_seconds: of the quadrature; what was reached by then is returned, with its error.

    Raises:
        DomainError: the posterior is improper.
        ValueError: dimensions differ, the method is unknown, or quadrature is asked for with P > 2.
        MissingDependencyError: NUTS is needed and numpyro is not installed (extra ``mcmc``).
    """
    check_problem(loss, prior=prior)
    if method not in ("auto", "quadrature", "nuts"):
        raise ValueError(f"method must be auto, quadrature or nuts, got {method!r}.")
    check_tolerance(tol)
    end = time.perf_counter() + check_seconds(max_seconds)
    if method == "quadrature" and loss.dim > 2:
        raise ValueError(f"quadrature is for P <= 2, the loss has P = {loss.dim}; use method='nuts'.")
    if method == "nuts" or loss.dim > 2:
        from fenchel.bayes.mcmc import nuts_posterior

        return nuts_posterior(loss, prior, rng=rng or np.random.default_rng(0), draws=draws, chains=chains)
    return _quadrature_posterior(loss, prior, tol, end)


def _quadrature_posterior(loss: Loss, prior: Gaussian, tol: float, end: float) -> ExactPosterior:
    log_joint = joint_log_density(loss, prior)
    known = relevant_modes(loss, prior, posterior_modes(loss, prior), _PRIOR_REACH, end=end)
    modes = known.points
    center, factor = modes[0], _scale(loss, prior, modes[0])
    inverse = np.linalg.inv(factor)
    log_volume = float(np.linalg.slogdet(factor)[1])

    def log_density(u: Array) -> Array:
        return np.asarray(log_joint(center + u @ factor.T))

    lo, hi = _turned_box(np.asarray(inverse, dtype=float), known.lo - center, known.hi - center)
    widths = np.array([_narrowest(loss, prior, mode, factor) for mode in modes])
    cuts = (line_features(loss) - center[0]) * inverse[0, 0]
    peaks = (modes - center) @ inverse.T
    energy = Energy(loss, prior)
    level = float(energy.value(modes).min()) + DEPTH

    def coarse(boxes: Array) -> NDArray[np.bool_]:
        return energy.hides(boxes, center, factor, level)

    fine = None if loss.convex else coarse
    first = adaptive_nodes(log_density, lo, hi, peaks, widths, cuts=cuts, coarse=fine, tol=tol, end=end)
    if not np.isfinite(first.log_mass):
        raise DomainError("the posterior has no finite mass within the prior's range.")
    support_lo, support_hi = _support(first, lo, hi)
    # What is much narrower than the rest slips through a uniform grid, and jumps spoil it: then the mesh of boxes is
    # laid out anew.
    narrow = min(widths.min(), first.finest, np.diff(cuts).min(initial=np.inf))
    if loss.continuous and (support_hi - support_lo).max() < 90.0 * narrow:
        second = uniform_nodes(log_density, support_lo, support_hi, tol=10.0 * tol, end=end)
    else:
        again = fine if first.complete else None
        room = np.array([0.0731, 0.1137])[: lo.size] * (hi - lo)
        second = adaptive_nodes(
            log_density, lo - room, hi + room, peaks, 0.3 * widths, cuts=cuts, coarse=again, tol=tol, end=end
        )
    mean, cov = _moments(first, center, factor)
    mean2, cov2 = _moments(second, center, factor)
    log_evidence = first.log_mass + log_volume
    log_second = second.log_mass + log_volume
    what = "parts of the mesh" if loss.convex else "wells narrower than the mesh could resolve"
    missed = "" if first.complete else f"{what} may have been missed"
    late = "the time limit came first" if time.perf_counter() > end else ""
    doubt = known.doubt or missed
    estimate = max(first.error, abs(log_evidence - log_second), 1e-15 * abs(log_evidence))
    return ExactPosterior(
        mean=mean,
        cov=cov,
        log_evidence=log_evidence,
        message="; ".join(text for text in (late, known.doubt, missed) if text),
        error=np.inf if doubt else estimate,
        method="quadrature",
        nodes=center + first.points @ factor.T,
        node_weights=first.weights,
        diagnostics={
            "log_evidence_second": log_second,
            "adaptive_error": first.error,
            "uniform_change": second.error,
            "mean_change": float(np.abs(mean - mean2).max()),
            "cov_change": float(np.abs(cov - cov2).max()),
            "evaluations": first.evaluations + second.evaluations,
            "modes": modes,
            "quadrature_error": estimate,
        },
        _log_joint=log_joint,
        _frame=(center, factor, support_lo, support_hi),
    )


def _turned_box(inverse: Array, lo: Array, hi: Array) -> tuple[Array, Array]:
    """The box around inverse @ theta for theta in [lo, hi] (P,)."""
    center, half = inverse @ (0.5 * (lo + hi)), np.abs(inverse) @ (0.5 * (hi - lo))
    return center - half, center + half


def _narrowest(loss: Loss, prior: Gaussian, mode: Array, factor: Array) -> float:
    """The smallest standard deviation of a mode, by its curvature, in the units of u (at most 1)."""
    bend = factor.T @ (np.asarray(loss.hessian(mode)) + prior.precision) @ factor
    return float(1.0 / np.sqrt(max(1.0, float(np.linalg.eigvalsh(bend)[-1]))))


def _scale(loss: Loss, prior: Gaussian, mode: Array) -> Array:
    """A factor L with L L^T about the covariance at the mode; diagonal for a bounded loss, whose box it must keep."""
    hessian = np.asarray(loss.hessian(mode)) + prior.precision
    values, vectors = np.linalg.eigh(hessian)
    floor = np.linalg.eigvalsh(prior.precision)[0]
    values = np.maximum(values, floor)
    cov = (vectors / values) @ vectors.T
    return np.diag(np.sqrt(np.diag(cov))) if loss.bounds is not None else np.linalg.cholesky(0.5 * (cov + cov.T))


def _support(nodes: Nodes, lo: Array, hi: Array) -> tuple[Array, Array]:
    """The box that holds every node of relative density above exp(-45), slightly enlarged."""
    low, high = nodes.points.min(axis=0), nodes.points.max(axis=0)
    margin = 0.02 * (high - low) + 1e-9
    return np.maximum(lo, low - margin), np.minimum(hi, high + margin)


def _moments(nodes: Nodes, center: Array, factor: Array) -> tuple[Array, Array]:
    mean = nodes.weights @ nodes.points
    shifted = nodes.points - mean
    cov = (shifted * nodes.weights[:, None]).T @ shifted
    return center + factor @ mean, factor @ cov @ factor.T
