"""The quadratic above the loss that a certificate holds, and its exact height above or below the loss."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from flint import arb

from fenchel.arrays import Array
from fenchel.checker.loss import Loss as Exact
from fenchel.checker.loss import Quadratic
from fenchel.checker.numbers import above, exact, exacts
from fenchel.losses import Loss
from fenchel.losses.exact_text import hexes
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.white_loss import WhiteLoss
from fenchel.results import BiconjugateResult


@dataclass(frozen=True)
class Majorant:
    """Q(theta) = constant + slope.d + d^T curvature d, d = theta - center; curvature (P, P)."""

    center: Array
    constant: float
    slope: Array
    curvature: Array

    def exact(self) -> Quadratic:
        """The same in rationals."""
        n = self.center.size
        return Quadratic(
            exacts(hexes(self.center), n),
            exact(hexes(self.constant)),
            exacts(hexes(self.slope), n),
            exacts(hexes(self.curvature), n, n),
        )


def majorant_of(loss: Loss, result: BiconjugateResult, frame: MomentFrame, cov: Array, room: float) -> Majorant:
    """The result's majorant in powers of theta - mean, bent upwards by ``room`` so that no direction is flat."""
    mean, dim = frame.mean, frame.mean.size
    coefficients = result.info.get("coefficients")
    if coefficients is not None:
        inner = WhiteLoss.reduced(loss, frame).frame
        u, v, w = inner.quadratic(coefficients)
        slope = inner.inverse.T @ v + inner.tilt
        curvature = inner.inverse.T @ w @ inner.inverse
    else:
        assert result.natural is not None
        lam1, lam2 = result.natural.lam1, frame.matrix(result.natural.lam2)
        slope = np.array([_dot(lam1[i], lam2[i], mean) for i in range(dim)])
        curvature = -lam2
        u = -result.lower - float(np.sum(curvature * (frame.factor @ frame.factor.T)))
    if frame.structure == "diagonal":
        curvature = np.diag(np.diag(curvature))
    elif frame.structure == "isotropic":
        curvature = float(np.mean(np.diag(curvature))) * np.eye(dim)
    curvature = curvature + room / dim * (frame.inverse.T @ frame.inverse)
    return Majorant(mean, float(u), slope, 0.5 * (curvature + curvature.T))


def _dot(first: float, row: Array, mean: Array) -> float:
    """-(first + 2 row.mean), without cancellation."""
    total = Fraction(float(first))
    for a, m in zip(row, mean, strict=True):
        total += 2 * Fraction(float(a)) * Fraction(float(m))
    return -float(total)


def height(known: Exact, majorant: Majorant, theta: Array) -> float:
    """l - Q at a point, at least the exact value."""
    point = exacts(hexes(theta), theta.size)
    return above(known.value(point) - arb(majorant.exact().value(point)))
