"""One quadratic above all terms at once, in any dimension: the summed parabolas, sharpened by triangle inequalities.

An even convex term g of slopes +-L at infinity is g(z) = sup {L s z - g*(L s) : |s| <= 1}, and its parabola of
curvature kappa is the same supremum with c - L^2 s^2 / (2 kappa) in place of -g*(L s). Over s in [-1, 1]^3 and signs b,
    1 + b_1 b_2 s_1 s_2 + b_1 b_3 s_1 s_3 + b_2 b_3 s_2 s_3 >= 0,
the triangle inequalities of the cut polytope (Barahona and Mahjoub, Math. Programming 36, 1986). With multipliers
tau >= 0 of such products, and M = diag(w L^2 / kappa), y_i = w_i L z_i, the sum of all terms is at most
    sup_s y.s - s^T (M - T) s / 2 + sum_i w_i c_i + sum tau = y^T (M - T)^-1 y / 2 + sum_i w_i c_i + sum tau,
a quadratic in the parameters where M - T is positive definite; tau = 0 gives the Jaakkola-Jordan bound. Its mean is
convex in (M, tau) and minimized here, with a barrier that keeps M - T positive definite; triangles are added where
the second moments of s violate them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from fenchel.losses import LinearPredictorLoss, Link
from fenchel.losses.accurate import EPS
from fenchel.moments.atoms import sigma_points
from fenchel.moments.certificate import LowerBound
from fenchel.moments.white_loss import WhiteLoss

__all__ = ["joint_bound"]

Array = NDArray[np.float64]
Index = NDArray[np.intp]
_MOST_TERMS = 1000
_ADDED = 3000
_STEPS = 60
# The barrier's share of the mean in each of the rounds; in each round triangles are added.
_BARRIERS = (1e-2, 1e-2, 3e-3, 3e-3, 1e-3, 1e-3, 1e-4, 1e-4)
_VIOLATED = 0.02
# At smaller contacts the curvature is a difference of equal numbers.
_LOG_CONTACTS = (-12.0, 300.0)
# The signs of b_1 b_2, b_1 b_3 and b_2 b_3.
_SIGNS = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])


@dataclass(frozen=True, eq=False)
class Triangles:
    """corners (m, 3), increasing; signs (m, 3) of the pairs (0, 1), (0, 2), (1, 2)."""

    corners: Index
    signs: Array

    def of(self, matrix: Array) -> Array:
        """1 + the signed sum of the entries of a symmetric matrix (n, n) at the pairs, (m,)."""
        i, j, k = self.corners.T
        return np.asarray(1.0 + np.einsum("ma,am->m", self.signs, np.stack([matrix[i, j], matrix[i, k], matrix[j, k]])))

    def subtract(self, matrix: Array, tau: Array) -> None:
        """matrix - T, in place."""
        for a, (p, q) in enumerate(((0, 1), (0, 2), (1, 2))):
            i, j = self.corners[:, p], self.corners[:, q]
            np.subtract.at(matrix, (i, j), tau * self.signs[:, a])
            np.subtract.at(matrix, (j, i), tau * self.signs[:, a])

    def joined(self, other: Triangles) -> Triangles:
        return Triangles(np.vstack([self.corners, other.corners]), np.vstack([self.signs, other.signs]))


class _Joint:
    """The terms' even parts, stacked: z = rows x + offsets with the moments of x ~ (0, I)."""

    def __init__(self, loss: LinearPredictorLoss) -> None:
        self.links: list[tuple[Link, slice]] = []
        first = 0
        for g in loss.groups:
            self.links.append((g.link, slice(first, first + g.rows.shape[0])))
            first += g.rows.shape[0]
        self.rows = np.vstack([g.rows for g in loss.groups])
        self.offsets = np.concatenate([g.offsets for g in loss.groups])
        self.weights = np.concatenate([g.weights for g in loss.groups])
        half = [0.5 * (g.link.slopes[1] - g.link.slopes[0]) for g in loss.groups]
        self.steep = np.concatenate([np.full(g.weights.size, h) for g, h in zip(loss.groups, half, strict=True)])
        self.tilt = np.concatenate([np.full(g.weights.size, sum(g.link.slopes) / 2.0) for g in loss.groups])
        scale = self.weights * self.steep
        self.wall = np.inf  # stands for the mean where M - T is not positive definite; an infinite one ends all steps
        self.root = scale[:, None] * np.concatenate([self.rows, self.offsets[:, None]], axis=1)

    def parabolas(self, contact: Array) -> tuple[Array, Array, Array]:
        """(kappa, c, d kappa / d contact) of the even parts: c + kappa z^2 / 2 >= g(z) - tilt z."""
        kappa, c, rate = (np.empty_like(contact) for _ in range(3))
        for link, part in self.links:
            xi = contact[part]
            value, slope = link.tangent(xi)
            kappa[part] = (slope - self.tilt[part]) / xi
            c[part] = value - self.tilt[part] * xi - 0.5 * kappa[part] * xi * xi
            rate[part] = (link.curvature(xi) - kappa[part]) / xi
        return kappa, c, rate

    def bowl(self, contact: Array, tau: Array, triangles: Triangles) -> tuple[Array, Array]:
        """(M - T, c)."""
        kappa, c, _ = self.parabolas(contact)
        matrix = np.diag(self.weights * self.steep**2 / kappa)
        triangles.subtract(matrix, tau)
        return matrix, c

    def mean(self, v: Array, triangles: Triangles, barrier: float) -> tuple[float, Array]:
        """The mean of the quadratic with the contacts exp(v[:n]) and tau = v[n:], less barrier log det(M - T), and its
        gradient."""
        contact, tau = np.exp(v[: self.weights.size]), v[self.weights.size :]
        matrix, c = self.bowl(contact, tau, triangles)
        try:
            factor = np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            return self.wall, np.zeros_like(v)
        second, square = self._seconds(matrix, barrier)
        kappa, _, rate = self.parabolas(contact)
        value = 0.5 * square + float(self.weights @ c) + float(tau.sum())
        value -= 2.0 * barrier * float(np.log(np.diagonal(factor)).sum())
        # dc / dkappa = -contact^2 / 2, dM / dkappa = -w L^2 / kappa^2.
        inner = 0.5 * self.weights * ((self.steep / kappa) ** 2 * np.diagonal(second) - contact**2)
        return value, np.concatenate([inner * rate * contact, triangles.of(second)])

    def seconds(self, v: Array, triangles: Triangles, barrier: float) -> Array:
        """The second moments (n, n) of s."""
        matrix, _ = self.bowl(np.exp(v[: self.weights.size]), v[self.weights.size :], triangles)
        return self._seconds(matrix, barrier)[0]

    def _seconds(self, matrix: Array, barrier: float) -> tuple[Array, float]:
        """Those of the linear terms and of the barrier, and twice the mean of y^T (M - T)^-1 y / 2."""
        inverse = np.linalg.inv(matrix)
        solved = inverse @ self.root
        return solved @ solved.T + 2.0 * barrier * inverse, float((solved * self.root).sum())


