"""Certified maximization of a loss over a ball, the inner problem of SAM (Eq. 1): sup of l(c + eps) over |eps| <= rho.

Branch and bound over boxes in u = eps / rho. Three devices keep the number of boxes small at the boundary, where the
maximum usually lies: on the ball l <= l + nu (1 - |u|^2) / 2 for every nu >= 0 (the Lagrangian), a box that crosses
the sphere is also enclosed in a rectangle turned so that one face touches the sphere, and a quadratic loss is solved
exactly (the trust-region problem, which has no duality gap).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from fenchel.losses import Loss
from fenchel.search.ascent import distinct
from fenchel.search.bounds import LinearModel, UserModel
from fenchel.search.box_quadratic import box_maximum

__all__ = ["BallMaximum", "ball_maximum"]

Array = NDArray[np.float64]
Model = LinearModel | UserModel


@dataclass(frozen=True)
class BallMaximum:
    """lower <= sup_{|eps| <= rho} l(c + eps) <= upper, with l(c + eps) = lower at eps = ``argmax`` (P,).

    ``maximizers`` (K, P) and ``values`` (K,): the distinct local maximizers met, best first. ``certified``: the
    bracket is proved and no wider than tol * max(1, |lower|) plus rounding.
    """

    lower: float
    upper: float
    argmax: Array
    maximizers: Array
    values: Array
    certified: bool
    boxes: int
    message: str = ""

    def worst(self, slack: float) -> Array:
        """The maximizers (K, P) whose value is within ``slack`` of the best."""
        return np.asarray(self.maximizers[self.values >= self.lower - slack])


def ball_maximum(
    loss: Loss,
    center: Array,
    radius: float,
    *,
    tol: float = 1e-10,
    max_boxes: int = 200_000,
    starts: Array | None = None,
    certify: bool = True,
) -> BallMaximum:
    """sup of l(center + eps) over |eps| <= radius; center (P,), radius > 0, ``starts`` (S, P) extra eps to climb from.

    With ``certify=False`` only the local search runs and ``upper`` is inf. A loss with ``bounds`` is maximized over the
    part of the ball inside them. The search stops with a valid but wider bracket after ``max_boxes`` boxes.
    """
    model = _model(loss, center, radius)
    domain = _domain(loss, center, radius)
    begin = _starts(model.dim) if starts is None else np.vstack([_starts(model.dim), starts / radius])
    u, value = _climb(model, begin, domain)
    exact = _trust_region(model) if isinstance(model, LinearModel) and not model.groups else None
    if exact is not None:
        points, top = exact
        u = np.vstack([points, u])
        value = model.value(u)
        keep = distinct(u, value, radius=1e-7)[:64]
        return _result(loss, center, radius, u[keep], top, 0, tol, "")
    if not certify:
        return _result(loss, center, radius, u, np.inf, 0, tol, "local search only")
    search = _Branching(model, u, value, tol, max_boxes, domain)
    upper = search.run()
    note = "the supremum is over the loss's bounds only" if domain is not None else ""
    message = "; ".join(part for part in (search.message, note) if part)
    return _result(loss, center, radius, search.points, upper, search.boxes, tol, message)


def _model(loss: Loss, center: Array, radius: float) -> Model:
    basis = radius * np.eye(loss.dim)
    linear = loss.in_predictors()
    if linear is None:
        return UserModel(loss, center, basis, np.zeros((loss.dim, loss.dim)), np.zeros(loss.dim), 0.0)
    slope = linear.b + linear.H @ center
    constant = linear.c + float(linear.b @ center + 0.5 * center @ linear.H @ center)
    return LinearModel(linear, center, basis, -radius * radius * linear.H, radius * slope, constant)


def _domain(loss: Loss, center: Array, radius: float) -> tuple[Array, Array] | None:
    """The loss's bounds in coordinates u, where they cut the ball."""
    if loss.bounds is None:
        return None
    lo, hi = (loss.bounds[0] - center) / radius, (loss.bounds[1] - center) / radius
    if (np.square(np.clip(0.0, lo, hi)).sum() > 1.0) or (lo > 1.0).any() or (hi < -1.0).any():
        raise ValueError("theta is so far outside the loss's bounds that the whole ball of radius rho misses them")
    if (lo <= -1.0).all() and (hi >= 1.0).all():
        return None
    return lo, hi


