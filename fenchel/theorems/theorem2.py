"""Theorem 2 at one (loss, rho, delta), part by part: pairs, inner and outer global optimality, the assumption, kinks.

What decides the global form [derived here, checked in the tests]. Put D(nu) = nu rho^2/2 + sup_eps [l(theta + eps)
- nu |eps|^2/2]: Lagrangian duality gives max over the ball <= min over nu of D(nu). If theta* minimizes E_SAM and
there is no duality gap there, at nu*, then E_relaxed(.; 1/nu*, delta) + nu* rho^2/2 >= E_SAM >= E_SAM(theta*), with
equality at theta*: theta* is a **global** minimizer of relaxed Bayes at sigma^2 = 1/nu*, delta' = delta, kink or not.
For a pair "no gap" says that its eps is the global proximal maximizer. Where there is a gap nothing of the kind
follows, and the minimizer of relaxed Bayes at the pair's sigma is computed and compared.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from fenchel.checks import check_loss, check_seconds, check_tolerance, check_unbounded
from fenchel.losses import Loss
from fenchel.losses.inputs import positive_number
from fenchel.results import Verdict
from fenchel.search.maximize import SearchResult
from fenchel.sharpness.ball import BallMaximum, ball_maximum
from fenchel.sharpness.line_minimum import OuterMinimum
from fenchel.sharpness.relaxed_mean import minimize_proximal, prior_precision, proximal_sup
from fenchel.sharpness.sam import minimize_sam
from fenchel.sharpness.stationary import StationaryPair, classify, relaxed_pairs, residual, sam_pairs

__all__ = ["Duality", "duality", "pairs_correspond", "verify_theorem2"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Duality:
    """min over nu of D(nu) against the maximum on the ball: lower <= gap <= upper, at the precision ``nu``.

    ``edge``: the proximal problem is unbounded for slightly smaller nu, so sigma^2 = 1/nu is the end of its domain.
    """

    nu: float
    lower: float
    upper: float
    edge: bool


def duality(loss: Loss, theta: Array, rho: float, ball: BallMaximum, *, tol: float = 1e-8) -> Duality:
    """The duality gap of the inner problem at theta (P,), by cutting planes on the convex function D.

    Each feasible eps gives the line nu (rho^2 - |eps|^2)/2 + l(theta + eps) below D; two of them bound the minimum from
    below, and a certified value of D at any nu bounds it from above.
    """
    slack = tol * (1.0 + abs(ball.lower))
    slopes = np.atleast_2d(loss.gradient(theta + ball.worst(slack)))
    guesses = sorted({float(n) for n in np.linalg.norm(slopes, axis=1) / rho if n > 0.0})
    best_nu, best = np.nan, np.inf
    low, high = 0.0, np.inf
    flat_low: tuple[float, float] | None = None
    flat_high: tuple[float, float] | None = None
    nu = guesses[-1] if guesses else 1.0
    queue = guesses[::-1]
    infinite = 0.0
    for _ in range(60):
        if queue:
            nu = queue.pop(0)
        found = proximal_sup(loss, theta, nu**-0.5, tol=0.05 * tol, starts=ball.maximizers[:8])
        if np.isinf(found.lower):
            low = infinite = max(low, nu)
        else:
            top = found.upper + 0.5 * nu * rho * rho
            if top < best:
                best_nu, best = nu, top
            if best - ball.lower <= slack:
                break
            # The line of the shortest and of the longest maximizer: the two ends of the subdifferential of D.
            tied = found.maximizers[found.values >= found.values[0] - 1e-12 * (1.0 + abs(found.values[0]))]
            sizes = np.square(tied).sum(axis=1)
            for eps, size in ((tied[sizes.argmax()], sizes.max()), (tied[sizes.argmin()], sizes.min())):
                value = float(loss(theta + eps))
                if size >= rho * rho and nu >= low:
                    low, flat_low = nu, (value, float(size))
                if size <= rho * rho and nu <= high:
                    high, flat_high = nu, (value, float(size))
        floor, cross = _crossing(flat_low, flat_high, rho)
        if best - floor <= 0.1 * slack:
            break
        if np.isinf(high):
            nu = 2.0 * max(nu, low)
        elif low == 0.0 and flat_low is None:
            nu = 0.25 * min(nu, high)
            if nu < 1e-12 * (1.0 + abs(ball.lower)) / (rho * rho):
                break
        else:
            nu = cross if low < cross < high and not np.isnan(cross) else 0.5 * (low + high)
            if high - low <= 1e-13 * high:
                break
            if infinite == low and high - low <= 1e-9 * high:
                break
    floor, _ = _crossing(flat_low, flat_high, rho)
    lower = max(0.0, min(floor, best) - ball.upper) if np.isfinite(floor) else 0.0
    edge = bool(
        np.isfinite(best_nu) and np.isinf(proximal_sup(loss, theta, (best_nu * (1.0 - 1e-5)) ** -0.5, tol=1e-3).lower)
    )
    return Duality(float(best_nu), float(lower), float(max(0.0, best - ball.lower)), edge)


def _crossing(first: tuple[float, float] | None, second: tuple[float, float] | None, rho: float) -> tuple[float, float]:
    """min over nu >= 0 of the larger of two lines v + nu (rho^2 - s)/2, s1 >= rho^2 >= s2, and where it is."""
    if second is None:
        return -np.inf, np.nan
    if first is None or first[1] == second[1]:
        return (second[0], 0.0) if second[1] < rho * rho else (max(second[0], first[0] if first else -np.inf), np.nan)
    nu = 2.0 * (first[0] - second[0]) / (first[1] - second[1])
    if nu <= 0.0:
        return max(first[0], second[0]), 0.0
    return second[0] + 0.5 * nu * (rho * rho - second[1]), nu


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


def verify_theorem2(
    loss: Loss,
    rho: Any,
    delta: Any,
    *,
    tol: float = 1e-8,
    pairs: bool = True,
    max_seconds: float | None = None,
) -> Verdict:
    """Does Theorem 2 hold here: does relaxed Bayes at the mapped (sigma, delta' = delta) recover argmin E_SAM?

    ``holds`` is True where the SAM minimizer is a stationary pair (|eps*| = rho) whose image is a global minimizer of
    Eq. 12 at sigma^2 = rho/|grad l|, False where it is not, None where the certificate (``tol``, relative to 1 + |l|)
    cannot tell, among the reasons because the minimum of E_SAM is not proved (for P >= 2 it is for convex losses only):
    ``measured["holds_at_best_found"]`` is then what the best minimizer found says. ``measured`` holds every part, True,
    False or None (undecided):

    - pairs_map (a): all stationary pairs map both ways; pairs, pair_residual, pair_distance: how many, how exactly;
    - proximal_maximizer (b): the SAM perturbation is the global proximal maximizer at the mapped sigma;
    - maps_to_local, maps_to_global (c): the minimizer is a local, the global minimizer of Eq. 12 in m at that sigma;
    - active (d): every worst perturbation has |eps*| = rho;
    - kink (e): no worst perturbation satisfies the stationarity conditions alone; worst_perturbations counts them;
    - prior_valid: delta0 = 1/(1/delta - sigma^2) > 0; duality_gap, nu, edge: see `Duality` (at a kink the map is not
      defined, and sigma^2 = 1/nu with the multiplier nu of the dual problem takes its place);
    - theta, sam_value, certified, sigma, relaxed_argmin, relaxed_value, relaxed_at_theta, distance.

    After ``max_seconds`` no further search begins (P >= 2), and what was reached is judged.
    loss must be continuous; rho, delta > 0. ValueError otherwise, and where E_SAM has no minimizer. The statement is
    about differentiable losses: at a kink of the loss itself one subgradient is taken, which may balance nothing.
    """
    check_loss(loss)
    check_unbounded(loss, "Theorem 2")
    rho, delta = positive_number(rho, "rho"), positive_number(delta, "delta")
    check_tolerance(tol)
    end = time.perf_counter() + check_seconds(max_seconds)

    def left(share: float) -> float:
        return max(1e-3, share * (end - time.perf_counter()))

    outer = minimize_sam(loss, rho, delta, max_seconds=left(0.4))
    theta = outer.argmin
    measured: dict[str, Any] = {
        "theta": theta,
        "sam_value": outer.value,
        "certified": outer.certified,
        "minimizers": len(outer.minimizers),
    }
    if pairs:
        found = pairs_correspond(loss, rho, delta, max_seconds=left(0.5))
        measured |= {
            "pairs": found["pairs"],
            "pair_residual": max(found["forward"], found["back"]),
            "pair_distance": max(found["forward_distance"], found["back_distance"]),
            "pairs_complete": found["complete"],
            "valid_priors": found["valid_priors"],
        }
        exact = measured["pair_residual"] <= 1e-9
        near = measured["pair_distance"] <= 1e-7
        measured["pairs_map"] = exact and near if (found["complete"] or near) else (None if exact else False)
    ball = ball_maximum(loss, theta, rho)
    measured |= _at_minimizer(loss, theta, rho, delta, ball)
    return _proved(_judged(loss, outer, ball, measured, rho, delta, tol, left(1.0)), outer)


def _proved(verdict: Verdict, outer: OuterMinimum) -> Verdict:
    """The verdict, but None where the minimizer of E_SAM that it speaks of is not proved to be one."""
    if outer.certified or verdict.holds is None:
        return verdict
    measured = verdict.measured | {"holds_at_best_found": verdict.holds}
    return Verdict(None, measured, f"undecided, since the minimum of E_SAM is not proved: {verdict.explanation}")


def _at_minimizer(loss: Loss, theta: Array, rho: float, delta: float, ball: BallMaximum) -> dict[str, Any]:
    """(d), (e) and the best candidate for a stationary pair among the worst perturbations."""
    worst = ball.worst(1e-8 * (1.0 + abs(ball.lower)))
    slopes = np.atleast_2d(loss.gradient(theta + worst))
    unbalanced = np.linalg.norm(slopes + delta * theta, axis=1) / (1.0 + np.linalg.norm(slopes, axis=1))
    first = int(unbalanced.argmin())
    sizes = np.linalg.norm(worst, axis=1)
    return {
        "worst_perturbations": len(worst),
        "active": bool((sizes >= rho * (1.0 - 1e-7)).all()),
        "imbalance": float(unbalanced[first]),
        "kink": bool(unbalanced[first] > 1e-5),
        "eps": worst[first],
        "slope_size": float(np.linalg.norm(slopes[first])),
    }


def _judged(
    loss: Loss,
    outer: OuterMinimum,
    ball: BallMaximum,
    measured: dict[str, Any],
    rho: float,
    delta: float,
    tol: float,
    seconds: float,
) -> Verdict:
    theta = outer.argmin
    if not measured["kink"] and measured["slope_size"] * rho <= 1e-10 * (1.0 + abs(ball.lower)):
        measured |= {"proximal_maximizer": None, "maps_to_local": None, "maps_to_global": None, "prior_valid": None}
        measured["sigma"] = np.inf
        text = "the worst perturbation lies inside the ball: the assumption |eps*| = rho fails and no sigma is defined"
        return Verdict(False, measured, text)
    dual = duality(loss, theta, rho, ball, tol=tol)
    measured |= {"duality_gap": dual.upper, "duality_gap_lower": dual.lower, "edge": dual.edge, "dual_nu": dual.nu}
    nu = dual.nu if measured["kink"] else measured["slope_size"] / rho
    measured["nu"], measured["sigma"] = nu, float(nu**-0.5) if nu > 0.0 else np.inf
    delta0 = prior_precision(measured["sigma"], delta)
    measured |= {"prior": delta0, "prior_valid": bool(0.0 < delta0 < np.inf)}
    slack = tol * (1.0 + abs(ball.lower))
    here = proximal_sup(loss, theta, measured["sigma"], starts=ball.maximizers[:8])
    offset, penalty = 0.5 * nu * rho * rho, 0.5 * delta * float(theta @ theta)
    measured["relaxed_at_theta"] = here.lower + penalty
    if here.upper + offset <= ball.lower + slack or (measured["kink"] and dual.upper <= slack):
        inner: bool | None = True
    else:
        inner = False if here.lower + offset > ball.upper + slack else None
    measured["proximal_maximizer"] = inner
    # At the edge of sigma's domain Eq. 12 is +inf but on a subspace, and duality alone speaks.
    searchable = nu > 0.0 and not (dual.edge and measured["kink"])
    relaxed = None
    if searchable:
        relaxed = minimize_proximal(loss, measured["sigma"], delta, starts=theta[None, :], max_seconds=seconds)
    if relaxed is not None:
        measured |= {
            "relaxed_argmin": relaxed.argmin,
            "relaxed_value": relaxed.value,
            "relaxed_certified": relaxed.certified,
        }
        measured["distance"] = float(np.linalg.norm(relaxed.argmin - theta))
    measured["maps_to_global"] = _maps_globally(inner, outer, relaxed, here.lower, here.upper, penalty, slack)
    if measured["maps_to_global"] is None and measured["kink"]:
        # Too near in value to tell; but a minimizer must be stationary, and that is decided far more sharply.
        unbalanced = _imbalance(here, nu, delta * theta)
        measured["relaxed_imbalance"] = unbalanced
        measured["maps_to_global"] = False if unbalanced > 1e-6 else None
    measured["maps_to_local"] = _maps_locally(loss, theta, measured, here.argmax, delta, inner)
    return Verdict(*_sentence(measured, outer))


def _maps_globally(
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


def _imbalance(found: SearchResult, nu: float, pull: Array) -> float:
    """The distance of 0 from the convex hull of the slopes nu eps_k + pull over the nearly tied proximal maximizers.

    ``pull`` = delta theta. The ties are taken generously (1e-6), so that an error in theta cannot hide one.
    """
    tied = found.maximizers[found.values >= found.lower - 1e-6 * (1.0 + abs(found.lower))]
    slopes = (nu * tied + pull).T
    if slopes.size == 0 or not np.isfinite(slopes).all():
        return np.nan  # the proximal problem is unbounded here: nothing is known of its maximizers
    heavy = 1e4 * (1.0 + float(np.abs(slopes).max()))
    weights, _ = nnls(np.vstack([slopes, np.full((1, len(tied)), heavy)]), np.append(np.zeros(pull.size), heavy))
    size = float(np.linalg.norm(slopes @ (weights / weights.sum())))
    return size / (1.0 + float(np.linalg.norm(slopes, axis=0).max()))


def _maps_locally(
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
    pair = StationaryPair(theta, measured["eps"], measured["nu"], delta)
    kind = classify(loss, pair)
    measured["pair_kind"] = asdict(kind)
    return kind.relaxed_outer_local


def _sentence(m: dict[str, Any], outer: OuterMinimum) -> tuple[bool | None, dict[str, Any], str]:
    proof = "certified" if outer.certified else "the best found, not proved global"
    if m["kink"]:
        tail = (
            f"relaxed Bayes still has its global minimum there at the dual multiplier, sigma = {m['sigma']:.4g}"
            + (", the edge of its domain" if m["edge"] else "")
            + ("" if m["prior_valid"] else ", which no prior has")
            if m["maps_to_global"]
            else f"and a duality gap of {m['duality_gap_lower']:.3g} or more keeps relaxed Bayes from it"
        )
        count = m["worst_perturbations"]
        text = f"the SAM minimizer ({proof}) is a kink with {count} worst perturbations and no pair; {tail}"
        return False, m, text
    if not m["prior_valid"]:
        text = f"the minimizer is a stationary pair ({proof}), but delta sigma^2 >= 1: no prior has this delta'"
        return False, m, text
    if m["maps_to_global"]:
        return (
            True,
            m,
            f"the SAM minimizer ({proof}) is a pair and relaxed Bayes's global minimizer at sigma = {m['sigma']:.4g}",
        )
    if m["maps_to_global"] is None:
        return (
            None,
            m,
            f"the SAM minimizer ({proof}) is a pair, but the bracket is too wide to compare the relaxed values",
        )
    text = (
        f"the SAM minimizer ({proof}) is a stationary pair, but its eps is not the global proximal maximizer at "
        f"sigma = {m['sigma']:.4g}: the relaxed minimizer is {m.get('distance', np.inf):.3g} away"
    )
    return False, m, text
