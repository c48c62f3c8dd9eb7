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
from fenchel.hull.lifted_curve import LiftedCurve
from fenchel.hull.majorant_excess import excess_over
from fenchel.hull.nodes import growth, sample_nodes
from fenchel.hull.plane import Plane
from fenchel.hull.plane_atoms import PlaneAtoms
from fenchel.losses import Loss
from fenchel.losses.inputs import finite_vector, positive_number

__all__ = ["Surface", "biconjugate_surface", "biconjugate_surface_result"]

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


def _grid(loss: Loss, means: Any, stds: Any) -> tuple[Array, Array]:
    check_loss(loss)
    if loss.dim != 1:
        raise ValueError(f"a surface needs a loss of one parameter, the loss has P = {loss.dim}")
    m, s = finite_vector(means, "means"), finite_vector(stds, "stds")
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
