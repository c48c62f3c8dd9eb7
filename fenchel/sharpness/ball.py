"""Certified maximization of a loss over a ball, the inner problem of SAM (Eq. 1): sup of l(c + eps) over |eps| <= rho.

Branch and bound over boxes in u = eps / rho. Three devices keep the number of boxes small at the boundary, where the
maximum usually lies: on the ball l <= l + nu (1 - |u|^2) / 2 for every nu >= 0 (the Lagrangian), a box that crosses
the sphere is also enclosed in a rectangle turned so that one face touches the sphere, and a quadratic loss is solved
exactly (the trust-region problem, which has no duality gap).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fenchel.arrays import Array
from fenchel.losses import Loss
from fenchel.losses.accurate import EPS
from fenchel.search.ascent import distinct
from fenchel.search.bounds import LinearModel
from fenchel.search.maximize import past_jumps
from fenchel.sharpness.ball_ascent import climb, domain_of, model_of, spread_starts, trust_region
from fenchel.sharpness.ball_branching import Branching


@dataclass(frozen=True)
class BallMaximum:
    """lower <= sup_{|eps| <= rho} l(c + eps) <= upper; lower is l(c + eps) at eps = ``argmax`` (P,), less rounding.

    ``maximizers`` (K, P) and ``values`` (K,): the distinct local maximizers met, best first. ``certified``: the
    bracket is proved and no wider than tol * max(1, |values[0]|) plus rounding.
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
        return np.asarray(self.maximizers[self.values >= self.values[0] - slack])


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
    model = model_of(loss, center, radius)
    domain = domain_of(loss, center, radius)
    begin = spread_starts(model.dim) if starts is None else np.vstack([spread_starts(model.dim), starts / radius])
    u, value = climb(model, begin, domain)
    exact = trust_region(model) if isinstance(model, LinearModel) and not model.groups else None
    if exact is not None:
        points, top = exact
        u = np.vstack([points, u])
        value = model.value(u)
        keep = distinct(u, value, radius=1e-7)[:64]
        return _result(loss, center, radius, u[keep], top, 0, tol, "")
    if not certify:
        return _result(loss, center, radius, u, np.inf, 0, tol, "local search only")
    search = Branching(model, u, value, tol, max_boxes, domain)
    upper = search.run()
    note = "the supremum is over the loss's bounds only" if domain is not None else ""
    message = "; ".join(part for part in (search.message, note) if part)
    return _result(loss, center, radius, search.points, upper, search.boxes, tol, message)


def _result(
    loss: Loss, center: Array, radius: float, u: Array, upper: float, boxes: int, tol: float, message: str
) -> BallMaximum:
    eps = radius * u
    points = center + eps
    values = np.asarray(loss(points), dtype=float).reshape(-1)
    order = np.argsort(-values, kind="stable")
    eps, values = eps[order], values[order]
    best = float(values[0])
    gradient = np.atleast_1d(loss.gradient(points[order[0]]))
    size = abs(best) + float(np.abs(gradient) @ (np.abs(points[order[0]]) + np.abs(center)))
    own = float(loss.rounding(points[order[:1]], 1)[0]) if loss.continuous else 0.0
    margin = 64 * EPS * (1.0 + size) + own
    upper, lower = max(upper, best) + margin, _feasible(loss, center, radius, points[order[:1]])
    closed = upper - best <= tol * max(1.0, abs(best)) + 2.0 * margin
    certified = bool(closed and np.isfinite(upper) and best - lower <= tol * max(1.0, abs(best)) + 2.0 * margin)
    return BallMaximum(lower, upper, eps[0], eps, values, certified, boxes, message)


def _feasible(loss: Loss, center: Array, radius: float, best: Array) -> float:
    """A lower bound that its own rounding cannot lift: the loss near ``best`` (1, P), surely inside the ball."""
    if loss.bounds is None:
        unsure = EPS * (loss.dim + 4)
        shrink = max(0.0, 1.0 - 8.0 * unsure * (1.0 + float(np.linalg.norm(center)) / radius))
        near = past_jumps(loss, center + shrink * (best - center))
        inside = np.linalg.norm(near - center, axis=1) * (1.0 + unsure) <= radius
        best = np.vstack([center, near[inside]])
    return float((np.asarray(loss(best)) - loss.rounding(best, -1)).max())
