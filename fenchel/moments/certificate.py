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

from fenchel.moments.atoms import moment_error, repair_by_mixing, repair_by_moving
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.white_loss import WhiteLoss
from fenchel.search.maximize import SearchResult

__all__ = ["LowerBound", "UpperBound", "certify_lower", "make_upper"]

Array = NDArray[np.float64]
_EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class LowerBound:
    """A proved lower bound on f**, its natural parameter (lam2 as (P, P)), and the search behind it (if any)."""

    value: float
    lam1: Array
    lam2: Array
    source: str
    limited: str = ""

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
    slack = 8.0 * _EPS * (size + abs(found.upper)) if np.isfinite(found.upper) else 0.0
    _, lam1, lam2 = white.frame.to_natural(coefficients)
    limited = "" if white.loss.bounds is None else "theta is confined to the bounds of the loss"
    return LowerBound(-mean - found.upper - slack, lam1, lam2, "search", limited), found


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
        # Far atoms carry weights as small as 1/|x|^2, so the residual is compared with the rounding of w |x|^2.
        if np.min(w) < 0.0 or moment_error(frame, x, w) > 1e-12:
            continue
        theta, spread, losses = white.distribution(x, w)
        if not np.all(np.isfinite(losses)):
            continue
        slack = 4.0 * _EPS * float(np.sum(spread * np.abs(losses)))
        value = slack - float(spread @ losses)
        # Mixing adds atoms, so it has to be better by more than rounding: on a kink or a jump it is.
        if best is None or value < best.value - 1e-14 * max(1.0, abs(value)):
            best = UpperBound(value, theta, spread)
    return best
