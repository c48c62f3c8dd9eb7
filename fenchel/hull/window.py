"""The range of theta that a hull is computed on, and its coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.losses import Loss

__all__ = ["FAR", "Window"]

Array = NDArray[np.float64]


FAR = 1e7


@dataclass(frozen=True)
class Window:
    """theta = center + scale u; the domain of u is [low, high], infinite unless the loss has bounds."""

    center: float
    scale: float
    low: float
    high: float

    @classmethod
    def around(cls, loss: Loss, means: Array, stds: Array) -> Window:
        lowest, highest = float(means.min()), float(means.max())
        center, scale = 0.5 * (lowest + highest), max(0.5 * (highest - lowest), float(stds.max()))
        if loss.bounds is None:
            return cls(center, scale, -np.inf, np.inf)
        return cls(center, scale, (loss.bounds[0][0] - center) / scale, (loss.bounds[1][0] - center) / scale)

    def theta(self, u: Array) -> Array:
        return self.center + self.scale * u

    def u(self, theta: Array) -> Array:
        return (theta - self.center) / self.scale
