"""The energy -log posterior of a loss under a Gaussian prior, and how much lower it may be between known points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.arrays import Array
from fenchel.gaussian import Gaussian
from fenchel.losses import LinearPredictorLoss, Loss

# In one and in two dimensions. A well passed over by the 15 points a side of a rule in such a box changes the box's
# integral by less than 1e-5 and 1e-4 of these.
_HIDDEN = (0.1, 1.0)


class Energy:
    """l + the prior's quadratic, with its kinked and jumping terms set apart."""

    def __init__(self, loss: Loss, prior: Gaussian) -> None:
        self.loss, self.mean, self.precision = loss, prior.mean, prior.precision
        self.kinks: list[tuple[Array, Array]] = []
        self.jump = 0.0
        self.smooth = loss
        linear = loss.in_predictors()
        if linear is not None:
            plain = []
            for group in linear.groups:
                if not group.link.continuous:
                    self.jump += float(group.weights.sum())
                elif group.link.kinks and group.link.convex:
                    self.kinks.append((np.abs(group.rows), group.weights * np.ptp(group.link.slopes)))
                else:
                    plain.append(group)
            self.smooth = LinearPredictorLoss(plain, dim=loss.dim, H=linear.H, b=linear.b, c=linear.c)

    def value(self, theta: Array) -> Array:
        step = theta - self.mean
        return np.asarray(self.loss._value(theta) + 0.5 * np.einsum("ni,ij,nj->n", step, self.precision, step))

    def one(self, theta: Array) -> tuple[float, Array]:
        step = theta - self.mean
        slope = self.loss._gradient(theta[None, :])[0] + self.precision @ step
        return float(self.value(theta[None, :])[0]), slope

    def room(self, lo: Array, hi: Array) -> Array:
        """How far stationary points in the boxes may lie below the values at their centers (B,)."""
        half = 0.5 * (hi - lo)
        with np.errstate(invalid="ignore"):
            room = 0.5 * self._steepest(lo, hi, np.eye(lo.shape[1])) * np.square(half).sum(axis=1)
        for rows, jumps in self.kinks:
            room = room + half @ (rows.T @ jumps)
        return np.asarray(room + self.jump)

    def hides(self, boxes: Array, center: Array, factor: Array, level: float) -> NDArray[np.bool_]:
        """In which boxes (B, 2, P) of u, theta = center + factor u, a well may lie that quadrature passes over.

        Where the curvature times the square of the half width stays small, a well inside is too shallow to weigh. The
        bends of convex kinks and of jumps hide none. Boxes whose points all lie above ``level`` do not matter.
        """
        middle, half = 0.5 * (boxes[:, 0] + boxes[:, 1]), 0.5 * (boxes[:, 1] - boxes[:, 0])
        theta, reach = center + middle @ factor.T, half @ np.abs(factor).T
        lo, hi = theta - reach, theta + reach
        with np.errstate(invalid="ignore"):
            hidden = 0.5 * self._steepest(lo, hi, factor) * np.square(half).sum(axis=1)
            matters = self.value(theta) - self.room(lo, hi) <= level
        return np.asarray((hidden > _HIDDEN[lo.shape[1] - 1]) & matters)

    def _steepest(self, lo: Array, hi: Array, factor: Array) -> Array:
        """An upper bound of the curvature of the smooth part in the boxes, per unit of u (B,)."""
        bends = self.smooth.local_hessian_upper(lo, hi) + self.precision
        finite = np.isfinite(bends).all(axis=(1, 2))
        top = np.full(len(lo), np.inf)
        if finite.any():
            top[finite] = np.maximum(np.linalg.eigvalsh(factor.T @ bends[finite] @ factor)[:, -1], 0.0)
        return top
