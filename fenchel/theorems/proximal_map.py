"""Whether a point of SAM and its perturbation maximize the proximal problem of Eq. 18, globally or near by."""

from __future__ import annotations

from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.losses import Loss
from fenchel.search.maximize import SearchResult
from fenchel.sharpness.line_branching import OuterMinimum
from fenchel.sharpness.minimax import branch_derivatives, convex_weights


def maps_globally(
    inner: bool | None,
    outer: OuterMinimum,
    relaxed: OuterMinimum | None,
    lower: float,
    upper: float,
    penalty: float,
    slack: float,
) -> bool | None:
    """Global optimality of theta in Eq. 12: by duality, or by comparing certified values."""
    if relaxed is None or np.isinf(lower):
        return None if inner is None else inner
    if lower + penalty > relaxed.upper + slack:
        return False
    if upper + penalty <= relaxed.lower + slack or (inner and outer.certified):
        return True
    # Both sides rest on searches without a proof (nonconvex, P >= 2): what they found agrees.
    return True if inner else None


def imbalance(found: SearchResult, nu: float, pull: Array) -> float:
    """The distance of 0 from the convex hull of the slopes nu eps_k + pull over the nearly tied proximal maximizers.

    ``pull`` = delta theta. The ties are taken generously (1e-6), so that an error in theta cannot hide one.
    """
    tied = found.maximizers[found.values >= found.lower - 1e-6 * (1.0 + abs(found.lower))]
    slopes = (nu * tied + pull).T
    if slopes.size == 0 or not np.isfinite(slopes).all():
        return np.nan  # the proximal problem is unbounded here: nothing is known of its maximizers
    size = float(np.linalg.norm(slopes @ convex_weights(slopes)))
    return size / (1.0 + float(np.linalg.norm(slopes, axis=0).max()))


def maps_locally(
    loss: Loss, theta: Array, measured: dict[str, Any], worst: Array, delta: float, inner: bool | None
) -> bool | None:
    """Is theta a local minimizer of Eq. 12? Not even stationary unless the pair's eps is the proximal maximizer."""
    if measured["maps_to_global"]:
        return True
    if measured["kink"] or inner is None:
        return None if inner is None else bool(inner)
    if not inner:
        slope = measured["nu"] * worst + delta * theta
        return False if np.isnan(slope).any() or float(np.linalg.norm(slope)) > 1e-6 else None
    # A local minimizer along the pair's branch of the inner maximum is one where the branch is bent enough.
    eps, nu = measured["eps"][None, :], np.array([measured["nu"]])
    bend = branch_derivatives(loss, theta + eps, eps, nu, np.array([True]))[1][0]
    return bool(np.linalg.eigvalsh(bend + delta * np.eye(loss.dim))[0] > 0.0)
