"""Certified global maximization of h(theta) = l(theta) + lam1.theta + theta^T lam2 theta: the supremum of Theorem 1.

Branch and bound over boxes in whitened coordinates, many boxes at a time. On each box h lies below a quadratic made of
per-term parabolas that are tight on the term's interval; a box is closed once the quadratic's maximum is no better
than the best point known.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.ascent import ascend, distinct
from fenchel.bounds import LinearModel, Model, UserModel
from fenchel.box_quadratic import box_maximum
from fenchel.confine import Setting, Unbounded, enclosing_box, prepare
from fenchel.losses import LinearPredictorLoss, Loss

__all__ = ["SearchResult", "local_maximizers", "maximize"]

Array = NDArray[np.float64]
_BATCH_ENTRIES = 400_000


@dataclass(frozen=True)
class SearchResult:
    """lower <= sup h <= upper; h(argmax) = lower.

    ``maximizers`` (K, P), ``values`` (K,): the distinct local maximizers met, best first. ``certified``: the bracket
    is proved and no wider than tol * max(1, |lower|). Where the supremum is proved infinite, lower = upper = inf and
    ``message`` says why.
    """

    lower: float
    upper: float
    argmax: Array
    maximizers: Array
    values: Array
    certified: bool
    boxes: int
    message: str

    @property
    def gap(self) -> float:
        return 0.0 if self.lower == self.upper else self.upper - self.lower


def maximize(
    loss: Loss,
    lam1: Any,
    lam2: Any,
    *,
    tol: float = 1e-9,
    starts: Any = None,
    max_boxes: int = 200_000,
    max_seconds: float | None = None,
) -> SearchResult:
    """sup_theta l(theta) + lam1.theta + theta^T lam2 theta with a proof; lam1 (P,), lam2 (P, P) symmetric.

    The bracket is asked to be no wider than tol * max(1, |value|), in units of the loss. ``starts`` (S, P) are points
    to climb from, such as the maximizers of a nearby problem. The search stops with a valid but wider bracket after
    ``max_boxes`` boxes or ``max_seconds`` seconds. ValueError for wrong shapes or values that are not finite.
    """
    lam1, lam2 = _parameters(loss, lam1, lam2)
    if not tol > 0.0:
        raise ValueError(f"tol must be positive, got {tol}")
    setting = prepare(loss, lam1, lam2)
    if isinstance(setting, Unbounded):
        nothing = np.empty((0, loss.dim))
        return SearchResult(np.inf, np.inf, np.full(loss.dim, np.nan), nothing, np.empty(0), True, 0, setting.reason)
    deadline = None if max_seconds is None else time.perf_counter() + max_seconds
    if isinstance(setting.model, LinearModel) and (setting.model.dim == 0 or not setting.model.groups):
        return _quadratic_result(setting.model, loss, lam1, lam2)
    points = _climb(setting, _starts(setting.model, starts, loss.dim))
    search = _Search(setting, points, tol, max_boxes, deadline)
    if setting.confined:
        search.run()
    else:
        search.message = setting.note
        if isinstance(loss, LinearPredictorLoss):
            search.upper = _without_bounded_terms(loss, lam1, lam2, tol)
    return search.result(loss, lam1, lam2)


def local_maximizers(loss: Loss, lam1: Any, lam2: Any, starts: Any) -> tuple[Array, Array]:
    """Distinct local maximizers (K, P) of h reached from starts (S, P), best first, and their values (K,); no proof."""
    lam1, lam2 = _parameters(loss, lam1, lam2)
    setting = prepare(loss, lam1, lam2)
    points = np.asarray(starts, dtype=float).reshape(-1, loss.dim)
    if isinstance(setting, Unbounded):
        return np.empty((0, loss.dim)), np.empty(0)
    u, _, _ = _climb(setting, setting.model.coordinates(points))
    theta = setting.model.theta(u)
    values = _objective(loss, lam1, lam2, theta)
    keep = distinct(theta, values)
    return theta[keep], values[keep]


def _without_bounded_terms(loss: LinearPredictorLoss, lam1: Array, lam2: Array, tol: float) -> float:
    """An upper bound where only terms bounded above vary along the null space: their suprema in their place."""
    kept = [g for g in loss.groups if g.link.convex]
    ends = np.array(-np.inf), np.array(np.inf)
    most = sum(float(g.weights.sum() * g.link.sup(*ends)) for g in loss.groups if not g.link.convex)
    rest = LinearPredictorLoss(kept, dim=loss.dim, H=loss.H, b=loss.b, c=loss.c)
    return maximize(rest, lam1, lam2, tol=tol).upper + most


def _quadratic_result(model: LinearModel, loss: Loss, lam1: Array, lam2: Array) -> SearchResult:
    """h is -|u|^2/2 + linear.u plus constants."""
    top = model.linear[None, :]
    value = float(model.value(top)[0])
    theta = model.theta(top)
    margin = _rounding(value, theta[0], lam1, lam2)
    lower = min(value, float(_objective(loss, lam1, lam2, theta)[0]))
    return SearchResult(lower, value + margin, theta[0], theta, np.array([lower]), True, 0, "")


def _rounding(value: float, theta: Array, lam1: Array, lam2: Array) -> float:
    size = abs(value) + float(np.abs(theta * lam1).sum() + np.abs(theta[:, None] * lam2 * theta).sum())
    return 32 * float(np.finfo(float).eps) * size


def _objective(loss: Loss, lam1: Array, lam2: Array, theta: Array) -> Array:
    return np.asarray(loss(theta) + theta @ lam1 + np.einsum("ni,ij,nj->n", theta, lam2, theta))


def _parameters(loss: Loss, lam1: Any, lam2: Any) -> tuple[Array, Array]:
    first, second = np.asarray(lam1, dtype=float), np.asarray(lam2, dtype=float)
    if first.shape != (loss.dim,):
        raise ValueError(f"lam1 must have shape ({loss.dim},), got {first.shape}")
    if second.shape != (loss.dim, loss.dim):
        raise ValueError(f"lam2 must have shape ({loss.dim}, {loss.dim}), got {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("lam1 and lam2 must be finite")
    return first, 0.5 * (second + second.T)


def _starts(model: Model, given: Any, dim: int) -> Array:
    """Given points first, then a few directions out to where the loss's terms and the concave part balance."""
    parts = []
    if given is not None:
        points = np.asarray(given, dtype=float)
        if points.size % dim:
            raise ValueError(f"starts must have shape (S, {dim}), got {points.shape}")
        parts.append(model.coordinates(points.reshape(-1, dim)))
    center = np.zeros((1, model.dim))
    parts += [center]
    if isinstance(model, LinearModel):
        # The slope of the loss in direction d puts the maximizer near it, for the concave part is -|u|^2/2.
        axes = np.vstack([np.eye(model.dim), -np.eye(model.dim)])
        rows = [g.rows[:: max(1, g.rows.shape[0] // 8)] for g in model.groups]
        directions = np.vstack([axes, *rows, *(-r for r in rows)])
        norms = np.linalg.norm(directions, axis=1, keepdims=True)
        directions = directions[norms[:, 0] > 0.0] / norms[norms[:, 0] > 0.0]
        parts.append(
            model.tangent(1e3 * directions)[1] + model.concave @ np.zeros(model.dim) + 1e3 * directions @ model.concave
        )
        parts.append(directions)
        for g in model.groups:
            if not g.link.convex:
                size = np.maximum(np.square(g.rows).sum(axis=1), 1e-300)
                kept = slice(0, 64)
                base = model.linear
                parts.append((base - g.rows * ((g.rows @ base + g.offsets) / size)[:, None])[kept])
    else:
        rng = np.random.default_rng(0)
        parts.append(rng.normal(size=(8 * model.dim, model.dim)) * rng.choice([0.3, 1.0, 3.0], size=(8 * model.dim, 1)))
    return np.vstack(parts)


def _climb(setting: Setting, starts: Array) -> tuple[Array, Array, Array]:
    """Distinct local maximizers (K, D), values, gradient norms."""
    if setting.domain is not None:
        center, half = setting.domain
        starts = np.clip(starts, center - half, center + half)
    model = setting.model
    u, value, slope = ascend(model, starts)
    if setting.domain is not None:
        center, half = setting.domain
        u = np.clip(u, center - half, center + half)
        value = model.value(u)
    u, value = np.vstack([u, starts]), np.concatenate([value, model.value(starts)])
    slope = np.concatenate([slope, np.full(starts.shape[0], np.inf)])
    keep = distinct(u, value)
    return u[keep], value[keep], slope[keep]


class _Search:
    """The state of one branch and bound."""

    def __init__(
        self,
        setting: Setting,
        points: tuple[Array, Array, Array],
        tol: float,
        max_boxes: int,
        deadline: float | None,
    ) -> None:
        self.setting, self.model = setting, setting.model
        self.points, self.values, self.slopes = points
        self.best = float(self.values[0])
        self.tol, self.max_boxes, self.deadline = tol, max_boxes, deadline
        self.boxes = 0
        self.upper = np.inf
        self.message = ""
        width = sum(g.rows.shape[0] for g in self.model.groups) if isinstance(self.model, LinearModel) else 4
        self.batch = max(256, _BATCH_ENTRIES // (width + self.model.dim**2))

    def run(self) -> None:
        center, half, top = enclosing_box(self.setting, self.best, self.points[0])
        if top <= self._target():
            self.upper = max(top, self.best)
            return
        self._branch(center[None, :], half[None, :], top)

    def _target(self) -> float:
        return self.best + 0.5 * self.tol * max(1.0, abs(self.best))

    def _branch(self, center: Array, half: Array, top: float) -> None:
        closed = -np.inf
        bound = np.array([top])
        while center.shape[0]:
            if self.boxes >= self.max_boxes or (self.deadline and time.perf_counter() > self.deadline):
                self.message = f"stopped with {center.shape[0]} boxes open"
                break
            if center.shape[0] > self.batch:
                order = np.argpartition(-bound, self.batch)
                now, later = order[: self.batch], order[self.batch :]
            else:
                now, later = np.arange(center.shape[0]), np.empty(0, dtype=int)
            c, w, b = center[now], half[now], bound[now]
            rest = center[later], half[later], bound[later]
            b, axis_weights = self._bound(c, w, b)
            done = b <= self._target()
            if done.any():
                closed = max(closed, float(b[done].max()))
            c, w, b, axis_weights = c[~done], w[~done], b[~done], axis_weights[~done]
            c, w, b = _split(c, w, b, axis_weights)
            center, half, bound = np.vstack([rest[0], c]), np.vstack([rest[1], w]), np.concatenate([rest[2], b])
        self.upper = min(top, max(self.best, closed, float(bound.max(initial=-np.inf))))

    def _bound(self, center: Array, half: Array, inherited: Array) -> tuple[Array, Array]:
        self.boxes += center.shape[0]
        value, slope, matrix = self.model.majorant(center, half)
        self._improve(center, value)
        bound = np.minimum(inherited, value + box_maximum(slope, matrix, half))
        weights = self.model.error_weights(matrix)
        for k in range(min(8, self.points.shape[0])):
            open_ = np.flatnonzero(bound > self._target())
            if open_.size == 0:
                break
            if k and self.values[k] < self.best - 0.1 * (1.0 + abs(self.best)):
                break
            v, s, K = self.model.majorant_at(self.points[k], center[open_], half[open_])
            bound[open_] = np.minimum(bound[open_], v + box_maximum(s, K, half[open_]))
        if isinstance(self.model, UserModel):
            quadratic = self.model.from_majorizer(center)
            if quadratic is not None:
                v, s, K = quadratic
                bound = np.minimum(bound, v + box_maximum(s, K, half))
        return bound, weights

    def _improve(self, center: Array, value: Array) -> None:
        """Climb from box centers that beat the best point known."""
        better = np.flatnonzero(value > self.best + 1e-12 * (1.0 + abs(self.best)))
        if better.size == 0:
            return
        starts = center[better[np.argsort(-value[better])[:16]]]
        points, values, slopes = _climb(self.setting, starts)
        points, values = np.vstack([self.points, points]), np.concatenate([self.values, values])
        slopes = np.concatenate([self.slopes, slopes])
        keep = distinct(points, values)[:64]
        self.points, self.values, self.slopes = points[keep], values[keep], slopes[keep]
        self.best = float(self.values[0])

    def result(self, loss: Loss, lam1: Array, lam2: Array) -> SearchResult:
        theta = self.model.theta(self.points)
        values = _objective(loss, lam1, lam2, theta)
        order = np.argsort(-values, kind="stable")
        theta, values = theta[order], values[order]
        lower = float(values[0])
        margin = _rounding(lower, theta[0], lam1, lam2)
        upper = max(self.upper, lower) + margin
        certified = upper - lower <= self.tol * max(1.0, abs(lower)) + margin
        message = self.message
        if self.setting.domain is not None:
            message = (message + "; " if message else "") + "the supremum is over the loss's bounds only"
        return SearchResult(lower, upper, theta[0], theta, values, bool(certified), self.boxes, message)


def _split(center: Array, half: Array, bound: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Halve each box across the axis along which its bound loses most."""
    if center.shape[0] == 0:
        return center, half, bound
    axis = np.argmax((weights + 1e-3) * half * half, axis=1)
    rows = np.arange(center.shape[0])
    narrow = half.copy()
    narrow[rows, axis] *= 0.5
    shift = np.zeros_like(center)
    shift[rows, axis] = narrow[rows, axis]
    return np.vstack([center - shift, center + shift]), np.vstack([narrow, narrow]), np.concatenate([bound, bound])
