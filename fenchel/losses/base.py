"""What every loss offers: values and derivatives on many points at once, and bounds of its curvature on boxes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from fenchel.arrays import Array
from fenchel.losses.accurate import EPS, TINY

if TYPE_CHECKING:
    from fenchel.losses.builtin import Quadratic
    from fenchel.losses.linear_predictor import LinearPredictorLoss


class Loss(ABC):
    """A total loss l: R^P -> R, lower-bounded and majorized by a quadratic (the conditions of Theorem 1).

    ``loss(theta)`` takes (P,) and returns a float, or (n, P) and returns (n,). With P = 1 a scalar is one point and a
    vector of n != 1 numbers is n points. ``gradient`` and ``hessian`` add axes of length P at the end.
    """

    #: P.
    dim: int
    #: l is known to be convex.
    convex: bool = False
    #: l is continuous; otherwise upper semicontinuous.
    continuous: bool = True
    #: (lo, hi), each (P,): the box to which l, and every certificate about it, is limited; None for all of R^P.
    bounds: tuple[Array, Array] | None = None
    #: No eigenvalue of the Hessian is larger anywhere; inf where no such number is known.
    curvature: float = np.inf
    #: A quadratic above l everywhere; None where none is known.
    majorizer: Quadratic | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dim={self.dim})"

    @property
    def assumes(self) -> tuple[str, ...]:
        """What certificates about this loss take on trust, as sentences; nothing for built-in losses."""
        return ()

    def in_predictors(self) -> LinearPredictorLoss | None:
        """The loss as one of linear predictors, of which everything can be derived; None for any other."""
        return None

    def record(self) -> dict[str, Any]:
        """The loss as certificates hold it, in exact numbers.

        Raises:
            ValueError: the loss is given by code, which nobody else could evaluate.
        """
        raise ValueError(
            f"{self!r} is given by code, which a certificate cannot hold, since nobody else could evaluate it; "
            "write it with losses.from_expression"
        )

    def minorant(self) -> tuple[float, Array, Array] | None:
        """(c, g, H): c + g.theta + theta^T H theta / 2 <= l(theta) everywhere; None where none is known."""
        return None

    def examine(self, points: Array) -> None:  # noqa: B027
        """Compare what is declared of the loss with its values at points (n, P); nothing to do for built-in losses.

        Raises:
            ValueError: a declaration is false at a point, which the message names.
        """

    def rounding(self, theta: Array, side: int) -> Array:
        """How much larger (``side`` 1) or smaller (-1) than `_value` rounding may leave l at theta: (n, P) -> (n,)."""
        return 4.0 * EPS * np.abs(self._value(theta)) + TINY

    @abstractmethod
    def _value(self, theta: Array) -> Array:
        """(n, P) -> (n,)."""

    @abstractmethod
    def _gradient(self, theta: Array) -> Array:
        """(n, P) -> (n, P)."""

    @abstractmethod
    def _hessian(self, theta: Array) -> Array:
        """(n, P) -> (n, P, P)."""

    @abstractmethod
    def hessian_upper(self, lo: Array, hi: Array) -> Array:
        """Boxes lo, hi (B, P) -> matrices (B, P, P) that dominate the Hessian on each box (inf where none is known)."""

    def local_hessian_upper(self, lo: Array, hi: Array) -> Array:
        """The same, where more is spent on tight bounds in small boxes."""
        return self.hessian_upper(lo, hi)

    def _points(self, theta: Any) -> tuple[Array, bool]:
        points = np.asarray(theta, dtype=float)
        if points.ndim == 0 and self.dim == 1:
            return points.reshape(1, 1), True
        if points.ndim == 1:
            if points.shape[0] == self.dim:
                return points[None, :], True
            if self.dim == 1:
                return points[:, None], False
        elif points.ndim == 2 and points.shape[1] == self.dim:
            return points, False
        raise ValueError(f"theta must have shape ({self.dim},) or (n, {self.dim}), got {points.shape}")

    def __call__(self, theta: Any) -> Any:
        """l at (P,) as a float, at (n, P) as (n,). ValueError for any other shape."""
        points, single = self._points(theta)
        values = self._value(points)
        return float(values[0]) if single else values

    def gradient(self, theta: Any) -> Array:
        """The gradient, (n, P) or (P,); at a kink one of the subgradients."""
        points, single = self._points(theta)
        values = self._gradient(points)
        return values[0] if single else values

    def hessian(self, theta: Any) -> Array:
        """The Hessian, (n, P, P) or (P, P); kinks and jumps count as 0."""
        points, single = self._points(theta)
        values = self._hessian(points)
        return values[0] if single else values
