"""The sufficient statistics of a Gaussian family as a vector T(theta) (D,), with the moments that Eq. 18 needs.

A natural parameter (lam1, lam2) becomes a vector c (D,) with c.T(theta) = <lambda, T(theta)>: lam1, then the upper
triangle of lam2 (full), lam2 (diagonal), or the number lam2 (isotropic).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fenchel.arrays import Array
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.results import Natural


@dataclass(frozen=True)
class Statistics:
    """T for dimension ``dim`` and one of the structures "full", "diagonal", "isotropic"."""

    dim: int
    structure: str

    @cached_property
    def forms(self) -> Array:
        """(D - P, P, P): the symmetric matrices B_k of the second-order statistics theta^T B_k theta."""
        eye = np.eye(self.dim)
        if self.structure == "isotropic":
            return eye[None]
        if self.structure == "diagonal":
            return np.asarray(np.einsum("ki,kj->kij", eye, eye))
        i, j = np.triu_indices(self.dim)
        # An off-diagonal entry of lam2 counts twice in <lam2, theta theta^T>.
        one = np.einsum("ki,kj->kij", eye[i], eye[j])
        both = one + np.transpose(one, (0, 2, 1))
        return np.asarray(np.where((i == j)[:, None, None], one, both))

    @property
    def size(self) -> int:
        """D = dim T."""
        return self.dim + len(self.forms)

    def vector(self, natural: Natural) -> Array:
        """(lam1, lam2) -> c (D,)."""
        block = np.asarray(natural.lam2, dtype=float)
        if self.structure == "full":
            return np.concatenate([natural.lam1, block[np.triu_indices(self.dim)]])
        return np.concatenate([natural.lam1, np.ravel(block)])

    def natural(self, c: Array) -> Natural:
        """c (D,) -> (lam1, lam2) in the structure's blocks."""
        second = c[self.dim :]
        if self.structure == "isotropic":
            return Natural(c[: self.dim], np.asarray(second[0]))
        if self.structure == "diagonal":
            return Natural(c[: self.dim], second)
        block = np.zeros((self.dim, self.dim))
        block[np.triu_indices(self.dim)] = second
        return Natural(c[: self.dim], block + np.triu(block, 1).T)

    def matrix(self, c: Array) -> Array:
        """lam2 as a (P, P) matrix."""
        block = np.asarray(self.natural(c).lam2)
        return block if block.ndim == 2 else np.diag(np.broadcast_to(block, (self.dim,)))

    def values(self, theta: Array) -> Array:
        """T at (n, P): (n, D)."""
        return np.concatenate([theta, np.einsum("ni,kij,nj->nk", theta, self.forms, theta)], axis=1)

    def jacobian(self, theta: Array) -> Array:
        """dT/dtheta at (n, P): (n, D, P)."""
        linear = np.broadcast_to(np.eye(self.dim), (len(theta), self.dim, self.dim))
        return np.concatenate([linear, 2.0 * np.einsum("kij,nj->nki", self.forms, theta)], axis=1)

    def mean(self, q: Gaussian) -> Array:
        """E_q[T] (D,)."""
        second = q.cov + np.outer(q.mean, q.mean)
        return np.concatenate([q.mean, np.einsum("kij,ij->k", self.forms, second)])

    def covariance(self, q: Gaussian) -> Array:
        """Cov_q[T] (D, D): the Hessian of the log-partition of the family at q."""
        slopes = np.concatenate([np.eye(self.dim), 2.0 * self.forms @ q.mean])
        total = slopes @ q.cov @ slopes.T
        inner = self.forms @ q.cov
        total[self.dim :, self.dim :] += 2.0 * np.einsum("aij,bji->ab", inner, inner)
        return np.asarray(total)


def tangent_natural(loss: Loss, atoms: Array, structure: str) -> tuple[Natural, float]:
    """The natural parameter lambda' whose quadratic t - <lambda', T> touches l at all ``atoms`` (K, P), and the misfit.

    At a solution of the moment problem this is grad f**: value and slope of l agree with the quadratic's at every atom.
    The misfit is the largest violation of these equations, about 0 where there is such a quadratic.
    """
    statistics = Statistics(loss.dim, structure)
    values = np.hstack([statistics.values(atoms), -np.ones((len(atoms), 1))])
    slopes = np.transpose(statistics.jacobian(atoms), (0, 2, 1)).reshape(-1, statistics.size)
    system = np.vstack([values, np.hstack([slopes, np.zeros((len(slopes), 1))])])
    right = -np.concatenate([np.asarray(loss(atoms)), np.asarray(loss.gradient(atoms)).ravel()])
    solution = np.linalg.lstsq(system, right, rcond=None)[0]
    return statistics.natural(solution[:-1]), float(np.abs(system @ solution - right).max())
