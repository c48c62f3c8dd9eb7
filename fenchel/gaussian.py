"""Gaussian families (full, diagonal, isotropic) in their three coordinate systems (Eqs. 5, 6 and 19)."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from fenchel.arrays import Array
from fenchel.divergence import dense, kl_divergence, times
from fenchel.errors import DomainError
from fenchel.losses.inputs import finite_array, finite_vector
from fenchel.results import Natural

Structure = Literal["full", "diagonal", "isotropic"]
STRUCTURES: tuple[Structure, ...] = ("full", "diagonal", "isotropic")

# (mu1, mu2) has the same shape and behaviour as (lam1, lam2).
Expectation = tuple[Array, Array]


class Gaussian:
    """q = N(mean, cov), immutable.

    Args:
        mean: (P,), finite; a number is a 1-vector.
        cov: (P, P) symmetric positive definite ("full"), (P,) positive ("diagonal"), or a positive number
            ("isotropic"): variances, not standard deviations. It fixes ``structure`` and the shape of every block.

    The sufficient statistics are T(theta) = (theta, theta theta^T), (theta, theta^2) or (theta, |theta|^2), so the
    second blocks of `natural` and `expectation` are (P, P), (P,) or 0-d.

    Raises:
        ValueError: a shape does not fit, an entry is not finite, or cov is not symmetric.
        DomainError: cov is not positive definite (a ValueError as well).
    """

    def __init__(self, mean: Any, cov: Any) -> None:
        self._mean = finite_vector(mean, "mean")
        if self._mean.size == 0:
            raise ValueError("mean must have at least one entry")
        block = finite_array(cov, "cov")
        if block.ndim > 2:
            raise ValueError(f"cov must be a matrix, a vector or a number, got an array with {block.ndim} axes")
        self._structure: Structure = _structure_of(block)
        if block.ndim and block.shape != (self.dim,) * block.ndim:
            raise ValueError(f"cov must match the mean of length {self.dim}, got shape {block.shape}")
        self._block = _positive_definite(block, "cov")
        self._mean.setflags(write=False)
        self._block.setflags(write=False)

    @classmethod
    def from_natural(cls, lam1: Any, lam2: Any) -> Gaussian:
        """The Gaussian with natural parameter (lam1, lam2), lam2 = -precision/2 in one of the three shapes.

        Raises:
            DomainError: -lam2 is not positive definite, so that (lam1, lam2) lies outside Omega.
        """
        lam1 = finite_vector(lam1, "lam1")
        block = finite_array(lam2, "lam2")
        if block.ndim > 2 or (block.ndim and block.shape != (lam1.size,) * block.ndim):
            raise ValueError(f"lam2 must match lam1 of length {lam1.size}, got shape {block.shape}")
        try:
            precision = _positive_definite(-2.0 * block, "precision")
        except DomainError as error:
            raise DomainError("lam2 must be negative definite: (lam1, lam2) lies outside Omega") from error
        cov = _inverse(precision)
        return cls(times(cov, lam1), cov)

    @classmethod
    def from_expectation(cls, mu1: Any, mu2: Any) -> Gaussian:
        """The Gaussian with expectation parameter (mu1, mu2).

        Raises:
            DomainError: mu2 leaves no positive definite covariance, so that (mu1, mu2) lies outside M.
        """
        mean = finite_vector(mu1, "mu1")
        block = finite_array(mu2, "mu2")
        if block.ndim > 2 or (block.ndim and block.shape != (mean.size,) * block.ndim):
            raise ValueError(f"mu2 must match mu1 of length {mean.size}, got shape {block.shape}")
        cov = block - _square(mean, block.ndim)
        try:
            return cls(mean, cov / mean.size if block.ndim == 0 else cov)
        except DomainError as error:
            raise DomainError("mu2 is too small for mu1: (mu1, mu2) lies outside M") from error

    @property
    def structure(self) -> Structure:
        """The family: "full", "diagonal" or "isotropic"."""
        return self._structure

    @property
    def dim(self) -> int:
        """P."""
        return int(self._mean.size)

    @property
    def mean(self) -> Array:
        """m, (P,), read-only."""
        return self._mean

    @property
    def cov_block(self) -> Array:
        """The covariance in the structure's own shape: (P, P), (P,) or 0-d; read-only."""
        return self._block

    @cached_property
    def cov(self) -> Array:
        """S, (P, P)."""
        return dense(self._block, self.dim)

    @cached_property
    def precision_block(self) -> Array:
        """The precision in the structure's own shape."""
        return _inverse(self._block)

    @cached_property
    def precision(self) -> Array:
        """S^-1, (P, P)."""
        return dense(self.precision_block, self.dim)

    @cached_property
    def logdet(self) -> float:
        """log det S."""
        if self._block.ndim == 2:
            return float(2.0 * np.log(np.diag(np.linalg.cholesky(self._block))).sum())
        return float(np.log(self._block).sum() * (self.dim if self._block.ndim == 0 else 1))

    def natural(self) -> Natural:
        """(lam1, lam2) = (S^-1 m, -S^-1/2), blocks in the structure's own shape."""
        precision = self.precision_block
        return Natural(times(precision, self._mean), -0.5 * precision)

    def expectation(self) -> Expectation:
        """(mu1, mu2) = E_q[T(theta)], blocks in the structure's own shape."""
        scale = self.dim if self._block.ndim == 0 else 1
        return self._mean.copy(), np.asarray(self._block * scale + _square(self._mean, self._block.ndim))

    def with_structure(self, structure: Structure) -> Gaussian:
        """q as a member of another family; into a smaller one by matching its moments (diagonal of S, trace / P)."""
        if structure not in STRUCTURES:
            raise ValueError(f"structure must be one of {STRUCTURES}, got {structure!r}")
        if structure == "full":
            return Gaussian(self._mean, self.cov)
        diagonal = np.diag(self.cov)
        return Gaussian(self._mean, diagonal if structure == "diagonal" else float(diagonal.mean()))

    def log_partition(self) -> float:
        """A(lambda) = 1/2 m^T S^-1 m + 1/2 log det S + P/2 log 2 pi."""
        return float(0.5 * (self._mean @ times(self.precision_block, self._mean) + self.logdet + self.dim * _LOG_2PI))

    def entropy(self) -> float:
        """H(q) = 1/2 log det S + P/2 (1 + log 2 pi), in nats."""
        return 0.5 * (self.logdet + self.dim * (1.0 + _LOG_2PI))

    def kl(self, other: Gaussian) -> float:
        """KL(self || other), in nats; the structures may differ.

        Raises:
            ValueError: the dimensions differ.
        """
        if other.dim != self.dim:
            raise ValueError(f"other must have dimension {self.dim}, got {other.dim}")
        return kl_divergence(self._mean, self._block, other.mean, other.cov_block).value

    def log_density(self, theta: Any) -> Array | float:
        """log q(theta) for theta (n, P) -> (n,), or (P,) -> float."""
        points = np.asarray(theta, dtype=float)
        if points.shape[-1:] != (self.dim,) or points.ndim > 2:
            raise ValueError(f"theta must have shape (P,) or (n, P) with P = {self.dim}, got {points.shape}")
        step = points - self._mean
        scaled = step @ self.precision if self._block.ndim == 2 else step * self.precision_block
        value = -0.5 * (np.sum(step * scaled, axis=-1) + self.logdet + self.dim * _LOG_2PI)
        return float(value) if points.ndim == 1 else value

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """n draws, (n, P)."""
        noise = rng.standard_normal((n, self.dim))
        if self._block.ndim == 2:
            return self._mean + noise @ np.linalg.cholesky(self._block).T
        return self._mean + noise * np.sqrt(self._block)

    def __repr__(self) -> str:
        return f"Gaussian(mean={self._mean.tolist()}, cov={self._block.tolist()}, structure={self._structure!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Gaussian):
            return NotImplemented
        same = self._structure == other._structure and self.dim == other.dim
        return bool(same and np.array_equal(self._mean, other._mean) and np.array_equal(self._block, other._block))

    def __hash__(self) -> int:
        return hash((self._structure, self._mean.tobytes(), self._block.tobytes()))


_LOG_2PI = float(np.log(2.0 * np.pi))


def _structure_of(block: Any) -> Structure:
    return ("isotropic", "diagonal", "full")[np.ndim(block)]


def _positive_definite(block: Array, name: str) -> Array:
    if block.ndim < 2:
        if np.any(block <= 0.0):
            raise DomainError(f"{name} must be positive, got {block.tolist()}")
        return block
    if np.abs(block - block.T).max() > 1e-9 * np.abs(block).max():
        raise ValueError(f"{name} must be symmetric")
    block = 0.5 * (block + block.T)
    try:
        np.linalg.cholesky(block)
    except np.linalg.LinAlgError as error:
        smallest = float(np.linalg.eigvalsh(block)[0])
        raise DomainError(f"{name} must be positive definite, its smallest eigenvalue is {smallest:.3g}") from error
    return block


def _inverse(block: Array) -> Array:
    if block.ndim < 2:
        return np.asarray(1.0 / block)
    inverse: Array = cho_solve(cho_factor(block, lower=True), np.eye(block.shape[0]))
    return 0.5 * (inverse + inverse.T)


def _square(mean: Array, ndim: int) -> Array:
    return np.asarray((mean @ mean, mean * mean, np.outer(mean, mean))[ndim])
