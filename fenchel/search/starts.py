"""Where to climb from: points that lie in the basins of the good local maximizers of h."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.losses.inputs import finite_points
from fenchel.search.ascent import ascend, distinct
from fenchel.search.bounds import LinearModel, Model, UserModel
from fenchel.search.confine import Setting

__all__ = ["climb", "given_starts", "starting_points"]

Array = NDArray[np.float64]
_MOST_ROWS = 16
_MOST_JUMPS = 64
_MOST_EVALUATIONS = 200_000
_MANY = 4
_RANDOM = 32


def climb(setting: Setting, starts: Array, deadline: float | None = None) -> tuple[Array, Array]:
    """Distinct points (K, D) reached from starts (S, D) until ``deadline``, best first, and their values (K,)."""
    model, box = setting.model, None
    if setting.domain is not None:
        center, half = setting.domain
        box = center - half, center + half
        starts = np.clip(starts, *box)
    points, values = ascend(model, starts, domain=box, deadline=deadline)
    if not model.continuous:
        # A maximum at a jump has no gradient that would lead to it: the starts themselves count.
        points, values = np.vstack([points, starts]), np.concatenate([values, model.value(starts)])
    keep = distinct(points, values)
    return points[keep], values[keep]


def given_starts(model: Model, given: Any, dim: int) -> Array:
    """The user's starts (S, P) in model coordinates; ValueError for another shape or values that are not finite."""
    return model.coordinates(finite_points(given, "starts", dim))


def starting_points(model: Model, *, few: bool = False) -> Array:
    """Deterministic starts (S, D); ``few`` where good starts are known already."""
    if isinstance(model, UserModel):
        rng = np.random.default_rng(0)
        count = 2 * model.dim if few else 10 * model.dim
        spread = rng.choice([0.3, 1.0, 3.0], size=(count, 1))
        return np.vstack([np.zeros((1, model.dim)), spread * rng.normal(size=(count, model.dim))])
    parts = [np.zeros((1, model.dim))]
    if not few:
        parts.append(_far_ends(model, _some_directions(model)))
    if model.dim >= _MANY:
        # There the good maximizers are many, each uphill from a few per cent of all directions.
        parts.append(_far_ends(model, np.random.default_rng(0).normal(size=(_RANDOM * model.dim, model.dim))))
    parts += [_jumps(g.rows, g.offsets, model.linear) for g in model.groups if not g.link.continuous]
    parts += [_centers(g.rows, g.offsets, model.linear) for g in model.groups if not g.link.convex]
    return np.vstack(parts)


def _some_directions(model: LinearModel) -> Array:
    """The axes, and some of the data, both ways."""
    rows = [g.rows[:: max(1, g.rows.shape[0] // _MOST_ROWS)] for g in model.groups]
    directions = np.vstack([np.eye(model.dim), *rows])
    return np.vstack([directions, -directions])


def _far_ends(model: LinearModel, directions: Array) -> Array:
    """The maximizers of the concave part plus the terms' linear growth in the directions (K, D)."""
    norms = np.linalg.norm(directions, axis=1)
    directions = directions[norms > 0.0] / norms[norms > 0.0, None]
    # With very many data a climb is dear, and a few starts must do.
    most = max(2, _MOST_EVALUATIONS // max(1, sum(g.rows.shape[0] for g in model.groups)))
    far = 1e3 * directions[-most:]
    return np.asarray(model.tangent(far)[1] + far @ model.concave)


def _jumps(rows: Array, offsets: Array, linear: Array) -> Array:
    """The best points of the jumps z = 0 for the concave part alone, a hair on the upper side."""
    size = np.maximum(np.square(rows).sum(axis=1), 1e-300)
    z = rows @ linear + offsets
    points = linear - rows * (z / size)[:, None]
    room = 1e-14 * (np.abs(rows) @ np.abs(linear) + np.abs(offsets) + np.abs(z))
    return np.asarray((points + rows * (room / size)[:, None])[:_MOST_JUMPS])


def _centers(rows: Array, offsets: Array, linear: Array) -> Array:
    """Points on both sides of the bounded terms' centers."""
    size = np.sqrt(np.maximum(np.square(rows).sum(axis=1), 1e-300))
    base = linear - rows * ((rows @ linear + offsets) / size**2)[:, None]
    out = rows / size[:, None] ** 2
    return np.vstack([base + 3.0 * out, base - 3.0 * out])[:_MOST_JUMPS]
