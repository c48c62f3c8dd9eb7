"""Theorem 2 between all stationary pairs of SAM and of relaxed Bayes on a line."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from fenchel.losses import Loss
from fenchel.sharpness.stationary import StationaryPair, relaxed_pairs, residual, sam_pairs


def pairs_correspond(loss: Loss, rho: float, delta: float, *, max_seconds: float = np.inf) -> dict[str, Any]:
    """Claim B3: SAM pairs are relaxed pairs at sigma^2 = rho/|grad|, and relaxed pairs are SAM pairs at rho = |eps|.

    ``forward`` and ``back`` are the largest violations of the other problem's conditions; ``forward_distance`` and
    ``back_distance`` the largest distances to the nearest pair of the other problem, found without using the map, for
    the ``valid_priors`` pairs whose delta0 = 1/(1/delta - sigma^2) is positive. ``complete``: no pair was left out, by
    the searches or since ``max_seconds`` had passed.
    """
    end = time.perf_counter() + max_seconds
    pairs, complete = sam_pairs(loss, rho, delta)
    forward = back = forward_distance = back_distance = 0.0
    count = 0
    valid = 0
    for pair in pairs:
        if time.perf_counter() > end:
            complete = False
            break
        slope = loss.gradient(pair.worst)
        mapped = StationaryPair(pair.theta, pair.eps, 1.0 / (rho / float(np.linalg.norm(slope))), delta)
        forward = max(forward, residual(loss, mapped))
        if not 0.0 < mapped.prior < np.inf:
            # delta sigma^2 >= 1: no prior has this delta', so there is no relaxed problem to search.
            continue
        valid += 1
        others, done = relaxed_pairs(loss, mapped.sigma, delta)
        complete = complete and done
        forward_distance = max(forward_distance, _nearest(mapped, others))
        # The search for mates is dear for P >= 2: one relaxed pair each goes back there, three for P = 1.
        for other in others[: 3 if loss.dim == 1 else 1]:
            count += 1
            radius = other.rho
            again = StationaryPair(
                other.theta, other.eps, float(np.linalg.norm(loss.gradient(other.worst))) / radius, delta
            )
            back = max(back, residual(loss, again))
            mates, done = sam_pairs(loss, radius, delta)
            complete = complete and done
            back_distance = max(back_distance, _nearest(other, mates))
    return {
        "pairs": len(pairs),
        "relaxed_pairs": count,
        "complete": complete,
        "forward": forward,
        "back": back,
        "forward_distance": forward_distance,
        "back_distance": back_distance,
        "valid_priors": valid,
    }


def _nearest(pair: StationaryPair, others: list[StationaryPair]) -> float:
    here = np.concatenate([pair.theta, pair.eps])
    distances = [float(np.abs(np.concatenate([o.theta, o.eps]) - here).max()) for o in others]
    return min(distances, default=np.inf)