def _starts(dim: int) -> Array:
    if dim == 1:
        return np.linspace(-1.0, 1.0, 65)[:, None]
    if dim == 2:
        angle = 2.0 * np.pi * np.arange(32) / 32
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.vstack([circle, 0.6 * circle[::3], 0.2 * circle[::6]])
    rng = np.random.default_rng(0)
    sphere = rng.normal(size=(min(24 * dim, 200), dim))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    axes = np.vstack([np.eye(dim), -np.eye(dim)])
    return np.vstack([axes, sphere, 0.5 * sphere[::2]])


def _project(u: Array, domain: tuple[Array, Array] | None) -> Array:
    for _ in range(1 if domain is None else 30):
        if domain is not None:
            u = np.clip(u, *domain)
        u = u / np.maximum(1.0, np.linalg.norm(u, axis=1))[:, None]
    return u if domain is None else np.clip(u, *domain)


def _climb(model: Model, starts: Array, domain: tuple[Array, Array] | None, steps: int = 80) -> tuple[Array, Array]:
    """Distinct local maximizers on the ball: projected gradients with growing steps, then Newton on the KKT system."""
    u = _project(starts.copy(), domain)
    value, slope = model.tangent(u)
    length = 0.3 / np.maximum(np.linalg.norm(slope, axis=1), 1e-12)
    for _ in range(steps):
        trial = _project(u + length[:, None] * slope, domain)
        v, s = model.tangent(trial)
        better = v > value
        u = np.where(better[:, None], trial, u)
        slope = np.where(better[:, None], s, slope)
        value = np.where(better, v, value)
        length = np.where(better, 2.0 * length, 0.25 * length)
    if domain is None:
        u, value = _polish(model, u, value)
    keep = distinct(u, value, radius=1e-6)
    return u[keep], value[keep]


def _polish(model: Model, u: Array, value: Array, rounds: int = 6) -> tuple[Array, Array]:
    """Newton on grad = nu u, |u| = 1 (on the sphere) or grad = 0 (inside), kept where the value does not fall."""
    dim = model.dim
    for _ in range(rounds):
        _, slope, hessian = model.derivatives(u)
        on_sphere = np.linalg.norm(u, axis=1) > 1.0 - 1e-7
        nu = np.where(on_sphere, np.einsum("ni,ni->n", slope, u), 0.0)
        jacobian = np.zeros((u.shape[0], dim + 1, dim + 1))
        jacobian[:, :dim, :dim] = hessian - nu[:, None, None] * np.eye(dim)
        jacobian[:, :dim, dim] = np.where(on_sphere[:, None], -u, 0.0)
        jacobian[:, dim, :dim] = np.where(on_sphere[:, None], u, 0.0)
        jacobian[:, dim, dim] = np.where(on_sphere, 0.0, 1.0)
        excess = np.where(on_sphere, 0.5 * (1.0 - np.square(u).sum(axis=1)), 0.0)
        target = np.concatenate([nu[:, None] * u - slope, excess[:, None]], axis=1)
        move = np.linalg.lstsq(jacobian[0], target[0])[0][None, :] if u.shape[0] == 1 else _solve(jacobian, target)
        small = np.linalg.norm(move[:, :dim], axis=1) < 0.3
        trial = _project(u + np.where(small[:, None], move[:, :dim], 0.0), None)
        v = model.value(trial)
        better = v >= value - 4e-16 * (1.0 + np.abs(value))
        u = np.where(better[:, None], trial, u)
        value = np.where(better, v, value)
    return u, value


