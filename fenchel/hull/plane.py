"""A scalar loss and a grid of Gaussians (m, sigma), in the units of one window: what the hull works on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.hull.nodes import jump_nodes
from fenchel.hull.two_atoms import Derivatives
from fenchel.hull.window import Window
from fenchel.losses import Loss

__all__ = ["Plane"]

Array = NDArray[np.float64]


class Plane:
    """All q of a grid, flattened: u-units are those of the window."""

    def __init__(self, loss: Loss, means: Array, stds: Array) -> None:
        self.loss, self.means, self.stds = loss, means, stds
        self.shape = (means.size, stds.size)
        self.window = Window.around(loss, means, stds)
        self.breaks = jump_nodes(loss, self.window)
        grid_m, grid_s = np.meshgrid(self.window.u(means), stds / self.window.scale, indexing="ij")
        self.m, self.s = grid_m.ravel(), grid_s.ravel()
        self.mu2 = self.m * self.m + self.s * self.s
        self.bounded = bool(np.isfinite(self.window.low))
        #: Points at which an atom can sit without touching: jumps and the ends of the domain.
        self.fixed = np.concatenate([self.breaks, [self.window.low, self.window.high]])
        # Newton's method cannot settle on jumps, on unknown kinks or on the ends of the domain: atoms there stay put.
        self.fixed_atoms = self.bounded or self.breaks.size > 0 or np.isinf(getattr(loss, "curvature", 0.0))

    def value(self, u: Array) -> Array:
        """l at u (n,); -inf outside of a bounded domain."""
        theta = self.window.theta(u)[:, None]
        if not self.bounded:
            return self.loss._value(theta)
        inside = (u >= self.window.low - 1e-14) & (u <= self.window.high + 1e-14)
        clipped = np.clip(theta, *self.loss.bounds)  # type: ignore[misc]
        return np.where(inside, self.loss._value(clipped), -np.inf)

    @property
    def derivatives(self) -> Derivatives:
        scale = self.window.scale

        def evaluate(u: Array) -> tuple[Array, Array, Array]:
            theta = self.window.theta(u)[:, None]
            return self.value(u), self.slope(u), self.loss._hessian(theta)[:, 0, 0] * scale**2

        return evaluate

    def slope(self, u: Array) -> Array:
        """dl/du."""
        return self.loss._gradient(self.window.theta(u)[:, None])[:, 0] * self.window.scale

    def bend(self, low: Array, high: Array) -> Array:
        """Upper bounds of d^2 l / du^2 on intervals."""
        lo, hi = self.window.theta(low)[:, None], self.window.theta(high)[:, None]
        return np.asarray(self.loss.hessian_upper(lo, hi)[:, 0, 0] * self.window.scale**2)
