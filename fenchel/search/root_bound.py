"""The best global bound of h by one parabola a term, in any dimension: a convex problem in the parabolas' curvatures.

Each term obeys g(z) <= a z + c(kappa) + kappa z^2 / 2 for every curvature kappa, c convex (the family of bounds to
which Jaakkola's and Jordan's belongs). Their sum majorizes h by a quadratic, whose maximum is convex in the curvatures.
Newton's method follows its minimizers while a barrier that keeps the quadratic concave is taken away; every iterate
is a valid bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.search.bounds import LinearModel

__all__ = ["GlobalQuadratic", "StackedTerms", "global_quadratics", "stacked_terms"]

Array = NDArray[np.float64]
_MOST_TERMS = 1500
_SHRINK = 0.2
# Nearer to a kink a parabola overflows.
_LEAST_CONTACT = 1e-150


@dataclass(frozen=True, eq=False)
class GlobalQuadratic:
    """constant + linear.u - u^T concave u / 2 >= h(u) for all u; concave is positive definite.

    ``inverse`` is that of ``concave``, ``center`` the maximizer and ``top`` the maximum.
    """

    constant: float
    linear: Array
    concave: Array
    inverse: Array
    center: Array
    top: float

    @classmethod
    def of(cls, constant: float, linear: Array, concave: Array) -> GlobalQuadratic:
        """From the coefficients alone."""
        inverse = np.asarray(np.linalg.inv(concave), dtype=float)
        center = inverse @ linear
        return cls(constant, linear, concave, inverse, center, constant + 0.5 * float(linear @ center))


@dataclass(frozen=True, eq=False)
class StackedTerms:
    """All terms of the form a z + (concave function of z^2), stacked: rows (n, D), offsets (n,), weights (n,).

    ``constant``, ``linear`` and ``concave`` are the quadratic part of h together with fixed majorants of the other
    terms: suprema of bounded ones, bend z^2 / 2 for the others.
    """

    model: LinearModel
    rows: Array
    offsets: Array
    weights: Array
    constant: float
    linear: Array
    concave: Array

    def parabolas(self, contact: Array) -> tuple[Array, Array, Array, Array]:
        """(a, c, kappa, g'') at the contacts (n,) > 0."""
        a, c, kappa, bend = (np.empty_like(contact) for _ in range(4))
        first = 0
        for g in self.model.groups:
            if g.link.rule is None:
                continue
            part = slice(first, first + g.rows.shape[0])
            first += g.rows.shape[0]
            slope, xi = g.link.rule[0], np.maximum(contact[part], _LEAST_CONTACT)
            value, tangent = g.link.tangent(xi)
            kappa[part] = np.maximum((tangent - slope) / xi, 0.0)
            a[part], bend[part] = slope, np.minimum(g.link.curvature(xi), kappa[part])
            c[part] = value - slope * xi - 0.5 * kappa[part] * xi * xi
        return a, c, kappa, bend

    def quadratic(self, contact: Array, floor: float = 1e-13) -> GlobalQuadratic | None:
        """The majorant with these contacts, or None where its concavity is below ``floor``."""
        a, c, kappa, _ = self.parabolas(contact)
        o, w = self.offsets, self.weights
        concave = self.concave - (self.rows.T * (w * kappa)) @ self.rows
        values, vectors = np.linalg.eigh(concave)
        if not values[0] > floor * max(1.0, values[-1]):
            return None
        inverse = np.asarray((vectors / values) @ vectors.T)
        linear = self.linear + (w * (a + kappa * o)) @ self.rows
        constant = self.constant + float(w @ (c + a * o + 0.5 * kappa * o * o))
        center = inverse @ linear
        return GlobalQuadratic(constant, linear, concave, inverse, center, constant + 0.5 * float(linear @ center))

    def barrier(self, contact: Array, strength: float) -> float:
        q = self.quadratic(contact)
        return np.inf if q is None else q.top + 0.5 * strength * float(np.linalg.slogdet(q.inverse)[1])


def global_quadratics(model: LinearModel, best: float, contact: Array, tol: float) -> list[GlobalQuadratic]:
    """Majorants of h met on the way, ending near the least maximum, or once it is within tol of ``best``.

    ``contact`` (n,) > 0 are contacts, one for each of the `stacked_terms`, at which the majorant is concave.
    """
    terms = stacked_terms(model)
    q = terms.quadratic(contact)
    if q is None or terms.rows.shape[0] > _MOST_TERMS:
        return [] if q is None else [q]
    found = [q]
    log_contact = np.log(contact)
    strength = max(q.top - best, tol) / model.dim
    least = 0.2 * tol / model.dim
    for _ in range(60):
        for _ in range(3):
            log_contact, moved = _newton(terms, log_contact, strength)
            if not moved:
                break
        q = terms.quadratic(np.exp(log_contact))
        if q is None:
            break
        found.append(q)
        # The barrier's minimum is within strength * D / 2 of the least maximum.
        if q.top - best <= tol or strength <= least:
            break
        strength *= _SHRINK
    return found


def stacked_terms(model: LinearModel) -> StackedTerms:
    ruled = [g for g in model.groups if g.link.rule is not None]
    constant, linear, concave = model.constant, model.linear, model.concave
    ends = np.array(-np.inf), np.array(np.inf)
    for g in model.groups:
        if g.link.rule is not None:
            continue
        if g.link.bend == 0.0:
            constant += float(g.weights.sum() * g.link.sup(*ends))
            continue
        scale = g.weights * g.link.bend
        constant += 0.5 * float(scale @ np.square(g.offsets))
        linear = linear + (scale * g.offsets) @ g.rows
        concave = concave - (g.rows.T * scale) @ g.rows
    return StackedTerms(
        model,
        np.vstack([np.empty((0, model.dim)), *(g.rows for g in ruled)]),
        np.concatenate([np.empty(0), *(g.offsets for g in ruled)]),
        np.concatenate([np.empty(0), *(g.weights for g in ruled)]),
        constant,
        linear,
        concave,
    )


def _newton(terms: StackedTerms, log_contact: Array, strength: float) -> tuple[Array, bool]:
    """One damped Gauss-Newton step in the logarithms of the contacts."""
    contact = np.exp(log_contact)
    q = terms.quadratic(contact)
    if q is None or contact.size == 0:
        return log_contact, False
    _, _, kappa, bend = terms.parabolas(contact)
    w, rows = terms.weights, terms.rows
    z = rows @ q.center + terms.offsets
    gram = rows @ q.inverse @ rows.T
    # Derivatives in kappa, then the chain rule with d kappa / d log contact = g'' - kappa <= 0.
    rate = (bend - kappa) * w
    slope = 0.5 * rate * (z * z + strength * np.diagonal(gram) - contact * contact)
    matrix = np.outer(rate, rate) * gram * (np.outer(z, z) + 0.5 * strength * gram)
    matrix[np.diag_indices_from(matrix)] += -rate * contact * contact + 1e-12 * np.abs(matrix).max() + 1e-300
    step = -np.linalg.solve(matrix, slope)
    step *= min(1.0, 2.0 / max(np.abs(step).max(), 1e-300))
    gain = float(slope @ step)
    value = q.top + 0.5 * strength * float(np.linalg.slogdet(q.inverse)[1])
    if gain > -1e-14 * (1.0 + abs(value)):
        return log_contact, False
    length = 1.0
    for _ in range(20):
        trial = log_contact + length * step
        if terms.barrier(np.exp(trial), strength) <= value + 1e-4 * length * gain:
            return trial, True
        length *= 0.4
    return log_contact, False
