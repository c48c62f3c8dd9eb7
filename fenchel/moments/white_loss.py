"""The loss in whitened coordinates, with the two oracles of the dual: local maximizers and a global bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.losses import Loss
from fenchel.losses.accurate import EPS, TINY
from fenchel.losses.jumps import JumpPlanes
from fenchel.moments.directions import FLAT, affine_directions, directions
from fenchel.moments.moment_frame import MomentFrame
from fenchel.search.maximize import SearchResult, local_maximizers, maximize

__all__ = ["Minor", "WhiteLoss"]

Array = NDArray[np.float64]


class WhiteLoss:
    """l(m + L x) as a function of x, and sup_x l(m + L x) - Q(x).

    A loss of linear predictors is composed with the whitening, so that the search works in coordinates of size 1, free
    of the cancellation between a large mean and a small covariance; any other loss is searched where it was given.
    ``allowance``: see `Affine`.
    """

    def __init__(self, loss: Loss, frame: MomentFrame, allowance: float = 0.0) -> None:
        self.loss = loss
        self.frame = frame
        self.allowance = allowance
        self._linear = loss.in_predictors()
        self._white = None if self._linear is None else self._linear.compose(frame.factor, frame.mean)
        self._white_jumps = JumpPlanes.of(loss if self._white is None else self._white)
        self._jumps = JumpPlanes.of(loss)

    @classmethod
    def reduced(cls, loss: Loss, frame: MomentFrame) -> WhiteLoss:
        """The loss in the directions in which it is not affine, where the family allows to leave the others out.

        Along an affine direction the best quadratic is flat, so that the supremum would be attained on whole planes.
        """
        whole = cls(loss, frame)
        linear, white = whole._linear, whole._white
        if linear is None or white is None or frame.structure == "isotropic":
            return whole
        found = affine_directions(linear, white, frame.factor, frame.structure)
        if found is None:
            return whole
        slope = frame.factor.T @ (linear.b + linear.H @ frame.mean)
        return cls(loss, frame.reduced(found.kept, found.left, found.left.T @ slope), found.allowance)

    def split(self, share: float) -> Minor | None:
        """The directions along which the rows are below ``share`` of the largest, told from the others; or None."""
        if self._white is None or self.frame.structure == "isotropic":
            return None
        basis, singular = directions(self._white, self.frame.structure)
        major = singular > share * singular.max()
        if major.all() or not major.any():
            return None
        kept = basis[major].T
        frame = MomentFrame.of(np.zeros(kept.shape[1]), np.eye(kept.shape[1]), self.frame.structure)
        return Minor(WhiteLoss(self._white.compose(kept), frame), kept, basis[~major].T)

    def bend(self, basis: Array) -> Array:
        """A matrix (K, K) of the size of the curvature along ``basis`` (P, K), free of cancellation.

        For a loss of linear predictors: sum_i w_i z_i z_i^T + |H|, of the projected rows z_i.
        """
        if self._white is None:
            raise TypeError("only a loss of linear predictors has rows")
        quadratic = basis.T @ self._white.H @ basis
        rows = np.concatenate([np.sqrt(g.weights)[:, None] * (g.rows @ basis) for g in self._white.groups])
        return np.asarray(rows.T @ rows + float(np.linalg.norm(quadratic)) * np.eye(basis.shape[1]))

    def value(self, x: Array) -> Array:
        """(K, P) -> (K,)."""
        if self._white is not None:
            return np.asarray(self._white._value(x), dtype=float)
        theta = self.frame.to_theta(x)
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.asarray(self.loss._value(theta), dtype=float)
        if self.loss.bounds is not None:
            lo, hi = self.loss.bounds
            # The closed box counts, so a point on its face must survive the rounding of the change of coordinates.
            room = 1e-12 * (1.0 + np.abs(theta))
            values = np.where(np.all((theta >= lo - room) & (theta <= hi + room), axis=1), values, -np.inf)
        return values

    def rounding(self, x: Array, side: int) -> Array:
        """How much larger (``side`` 1) or smaller (-1) the loss may be than `value` at x: (K, P) -> (K,).

        The predictors are off by roundings of the *terms* of x_i . L x, whose sum may be far smaller than they are, and
        the sum over the data by roundings of its terms.
        """
        white, loss = self._white, self._linear
        if white is None or loss is None:
            return self.loss.rounding(self.frame.to_theta(x), side)
        # The directions left out are spread over points at this distance.
        left = self.frame.rest.shape[1]
        factor = np.abs(np.concatenate([self.frame.factor, self.frame.rest], axis=1))
        size = np.concatenate([np.abs(x), np.full((len(x), left), np.sqrt(left))], axis=1)
        dim = self.frame.mean.size * (1.0 if not left else FLAT / EPS) + 2.0
        bent = factor.T @ np.abs(loss.H)
        second = np.einsum("ki,ij,kj->k", size, bent @ factor, size)
        first = size @ (bent @ np.abs(self.frame.mean) + factor.T @ np.abs(loss.b))
        mean = np.abs(self.frame.mean)
        constant = abs(loss.c) + float(np.abs(loss.b) @ mean + mean @ np.abs(loss.H) @ mean)
        total = 4.0 * EPS * dim * (second + first + constant)
        for group, given in zip(white.groups, loss.groups, strict=True):
            z = group.predictors(x)
            off = EPS * (dim * size @ (np.abs(given.rows) @ factor).T + 2.0 * np.abs(group.offsets))
            total = total + group.moved(z, off, side)
        return np.asarray(total + self.allowance + TINY)

    def gradient(self, x: Array) -> Array:
        """(K, P) -> (K, P)."""
        if self._white is not None:
            return self._white._gradient(x)
        return np.asarray(self.loss._gradient(self.frame.to_theta(x)) @ self.frame.factor)

    def hessian(self, x: Array) -> Array:
        """(K, P) -> (K, P, P)."""
        if self._white is not None:
            return self._white._hessian(x)
        factor = self.frame.factor
        return np.asarray(factor.T @ self.loss._hessian(self.frame.to_theta(x)) @ factor)

    def local_maximizers(self, c: Array, starts: Array, deadline: float | None = None) -> tuple[Array, Array]:
        """Local maximizers (K, P) of l - Q reached from ``starts``, and the values of l - Q there (K,).

        Both are empty where l - Q is proved unbounded.
        """
        if self._white is not None:
            u, v, w = self.frame.quadratic(c)
            points, values = local_maximizers(self._white, -v, -w, starts, deadline)
            values = values - u
        else:
            u, lam1, lam2 = self.frame.about_mean(c)
            theta = self.frame.to_theta(starts)
            theta, values = local_maximizers(self.loss, lam1, lam2, theta, deadline, self.frame.mean)
            points, values = self.frame.to_white(theta), values - u
        keep = self._maximal(c, points, values)
        points, values = points[keep], values[keep]
        jumps = self._white_jumps.lowest(*self.frame.quadratic(c)[1:])
        if jumps.size:
            jumps = self.snap(jumps)
            points = np.concatenate([points, jumps])
            values = np.concatenate([values, self.value(jumps) - self.frame.features(jumps) @ c])
        return points, values

    def snap(self, x: Array) -> Array:
        """Whitened points that lie on a jump of the loss up to rounding, on its upper side whatever rounding does."""
        return self._white_jumps.snap(x, lambda points: self.value(points) - self.rounding(points, -1))

    def distribution(self, x: Array, weights: Array) -> tuple[Array, Array]:
        """Atoms theta (K', P) of whitened points, on the upper side of a jump, and their weights."""
        theta, weights = self.frame.complete(x, weights)
        # No more than the rounding of the change of coordinates: a longer move would spoil the moments.
        theta = self._jumps.snap(theta, self.loss._value, 2e-14)
        return theta if self.loss.bounds is None else np.clip(theta, *self.loss.bounds), weights

    def represented(self, x: Array) -> tuple[Array, Array]:
        """The whitened points at which `value` is taken, and what rounding may have moved them by: both (K, P).

        A user's loss is evaluated at the parameters nearest to m + L x that have a floating-point number; the loss of
        linear predictors at x itself.
        """
        if self._white is not None:
            return x, np.zeros(x.shape)
        frame = self.frame
        apart = frame.to_theta(x) - frame.mean
        return apart @ frame.inverse.T, 2.0 * EPS * (1.0 + frame.dim) * np.abs(apart) @ np.abs(frame.inverse).T

    def _maximal(self, c: Array, points: Array, values: Array) -> NDArray[np.bool_]:
        """Which points are stationary, or sit on a kink or jump from where no small step along the slope climbs."""
        if values.size == 0:
            return np.zeros(0, dtype=bool)
        slope = self.slope(c, points)
        norm = np.linalg.norm(slope, axis=1)
        size = 1.0 + np.linalg.norm(points, axis=1)
        steep = norm / size > 1e-7 * (1.0 + np.abs(values))
        # The best point is kept in any case: it carries the largest violation known.
        steep[np.argmax(values)] = False
        if steep.any():
            ahead = points[steep] + (1e-6 * size[steep] / norm[steep])[:, None] * slope[steep]
            steep[steep] = self.value(ahead) - self.frame.features(ahead) @ c > values[steep]
        return np.asarray(~steep, dtype=np.bool_)

    def shortfall(self, c: Array) -> float | None:
        """How much |x|^2 has to be added to Q for it to grow like the loss; None where the growth is not known."""
        if self._white is None:
            return None
        return max(0.0, float(np.linalg.eigvalsh(0.5 * self._white.H - self.frame.quadratic(c)[2])[-1]))

    @property
    def superquadratic(self) -> bool:
        """A user's loss declared without a curvature bound, a majorizer or bounds: no quadratic is known above it."""
        return self._white is None and self.loss.bounds is None and self.majorizer() is None

    def majorizer(self) -> tuple[float, Array, Array] | None:
        """(u, v, W) of the quadratic a user declared above the loss, or of the one its curvature gives; else None."""
        loss = self.loss
        if self._white is not None or loss.bounds is not None:
            return None
        mean, factor = self.frame.mean, self.frame.factor
        if loss.majorizer is not None:
            q = loss.majorizer
            height, slope, hessian = float(q(mean)), q.gradient(mean), q.H
        elif np.isfinite(loss.curvature):
            height, slope = float(loss(mean)), loss.gradient(mean)
            hessian = max(loss.curvature, 0.0) * np.eye(loss.dim)
        else:
            return None
        return height, slope @ factor, 0.5 * factor.T @ hessian @ factor

    def slope(self, c: Array, points: Array) -> Array:
        """Gradient of l - Q, (K, P)."""
        v, w = self.frame.quadratic(c)[1:]
        return np.asarray(self.gradient(points) - v - 2.0 * points @ w)

    def supremum(
        self, c: Array, *, tol: float, starts: Array | None, enough: float = np.inf, **budget: Any
    ) -> tuple[SearchResult, float, float]:
        """Certified search for sup l - Q, to ``tol`` in units of the loss; for ``enough`` see `maximize`.

        Returns the search in terms of x and l - Q, E_q[Q], and the sum of the sizes of the terms that were added up.
        """
        u, v, w = self.frame.quadratic(c)
        budget |= {"tol": tol / max(1.0, abs(u)), "enough": u + enough}
        if self._white is not None:
            found = maximize(self._white, -v, -w, starts=starts, **budget)
            return found.shifted(u), float(c @ self.frame.target), float(np.abs(c) @ np.abs(self.frame.target))
        lam1, lam2 = self.frame.about_mean(c)[1:]
        near = None if starts is None else self.frame.to_theta(starts)
        found = maximize(self.loss, lam1, lam2, starts=near, about=self.frame.mean, **budget)
        second = lam2 * (self.frame.factor @ self.frame.factor.T)
        return found.shifted(u, self.frame.to_white), u - float(second.sum()), abs(u) + float(np.abs(second).sum())


@dataclass(frozen=True)
class Minor:
    """x = kept x_1 + left x_2, orthonormal bases (P, r) and (P, P - r); ``major`` is the loss as a function of x_1."""

    major: WhiteLoss
    kept: Array
    left: Array
