"""A bundle method for the relaxed objective: descent on a convex model of -f** + KL."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from fenchel.arrays import Array
from fenchel.bayes.objectives import normalizer, raise_block, relaxed_posterior
from fenchel.bayes.relaxed_search import Search, sharpened
from fenchel.bayes.simplex_qp import simplex_qp
from fenchel.bayes.statistics import Statistics
from fenchel.biconjugate import biconjugate
from fenchel.errors import DomainError
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.losses.accurate import EPS
from fenchel.results import Natural


@dataclass(frozen=True)
class _Point:
    """lambda' with everything known there; ``atoms`` (K, P) are local maximizers of l + <lambda', T>.

    ``error`` bounds what rounding did to log Z', which both ``value`` and ``upper`` hold.
    """

    c: Array
    value: float
    upper: float
    error: float
    q: Gaussian
    atoms: Array
    certified: bool


class Bundle:
    """One run: the current point, the multipliers of its branches, and counters."""

    def __init__(
        self, loss: Loss, prior: Gaussian, structure: str, search: Search, search_tol: float, end: float
    ) -> None:
        self.loss, self.prior = loss, prior
        self.statistics = Statistics(loss.dim, structure)
        self.search, self.search_tol, self.end = search, search_tol, end
        self.evaluations = self.iterations = 0
        self.residual, self.converged, self.by_value = np.inf, False, False
        self.point: _Point
        self.weights: Array

    def start(self, natural: Natural, atoms: Array) -> bool:
        point = self.evaluate(self.statistics.vector(natural), atoms)
        if point is None:  # on the border of the domain: a little more precision
            lam2 = natural.lam2 + 0.02 * raise_block(self.prior.natural().lam2, natural.lam2.ndim, self.loss.dim)
            point = self.evaluate(self.statistics.vector(Natural(natural.lam1, lam2)), atoms)
        if point is not None:
            self.point = point
        return point is not None

    def evaluate(self, c: Array, starts: Array) -> _Point | None:
        """f* - log Z' at c with all local maximizers met; None outside the domain."""
        self.evaluations += 1
        natural = self.statistics.natural(c)
        try:
            q = relaxed_posterior(natural, self.prior)
        except DomainError:
            return None
        lam1, lam2 = c[: self.loss.dim], self.statistics.matrix(c)
        found = self.search(self.loss, lam1, lam2, starts, q)
        if found is None:
            return None
        points, lower, upper, certified = found
        constant = normalizer(natural, self.prior)
        atoms = sharpened(self.loss, lam1, lam2, points)[: 4 * self.statistics.size]
        error = constant.error + EPS * (abs(lower) + 2.0 * abs(constant.value))
        return _Point(c, lower - constant.value, upper - constant.value, error, q, atoms, certified)

    def minimize(self, max_iterations: int, tol: float) -> None:
        trust = 0.0
        for self.iterations in range(1, max_iterations + 1):
            model = _Model(self.loss, self.statistics, self.point)
            self.weights, self.residual = model.stationarity()
            if self.residual <= tol:
                self.converged = True
                return
            if time.perf_counter() > self.end:
                return
            moved = self.descend(model, trust)
            if moved is None:
                # The value cannot fall any more at the resolution of f*.
                self.converged = self.residual <= 100.0 * tol and time.perf_counter() <= self.end
                return
            trust = moved
        model = _Model(self.loss, self.statistics, self.point)
        self.weights, self.residual = model.stationarity()
        self.converged = self.residual <= tol

    def check_by_value(self, tol: float) -> None:
        """At the border of dom f*, where maximizers are not isolated: lambda' is stationary iff Eq. 18 there equals
        -f**(mu) + KL at its q*, which is never larger."""
        found = biconjugate(self.loss, self.point.q, tol=1e-9)
        gap = self.point.upper - (self.point.q.kl(self.prior) - found.upper)
        resolution = 1e-9 * max(1.0, abs(found.value))
        if gap <= max(tol**2, resolution):
            self.converged, self.by_value, self.residual = True, True, float(np.sqrt(2.0 * max(gap, 0.0)))
            self.point = replace(self.point, atoms=found.atoms)
            self.weights = found.weights

    def descend(self, model: _Model, trust: float) -> float | None:
        """One accepted step; the regularization to try next, or None where none of any length lowers the value."""
        weights = self.weights
        extra = trust
        for _ in range(30):
            d, weights, gain = model.solve(weights, extra)
            trial = self.evaluate(self.point.c + d, self.point.atoms)
            if trial is not None and not self.better(trial, gain):
                trial = self.corrected(model, weights, extra, trial, d) or trial
            if trial is not None and self.better(trial, gain):
                self.point = trial
                return 0.0 if extra < 1e-3 else 0.1 * extra
            if trial is not None:
                model = model.with_branches(trial.atoms)
                weights = model.stationarity()[0]
            extra = max(4.0 * extra, 0.1)
            if extra > 1e10 or time.perf_counter() > self.end:
                break
        return None

    def better(self, trial: _Point, gain: float) -> bool:
        """A sufficient part of the predicted fall; near the end any fall, or a smaller residual at the same value."""
        fall = self.point.value - trial.value
        noise = 2.0 * self.search_tol * max(1.0, abs(self.point.value))
        if fall >= 0.1 * gain and fall > 0.0:
            return True
        if abs(fall) <= noise:
            return _Model(self.loss, self.statistics, trial).stationarity()[1] < 0.9 * self.residual
        return False

    def corrected(self, model: _Model, weights: Array, extra: float, trial: _Point, d: Array) -> _Point | None:
        """Second-order correction: the branches' values at the trial point in place of their linearizations."""
        phi = model.values_at(self.point.c + d)
        if phi is None:
            return None
        step, _, _ = model.solve(weights, extra, phi - model.features @ d)
        return self.evaluate(self.point.c + step, self.point.atoms)