def joint_bound(white: WhiteLoss, max_seconds: float) -> LowerBound | None:
    """A proved lower bound of f**, better than the sum of the terms' own; None where the terms are not of this kind.

    The terms are even but for a linear part, convex, of finite slopes and at most 1000; the family sees the whole
    covariance. A step takes O(n^3) time.
    """
    linear, frame = white.loss.in_predictors(), white.frame
    if linear is None or frame.structure != "full" or not _suits(linear):
        return None
    loss = linear.compose(frame.factor, frame.mean)
    deadline = time.perf_counter() + max_seconds
    joint = _Joint(loss)
    n = joint.weights.size
    v = np.log(np.sqrt(np.square(joint.rows).sum(axis=1) + joint.offsets**2) + 1e-5)
    triangles = Triangles(np.zeros((0, 3), dtype=np.intp), np.zeros((0, 3)))
    for share in _BARRIERS:
        begin = time.perf_counter()
        value, _ = joint.mean(v, triangles, 0.0)
        each = time.perf_counter() - begin
        barrier, joint.wall = share * abs(value) / n, 3.0 * abs(value)
        fresh = _violated(joint.seconds(v, triangles, barrier))
        evaluations = int((deadline - time.perf_counter()) / max(each, 1e-6))
        if evaluations < 2:
            break
        triangles = triangles.joined(fresh)
        v = np.concatenate([v, np.zeros(fresh.corners.shape[0])])
        arguments, bounds = (triangles, barrier), [_LOG_CONTACTS] * n + [(0.0, None)] * (v.size - n)
        options = {"maxiter": _STEPS, "maxfun": evaluations, "maxcor": 20}
        v = np.asarray(minimize(joint.mean, v, arguments, "L-BFGS-B", True, bounds=bounds, options=options).x)
        kept = v[n:] > 0.0
        triangles = Triangles(triangles.corners[kept], triangles.signs[kept])
        v = np.concatenate([v[:n], v[n:][kept]])
    return _proved(white, loss, joint, v, triangles)


