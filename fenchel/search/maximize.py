"""Certified global maximization of h(theta) = l(theta) + lam1.theta + theta^T lam2 theta: the supremum of Theorem 1.

Branch and bound over boxes in whitened coordinates, many boxes at a time. On each box h lies below a quadratic made of
per-term parabolas that are tight on the term's interval; a box is closed once the quadratic's maximum is no better
than the best point known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.checks import check_loss
from fenchel.losses import LinearPredictorLoss, Loss
from fenchel.losses.accurate import EPS, TINY
from fenchel.losses.jumps import JumpPlanes
from fenchel.search.ascent import distinct
from fenchel.search.bounds import LinearModel
from fenchel.search.branch import BranchAndBound
from fenchel.search.confine import Unbounded, prepare
from fenchel.search.starts import climb, given_starts, starting_points

__all__ = ["SearchResult", "local_maximizers", "maximize", "past_jumps"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SearchResult:
    """lower <= sup h <= upper; lower is h(argmax) less its rounding.

    ``maximizers`` (K, P), ``values`` (K,): the distinct local maximizers met, best first. ``certified``: the bracket
    is proved and no wider than tol * max(1, |lower|) plus rounding. Where the supremum is proved infinite,
    lower = upper = inf, where rounding decides whether it is, lower = -inf; ``message`` says why.
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

    def shifted(self, t: float, convert: Callable[[Array], Array] = np.asarray) -> SearchResult:
        """The result for h - t, its points (K, P) converted to other coordinates."""
        return replace(
            self,
            lower=self.lower - t,
            upper=self.upper - t,
            argmax=convert(np.asarray(self.argmax, dtype=float)[None, :])[0],
            maximizers=convert(np.asarray(self.maximizers, dtype=float)),
            values=np.asarray(self.values, dtype=float) - t,
        )


# Far out values overflow; what is not finite bounds nothing and is no step.
_quiet = np.errstate(over="ignore", invalid="ignore")


@_quiet
def maximize(
    loss: Loss,
    lam1: Any,
    lam2: Any,
    *,
    tol: float = 1e-9,
    starts: Any = None,
    max_boxes: int = 200_000,
    max_seconds: float | None = None,
    about: Array | None = None,
    enough: float = np.inf,
) -> SearchResult:
    """sup_theta l(theta) + lam1.theta + theta^T lam2 theta with a proof; lam1 (P,), lam2 (P, P) symmetric.

    With ``about`` (P,), theta - about stands in place of theta in the quadratic, whose terms would cancel where a large
    mean meets a small covariance (for losses that are not of linear predictors; those are composed with the shift).

    The bracket is asked to be no wider than tol * max(1, |value|), in units of the loss. ``starts`` (S, P) are points
    to climb from, such as the maximizers of a nearby problem. The search stops with a valid but wider bracket after
    ``max_boxes`` boxes or ``max_seconds`` seconds, a long one also once it has met a value above ``enough``.
    ValueError for wrong shapes or values that are not finite.
    """
    lam1, lam2 = _parameters(loss, lam1, lam2)
    if not tol > 0.0:
        raise ValueError(f"tol must be positive, got {tol}")
    about = np.zeros(loss.dim) if about is None else about
    setting = prepare(loss, lam1, lam2, about)
    if isinstance(setting, Unbounded):
        nothing = np.empty((0, loss.dim))
        nowhere, proved = np.full(loss.dim, np.nan), setting.proved
        lower, reason = (np.inf, "") if proved else (-np.inf, "within rounding, ")
        return SearchResult(lower, np.inf, nowhere, nothing, np.empty(0), proved, 0, reason + setting.reason)
    deadline = None if max_seconds is None else time.perf_counter() + max_seconds
    model = setting.model
    if setting.confined and isinstance(model, LinearModel) and (model.dim == 0 or not model.groups):
        return _quadratic_result(model, loss, lam1, lam2)
    begin = starting_points(setting.model, few=starts is not None)
    if starts is not None:
        begin = np.vstack([given_starts(setting.model, starts, loss.dim), begin])
    points, values = climb(setting, begin, deadline)
    search = BranchAndBound(setting, points, values, tol=tol, max_boxes=max_boxes, deadline=deadline, enough=enough)
    if setting.confined:
        search.run()
    else:
        search.message = setting.note
        search.upper = _unconfined_upper(loss, lam1, lam2, about, tol)
    return _result(search, loss, lam1, lam2, about)


@_quiet
def local_maximizers(
    loss: Loss, lam1: Any, lam2: Any, starts: Any, deadline: float | None = None, about: Array | None = None
) -> tuple[Array, Array]:
    """Distinct local maximizers (K, P) of h reached from starts (S, P), best first, and their values (K,); no proof.

    After ``deadline`` (of `time.perf_counter`) the points are handed back as they are.
    """
    lam1, lam2 = _parameters(loss, lam1, lam2)
    about = np.zeros(loss.dim) if about is None else about
    setting = prepare(loss, lam1, lam2, about)
    if isinstance(setting, Unbounded):
        return np.empty((0, loss.dim)), np.empty(0)
    u, _ = climb(setting, given_starts(setting.model, starts, loss.dim), deadline)
    theta = setting.model.theta(u)
    values = _objective(loss, lam1, lam2, theta, about)
    keep = distinct(theta, values)
    return theta[keep], values[keep]


