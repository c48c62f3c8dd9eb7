"""The left side of Theorem 1 as it stands: sup over Gaussians q of <lambda', mu> - f(mu) = <lambda', mu> + E_q[l].

A genuine maximization over mean and covariance that knows nothing of the right side; the covariance may shrink.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from fenchel.arrays import Array
from fenchel.divergence import dense
from fenchel.expectation.expected_loss import expected_loss_result
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss

# Relative accuracy of the expected losses on the way; the values that are reported have the default one.
_ROUGH = 1e-8


@dataclass(frozen=True)
class GaussianSupremum:
    """``value`` is reached by ``q`` (a lower bound of the supremum); inf where it was seen to grow without bound.

    ``path`` (k, 2): (largest standard deviation, objective) of the best Gaussian as the floor of the standard
    deviations is lowered: the covariance going to zero.
    """

    value: float
    q: Gaussian | None
    path: Array
    evaluations: int
    message: str = ""


def supremum_over_gaussians(
    loss: Loss,
    lam1: Any,
    lam2: Any,
    structure: str,
    *,
    samples: int = 300,
    starts: int = 6,
    floor: float = 1e-7,
    seed: int = 0,
    max_seconds: float = np.inf,
) -> GaussianSupremum:
    """Maximize <lambda', mu> + E_q[l] over all q of the family; lam2 in the family's blocks.

    ``samples`` random Gaussians are tried and the best ``starts`` climbed from; standard deviations stay above
    ``floor``, lowered to it in steps. The supremum itself is only approached as they go to zero. After ``max_seconds``
    the best q met is returned, and ``message`` says so.
    """
    first = np.atleast_1d(np.asarray(lam1, dtype=float))
    problem = _Problem(loss, first, np.asarray(lam2, dtype=float), structure, time.perf_counter() + max_seconds)
    rng = np.random.default_rng(seed)
    center, spread = problem.region()
    grown = problem.unbounded(rng, center, max(1.0, float(spread.max())))
    if grown is not None:
        height, text = grown
        return GaussianSupremum(np.inf, None, np.array([[1e-3, height]]), problem.evaluations, text)
    tried, heights = [], np.zeros(0)
    for _ in range(samples):
        tried.append(problem.random(rng, center, spread))
        heights = np.append(heights, problem.value(tried[-1], _ROUGH))
        if problem.late():
            break
    best_x, path = tried[int(np.argmax(heights))], []
    pool = [tried[k] for k in np.argsort(-heights)[:starts]]
    for level in np.geomspace(1e-1, floor, 4):
        ends = [problem.climb(x, level) for x in pool]
        ends.sort(key=lambda pair: -pair[1])
        best_x = ends[0][0]
        q = problem.gaussian(best_x)
        path.append((float(np.sqrt(np.linalg.eigvalsh(q.cov)[-1])), problem.value(best_x)))
        pool = [x for x, _ in ends[: max(2, starts // 2)]]
        if problem.late():
            break
    value = max(v for _, v in path)
    message = "the search over Gaussians was stopped by the time limit" if problem.late() else ""
    return GaussianSupremum(value, problem.gaussian(best_x), np.array(path), problem.evaluations, message)


class _Problem:
    """Coordinates x = (mean, logarithms of the Cholesky factor's diagonal, its entries below) of the family."""

    def __init__(self, loss: Loss, lam1: Array, lam2: Array, structure: str, deadline: float) -> None:
        self.deadline = deadline
        self.loss, self.lam1, self.lam2, self.structure = loss, lam1, lam2, structure
        self.dim = loss.dim
        self.scales = {"full": self.dim, "diagonal": self.dim, "isotropic": 1}[structure]
        self.below = np.tril_indices(self.dim, -1)
        self.evaluations = 0
        self.full = dense(lam2, self.dim)

    def late(self) -> bool:
        return time.perf_counter() > self.deadline

    def region(self) -> tuple[Array, Array]:
        """Center and spread of the means to try: the Gaussian that lambda' belongs to, widened by the loss's pull."""
        precision = -2.0 * self.full
        values = np.linalg.eigvalsh(precision)
        if values[0] <= 0.0:
            return np.zeros(self.dim), np.full(self.dim, 3.0, dtype=np.float64)
        center = np.linalg.solve(precision, self.lam1)
        shift = np.abs(np.linalg.solve(precision, self.loss.gradient(center[None, :])[0]))
        return np.asarray(center), np.asarray(2.0 * (np.sqrt(np.diag(np.linalg.inv(precision))) + shift))

    def unbounded(self, rng: np.random.Generator, center: Array, unit: float) -> tuple[float, str] | None:
        """Gaussians along a ray whose objective grows without bound, as seen up to 1e12 units away, and how far."""
        for direction in (*np.linalg.eigh(self.full)[1].T, *rng.normal(size=(4, self.dim))):
            for sign in (1.0, -1.0):
                ray = sign * direction / np.linalg.norm(direction)
                with np.errstate(all="ignore"):
                    heights = np.array([self.at(center + unit * 10.0**k * ray, 1e-3) for k in (4, 8, 12)])
                if not np.isfinite(heights).all():
                    continue
                if heights[2] > 5e3 * max(heights[1], 1.0) and heights[1] > 5e3 * max(heights[0], 1.0):
                    text = f"the objective grows without bound along {np.round(ray, 3).tolist()}: {heights[2]:.3g}"
                    return float(heights[2]), text
        return None

    def at(self, mean: Array, sd: float) -> float:
        """The objective at N(mean, sd^2 I)."""
        return self.value(np.concatenate([mean, np.full(self.scales, np.log(sd)), self.uncorrelated()]), _ROUGH)

    def uncorrelated(self) -> Array:
        """The coordinates below the diagonal of a Gaussian with a diagonal covariance."""
        return np.zeros(self.below[0].size if self.structure == "full" else 0)

    def random(self, rng: np.random.Generator, center: Array, spread: Array) -> Array:
        mean = center + spread * rng.normal(size=self.dim) * rng.choice([0.3, 1.0, 2.0])
        scales = np.log(spread.mean()) + rng.uniform(-4.0, 0.5, size=self.scales)
        return np.concatenate([mean, scales, self.uncorrelated()])

    def factor(self, x: Array) -> Array:
        scales = np.exp(x[self.dim : self.dim + self.scales])
        factor = np.diag(np.broadcast_to(scales, (self.dim,))).astype(float)
        if self.structure == "full":
            factor[self.below] = x[2 * self.dim :]
        return factor

    def gaussian(self, x: Array) -> Gaussian:
        mean, factor = x[: self.dim], self.factor(x)
        if self.structure == "full":
            return Gaussian(mean, factor @ factor.T)
        squares = np.diag(factor) ** 2
        return Gaussian(mean, squares if self.structure == "diagonal" else float(squares[0]))

    def value(self, x: Array, tol: float = 1e-11) -> float:
        """The objective, its expected loss to a relative accuracy of ``tol``."""
        self.evaluations += 1
        expected = expected_loss_result(self.loss, self.gaussian(x), derivatives=False, tol=tol)
        return self.linear(x[: self.dim], self.factor(x)) + expected.value

    def linear(self, mean: Array, factor: Array) -> float:
        """<lambda', mu> of the Gaussian with this mean and this Cholesky factor."""
        return float(self.lam1 @ mean + mean @ self.full @ mean) + float(np.sum((self.full @ factor) * factor))

    def objective(self, x: Array) -> tuple[float, Array]:
        """Minus the objective, roughly, and its gradient in x."""
        self.evaluations += 1
        mean, factor = x[: self.dim], self.factor(x)
        expected = expected_loss_result(self.loss, self.gaussian(x), tol=_ROUGH)
        value = self.linear(mean, factor) + expected.value
        slope = self.lam1 + 2.0 * self.full @ mean + expected.gradient
        by_factor = (2.0 * self.full + expected.hessian) @ factor
        scales = np.diag(by_factor) * np.diag(factor)
        parts = [slope, scales if self.scales == self.dim else np.array([scales.sum()])]
        if self.structure == "full":
            parts.append(by_factor[self.below])
        return -value, -np.concatenate(parts)

    def climb(self, x: Array, floor: float) -> tuple[Array, float]:
        """L-BFGS from x with all standard deviations (of the Cholesky factor) at least ``floor``."""
        low = np.log(floor)
        bounds = [(None, None)] * self.dim + [(low, 12.0)] * self.scales
        bounds += [(None, None)] * (x.size - len(bounds))
        x = x.copy()
        x[self.dim : self.dim + self.scales] = np.maximum(x[self.dim : self.dim + self.scales], low)
        options = {"maxiter": 300, "ftol": 1e-15, "gtol": 1e-10}
        best: list[Any] = [x, np.inf]

        def objective(point: Array) -> tuple[float, Array]:
            value, slope = self.objective(point)
            if value < best[1]:
                best[:] = point.copy(), value
            if self.late():
                raise StopIteration
            return value, slope

        with suppress(StopIteration):
            minimize(objective, x, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return best[0], -float(best[1])