def _suits(loss: LinearPredictorLoss) -> bool:
    links = [g.link for g in loss.groups]
    even = all(k.convex and k.rule is not None and np.isfinite(k.slopes).all() for k in links)
    even = even and all((g.weights > 0.0).all() for g in loss.groups)
    return even and 0 < sum(g.rows.shape[0] for g in loss.groups) <= _MOST_TERMS


def _violated(second: Array) -> Triangles:
    """The triangles that the second moments of s violate most."""
    n, found, size = second.shape[0], [], np.abs(second)
    for i in range(2, n):
        # None is violated by products of smaller sizes.
        near = size[:i, :i] + size[i, :i, None] + size[i, :i] > 1.0 + _VIOLATED
        j, k = np.nonzero(np.tril(near, -1))
        values = 1.0 + _SIGNS @ np.stack([second[i, j], second[i, k], second[j, k]])
        which = np.argmin(values, axis=0)
        least = values[which, np.arange(j.size)]
        bad = np.flatnonzero(least < -_VIOLATED)
        bad = bad[np.argsort(least[bad])[:_ADDED]]
        found.append(np.column_stack([least[bad], np.full(bad.size, i), j[bad], k[bad], which[bad]]))
    rows = np.concatenate(found) if found else np.zeros((0, 5))
    rows = rows[np.argsort(rows[:, 0], kind="stable")[:_ADDED]]
    return Triangles(rows[:, 1:4].astype(np.intp), _SIGNS[rows[:, 4].astype(int)])


def _proved(
    white: WhiteLoss, loss: LinearPredictorLoss, joint: _Joint, v: Array, triangles: Triangles
) -> LowerBound | None:
    """The quadratic, raised by what rounding may have taken from it."""
    n, frame = joint.weights.size, white.frame
    tau = np.maximum(v[n:], 0.0)
    matrix, c = joint.bowl(np.exp(v[:n]), tau, triangles)
    # In units in which the diagonal is 1.
    unit = 1.0 / np.sqrt(np.diagonal(matrix))
    matrix, root = matrix * unit[:, None] * unit, joint.root * unit[:, None]
    bends = np.linalg.eigvalsh(matrix)
    # |error of y^T A^-1 y| <= n eps cond |A^-1| |y|^2 <= n eps cond^2 y^T A^-1 y.
    raised = 4.0 * n * EPS * (bends[-1] / bends[0]) ** 2 if bends[0] > 0.0 else np.inf
    if not raised < 1e-6:
        return None
    form = 0.5 * (1.0 + raised) * root.T @ np.linalg.solve(matrix, root)
    form = 0.5 * (form + form.T)
    tilt = joint.weights * joint.tilt
    u = loss.c + float(joint.weights @ c) + float(tau.sum()) + float(tilt @ joint.offsets) + float(form[-1, -1])
    slope = loss.b + tilt @ joint.rows + 2.0 * form[-1, :-1]
    coefficients = frame.coefficients(u, slope, 0.5 * loss.H + form[:-1, :-1])
    size = float(np.abs(coefficients) @ np.abs(frame.target)) + float(joint.weights @ np.abs(c)) + float(tau.sum())
    slack = 8.0 * EPS * np.sqrt(n) * size + frame.drift * float(np.abs(coefficients[1 + frame.dim :]).sum())
    slack += 2.0 * float(white.rounding(2.0 * sigma_points(frame.dim), 1).max())
    _, lam1, lam2 = frame.to_natural(coefficients)
    return LowerBound(-float(coefficients @ frame.target) - slack, lam1, lam2, "", coefficients)