def _result(search: BranchAndBound, loss: Loss, lam1: Array, lam2: Array, about: Array) -> SearchResult:
    """Back to theta, where values are computed anew, with room for rounding."""
    theta = search.model.theta(search.points)
    if loss.bounds is not None:
        theta = np.clip(theta, *loss.bounds)
    values = _objective(loss, lam1, lam2, theta, about)
    order = np.argsort(-values, kind="stable")
    theta, values = theta[order], values[order]
    best = float(values[0])
    margin = _rounding(loss, theta, lam1, lam2, about)
    upper = max(search.upper, best) + margin
    certified = np.isfinite(upper) and upper - best <= search.tol * max(1.0, abs(best)) + 2.0 * margin
    lower = _feasible(loss, theta[:1], lam1, lam2, about)
    message = search.message
    if loss.bounds is not None:
        message = (message + "; " if message else "") + "the supremum is over the loss's bounds only"
    return SearchResult(lower, upper, theta[0], theta, values, bool(certified), search.boxes, message)


def _unconfined_upper(loss: Loss, lam1: Array, lam2: Array, about: Array, tol: float) -> float:
    """An upper bound where nothing confines the search: bounded terms at their suprema, or the declared majorizer."""
    linear = loss.in_predictors()
    if linear is None:
        if loss.majorizer is None:
            return np.inf
        constant = float(about @ lam2 @ about - lam1 @ about)
        return maximize(loss.majorizer, lam1 - 2.0 * lam2 @ about, lam2).upper + constant
    kept = [g for g in linear.groups if g.link.convex]
    if len(kept) == len(linear.groups):
        return np.inf
    ends = np.array(-np.inf), np.array(np.inf)
    most = sum(float(g.weights.sum() * g.link.sup(*ends)) for g in linear.groups if not g.link.convex)
    rest = LinearPredictorLoss(kept, dim=loss.dim, H=linear.H, b=linear.b, c=linear.c)
    return maximize(rest, lam1, lam2, tol=tol).upper + most


def _quadratic_result(model: LinearModel, loss: Loss, lam1: Array, lam2: Array) -> SearchResult:
    """h is -|u|^2/2 + linear.u plus constants."""
    top = model.linear[None, :]
    value = float(model.value(top)[0])
    theta = model.theta(top)
    zero = np.zeros(loss.dim)
    values = _objective(loss, lam1, lam2, theta, zero)
    upper = max(value, float(values[0])) + _rounding(loss, theta, lam1, lam2, zero)
    return SearchResult(_feasible(loss, theta, lam1, lam2, zero), upper, theta[0], theta, values, True, 0, "")


def _rounding(loss: Loss, theta: Array, lam1: Array, lam2: Array, about: Array) -> float:
    """What rounding can do to the best value of h and to bounds of it, at the maximizers theta (K, P).

    A few units in the last place of its parts, more where many are summed, and what it does to the loss itself.
    """
    linear = loss.in_predictors()
    terms = 0 if linear is None else sum(g.rows.shape[0] for g in linear.groups)
    size = abs(float(_objective(loss, lam1, lam2, theta[:1], about)[0]))
    size += float(_sizes(lam1, lam2, theta[:1] - about)[0])
    # The search takes the loss at the parameters nearest to its own points.
    own = loss.rounding(theta, 1) + EPS * np.einsum("ni,ni->n", np.abs(loss._gradient(theta)), np.abs(theta))
    most = max(float(own[0]), float(own[np.isfinite(own)].max(initial=0.0))) if loss.continuous else 0.0
    return (32.0 + 2.0 * float(np.sqrt(terms))) * EPS * size + most


def _feasible(loss: Loss, theta: Array, lam1: Array, lam2: Array, about: Array) -> float:
    """A lower bound of sup h that its own rounding cannot lift above: h at theta (1, P), on the upper side of jumps."""
    theta = past_jumps(loss, theta)
    error = loss.rounding(theta, -1) + EPS * (loss.dim + 2) * _sizes(lam1, lam2, theta - about)
    return float((_objective(loss, lam1, lam2, theta, about) * (1.0 - 2.0 * EPS) - error).max())


def _sizes(lam1: Array, lam2: Array, theta: Array) -> Array:
    """The sum of the sizes of the terms of lam1.theta + theta^T lam2 theta, (n,)."""
    size = np.abs(theta)
    return np.asarray(size @ np.abs(lam1) + np.einsum("ni,ij,nj->n", size, np.abs(lam2), size))


def past_jumps(loss: Loss, theta: Array) -> Array:
    """theta (1, P) and the nearest point beyond the jumps on which it lies within rounding: (2, P)."""
    planes = JumpPlanes.of(loss)
    z, length = planes.rows @ theta[0] + planes.offsets, np.square(planes.rows).sum(axis=1)
    off = 4.0 * EPS * (loss.dim + 2) * (np.abs(planes.rows) @ np.abs(theta[0]) + np.abs(planes.offsets)) + TINY
    near = np.abs(z) <= off
    return np.concatenate([theta, theta + ((off - z) / length)[near] @ planes.rows[near]])


def _objective(loss: Loss, lam1: Array, lam2: Array, theta: Array, about: Array) -> Array:
    apart = theta - about
    return np.asarray(loss(theta) + apart @ lam1 + np.einsum("ni,ij,nj->n", apart, lam2, apart))


def _parameters(loss: Loss, lam1: Any, lam2: Any) -> tuple[Array, Array]:
    check_loss(loss)
    first, second = np.asarray(lam1, dtype=float), np.asarray(lam2, dtype=float)
    if first.shape != (loss.dim,):
        raise ValueError(f"lam1 must have shape ({loss.dim},), got {first.shape}")
    if second.shape != (loss.dim, loss.dim):
        raise ValueError(f"lam2 must have shape ({loss.dim}, {loss.dim}), got {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("lam1 and lam2 must be finite")
    return first, 0.5 * (second + second.T)
