"""The moment class of q in whitened coordinates x = L^-1 (theta - m): features, quadratics, and back.

Every solver of the moment problem (theory of f**: epi f** is the closed convex hull of the lifted curve
theta -> (T(theta), -l(theta))) works in these coordinates, where q has mean 0 and covariance I whatever its scale.
The three families are closed under their own whitening, so nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fenchel.losses.accurate import EPS, accurate_predictors
from fenchel.results import Natural

__all__ = ["STRUCTURES", "MomentFrame"]

Array = NDArray[np.float64]
STRUCTURES = ("full", "diagonal", "isotropic")


@dataclass(frozen=True)
class MomentFrame:
    """Mean (P,), factor L (P, r) with its left inverse (r, P), and the family's name; r = P unless reduced.

    A quadratic is a coefficient vector c (D,) of the features (1, x, second-order block) of the r whitened coordinates:
    Q(x) = c . features(x), and E_q[Q] = c . target for every distribution with q's moments.

    A reduced frame (see `reduced`) leaves out directions of x in which the loss is affine: ``rest`` (P, P - r) spans
    them (whitened, in the units of theta) and ``tilt`` (P,) is the slope of the loss in them.
    ``drift`` bounds how far the rounding of L leaves the whitened covariance from the identity (largest entry).
    """

    mean: Array
    factor: Array
    inverse: Array
    structure: str
    rest: Array
    tilt: Array
    drift: float = 0.0

    @classmethod
    def of(cls, mean: Array, cov: Array, structure: str) -> MomentFrame:
        """Frame of the moments that ``structure`` sees: all of ``cov``, its diagonal, or its trace."""
        dim = mean.size
        if structure == "full":
            factor = np.linalg.cholesky(cov)
        elif structure == "diagonal":
            factor = np.diag(np.sqrt(np.diag(cov)))
        elif structure == "isotropic":
            factor = float(np.sqrt(np.trace(cov) / dim)) * np.eye(dim)
        else:
            raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}; got {structure!r}.")
        root: Array = np.array(factor, dtype=np.float64)
        inverse = np.asarray(np.linalg.inv(root), dtype=float)
        drift = 4.0 * EPS
        if structure == "full":
            left = np.stack([accurate_predictors(root, -root[j], cov[:, j]) for j in range(dim)])
            drift += 2.0 * float(np.linalg.norm(inverse @ left @ inverse.T))
        return cls(np.array(mean, dtype=float), root, inverse, structure, np.zeros((dim, 0)), np.zeros(dim), drift)

    def reduced(self, kept: Array, left: Array, slope: Array) -> MomentFrame:
        """The frame of the coordinates kept^T x, for a loss that along ``left`` only has the ``slope`` (P - r,).

        ``kept`` (P, r) and ``left`` (P, P - r) are orthonormal bases of complementary subspaces (of coordinates, in the
        diagonal family). The other coordinates carry their share of the covariance whatever the loss does, so the
        problem in r dimensions has the same value.
        """
        tilt = self.inverse.T @ (left @ slope)
        return MomentFrame(
            self.mean, self.factor @ kept, kept.T @ self.inverse, self.structure, self.factor @ left, tilt, self.drift
        )

    @property
    def dim(self) -> int:
        """r, the number of whitened coordinates."""
        return int(self.factor.shape[1])

    def complete(self, x: Array, weights: Array) -> tuple[Array, Array]:
        """Atoms theta (K', P) and weights (K',) with q's moments, from x (K, r) that have the reduced ones.

        Every atom is spread over the sigma points of the coordinates left out, in +- pairs.
        """
        theta = self.to_theta(x)
        left = self.rest.shape[1]
        if left == 0:
            return theta, weights
        steps = np.sqrt(left) * np.concatenate([self.rest.T, -self.rest.T])
        spread = (theta[:, None, :] + steps[None, :, :]).reshape(-1, self.mean.size)
        return spread, np.repeat(weights / (2 * left), 2 * left)

    @cached_property
    def pairs(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Index pairs (i <= j) of the second-order block of the full family."""
        rows, columns = np.triu_indices(self.dim)
        return rows.astype(np.intp), columns.astype(np.intp)

    @cached_property
    def target(self) -> Array:
        """E_q of the features (D,)."""
        p = self.dim
        if self.structure == "full":
            second = np.eye(p)[self.pairs]
        elif self.structure == "diagonal":
            second = np.ones(p)
        else:
            second = np.array([float(p)])
        return np.concatenate([[1.0], np.zeros(p), second])

    @property
    def size(self) -> int:
        """D = 1 + dim T."""
        return int(self.target.size)

    def to_theta(self, x: Array) -> Array:
        """(K, r) whitened points to parameters (K, P)."""
        return self.mean + x @ self.factor.T

    def to_white(self, theta: Array) -> Array:
        """(K, P) parameters to whitened points (K, r)."""
        return (theta - self.mean) @ self.inverse.T

    def features(self, x: Array) -> Array:
        """(K, r) -> (K, D)."""
        if self.structure == "full":
            rows, columns = self.pairs
            second = x[:, rows] * x[:, columns]
        elif self.structure == "diagonal":
            second = x * x
        else:
            second = np.sum(x * x, axis=1, keepdims=True)
        return np.concatenate([np.ones((x.shape[0], 1)), x, second], axis=1)

    def quadratic(self, c: Array) -> tuple[float, Array, Array]:
        """Coefficients to (u, v, W): Q(x) = u + v.x + x^T W x."""
        p = self.dim
        second = c[1 + p :]
        if self.structure == "full":
            w = np.zeros((p, p))
            w[self.pairs] = second
            w = 0.5 * (w + w.T)
        elif self.structure == "diagonal":
            w = np.diag(second)
        else:
            w = second[0] * np.eye(p)
        return float(c[0]), c[1 : 1 + p], w

    def coefficients(self, u: float, v: Array, w: Array) -> Array:
        """(u, v, W) to coefficients; W must lie in the family."""
        if self.structure == "full":
            rows, columns = self.pairs
            second = np.where(rows == columns, 1.0, 2.0) * w[rows, columns]
        elif self.structure == "diagonal":
            second = np.diag(w)
        else:
            second = np.array([w[0, 0]])
        return np.concatenate([[u], v, second])

    def jacobians(self, x: Array) -> Array:
        """Derivatives of the features: (K, r) -> (K, r, D)."""
        k, p = x.shape
        out = np.zeros((k, p, self.size))
        index = np.arange(p)
        out[:, index, 1 + index] = 1.0
        if self.structure == "full":
            rows, columns = self.pairs
            slot = 1 + p + np.arange(rows.size)
            out[:, rows, slot] += x[:, columns]
            out[:, columns, slot] += x[:, rows]
        elif self.structure == "diagonal":
            out[:, index, 1 + p + index] = 2.0 * x
        else:
            out[:, :, 1 + p] = 2.0 * x
        return out

    def about_mean(self, c: Array) -> tuple[float, Array, Array]:
        """Coefficients to (u, lam1, lam2) with Q(theta) = u - lam1.d - d^T lam2 d, d = theta - mean; lam2 is (P, P)."""
        u, v, w = self.quadratic(c)
        lam2 = -(self.inverse.T @ w @ self.inverse)
        if self.structure != "full":
            lam2 = np.diag(np.diag(lam2))
        return u, -(self.inverse.T @ v + self.tilt), 0.5 * (lam2 + lam2.T)

    def to_natural(self, c: Array) -> tuple[float, Array, Array]:
        """Coefficients to (t, lam1, lam2) with Q(theta) = t - lam1.theta - theta^T lam2 theta; lam2 is (P, P)."""
        u, slope, lam2 = self.about_mean(c)
        t = u + slope @ self.mean - self.mean @ lam2 @ self.mean
        return float(t), slope - 2.0 * lam2 @ self.mean, lam2

    def from_natural(self, t: float, lam1: Array, lam2: Array) -> Array:
        """Inverse of `to_natural`."""
        w = -(self.factor.T @ lam2 @ self.factor)
        v = -self.factor.T @ (lam1 + 2.0 * lam2 @ self.mean + self.tilt)
        u = t - lam1 @ self.mean - self.mean @ lam2 @ self.mean
        return self.coefficients(float(u), v, w)

    def blocks(self, lam1: Array, lam2: Array) -> Natural:
        """Natural parameter with lam2 in the family's own shape: (P, P), (P,) or ()."""
        if self.structure == "full":
            return Natural(lam1, lam2)
        if self.structure == "diagonal":
            return Natural(lam1, np.diag(lam2).copy())
        return Natural(lam1, np.array(lam2[0, 0]))

    def matrix(self, lam2: Array) -> Array:
        """A second block in any family's shape as a (P, P) matrix."""
        block = np.asarray(lam2, dtype=float)
        if block.ndim == 2:
            return block
        return block * np.eye(self.mean.size) if block.ndim == 0 else np.diag(block)

    def pairing(self, lam1: Array, lam2: Array) -> tuple[float, float]:
        """<lambda', mu> and the sum of the sizes of its terms, which bounds its rounding error."""
        second = np.outer(self.mean, self.mean) + self.factor @ self.factor.T
        terms = np.concatenate([lam1 * self.mean, (lam2 * second).ravel()])
        return float(np.sum(terms)), float(np.sum(np.abs(terms)))
