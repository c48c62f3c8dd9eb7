"""f** for P = 1 on a whole plane at once: the lower convex hull of the lifted curve, with its atoms polished.

The hull of a few hundred nodes says which atoms carry each q: two neighbourhoods, or three. They are then moved to the
exact stationary distribution by Newton's method, for all q together, so that nodes need not be fine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.checks import check_loss
from fenchel.conjugate import conjugate
from fenchel.errors import SolverError
from fenchel.gaussian import Gaussian
from fenchel.hull.lifted_curve import LiftedCurve, growth, sample_nodes
from fenchel.hull.majorant_excess import excess_over
from fenchel.hull.plane import Plane
from fenchel.hull.plane_atoms import PlaneAtoms
from fenchel.losses import Loss
from fenchel.losses.inputs import finite_array, positive_number
from fenchel.results import BiconjugateResult, Natural

__all__ = ["Surface", "biconjugate_surface", "biconjugate_surface_result", "hull_biconjugate"]

Array = NDArray[np.float64]
_NODES = 400
_SUPERQUADRATIC = "the loss grows faster than every quadratic, so that no quadratic majorizes it"


@dataclass(frozen=True)
class Surface:
    """f** over a grid of (m, sigma); every array is (len(means), len(stds)) unless said otherwise.

    ``value`` = ``upper``: minus the expected loss of the ``atoms`` (..., 3) with ``weights`` (..., 3), which have the
    moments of N(m, sigma^2); a rigorous upper bound. ``lower``: from the ``majorant`` (..., 3) = (A, B, C) with
    A + B theta + C theta^2 >= l at every node, less the most that l can exceed it between nodes by its curvature bound
    (-inf where there is none). ``lam1``, ``lam2``: grad f** in (mu1, mu2). ``nodes`` (n,): the thetas of the hull.
    """

    means: Array
    stds: Array
    value: Array
    lower: Array
    upper: Array
    lam1: Array
    lam2: Array
    atoms: Array
    weights: Array
    nodes: Array
    seconds: float
    message: str = ""


def biconjugate_surface(loss: Loss, means: Any, stds: Any) -> Array:
    """f** of N(m, sigma^2) for m in ``means`` and sigma in ``stds``: (len(means), len(stds)), P = 1.

    -inf where no quadratic majorizes the loss; inf where a bounded loss leaves no distribution with these moments.

    Raises:
        TypeError: loss is not a `Loss`. ValueError: P is not 1, entries are not finite, a std is not positive.
    """
    return _solve(Plane(loss, *_grid(loss, means, stds)), np.zeros(0)).value


def biconjugate_surface_result(loss: Loss, means: Any, stds: Any) -> Surface:
    """`biconjugate_surface` with its brackets, gradients and worst-case distributions."""
    return _solve(Plane(loss, *_grid(loss, means, stds)), np.zeros(0), bracket=True)


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
        lower = lam1 * mean + lam2 * (variance + mean * mean) - found.upper
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
    upper = float(surface.value[0, 0])
    # Rounding of the atoms' moments is of this size; the majorant turns it into a change of value.
    slack = 1e-14 * (1.0 + abs(upper) + abs(lam1 * mean) + abs(lam2) * (variance + mean * mean))
    upper += slack
    certified = bool(upper - lower <= tol * max(1.0, abs(upper)))
    shape = {"full": (1, 1), "diagonal": (1,), "isotropic": ()}[family]
    return BiconjugateResult(
        value=upper - slack,
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


def _without_bracket(surface: Surface, family: str, searches: int, seconds: float) -> BiconjugateResult:
    value = float(surface.value[0, 0])
    nothing = np.zeros((0, 1))
    proved = surface.message != _SUPERQUADRATIC  # growth is judged from samples, feasibility is exact
    return BiconjugateResult(
        value, value, value, proved, None, nothing, np.zeros(0), searches, seconds, "hull", family, surface.message
    )


def _grid(loss: Loss, means: Any, stds: Any) -> tuple[Array, Array]:
    check_loss(loss)
    if loss.dim != 1:
        raise ValueError(f"a surface needs a loss of one parameter, the loss has P = {loss.dim}")
    m, s = finite_array(np.atleast_1d(means), "means", 1), finite_array(np.atleast_1d(stds), "stds", 1)
    if m.size == 0 or s.size == 0:
        raise ValueError("means and stds must not be empty")
    positive_number(s.min(), "stds")
    return m, s


def _solve(plane: Plane, extra: Array, *, bracket: bool = False) -> Surface:
    start = time.perf_counter()
    rate = growth(plane.loss, plane.window)
    if np.isposinf(rate):
        return _constant(plane, -np.inf, _SUPERQUADRATIC, start)
    nodes = sample_nodes(plane.loss, plane.window, extra, count=_NODES, finest=float(plane.stds.min()))
    curve = LiftedCurve.build(plane.window, nodes, plane.value(nodes), rate)
    facet, hull_value = curve.locate(plane.m, plane.mu2)
    state = PlaneAtoms(plane, curve, facet, hull_value)
    worst = state.polished(1e-20 if bracket else 1e-12)
    value, message = -worst, ""
    if plane.bounded:
        room = (plane.m - plane.window.low) * (plane.window.high - plane.m)
        empty = (plane.s * plane.s > room * (1.0 + 1e-12)) | (room <= 0.0)
        value = np.where(empty, np.inf, value)
        message = "no distribution within the loss's bounds has these moments" if empty.any() else ""
    if not bracket:
        nothing = np.zeros((0, 0))
        return Surface(
            plane.means,
            plane.stds,
            value.reshape(plane.shape),
            nothing,
            nothing,
            nothing,
            nothing,
            nothing,
            nothing,
            plane.window.theta(nodes),
            time.perf_counter() - start,
            message,
        )
    return _bracketed(plane, curve, state, facet, value, message, start)


def _bracketed(
    plane: Plane,
    curve: LiftedCurve,
    state: PlaneAtoms,
    facet: NDArray[np.intp],
    value: Array,
    message: str,
    start: float,
) -> Surface:
    state.touch()
    # The facet's majorant is valid at all nodes; the touching quadratic of the polished atoms is the sharper one.
    facet_planes = curve.planes[facet]
    planes = np.where(state.has_plane[:, None], state.planes, facet_planes)
    moments = np.column_stack([np.ones_like(plane.m), plane.m, plane.mu2])
    lower = np.full(value.size, -np.inf)
    for candidate in (facet_planes, planes):
        bound = np.einsum("nk,nk->n", moments, candidate) - excess_over(plane, curve, candidate)
        planes = np.where((bound > lower)[:, None], candidate, planes)
        lower = np.maximum(lower, bound)
    scale, center = plane.window.scale, plane.window.center
    # -(A + B u + C u^2) with u = (theta - center) / scale, as lam1 theta + lam2 theta^2 - t.
    lam2 = planes[:, 2] / scale**2
    lam1 = planes[:, 1] / scale - 2.0 * center * lam2
    shape = plane.shape
    return Surface(
        plane.means,
        plane.stds,
        value.reshape(shape),
        np.where(np.isposinf(value), np.inf, lower).reshape(shape),
        value.reshape(shape),
        lam1.reshape(shape),
        lam2.reshape(shape),
        plane.window.theta(state.atoms).reshape(*shape, 3),
        state.weights.reshape(*shape, 3),
        plane.window.theta(curve.nodes),
        time.perf_counter() - start,
        message,
    )


def _constant(plane: Plane, value: float, message: str, start: float) -> Surface:
    full = np.full(plane.shape, value)
    empty = np.full((*plane.shape, 3), np.nan)
    return Surface(
        plane.means,
        plane.stds,
        full,
        full,
        full,
        full * np.nan,
        full * np.nan,
        empty,
        np.zeros((*plane.shape, 3)),
        np.zeros(0),
        time.perf_counter() - start,
        message,
    )
