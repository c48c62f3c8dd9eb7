"""Anderson extrapolation of a fixed-point iteration in natural parameters, in coordinates whitened by q."""

from __future__ import annotations

import numpy as np

from fenchel.arrays import Array
from fenchel.gaussian import Gaussian
from fenchel.results import Natural


class Anderson:
    """Keeps the last ``memory`` + 1 pairs (x, g(x)) and proposes the combination whose residual is smallest."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.points: list[Natural] = []
        self.images: list[Natural] = []

    def reset(self) -> None:
        """Forget everything, after a proposal was refused."""
        self.points.clear()
        self.images.clear()

    def propose(self, q: Gaussian, point: Natural, image: Natural) -> Natural | None:
        """Add the pair (point, image); the extrapolated natural parameter, or None with too little history."""
        self.points = [*self.points, point][-(self.memory + 1) :]
        self.images = [*self.images, image][-(self.memory + 1) :]
        if len(self.points) < 3:
            return None
        factor = np.asarray(np.linalg.cholesky(q.cov), dtype=np.float64)
        x = np.array([_whiten(p, factor) for p in self.points])
        g = np.array([_whiten(p, factor) for p in self.images])
        residual = g - x
        differences = np.diff(residual, axis=0)
        # The cut-off keeps combinations away that only fit rounding.
        coefficients = np.linalg.lstsq(differences.T, residual[-1], rcond=1e-8)[0]
        weights = np.zeros(len(self.points))
        weights[-1] = 1.0
        weights[1:] -= coefficients
        weights[:-1] += coefficients
        lam1 = sum(w * p.lam1 for w, p in zip(weights, self.images, strict=True))
        lam2 = sum(w * p.lam2 for w, p in zip(weights, self.images, strict=True))
        return Natural(np.asarray(lam1), np.asarray(lam2))


def _whiten(natural: Natural, factor: Array) -> Array:
    """The natural parameter as a vector in the coordinates theta = factor u, where q has unit scale."""
    first = factor.T @ natural.lam1
    block = np.asarray(natural.lam2)
    if block.ndim == 2:
        second: Array = (factor.T @ block @ factor)[np.triu_indices(first.size)]
    else:
        second = np.ravel(block * np.mean(np.diag(factor) ** 2) if block.ndim == 0 else block * np.diag(factor) ** 2)
    return np.concatenate([first, second])
