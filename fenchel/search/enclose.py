"""A box outside of which h is smaller than the best value known: the region that branch and bound has to cover."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.search.bounds import LinearModel, UserModel
from fenchel.search.confine import Setting
from fenchel.search.root_bound import GlobalQuadratic, global_quadratics, stacked_terms

__all__ = ["box_around", "global_majorants"]

Array = NDArray[np.float64]
# From this dimension on the boxes saved pay for the convex problem of `root_bound`.
_ROOT_BOUND_FROM = 4
_ROUNDS = 5


def global_majorants(setting: Setting, best: float, best_u: Array, tol: float) -> list[GlobalQuadratic]:
    """Concave quadratics above h everywhere (in a user's loss with bounds: none); the last one has the least maximum.

    ``best`` = h(best_u) is the best value known; a maximum within tol of it ends the effort.
    """
    model = setting.model
    if isinstance(model, UserModel):
        return [] if setting.domain is not None else _declared(model)
    found, contact = _ever_nearer(model, best, best_u)
    if found and model.dim >= _ROOT_BOUND_FROM and found[-1].top > best + tol:
        found += global_quadratics(model, best, contact, tol)
    return sorted(found, key=lambda q: -q.top)


def box_around(quadratics: list[GlobalQuadratic], best: float, axes: Array) -> tuple[Array, Array]:
    """(center, half) along the orthonormal columns of ``axes``: the intersection of the sets {q >= best}."""
    dim = axes.shape[0]
    lo, hi = np.full(dim, -np.inf), np.full(dim, np.inf)
    for q in quadratics:
        excess = max(q.top - best, 0.0) + 1e-12 * (abs(q.top) + abs(best))
        spread = np.einsum("ij,ik,kj->j", axes, q.inverse, axes)
        half = np.sqrt(2.0 * excess * np.maximum(spread, 0.0)) * (1.0 + 1e-9)
        center = q.center @ axes
        lo, hi = np.maximum(lo, center - half), np.minimum(hi, center + half)
    return 0.5 * (lo + hi), np.maximum(0.5 * (hi - lo), 0.0)


def _declared(model: UserModel) -> list[GlobalQuadratic]:
    """A user's majorizer, or the descent lemma's at the origin, plus the concave part."""
    zero = np.zeros((1, model.dim))
    value, slope, matrix = model.from_majorizer(zero) or model.majorant(zero, zero)
    return [GlobalQuadratic.of(float(value[0]), slope[0], -matrix[0])]


def _ever_nearer(model: LinearModel, best: float, best_u: Array) -> tuple[list[GlobalQuadratic], Array]:
    """Majorants whose contacts follow the extent of the set {majorant >= best}; and the last contacts."""
    terms = stacked_terms(model)
    contact = np.abs(terms.rows @ best_u + terms.offsets) + np.linalg.norm(terms.rows, axis=1) + 1e-300
    found: list[GlobalQuadratic] = []
    last = contact
    room = float(np.linalg.eigvalsh(terms.concave)[0])
    if room <= 1e-10:
        return [], contact
    for _ in range(60):
        q = terms.quadratic(contact, floor=0.1 * room)
        if q is None:
            # Contacts far out flatten every parabola, so that the concave part wins in the end.
            contact = 2.0 * contact
            continue
        found.append(q)
        last = contact
        if len(found) == _ROUNDS:
            break
        middle = terms.rows @ q.center + terms.offsets
        extent = 2.0 * max(q.top - best, 0.0) * np.einsum("ni,ij,nj->n", terms.rows, q.inverse, terms.rows)
        contact = np.maximum(np.sqrt(middle**2 + 0.5 * extent), 1e-3 * contact)
    return found, last
