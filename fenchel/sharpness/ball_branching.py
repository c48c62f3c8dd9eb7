"""Branch and bound for the largest loss in a ball: boxes closed by quadratics and a multiplier of the sphere."""

from __future__ import annotations

import numpy as np

from fenchel.arrays import Array
from fenchel.search.ascent import distinct
from fenchel.search.bounds import LinearModel
from fenchel.search.box_quadratic import box_maximum
from fenchel.sharpness.ball_ascent import Model, climb


class Branching:
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
        more, values = climb(self.model, starts, self.domain)
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
