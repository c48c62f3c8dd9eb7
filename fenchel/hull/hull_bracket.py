"""One biconjugate by the hull, with a bracket."""

from __future__ import annotations

import time

import numpy as np

from fenchel.conjugate import conjugate
from fenchel.errors import SolverError
from fenchel.gaussian import Gaussian
from fenchel.hull.plane import Plane
from fenchel.hull.surface import _SUPERQUADRATIC, Surface, _solve
from fenchel.losses import Loss
from fenchel.moments.certificate import make_upper
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.white_loss import WhiteLoss
from fenchel.results import BiconjugateResult, Natural

__all__ = ["hull_biconjugate"]


def hull_biconjugate(
    loss: Loss,
    q: Gaussian,
    *,
    tol: float = 1e-8,
    structure: str | None = None,
    max_rounds: int = 12,
    max_seconds: float = np.inf,
) -> BiconjugateResult:
    """f** at one q by the hull (P = 1), certified by a global search for a violation of the hull's majorant.

    Where the search finds one, its points join the nodes and the hull is computed again.
    """
    start = time.perf_counter()
    if loss.dim != 1:
        raise ValueError(f"method 'hull' is for losses of one parameter, the loss has P = {loss.dim}")
    family = structure or q.structure
    mean, variance = float(q.mean[0]), float(q.cov[0, 0])
    extra, searches = np.zeros(0), 0
    best: tuple[float, Surface, float, float] | None = None
    boxes = 0
    for _ in range(max_rounds):
        left = max_seconds - (time.perf_counter() - start)
        if left <= 0.0:
            break
        surface = _solve(Plane(loss, np.array([mean]), np.array([np.sqrt(variance)])), extra, bracket=True)
        upper = float(surface.value[0, 0])
        if not np.isfinite(upper):
            break
        lam1, lam2 = float(surface.lam1[0, 0]), float(surface.lam2[0, 0])
        found = conjugate(loss, np.array([lam1]), lam2, tol=0.1 * tol, max_seconds=left)
        if np.isinf(found.upper):
            # Escaping mass puts the gradient on the edge of dom f*; a hair inside is a valid bound too.
            lam2 -= 1e-10 * (1.0 + abs(lam2))
            found = conjugate(loss, np.array([lam1]), lam2, tol=0.1 * tol, max_seconds=left)
        searches, boxes = searches + 1, boxes + found.boxes
        lower = lam1 * mean + lam2 * (variance + mean * mean) - found.upper - _slack(upper, lam1, lam2, q)
        if best is None or lower > best[0] or upper < float(best[1].value[0, 0]):
            best = (max(lower, -np.inf if best is None else best[0]), surface, lam1, lam2)
        if upper - lower <= tol * max(1.0, abs(upper)) or found.argmax is None or np.isinf(found.upper):
            break
        extra = np.unique(np.concatenate([extra, found.argmax]))
    seconds = time.perf_counter() - start
    if best is None:
        if seconds >= max_seconds:
            raise SolverError(f"the hull was not found within {max_seconds:g} seconds")
        return _without_bracket(surface, family, searches, seconds)
    lower, surface, lam1, lam2 = best
    weights, atoms = surface.weights[0, 0], surface.atoms[0, 0]
    keep = weights > 0.0
    value = float(surface.value[0, 0])
    white = WhiteLoss(loss, MomentFrame.of(q.mean, q.cov, family))
    bound = make_upper(white, white.frame.to_white(atoms[keep, None]), weights[keep])
    upper = np.inf if bound is None else max(bound.value, value)
    if not keep.any() and loss.in_predictors() is not None:
        # Mass that escapes leaves no atoms; how a loss of predictors grows far out is known exactly.
        upper = value + _slack(value, lam1, lam2, q) + float(white.rounding(np.zeros((1, 1)), -1)[0])
    certified = bool(upper - lower <= tol * max(1.0, abs(value)))
    shape = {"full": (1, 1), "diagonal": (1,), "isotropic": ()}[family]
    return BiconjugateResult(
        value=value,
        lower=lower,
        upper=upper,
        certified=certified,
        natural=Natural(np.array([lam1]), np.full(shape, lam2)),
        atoms=atoms[keep, None],
        weights=weights[keep],
        iterations=searches,
        seconds=seconds,
        method="hull",
        structure=family,
        message="" if certified else f"the bracket is {upper - lower:.2g} wide; {surface.message}".rstrip("; "),
        info={"nodes": int(surface.nodes.size), "searches": searches, "boxes": boxes},
    )


def _slack(value: float, lam1: float, lam2: float, q: Gaussian) -> float:
    """Rounding of the moments is of this size; the majorant turns it into a change of value."""
    mean, variance = float(q.mean[0]), float(q.cov[0, 0])
    return 1e-14 * (1.0 + abs(value) + abs(lam1 * mean) + abs(lam2) * (variance + mean * mean))


def _without_bracket(surface: Surface, family: str, searches: int, seconds: float) -> BiconjugateResult:
    value = float(surface.value[0, 0])
    nothing = np.zeros((0, 1))
    proved = surface.message != _SUPERQUADRATIC  # growth is judged from samples, feasibility is exact
    return BiconjugateResult(
        value, value, value, proved, None, nothing, np.zeros(0), searches, seconds, "hull", family, surface.message
    )
