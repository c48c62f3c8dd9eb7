"""The inner problem of Eq. 12: sup over eps of l(m + eps) - |eps|^2 / (2 sigma^2), certified."""

from __future__ import annotations

import numpy as np

from fenchel.arrays import Array
from fenchel.losses import Loss
from fenchel.losses.accurate import EPS
from fenchel.search.maximize import SearchResult, maximize


def proximal_sup(
    loss: Loss, m: Array, sigma: float, *, tol: float = 1e-10, starts: Array | None = None, max_boxes: int = 200_000
) -> SearchResult:
    """The supremum at m (P,); ``argmax`` and ``maximizers`` are perturbations eps, as are ``starts`` (K, P)."""
    nu = 1.0 / (sigma * sigma)
    points = None if starts is None else m + starts
    found = maximize(loss, nu * m, -0.5 * nu * np.eye(loss.dim), tol=tol, starts=points, max_boxes=max_boxes)
    if np.isinf(found.lower):
        return found
    shift = 0.5 * nu * float(m @ m)
    eps = found.maximizers - m
    away = 0.5 * nu * np.square(eps).sum(axis=1)
    values = np.asarray(loss(found.maximizers)) - away
    order = np.argsort(-values)
    margin = 64.0 * EPS * (abs(found.lower) + shift)
    # Seen from m the values are often the sharper bound, since |m|^2 does not cancel.
    feasible = values - loss.rounding(found.maximizers, -1) - EPS * ((loss.dim + 8) * away + np.abs(values))
    return SearchResult(
        max(found.lower - shift - margin, float(feasible.max())),
        max(found.upper - shift, float(values.max())) + margin,
        eps[order[0]],
        eps[order],
        values[order],
        found.certified,
        found.boxes,
        found.message,
    )
