"""The SAM objective (Eq. 1) with a certified inner maximum, and its global minimization."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.certificates import of_sam
from fenchel.checks import check_count, check_loss, check_seconds, check_tolerance
from fenchel.losses import Loss
from fenchel.losses.accurate import EPS
from fenchel.losses.inputs import finite_points, finite_vector, nonnegative_number
from fenchel.results import ObjectiveResult
from fenchel.sharpness.ball import ball_maximum
from fenchel.sharpness.cells import cover, lower_bound
from fenchel.sharpness.extent import confining_box
from fenchel.sharpness.line_branching import OuterMinimum
from fenchel.sharpness.line_minimum import minimize_sam_line
from fenchel.sharpness.minimax import Branches, Descent, branch_derivatives, descend, descents

# Boxes in the inner search above P = 3, where it is only asked for a valid upper bound.
_BOXES_HIGH = 2_000
# Branch and bound over theta: up to this P, from this many starts, to this share of the value.
_CELL_DIM = 3
_STARTS = 12
_FEW = 100_000
_CELL_TOL = 5e-10


def sam_objective(
    loss: Loss, theta: Any, rho: float, delta: float, *, tol: float = 1e-10, max_boxes: int | None = None
) -> ObjectiveResult:
    """E_SAM = sup_{|eps| <= rho} l(theta + eps) + delta/2 |theta|^2 (Eq. 1); theta (P,), rho >= 0, delta >= 0.

    The inner maximum is global: for P <= 3 the bracket [lower, upper] is proved to tol * max(1, |value|) in units of
    the loss; above that the same search runs with few boxes, its bracket is valid but may be wide, and ``certified``
    says whether it closed. ``argmax`` is the worst perturbation eps* (P,), ``info["maximizers"]`` (K, P) and
    ``info["values"]`` (K,) list the local ones met. ValueError for wrong shapes, values that are not finite, negative
    rho or delta.
    """
    check_loss(loss)
    point = _point(loss, theta)
    rho, delta = nonnegative_number(rho, "rho"), nonnegative_number(delta, "delta")
    check_tolerance(tol)
    if max_boxes is not None:
        check_count(max_boxes, "max_boxes")
    penalty = 0.5 * delta * float(point @ point)
    if rho == 0.0:
        value, zero = float(loss(point)) + penalty, np.zeros(loss.dim)
        info = {"maximizers": zero[None, :], "values": np.array([value]), "boxes": 0}
        error = EPS * ((loss.dim + 3) * penalty + abs(value))
        low, high = (float(loss.rounding(point[None, :], side)[0]) + error for side in (-1, 1))
        return ObjectiveResult(value, value - low, value + high, True, zero, "", info)
    budget = max_boxes if max_boxes is not None else (200_000 if loss.dim <= 3 else _BOXES_HIGH)
    found = ball_maximum(loss, point, rho, tol=tol, max_boxes=budget)
    value = float(found.values[0]) + penalty
    error = EPS * ((loss.dim + 3) * penalty + 2.0 * abs(value))
    return ObjectiveResult(
        value=value,
        lower=found.lower + penalty - error,
        upper=found.upper + penalty + error,
        certified=found.certified,
        argmax=found.argmax,
        message=found.message,
        info={"maximizers": found.maximizers, "values": found.values + penalty, "boxes": found.boxes},
        assumes=loss.assumes,
        evidence=partial(of_sam, loss, point, rho, delta),
    )


def minimize_sam(
    loss: Loss,
    rho: float,
    delta: float,
    *,
    tol: float = 1e-10,
    starts: Any = None,
    max_seconds: float | None = None,
) -> OuterMinimum:
    """argmin over theta of E_SAM(theta; rho, delta); rho > 0, delta >= 0.

    P = 1: branch and bound over theta, ``certified`` globally. P >= 2: descent from many starts, at whose best point
    the inner maximum is certified; the minimum itself is certified for convex losses by a subgradient, for others by
    branch and bound (P <= 3) where the budget allows: else ``lower`` is what that proved, or comes from a minorant of
    the loss. After ``max_seconds`` no further descent begins, and cells that would take longer are left out (P >= 2).
    ValueError for discontinuous losses and where the objective has no minimizer.
    """
    check_loss(loss)
    check_tolerance(tol)
    rho, delta = nonnegative_number(rho, "rho"), nonnegative_number(delta, "delta")
    end = time.perf_counter() + check_seconds(max_seconds)
    if rho == 0.0:
        raise ValueError("rho must be positive to minimize the SAM objective")
    if not loss.continuous:
        raise ValueError("the SAM objective of a discontinuous loss need not have a minimizer")
    if loss.dim == 1:
        return minimize_sam_line(loss, rho, delta, tol=tol)

    def inner(theta: Array, warm: Array | None) -> Branches:
        return sam_branches(loss, theta, rho, warm)

    level = float(ball_maximum(loss, np.zeros(loss.dim), rho, certify=False).values[0])
    lo, hi, confined = confining_box(loss, delta, level)
    radius = 0.5 * float((hi - lo).max())
    given = [] if starts is None else list(finite_points(starts, "starts", loss.dim))
    cells = None if loss.convex or loss.dim > _CELL_DIM else cover(loss, rho, delta, lo, hi, end)
    if cells is None:
        given += list(spread_starts(_rough(loss, rho, delta), lo, hi))
    runs = descents(inner, given, delta, radius=radius, end=end)
    while cells is not None and len(runs) < len(given) + _STARTS and not (runs and time.perf_counter() > end):
        # The next descent begins where E_SAM may still be lower than found so far, in a valley not yet visited.
        begin = cells.apart_from(np.array([run.theta for run in runs]).reshape(-1, loss.dim))
        if begin.size == 0:
            break
        runs.append(descend(inner, begin, delta, radius=radius, end=end))
        cells = cells.below(min(run.value for run in runs))
        if len(cells.centers) * 2**loss.dim < _FEW:
            cells = cells.halved()
    best = min(runs, key=lambda run: run.value)
    top = sam_objective(loss, best.theta, rho, delta, tol=0.1 * tol)
    if top.value > best.value + tol * max(1.0, abs(best.value)):
        # The certified search met a perturbation that no descent had seen.
        runs.append(descend(inner, best.theta, delta, radius=0.1 * rho))
        best = min(runs, key=lambda run: run.value)
        top = sam_objective(loss, best.theta, rho, delta, tol=0.1 * tol)
    lower = _lower_bound(loss, best, delta)
    if cells is not None and confined and lower < top.upper - _CELL_TOL * max(1.0, abs(top.upper)):
        lower = max(lower, min(lower_bound(cells, top.upper, _CELL_TOL, end), min(run.value for run in runs)))
    return gathered(runs, top.value, lower, top.upper, tol)


def sam_branches(loss: Loss, theta: Array, rho: float, warm: Array | None) -> Branches:
    """The local maximizers of l(theta + eps) on |eps| <= rho, at most 12, best first, with their derivatives."""
    found = ball_maximum(loss, theta, rho, certify=False, starts=warm)
    eps, values = found.maximizers[:12], found.values[:12]
    points = theta + eps
    slopes = np.atleast_2d(loss.gradient(points))
    outward = np.einsum("ki,ki->k", slopes, eps) / (rho * rho)
    on_sphere = np.linalg.norm(eps, axis=1) > rho * (1.0 - 1e-9)
    nu = np.where(on_sphere, np.maximum(outward, 0.0), 0.0)
    # A point that the climb left unfinished is no branch; the best one always stays.
    rest = np.linalg.norm(slopes - nu[:, None] * eps, axis=1)
    keep = rest <= 1e-6 * (1.0 + np.linalg.norm(slopes, axis=1))
    keep[0] = True
    eps, values, nu, points = eps[keep], values[keep], nu[keep], points[keep]
    slopes, bends = branch_derivatives(loss, points, eps, nu, np.zeros(eps.shape[0], dtype=bool))
    return Branches(eps, values, slopes, bends)


def spread_starts(rough: Callable[[Array], Array], lo: Array, hi: Array, *, given: Any = None, count: int = 6) -> Array:
    """Where to start descents: the lowest local minima of ``rough`` on a grid (P = 2) or the lowest random points."""
    dim = lo.size
    if dim == 2:
        n = 33
        axes = [np.linspace(lo[i], hi[i], n) for i in range(2)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        values = np.concatenate([rough(row) for row in grid]).reshape(n, n)
        padded = np.pad(values, 1, constant_values=np.inf)
        around = np.min([padded[1 + i : 1 + i + n, 1 + j : 1 + j + n] for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)
        low = np.flatnonzero((values <= around).ravel())
        points, scores = grid.reshape(-1, 2), values.ravel()
    else:
        rng = np.random.default_rng(0)
        scale = rng.choice([0.05, 0.3, 1.0], size=(60 * dim, 1))
        points = np.vstack(
            [np.zeros((1, dim)), 0.5 * (lo + hi) + scale * rng.uniform(-0.5, 0.5, (60 * dim, dim)) * (hi - lo)]
        )
        points = np.clip(points, lo, hi)
        scores = rough(points)
        low = np.arange(points.shape[0])
    chosen = points[low[np.argsort(scores[low])[:count]]]
    if given is None:
        return chosen
    return np.vstack([np.asarray(given, dtype=float).reshape(-1, dim), chosen])


def gathered(runs: list[Descent], value: float, lower: float, upper: float, tol: float) -> OuterMinimum:
    """The runs as one `OuterMinimum`, near-global minimizers apart by more than 1e-6 listed once."""
    best = min(runs, key=lambda run: run.value)
    band = max(tol, 1e-8) * max(1.0, abs(value))
    points: list[Array] = [best.theta]
    for run in runs:
        if run.value <= best.value + band and all(np.abs(run.theta - p).max() > 1e-4 for p in points):
            points.append(run.theta)
    certified = bool(upper - lower <= max(tol, 1e-9) * max(1.0, abs(value)))
    message = "" if certified else "the best of many local descents; the minimum is not proved beyond the lower end"
    return OuterMinimum(value, min(lower, value), upper, best.theta, np.array(points), certified, band, message)


def _lower_bound(loss: Loss, best: Descent, delta: float) -> float:
    """For convex l: E >= sum w_k [l(theta + eps_k) + grad.(. - theta)] + delta/2 |.|^2, minimized over R^P."""
    if loss.convex and delta > 0.0:
        tied = float(best.weights @ best.values) + 0.5 * delta * float(best.theta @ best.theta)
        points = best.theta + best.eps
        slopes = np.abs(loss.gradient(points)) @ (np.abs(points).max(axis=0) + np.abs(best.theta))
        off = float(loss.rounding(points, -1).max()) + 4.0 * EPS * float(slopes.max()) + 64.0 * EPS * (1.0 + abs(tied))
        return tied - 0.5 * best.residual**2 / delta - off
    return minorant_bound(loss, delta)


def minorant_bound(loss: Loss, delta: float) -> float:
    """A lower bound of min l + delta/2 |theta|^2 from the loss's quadratic minorant; -inf where there is none."""
    minorant = loss.minorant()
    if minorant is None:
        return -np.inf
    constant, slope, H = minorant
    matrix = H + delta * np.eye(loss.dim)
    if np.linalg.eigvalsh(matrix)[0] <= 0.0:
        return -np.inf
    return constant - 0.5 * float(slope @ np.linalg.solve(matrix, slope))


def _rough(loss: Loss, rho: float, delta: float) -> Callable[[Array], Array]:
    """E_SAM (N,) at theta (N, P), the maximum taken over fixed perturbations."""
    ring = rho * _perturbations(loss.dim)

    def rough(theta: Array) -> Array:
        shifted = theta[:, None, :] + ring[None, :, :]
        values = np.asarray(loss(shifted.reshape(-1, loss.dim))).reshape(theta.shape[0], -1)
        return np.asarray(values.max(axis=1) + 0.5 * delta * np.square(theta).sum(axis=1))

    return rough


def _perturbations(dim: int) -> Array:
    if dim == 2:
        angle = 2.0 * np.pi * np.arange(40) / 40
        ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.vstack([ring, 0.66 * ring[::2], 0.33 * ring[::4], np.zeros((1, 2))])
    rng = np.random.default_rng(1)
    sphere = rng.normal(size=(40 * dim, dim))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    return np.vstack([sphere, 0.5 * sphere[::3], np.zeros((1, dim))])


def _point(loss: Loss, theta: Any) -> Array:
    point = finite_vector(theta, "theta")
    if point.shape != (loss.dim,):
        raise ValueError(f"theta must have shape ({loss.dim},), got {point.shape}")
    return point