def _solve(matrix: Array, target: Array) -> Array:
    scale = np.abs(matrix).max(axis=(1, 2), keepdims=True)
    regular = np.abs(np.linalg.det(matrix / scale)) > 1e-14
    safe = np.where(regular[:, None, None], matrix, np.eye(matrix.shape[1]))
    return np.asarray(np.where(regular[:, None], np.linalg.solve(safe, target[:, :, None])[:, :, 0], 0.0))


def _trust_region(model: LinearModel) -> tuple[Array, float] | None:
    """Exact maximizers (1 or 2, P) of a quadratic on the unit ball and its dual bound: there is no duality gap.

    max c + g.u + u^T K u / 2 = min over nu >= max(0, largest eigenvalue) of c + nu/2 + g^T (nu - K)^-1 g / 2.
    """
    eigen, vectors = np.linalg.eigh(-model.concave)
    g = vectors.T @ model.linear
    if eigen[-1] < 0.0 and np.square(g / eigen).sum() <= 1.0:
        u = vectors @ (-g / eigen)
        return u[None, :], float(model.value(u[None, :])[0])
    low = max(0.0, float(eigen[-1]))
    size = np.linalg.norm(g)
    scale = max(abs(eigen[0]), abs(eigen[-1]), size)
    if scale == 0.0:
        return np.zeros((1, model.dim)), model.constant

    def norm(nu: float) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.sqrt(np.nan_to_num(np.square(g / (nu - eigen)), nan=0.0, posinf=np.inf).sum()))

    top = np.abs(low - eigen) <= 1e-12 * scale
    ready = np.where(top, 0.0, g / np.where(top, 1.0, low - eigen))
    if np.abs(g[top]).max(initial=0.0) <= 1e-13 * scale and np.linalg.norm(ready) <= 1.0 and top.any():
        # The hard case: the largest eigenvector completes the step to the sphere, with either sign.
        rest = np.sqrt(max(0.0, 1.0 - float(ready @ ready)))
        axis = np.zeros(model.dim)
        axis[np.flatnonzero(top)[-1]] = rest
        points = np.stack([ready + axis, ready - axis]) @ vectors.T
        bound = model.constant + 0.5 * low + 0.5 * float(g @ ready)
        return points, max(bound, float(model.value(points).max()))
    start = low + 1e-16 * scale
    while norm(start) < 1.0:
        start = low + 0.1 * (start - low)
    nu = float(brentq(lambda v: 1.0 - norm(v), start, low + 2.0 * size + 1e-300, xtol=1e-300, rtol=8.9e-16))
    u = vectors @ (g / (nu - eigen))
    u /= np.linalg.norm(u)
    bound = model.constant + 0.5 * nu + 0.5 * float(g @ (g / (nu - eigen)))
    return u[None, :], max(bound, float(model.value(u[None, :])[0]))


def _result(
    loss: Loss, center: Array, radius: float, u: Array, upper: float, boxes: int, tol: float, message: str
) -> BallMaximum:
    eps = radius * u
    points = center + eps
    values = np.asarray(loss(points), dtype=float).reshape(-1)
    order = np.argsort(-values, kind="stable")
    eps, values = eps[order], values[order]
    lower = float(values[0])
    gradient = np.atleast_1d(loss.gradient(points[order[0]]))
    size = abs(lower) + float(np.abs(gradient) @ (np.abs(points[order[0]]) + np.abs(center)))
    margin = 64 * np.finfo(float).eps * (1.0 + size)
    upper = max(upper, lower) + margin
    certified = bool(upper - lower <= tol * max(1.0, abs(lower)) + 2.0 * margin)
    return BallMaximum(lower, upper, eps[0], eps, values, certified, boxes, message)