class _Model:
    """The branches at one point, linearized, with their curvature."""

    def __init__(self, loss: Loss, statistics: Statistics, point: _Point, atoms: Array | None = None) -> None:
        self.loss, self.statistics, self.point = loss, statistics, point
        self.atoms = point.atoms if atoms is None else atoms
        lam1, lam2 = point.c[: loss.dim], statistics.matrix(point.c)
        quadratic = self.atoms @ lam1 + np.einsum("ni,ij,nj->n", self.atoms, lam2, self.atoms)
        self.phi = np.asarray(loss(self.atoms)) + quadratic
        self.features = statistics.values(self.atoms)
        self.mean = statistics.mean(point.q)
        self.metric = statistics.covariance(point.q)
        # Whitening by the metric: all solves happen in coordinates where log Z' has unit curvature.
        self.root = np.linalg.cholesky(self.metric)
        self.slopes = np.linalg.solve(self.root, (self.features - self.mean).T).T
        hessian = -(np.asarray(loss.hessian(self.atoms)) + 2.0 * lam2)
        values, vectors = np.linalg.eigh(hessian)
        values = np.maximum(values, 1e-8 * np.abs(values).max() + 1e-12)
        inverse = np.einsum("nij,nj,nkj->nik", vectors, 1.0 / values, vectors)
        jacobian = np.linalg.solve(self.root[None], statistics.jacobian(self.atoms))
        self.curvature = np.einsum("nai,nij,nbj->nab", jacobian, inverse, jacobian)

    def with_branches(self, more: Array) -> _Model:
        """The same point with further atoms; those that are not maximizers here still give valid minorants."""
        apart = np.abs(more[:, None] - self.atoms[None]).max(axis=2).min(axis=1)
        new = more[apart > 1e-6 * (1.0 + np.abs(more).max(axis=1))]
        return _Model(self.loss, self.statistics, self.point, np.concatenate([self.atoms, new]))

    def stationarity(self) -> tuple[Array, float]:
        """Weights of nearly tied branches that best carry E_q*[T], and the length of what is left, in q*'s units."""
        gap = self.phi.max() - self.phi
        # A branch that is lower by e has to be paid for with e: the penalty keeps the estimate honest.
        weights = simplex_qp(self.slopes @ self.slopes.T, -gap)
        rest = weights @ self.slopes
        active = weights > 1e-9
        # lambda' has to move by about gap / |slope| for a branch that lies lower to tie.
        distance = gap[active] / np.maximum(np.linalg.norm(self.slopes[active] - rest, axis=1), 1e-3)
        return weights, float(np.hypot(np.linalg.norm(rest), distance.max()))

    def solve(self, weights: Array, extra: float, phi: Array | None = None) -> tuple[Array, Array, float]:
        """The step d (D,), the multipliers, and the fall of the value that the model promises."""
        phi = self.phi if phi is None else phi
        size = self.statistics.size
        lagrangian = np.tensordot(weights, self.curvature, axes=1) - np.eye(size)
        spread = self.slopes - weights @ self.slopes
        active = weights > 1e-10
        pinned = spread[active].T @ spread[active]
        scale = max(1.0, float(np.trace(pinned)) / size)
        # Along directions that the tie itself pins, curvature may be added freely; no more than is needed.
        candidates = [lagrangian + c / scale * pinned for c in (0.0, 0.1, 1.0, 10.0, 100.0, 1e3)]
        smallest = np.array([np.linalg.eigvalsh(H)[0] for H in candidates])
        enough = smallest >= min(1e-3, 0.9 * smallest.max()) if smallest.max() > 0.0 else smallest > -np.inf
        values, vectors = np.linalg.eigh(candidates[int(np.argmax(enough))])
        # Directions of negative curvature: the steepest safe step is one of unit length in q*'s units.
        values = np.maximum(np.abs(values), 1e-3) + extra
        half = self.slopes @ vectors / np.sqrt(values)
        w = simplex_qp(half @ half.T, phi - phi.max())
        step = -(vectors / values) @ vectors.T @ (w @ self.slopes)
        gain = float(self.phi.max() - (w @ phi - 0.5 * np.sum((w @ half) ** 2)))
        return np.linalg.solve(self.root.T, step), w, max(gain, 0.0)

    def values_at(self, c: Array) -> Array | None:
        """phi_k at another lambda', following each branch by Newton steps; None where one is lost."""
        lam1, lam2 = c[: self.loss.dim], self.statistics.matrix(c)
        theta = self.atoms.copy()
        for _ in range(8):
            slope = np.asarray(self.loss.gradient(theta)) + lam1 + 2.0 * theta @ lam2
            hessian = -(np.asarray(self.loss.hessian(theta)) + 2.0 * lam2)
            bends = np.linalg.eigvalsh(hessian)
            if (bends[:, 0] <= 1e-14 * bends[:, -1]).any():
                return None
            theta = theta + np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
        values = np.asarray(self.loss(theta)) + theta @ lam1 + np.einsum("ni,ij,nj->n", theta, lam2, theta)
        return values if np.isfinite(values).all() else None
