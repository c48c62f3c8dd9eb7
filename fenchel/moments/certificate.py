"""The two sides of the bracket: a proved majorant from above the loss, and atoms that carry q's moments.

lower <= f**(mu) <= upper:
    lower = <lambda', mu> - sup_theta [l(theta) + <lambda', T(theta)>], the supremum bounded by a global search;
    upper = -sum_k w_k l(theta_k) for atoms and weights with the moments mu.
Both allow for the rounding of the arithmetic that forms them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.losses.accurate import EPS
from fenchel.moments.atoms import repair_by_mixing, repair_by_moving, sigma_points
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.white_loss import WhiteLoss
from fenchel.search.maximize import SearchResult

__all__ = ["LowerBound", "UpperBound", "certify_lower", "make_upper"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LowerBound:
    """A proved lower bound on f**, its natural parameter (lam2 as (P, P)), and the search behind it (if any)."""

    value: float
    lam1: Array
    lam2: Array
    limited: str = ""
    #: The quadratic's coefficients in whitened coordinates, where it is known more exactly.
    coefficients: Array | None = None

    def offset(self, frame: MomentFrame) -> float:
        """t such that t - <lambda', T(theta)> lies above the loss everywhere."""
        return frame.pairing(self.lam1, self.lam2)[0] - self.value


@dataclass(frozen=True)
class UpperBound:
    """A distribution with q's moments: atoms theta (K, P), weights (K,), and the upper bound it gives."""

    value: float
    points: Array
    weights: Array


def certify_lower(
    white: WhiteLoss, coefficients: Array, *, tol: float, starts: Array | None, **budget: Any
) -> tuple[LowerBound, SearchResult]:
    """Bound sup (l - Q) globally, and so f** from below, for the quadratic with these ``coefficients``.

    ``starts`` (S, P) are whitened points near its local maximizers; ``budget`` goes to `maximize`.
    """
    found, mean, size = white.supremum(coefficients, tol=tol, starts=starts, **budget)
    slack = 0.0
    if np.isfinite(found.upper):
        # Near the maximizers the terms of l and Q may be far larger than the values.
        terms = 4.0 * EPS * np.abs(white.frame.features(found.maximizers)) @ np.abs(coefficients)
        terms = np.concatenate([terms + 2.0 * white.rounding(found.maximizers, 1), [0.0]])
        slack = 8.0 * EPS * (size + abs(found.upper)) + float(terms[np.isfinite(terms)].max())
        slack += white.frame.drift * float(np.abs(coefficients[1 + white.frame.dim :]).sum())
    _, lam1, lam2 = white.frame.to_natural(coefficients)
    limited = "" if white.loss.bounds is None else "theta is confined to the bounds of the loss"
    return LowerBound(-mean - found.upper - slack, lam1, lam2, limited, coefficients), found


def make_upper(white: WhiteLoss, points: Array, weights: Array) -> UpperBound | None:
    """The better of the two repairs of an almost feasible distribution; None where neither is possible."""
    frame = white.frame
    keep = weights > 0.0
    points, weights = white.snap(points[keep]), weights[keep]
    if weights.size == 0:
        return None
    best: UpperBound | None = None
    for repair in (repair_by_moving, repair_by_mixing):
        repaired = repair(frame, points, weights)
        if repaired is None:
            continue
        x, w = repaired
        losses = white.value(x)
        if np.min(w) < 0.0 or not np.all(np.isfinite(losses)):
            continue
        value = float(w @ (white.rounding(x, -1) - losses)) + _residual_cost(white, x, w, losses)
        # Mixing adds atoms, so it has to be better by more than rounding: on a kink or a jump it is.
        if best is None or value < best.value - 1e-14 * max(1.0, abs(value)):
            best = UpperBound(value, *white.distribution(x, w))
    return best


def _residual_cost(white: WhiteLoss, x: Array, weights: Array, losses: Array) -> float:
    """What the upper bound loses when the moments left over by rounding are cancelled by mixing in other atoms.

    With a share e of a distribution near N(0, I), e of the size of the residual, as in `repair_by_mixing`; inf where
    the residual is too large for that.
    """
    frame = white.frame
    x, moved = white.represented(x)
    features = np.concatenate([frame.features(x), np.square(x).sum(axis=1, keepdims=True)], axis=1)
    size = float((weights @ np.abs(features)).max())
    residual = float(np.abs(weights @ features[:, :-1] - frame.target).max())
    residual += 4.0 * EPS * size + frame.drift + float((weights @ (moved * (1.0 + 2.0 * np.abs(x)))).max())
    share = 8.0 * frame.dim * residual
    if share >= 0.5:
        return np.inf
    near = white.value(np.concatenate([np.zeros((1, frame.dim)), sigma_points(frame.dim)]))
    return 2.0 * share * max(0.0, float(weights @ losses) - float(near.min()), float(np.abs(near - near[0]).max()))