class _Branching:
    """Best-first branch and bound on boxes of u, many at a time."""

    def __init__(
        self, model: Model, u: Array, value: Array, tol: float, max_boxes: int, domain: tuple[Array, Array] | None
    ) -> None:
        self.model, self.domain = model, domain
        self.points, self.values = u, value
        self.best = float(value[0])
        self.tol, self.max_boxes = tol, max_boxes
        self.boxes = 0
        self.message = ""
        self.nu = self._multiplier()
        width = sum(g.rows.shape[0] for g in model.groups) if isinstance(model, LinearModel) else 4
        self.batch = max(128, 200_000 // (width + model.dim**2))

    def run(self) -> float:
        dim = self.model.dim
        lo, hi = (-np.ones(dim), np.ones(dim))
        if self.domain is not None:
            lo, hi = np.maximum(lo, self.domain[0]), np.minimum(hi, self.domain[1])
        center, half = (0.5 * (lo + hi))[None, :], (0.5 * (hi - lo))[None, :]
        bound = np.array([np.inf])
        closed = self.best
        while center.shape[0]:
            if self.boxes >= self.max_boxes:
                self.message = f"stopped with {center.shape[0]} boxes open"
                break
            now = np.arange(center.shape[0])
            later = np.empty(0, dtype=int)
            if now.size > self.batch:
                order = np.argpartition(-bound, self.batch)
                now, later = order[: self.batch], order[self.batch :]
            c, w = center[now], half[now]
            b, weights = self._bound(c, w, bound[now])
            done = b <= self.best + 0.5 * self.tol * max(1.0, abs(self.best))
            closed = max(closed, float(b[done].max(initial=-np.inf)))
            c, w, b = _halves(c[~done], w[~done], b[~done], weights[~done])
            center, half = np.vstack([center[later], c]), np.vstack([half[later], w])
            bound = np.concatenate([bound[later], b])
        return max(closed, float(bound.max(initial=-np.inf)))

    def _multiplier(self) -> float:
        u = self.points[:1]
        return max(0.0, float(np.einsum("ni,ni->n", self.model.tangent(u)[1], u)[0]))

    def _bound(self, c: Array, w: Array, inherited: Array) -> tuple[Array, Array]:
        self.boxes += c.shape[0]
        bound = inherited.copy()
        nearest = np.clip(0.0, c - w, c + w)
        outside = np.linalg.norm(nearest, axis=1) > 1.0 + 1e-12
        value, slope, matrix = self.model.majorant(c, w)
        weights = self.model.error_weights(matrix)
        self._improve(nearest[~outside])
        bound = np.where(outside, -np.inf, np.minimum(bound, value + box_maximum(slope, matrix, w)))
        target = self.best + 0.5 * self.tol * max(1.0, abs(self.best))
        rows = np.flatnonzero(bound > target)
        if rows.size:
            bound[rows] = np.minimum(
                bound[rows], self._lagrangian(c[rows], w[rows], value[rows], slope[rows], matrix[rows])
            )
        rows = np.flatnonzero(bound > target)
        if rows.size:
            # A parabola tangent at a maximizer is sharper than one tangent at the box's center, once boxes are small.
            anchors = self.model.anchors(self.points[:8])
            apart = np.linalg.norm(c[rows, None, :] - anchors.u[None, :, :], axis=2)
            which = np.argmin(apart, axis=1)
            near = apart[np.arange(rows.size), which] <= 0.5
            rows, which = rows[near], which[near]
        if rows.size:
            v, s, K = self.model.anchored(anchors, which, c[rows], w[rows])
            bound[rows] = np.minimum(bound[rows], self._lagrangian(c[rows], w[rows], v, s, K))
        return bound, weights

    def _lagrangian(self, c: Array, w: Array, value: Array, slope: Array, matrix: Array) -> Array:
        """min over a few nu of the bound of l + nu (1 - |u|^2)/2, on the box and on the turned rectangle."""
        size = np.linalg.norm(c, axis=1)
        near = size > 1e-6
        unit = np.where(near[:, None], c / np.where(near, size, 1.0)[:, None], np.eye(c.shape[1])[0])
        local = np.maximum(np.einsum("bi,bi->b", slope, unit) / np.maximum(size, 0.1), 0.0)
        finite: Array = np.asarray(np.isfinite(matrix).all(axis=(1, 2)))
        bent = np.where(
            finite, np.einsum("bi,bij,bj->b", unit, np.where(finite[:, None, None], matrix, 0.0), unit), 0.0
        )
        give = np.maximum(bent - local, 0.0) * np.abs(w).max(axis=1) * np.sqrt(c.shape[1])
        candidates = [np.full(c.shape[0], self.nu), local, local - 0.5 * give, local - give, local - 2.0 * give]
        frame = _frames(unit)
        best = np.full(c.shape[0], np.inf)
        for nu in candidates:
            nu = np.maximum(nu, 0.0)
            v = value + 0.5 * nu * (1.0 - size * size)
            s = slope - nu[:, None] * c
            K = matrix - nu[:, None, None] * np.eye(c.shape[1])
            best = np.minimum(best, v + box_maximum(s, K, w))
            best = np.minimum(best, _turned(v, s, K, w, frame, 1.0 - size))
        return best

    def _improve(self, u: Array) -> None:
        if u.shape[0] == 0:
            return
        value = self.model.value(u)
        better = np.flatnonzero(value > self.best + 1e-12 * (1.0 + abs(self.best)))
        if better.size == 0:
            return
        starts = u[better[np.argsort(-value[better])[:16]]]
        more, values = _climb(self.model, starts, self.domain)
        points, value = np.vstack([self.points, more]), np.concatenate([self.values, values])
        keep = distinct(points, value, radius=1e-6)[:64]
        self.points, self.values = points[keep], value[keep]
        self.best = float(self.values[0])
        self.nu = self._multiplier()


def _frames(unit: Array) -> Array:
    """(B, P) unit vectors -> (B, P, P) orthogonal matrices whose first column is the vector (Householder)."""
    dim = unit.shape[1]
    first = np.eye(dim)[0]
    sign = np.where(unit[:, 0] >= 0.0, 1.0, -1.0)
    v = unit + sign[:, None] * first
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    reflection = np.eye(dim) - 2.0 * v[:, :, None] * v[:, None, :]
    # The reflection sends the first axis to -sign times the vector.
    return np.asarray(-sign[:, None, None] * reflection)


def _turned(value: Array, slope: Array, matrix: Array, w: Array, frame: Array, room: Array) -> Array:
    """The bound over the rectangle, in the turned frame, around the box cut by the half-space u.unit <= 1."""
    reach = np.einsum("bij,bi->bj", np.abs(frame), w)
    top = np.minimum(reach[:, 0], room)
    empty = top < -reach[:, 0]
    middle = 0.5 * (top - reach[:, 0])
    half = reach.copy()
    half[:, 0] = np.maximum(0.5 * (top + reach[:, 0]), 0.0)
    s = np.einsum("bij,bi->bj", frame, slope)
    with np.errstate(invalid="ignore"):
        K = np.einsum("bki,bkl,blj->bij", frame, matrix, frame)
    K = np.where(np.isnan(K), np.inf, K)
    with np.errstate(invalid="ignore"):
        v = value + s[:, 0] * middle + 0.5 * K[:, 0, 0] * middle * middle
        s = s + K[:, :, 0] * middle[:, None]
    finite = np.asarray(np.isfinite(K).all(axis=(1, 2)))
    safe = np.where(finite[:, None, None], K, 0.0)
    inner = np.where(finite, v + box_maximum(np.where(finite[:, None], s, 0.0), safe, half), np.inf)
    return np.asarray(np.where(empty, -np.inf, inner))


def _halves(c: Array, w: Array, b: Array, weights: Array) -> tuple[Array, Array, Array]:
    if c.shape[0] == 0:
        return c, w, b
    weights = np.where(np.isfinite(weights), weights, 1.0)
    axis = np.argmax((weights + 0.1 * weights.max() + 1e-3) * w * w, axis=1)
    rows = np.arange(c.shape[0])
    narrow = w.copy()
    narrow[rows, axis] *= 0.5
    shift = np.zeros_like(c)
    shift[rows, axis] = narrow[rows, axis]
    return np.vstack([c - shift, c + shift]), np.vstack([narrow, narrow]), np.concatenate([b, b])
