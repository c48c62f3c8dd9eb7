"""Eq. 18 solved directly: min over lambda' of f*(lambda') - log Z'(lambda'), by a second-order bundle method.

f* is a maximum of smooth branches, one for each local maximizer theta_k(lambda') of l + <lambda', T>: value phi_k,
gradient T(theta_k), Hessian J_k^T (-Hess)^-1 J_k. The minimizer typically is a kink where several branches tie, with
weights w_k such that sum_k w_k T(theta_k) = E_q*[T]. Each step minimizes the maximum of the linearized branches minus
the linearized log Z', with the Lagrangian's curvature; f* itself is certified by branch and bound at every point.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.bayes.bundle import Bundle
from fenchel.bayes.exact import posterior_modes
from fenchel.bayes.learning_result import family_member, parameter_distance
from fenchel.bayes.objectives import objective_at, raise_block
from fenchel.bayes.relaxed_search import certified_search, local_search, seconds_left
from fenchel.biconjugate import biconjugate
from fenchel.checks import check_count, check_problem, check_seconds, check_tolerance
from fenchel.closed.sums import sum_of_biconjugates
from fenchel.errors import DomainError
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.results import Bracket, Evidence, Natural


@dataclass(frozen=True)
class LocalMinimum:
    """A point where the bundle method stopped: value of Eq. 18, its q*, and how nearly it is stationary."""

    value: float
    posterior: Gaussian
    natural: Natural
    residual: float
    converged: bool
    start: str


@dataclass(frozen=True)
class RelaxedResult(Bracket):
    """The best local minimum of Eq. 18 found.

    ``value`` = f*(lambda') - log Z'(lambda'), with the proved bracket ``lower``, ``upper`` of that value at ``natural``
    (an upper bound on the global minimum, which no local method proves). ``posterior`` = q*. ``atoms`` (K, P) with
    ``weights`` (K,) are the maximizers that tie: sum_k w_k T(theta_k) = E_q*[T] up to ``residual``, in q*'s own units.
    ``minima`` are all distinct local minima met, best first. ``assumes``: see `fenchel.results`.
    """

    value: float
    lower: float
    upper: float
    posterior: Gaussian
    natural: Natural
    atoms: Array
    weights: Array
    residual: float
    certified: bool
    converged: bool
    iterations: int
    evaluations: int
    minima: tuple[LocalMinimum, ...] = field(default=())
    message: str = ""
    assumes: tuple[str, ...] = ()
    evidence: Evidence | None = field(default=None, repr=False, compare=False)


def minimize_relaxed(
    loss: Loss,
    prior: Gaussian,
    structure: str = "full",
    *,
    starts: Any = None,
    tol: float = 1e-7,
    max_iterations: int = 200,
    search_tol: float = 1e-10,
    max_seconds: float | None = None,
    certify: bool = True,
    rng: np.random.Generator | None = None,
) -> RelaxedResult:
    """min over lambda' of f*(lambda') - log Z'(lambda') (Eq. 18), equal to the minimum over q of -f**(mu_q) + KL.

    Args:
        structure: family of lambda' and q.
        starts: Gaussians q whose grad f** is where a run begins; by default the prior and Gaussians at the modes of the
            posterior. The problem is not convex: every distinct local minimum is reported.
        tol: a run has converged when the stationarity residual is at most ``tol``, in q*'s units.
        search_tol: relative tolerance of each global maximization for f*, which takes 20 seconds at most.
        max_seconds: after that no run nor iteration begins, and what was reached is returned.
        certify: with False, f* comes from local searches (``rng`` draws their starts), all that can be afforded
            for P > 3 or so. ``upper`` is then infinite and the value may be too small.

    Raises:
        ValueError: bad input, with one sentence.
        DomainError: no start has a finite f*.
    """
    check_problem(loss, prior=prior)
    check_tolerance(tol)
    check_tolerance(search_tol, "search_tol")
    check_count(max_iterations, "max_iterations")
    prior_member = family_member(prior, structure)
    end = time.perf_counter() + check_seconds(max_seconds)
    named = relaxed_starts(loss, prior_member, structure) if starts is None else _named(starts, structure)
    runs: list[tuple[str, Bundle]] = []
    for name, q in named:
        if runs and time.perf_counter() > end:
            break
        first = biconjugate(loss, q, tol=1e-6, max_seconds=seconds_left(end)) if certify else None
        natural = first.natural if first is not None else sum_of_biconjugates(loss, q).natural
        if natural is None:
            continue
        search = certified_search(search_tol, end) if certify else local_search(prior.dim, rng)
        run = Bundle(loss, prior_member, structure, search, search_tol, end)
        if run.start(natural, np.zeros((0, loss.dim)) if first is None else first.atoms):
            run.minimize(max_iterations, tol)
            if certify and not run.converged and time.perf_counter() <= end:
                run.check_by_value(tol)
            runs.append((name, run))
    if not runs:
        raise DomainError("no start has a finite f*: the loss is not majorized by a quadratic of this family.")
    runs.sort(key=lambda item: item[1].point.value)
    best = runs[0][1]
    minima = _distinct(runs)
    stopped = "" if best.converged else f"stopped at residual {best.residual:.1e}"
    border = "at the border of dom f*; stationarity checked by f** at q*" if best.by_value else ""
    several = f"{len(minima)} distinct local minima" if len(minima) > 1 else ""
    left = best.point.upper - best.point.value
    wide = f"the bracket of f* is {left:.1e} wide" if certify and not best.point.certified else ""
    natural = best.statistics.natural(best.point.c)
    return RelaxedResult(
        value=best.point.value,
        lower=best.point.value - best.point.error,
        upper=best.point.upper + best.point.error,
        posterior=best.point.q,
        natural=natural,
        atoms=best.point.atoms[best.weights > 1e-12],
        weights=best.weights[best.weights > 1e-12],
        residual=best.residual,
        certified=best.point.certified and bool(np.isfinite(best.point.error)),
        converged=best.converged,
        iterations=best.iterations,
        evaluations=sum(run.evaluations for _, run in runs),
        minima=minima,
        message="; ".join(text for text in (stopped, wide, border, several) if text),
        assumes=loss.assumes,
        evidence=lambda _: objective_at(loss, natural, prior, tol=search_tol).certificate(),
    )


def relaxed_starts(loss: Loss, prior: Gaussian, structure: str) -> list[tuple[str, Gaussian]]:
    """Named Gaussians of the family from which a nonconvex minimization should begin: prior, and narrow at modes."""
    ndim = {"isotropic": 0, "diagonal": 1, "full": 2}[structure]
    found = [("prior", Gaussian(prior.mean, raise_block(prior.cov_block, ndim, prior.dim)))]
    for k, mode in enumerate(posterior_modes(loss, prior)[:4]):
        curvature = np.asarray(loss.hessian(mode)) + prior.precision
        values, vectors = np.linalg.eigh(curvature)
        cov = (vectors / np.maximum(values, np.linalg.eigvalsh(prior.precision)[0])) @ vectors.T
        full = Gaussian(mode, 0.5 * (cov + cov.T))
        found.append((f"mode {k}", full.with_structure(structure)))  # type: ignore[arg-type]
    return found


def _named(starts: Any, structure: str) -> list[tuple[str, Gaussian]]:
    items = list(starts) if isinstance(starts, (list, tuple)) else [starts]
    if not items or not all(isinstance(q, Gaussian) for q in items):
        raise ValueError("starts must be one or more Gaussians.")
    return [(f"start {k}", family_member(q, structure)) for k, q in enumerate(items)]


def _distinct(runs: list[tuple[str, Bundle]]) -> tuple[LocalMinimum, ...]:
    kept: list[LocalMinimum] = []
    for name, run in runs:
        if any(parameter_distance(m.posterior, run.point.q) < 1e-3 for m in kept):
            continue
        natural = run.statistics.natural(run.point.c)
        kept.append(LocalMinimum(run.point.value, run.point.q, natural, run.residual, run.converged, name))
    return tuple(kept)
