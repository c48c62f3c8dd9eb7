"""The exact posterior as it is given to users: moments, density, marginals, samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.gaussian import Gaussian


@dataclass(frozen=True)
class ExactPosterior:
    """Mean (P,), covariance (P, P) and log evidence log Z of the posterior, with its density.

    ``error`` is the estimated absolute error of ``log_evidence``: for quadrature the larger of the adaptive rule's own
    estimate and its distance from a second, uniform rule; for MCMC the standard error of bridge sampling. It is inf
    where modes may have been missed, and ``message`` says which.
    ``nodes`` (n, P) and ``node_weights`` (n,) integrate against the posterior (`expectation`); for MCMC they are draws.
    ``diagnostics`` holds, by quadrature, ``log_evidence_second``, ``mean_change``, ``cov_change``; by MCMC, R-hat and
    effective sample sizes.
    """

    mean: Array
    cov: Array
    log_evidence: float
    error: float
    method: str
    nodes: Array = field(repr=False)
    node_weights: Array = field(repr=False)
    message: str = ""
    diagnostics: dict[str, Any] = field(default_factory=dict)
    _log_joint: Callable[[Array], Array] = field(default=lambda theta: theta[:, 0], repr=False)
    _frame: tuple[Array, Array, Array, Array] | None = field(default=None, repr=False)

    @property
    def dim(self) -> int:
        """P."""
        return int(self.mean.size)

    def gaussian(self) -> Gaussian:
        """The Gaussian with the posterior's mean and covariance (argmin over q of KL(posterior || q))."""
        return Gaussian(self.mean, self.cov)

    def log_density(self, theta: Any) -> Array:
        """log p(theta | data) at (n, P) points, (n,). With MCMC it carries the error of ``log_evidence``."""
        points = np.atleast_2d(np.asarray(theta, dtype=float))
        if self.dim == 1 and points.shape[0] == 1 and points.shape[1] != 1:
            points = points.T
        if points.shape[1] != self.dim:
            raise ValueError(f"theta must have shape (n, {self.dim}), got {np.shape(theta)}.")
        return np.asarray(self._log_joint(points) - self.log_evidence)

    def density(self, grid: Any) -> Array:
        """p(theta | data) at the points ``grid`` (..., P) (for P = 1 also (n,)); the shape without the last axis."""
        array = np.asarray(grid, dtype=float)
        if self.dim == 1 and (array.ndim < 2 or array.shape[-1] != 1):
            array = array[..., None]
        if array.shape[-1] != self.dim:
            raise ValueError(f"grid must have a last axis of length {self.dim}, got shape {array.shape}.")
        return np.exp(self.log_density(array.reshape(-1, self.dim))).reshape(array.shape[:-1])

    def expectation(self, function: Callable[[Array], Array]) -> Array:
        """E[function(theta)]: ``function`` maps (n, P) to (n,) or (n, k); returns a float array () or (k,)."""
        values = np.asarray(function(self.nodes))
        return np.asarray(np.tensordot(self.node_weights, values, axes=1))

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """``n`` draws (n, P): by rejection from the interpolated density on a grid, or from the stored MCMC draws."""
        if n < 0:
            raise ValueError(f"n must not be negative, got {n}.")
        if self._frame is None:
            return self.nodes[rng.choice(len(self.nodes), size=n, p=self.node_weights)]
        center, factor, lo, hi = self._frame
        count = 4001 if self.dim == 1 else 401
        axes = [np.linspace(lo[j], hi[j], count) for j in range(self.dim)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, self.dim)
        step = (hi - lo) / (count - 1)
        logs = self._log_joint(center + grid @ factor.T) - self.log_evidence
        density = np.exp(np.maximum(logs, -745.0))
        cumulative = np.cumsum(density)
        draws: list[Array] = []
        missing = n
        while missing > 0:
            # A grid node by its mass plus triangular noise has exactly the multilinear interpolant as its density.
            nodes = np.searchsorted(cumulative, rng.uniform(size=missing) * cumulative[-1])
            noise = rng.uniform(size=(missing, self.dim)) - rng.uniform(size=(missing, self.dim))
            u = grid[np.minimum(nodes, len(grid) - 1)] + noise * step
            interpolant = _interpolate(density.reshape([count] * self.dim), (u - lo) / step)
            exact = np.exp(self._log_joint(center + u @ factor.T) - self.log_evidence)
            accepted = u[rng.uniform(size=missing) * 1.05 * interpolant <= exact]
            draws.append(center + accepted @ factor.T)
            missing -= len(accepted)
        return np.concatenate(draws) if draws else np.empty((0, self.dim))


def _interpolate(values: Array, position: Array) -> Array:
    """Multilinear interpolation of ``values`` at fractional indices (n, P), zero outside."""
    base = np.floor(position).astype(int)
    fraction = position - base
    total = np.zeros(len(position))
    for corner in np.ndindex(*[2] * values.ndim):
        index = base + np.array(corner)
        inside = ((index >= 0) & (index < np.array(values.shape))).all(axis=1)
        safe = np.where(inside[:, None], index, 0)
        weight = np.where(np.array(corner) == 1, fraction, 1.0 - fraction).prod(axis=1)
        total += np.where(inside, weight * values[tuple(safe.T)], 0.0)
    return total
