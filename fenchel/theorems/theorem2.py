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
from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.checks import check_loss, check_seconds, check_tolerance, check_unbounded
from fenchel.losses import Loss
from fenchel.losses.inputs import positive_number
from fenchel.results import Verdict
from fenchel.sharpness.ball import BallMaximum, ball_maximum
from fenchel.sharpness.line_branching import OuterMinimum
from fenchel.sharpness.proximal import proximal_sup
from fenchel.sharpness.relaxed_mean import minimize_proximal, prior_precision
from fenchel.sharpness.sam import minimize_sam
from fenchel.theorems.correspondence import pairs_correspond
from fenchel.theorems.duality import duality
from fenchel.theorems.proximal_map import imbalance, maps_globally, maps_locally


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
    cannot tell, among the reasons because the minimum of E_SAM is not proved (beyond P = 3 it is for convex losses
    only): ``measured["holds_at_best_found"]`` is then what the best minimizer found says. ``measured`` holds every
    part, True, False or None (undecided):

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
        told = found["complete"] or (near and found["pairs"] > 0)
        measured["pairs_map"] = exact and near if told else (None if exact else False)
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
    measured["maps_to_global"] = maps_globally(inner, outer, relaxed, here.lower, here.upper, penalty, slack)
    if measured["maps_to_global"] is None and measured["kink"]:
        # Too near in value to tell; but a minimizer must be stationary, and that is decided far more sharply.
        unbalanced = imbalance(here, nu, delta * theta)
        measured["relaxed_imbalance"] = unbalanced
        measured["maps_to_global"] = False if unbalanced > 1e-6 else None
    measured["maps_to_local"] = maps_locally(loss, theta, measured, here.argmax, delta, inner)
    return Verdict(*_sentence(measured, outer))


def _sentence(m: dict[str, Any], outer: OuterMinimum) -> tuple[bool | None, dict[str, Any], str]:
    proof = "certified" if outer.certified else "the best found, not proved global"
    if m["kink"]:
        count = m["worst_perturbations"]
        text = f"the SAM minimizer ({proof}) is a kink with {count} worst perturbations and no pair; {_at_kink(m)}"
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


def _at_kink(m: dict[str, Any]) -> str:
    """Where relaxed Bayes has its minimum at the dual multiplier."""
    if m["maps_to_global"]:
        edge = ", the edge of its domain" if m["edge"] else ""
        prior = "" if m["prior_valid"] else ", which no prior has"
        sigma = f"sigma = {m['sigma']:.4g}{edge}{prior}"
        return f"relaxed Bayes still has its global minimum there at the dual multiplier, {sigma}"
    if m["duality_gap_lower"] > 0.0:
        return f"and a duality gap of {m['duality_gap_lower']:.3g} or more keeps relaxed Bayes from it"
    if m["maps_to_global"] is False:
        return "and relaxed Bayes has its minimum elsewhere at the dual multiplier"
    return "and whether relaxed Bayes has its minimum there at the dual multiplier is not decided"
