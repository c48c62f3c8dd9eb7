"""h(theta) = l(theta) + lam1.theta + theta^T lam2 theta in whitened coordinates, with upper bounds on boxes.

With theta = origin + basis u the models below offer values, gradients and Hessians at points u, and on boxes of u a
quadratic v + g.d + d^T K d / 2, d = u - ref, that lies above h on the whole box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.losses import LinearPredictorLoss, Loss, Terms
from fenchel.losses.accurate import EPS
from fenchel.losses.linear_predictor import outer_sum
from fenchel.search.parabolas import best_on_average

__all__ = ["Anchors", "LinearModel", "Model", "UserModel"]

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Majorant = tuple[Array, Array, Array]
# In place of an infinite curvature, which would turn into NaN times zero: above a kink this parabola is too low by at
# most 1e-100, and no box is ever so small that a bound with it could close it.
_STEEPEST = 1e100


@dataclass(frozen=True, eq=False)
class Anchors:
    """h and its links at K points: u (K, D), value (K,), slope (K, D), and per group (z, g(z), g'(z)), each (K, n)."""

    u: Array
    value: Array
    slope: Array
    links: list[tuple[Array, Array, Array]]


class _Frame:
    """theta = origin + basis u and the quadratic part constant + linear.u - u^T concave u / 2 of h."""

    def __init__(self, origin: Array, basis: Array, concave: Array, linear: Array, constant: float) -> None:
        self.origin, self.basis, self.constant = origin, basis, constant
        self.dim = basis.shape[1]
        self.concave, self.linear = concave, linear
        self.whitened = bool(np.array_equal(concave, np.eye(self.dim)))
        self.terms = 1
        # What rounding of theta makes of u.
        self.coarse = EPS * np.abs(np.linalg.pinv(basis)) @ np.abs(origin) if origin.any() else np.zeros(self.dim)

    def theta(self, u: Array) -> Array:
        """(n, D) -> (n, P)."""
        return np.asarray(self.origin + u @ self.basis.T)

    def coordinates(self, theta: Array) -> Array:
        """(n, P) -> (n, D), the nearest point where basis has fewer columns than rows."""
        return np.asarray(np.linalg.lstsq(self.basis, (theta - self.origin).T, rcond=None)[0].T)

    def noise(self, u: Array, value: Array, slope: Array) -> Array:
        """What values at u (n, D) may be off by: as sums of many terms, and because theta is rounded."""
        summed = 4e-16 * (1.0 + 2.0 * float(np.sqrt(self.terms))) * (1.0 + np.abs(value))
        return np.asarray(summed + np.abs(slope - self.linear + u @ self.concave) @ self.coarse)

    def _quadratic(self, u: Array) -> tuple[Array, Array]:
        bent = u @ self.concave
        return self.constant + u @ self.linear - 0.5 * np.einsum("ni,ni->n", u, bent), self.linear - bent


class LinearModel(_Frame):
    """A `LinearPredictorLoss`; ``concave``, ``linear`` and ``constant`` include the loss's own quadratic."""

    def __init__(
        self, loss: LinearPredictorLoss, origin: Array, basis: Array, concave: Array, linear: Array, constant: float
    ) -> None:
        super().__init__(origin, basis, concave, linear, constant)
        self.loss = loss
        self.groups = [Terms(g.link, g.rows @ basis, g.predictors(origin), g.weights) for g in loss.groups]
        self._sizes = [np.abs(g.rows).T for g in self.groups]
        self.terms = sum(g.rows.shape[0] for g in self.groups)
        self.convex = all(g.link.convex for g in self.groups)
        self.continuous = loss.continuous

    def rotated(self, axes: Array) -> LinearModel:
        """The same h in coordinates u' with u = axes u', axes orthogonal; for whitened models."""
        return LinearModel(self.loss, self.origin, self.basis @ axes, self.concave, self.linear @ axes, self.constant)

    def value(self, u: Array) -> Array:
        total, _ = self._quadratic(u)
        for g in self.groups:
            total = total + g.link.value(g.predictors(u)) @ g.weights
        return total

    def tangent(self, u: Array) -> tuple[Array, Array]:
        value, slope = self._quadratic(u)
        for g in self.groups:
            v, s = g.link.tangent(g.predictors(u))
            value = value + v @ g.weights
            slope = slope + (s * g.weights) @ g.rows
        return value, slope

    def derivatives(self, u: Array) -> tuple[Array, Array, Array]:
        value, slope = self._quadratic(u)
        matrix = np.broadcast_to(-self.concave, (u.shape[0], self.dim, self.dim))
        for g in self.groups:
            z = g.predictors(u)
            v, s = g.link.tangent(z)
            value = value + v @ g.weights
            slope = slope + (s * g.weights) @ g.rows
            matrix = matrix + outer_sum(g.link.curvature(z) * g.weights, g.rows)
        return value, slope, matrix

    def majorant(self, center: Array, half: Array, spread: float = 0.0) -> Majorant:
        """One quadratic a box, tangent to h at the box's center wherever the links allow.

        With ``spread`` > 0 the terms' parabolas are best on average over box points of ``spread`` times the variance of
        the corners, and touch their terms elsewhere.
        """
        value, slope = self._quadratic(center)
        matrix = np.broadcast_to(-self.concave, (center.shape[0], self.dim, self.dim))
        for g, size in zip(self.groups, self._sizes, strict=True):
            z, reach = g.predictors(center), half @ size
            if spread:
                v, s, kappa = best_on_average(g.link, z, reach, spread * (np.square(half) @ np.square(size)))
            else:
                v, s, kappa = g.link.majorant(z, z - reach, z + reach)
            kappa = np.minimum(kappa, _STEEPEST)
            value = value + v @ g.weights
            slope = slope + (s * g.weights) @ g.rows
            matrix = matrix + outer_sum(kappa * g.weights, g.rows)
        return value, slope, matrix

    def anchored(self, anchors: Anchors, which: Index, center: Array, half: Array) -> Majorant:
        """One quadratic a box, tangent to h at the point anchors.u[which[b]], in powers of u - center."""
        matrix = np.broadcast_to(-self.concave, (center.shape[0], self.dim, self.dim))
        for g, size, (z0, v, s) in zip(self.groups, self._sizes, anchors.links, strict=True):
            z, reach = g.predictors(center), half @ size
            kappa = g.link.majorant_curvature(z0[which], z - reach, z + reach, (v[which], s[which]))
            matrix = matrix + outer_sum(np.minimum(kappa, _STEEPEST) * g.weights, g.rows)
        return _recentred(anchors, which, matrix, center)

    def anchors(self, u: Array) -> Anchors:
        """What `anchored` needs to know at the points u (K, D)."""
        value, slope = self.tangent(u)
        links = []
        for g in self.groups:
            z = g.predictors(u)
            links.append((z, *g.link.tangent(z)))
        return Anchors(u, value, slope, links)

    def error_weights(self, matrix: Array) -> Array:
        """Per axis, the curvature that the bounds add to h: splitting along the largest gains most."""
        return np.asarray(np.einsum("bii->bi", matrix) + np.diagonal(self.concave))


class UserModel(_Frame):
    """Any loss: bounds from its largest curvature and from its majorizer."""

    def __init__(self, loss: Loss, origin: Array, basis: Array, concave: Array, linear: Array, constant: float) -> None:
        super().__init__(origin, basis, concave, linear, constant)
        self.loss = loss
        self.convex, self.continuous = False, True
        curved = loss.curvature * (basis.T @ basis) if np.isfinite(loss.curvature) else None
        self._bound = None if curved is None else curved - concave
        q = loss.majorizer
        self._majorizer = None
        if q is not None:
            H = basis.T @ q.H @ basis
            height = float(q(origin)) + 2.0 * float(q.rounding(origin[None, :], 1)[0])
            self._majorizer = (height, basis.T @ (q.b + q.H @ origin), H)

    def theta(self, u: Array) -> Array:
        """(n, D) -> (n, P), never outside the loss's bounds."""
        theta = super().theta(u)
        return theta if self.loss.bounds is None else np.clip(theta, *self.loss.bounds)

    def value(self, u: Array) -> Array:
        return self._quadratic(u)[0] + self.loss._value(self.theta(u))

    def tangent(self, u: Array) -> tuple[Array, Array]:
        value, slope = self._quadratic(u)
        theta = self.theta(u)
        return value + self.loss._value(theta), slope + self.loss._gradient(theta) @ self.basis

    def derivatives(self, u: Array) -> tuple[Array, Array, Array]:
        value, slope = self.tangent(u)
        hessian = self.basis.T @ self.loss._hessian(self.theta(u)) @ self.basis - self.concave
        return value, slope, hessian

    def majorant(self, center: Array, half: Array, spread: float = 0.0) -> Majorant:
        value, slope = self.tangent(center)
        shape = (center.shape[0], self.dim, self.dim)
        bound = self._steep(shape) if self._bound is None else np.broadcast_to(self._bound, shape)
        return value, slope, bound

    def anchored(self, anchors: Anchors, which: Index, center: Array, half: Array) -> Majorant:
        shape = (center.shape[0], self.dim, self.dim)
        bound = self._steep(shape) if self._bound is None else np.broadcast_to(self._bound, shape)
        return _recentred(anchors, which, bound, center)

    def anchors(self, u: Array) -> Anchors:
        return Anchors(u, *self.tangent(u), [])

    def _steep(self, shape: tuple[int, int, int]) -> Array:
        return np.broadcast_to(_STEEPEST * np.eye(self.dim), shape)

    def from_majorizer(self, center: Array) -> Majorant | None:
        """The declared majorizer plus the concave quadratic, about each center; None without a majorizer."""
        if self._majorizer is None:
            return None
        constant, linear, H = self._majorizer
        value, slope = self._quadratic(center)
        bent = center @ H
        value = value + constant + center @ linear + 0.5 * np.einsum("ni,ni->n", center, bent)
        return value, slope + linear + bent, np.broadcast_to(H - self.concave, (center.shape[0], *H.shape))

    def error_weights(self, matrix: Array) -> Array:
        return np.asarray(np.ones(matrix.shape[:2]) * np.einsum("ij,ij->j", self.basis, self.basis))


def _recentred(anchors: Anchors, which: Index, matrix: Array, center: Array) -> Majorant:
    """value + slope.d + d^T K d / 2 in d = u - anchor, in powers of u - center."""
    shift = center - anchors.u[which]
    slope = anchors.slope[which]
    with np.errstate(invalid="ignore"):
        bent = np.einsum("bij,bj->bi", matrix, shift)
    value = anchors.value[which] + np.einsum("bi,bi->b", shift, slope + 0.5 * bent)
    return value, slope + bent, matrix


Model = LinearModel | UserModel
