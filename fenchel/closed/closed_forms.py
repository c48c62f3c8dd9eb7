"""f** in closed form: quadratics, and one function of a linear predictor plus a quadratic."""

from __future__ import annotations

from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.closed.projections import (
    check_structure,
    majorant_natural,
    projected_variance,
    uncertainty,
    worst_direction,
)
from fenchel.closed.quadratic_forms import quadratic_biconjugate
from fenchel.closed.scalar_forms import scalar_form
from fenchel.losses import LinearPredictorLoss, Loss, Terms
from fenchel.losses.accurate import accurate_predictors
from fenchel.results import Natural

ClosedForm = tuple[float, Natural, Array | None, Array | None, float]


def closed_form_biconjugate(loss: Loss, q: Any, structure: str | None = None) -> ClosedForm | None:
    """(f**, its gradient in the structure's blocks, atoms (K, P), weights (K,), rounding error), or None if unknown.

    q is a `Gaussian`; ``structure`` (default: q's own) names the family whose moments are held. The atoms are None
    where the supremum over distributions is not attained. Covers quadratics in every family, and
    w g(x.theta + o) + quadratic for every built-in link g where the quadratic is a statistic of the family (any H in
    the full family, diagonal H in the diagonal, multiples of I in the isotropic).
    """
    structure = check_structure(q.structure if structure is None else structure)
    linear = loss.in_predictors()
    if linear is None or linear.dim != q.mean.shape[0]:
        return None
    mean, cov = np.asarray(q.mean, dtype=float), np.asarray(q.cov, dtype=float)
    terms, constant = merged(linear)
    if not terms:
        value, natural, worst, error = quadratic_biconjugate(
            linear.H, linear.b, linear.c + constant, mean, cov, structure
        )
        atoms, weights = covariance_atoms(mean, worst)
        return value, natural, atoms, weights, error
    if len(terms) > 1 or terms[0].rows.shape[0] > 1 or not _is_statistic(linear.H, structure):
        return None
    return _single(terms[0], linear, constant, mean, cov, structure)


def _single(
    term: Terms, loss: LinearPredictorLoss, constant: float, mean: Array, cov: Array, structure: str
) -> ClosedForm | None:
    row, weight = term.rows[0], term.weights[0]
    variance = projected_variance(term.rows, cov, structure)
    center = accurate_predictors(term.rows, mean, term.offsets)
    form = scalar_form(term.link, center, variance, uncertainty(term.rows, term.offsets, mean, cov, structure))
    if form is None:
        return None
    rest, rest_natural, _, rest_error = quadratic_biconjugate(loss.H, loss.b, loss.c + constant, mean, cov, structure)
    own = majorant_natural(term.rows, weight * form.slope, weight * form.curvature, mean, cov, structure)
    natural = Natural(own.lam1 + rest_natural.lam1, own.lam2 + rest_natural.lam2)
    value = rest - weight * float(form.value[0])
    error = rest_error + weight * float(form.error[0]) + 1e-15 * (abs(rest) + abs(weight * float(form.value[0])))
    if not form.attained:
        return value, natural, None, None, error
    direction = worst_direction(row, cov, structure)
    ends = np.array([form.atom[0], form.other[0]])
    shares = np.array([form.weight[0], 1.0 - form.weight[0]])
    centers = mean + (ends - center[0])[:, None] * direction
    jump = not term.link.continuous
    if structure != "full" or loss.dim == 1:
        return value, natural, onto_jump(centers, term) if jump else centers, shares, error
    # What z leaves free has the covariance S - S x x^T S / x^T S x, and does not enter the loss.
    spread, split = covariance_atoms(np.zeros(loss.dim), cov - np.outer(direction, direction) * variance[0])
    atoms = (centers[:, None, :] + spread[None, :, :]).reshape(-1, loss.dim)
    weights = (shares[:, None] * split[None, :]).ravel()
    return value, natural, onto_jump(atoms, term) if jump else atoms, weights, error


def onto_jump(theta: Array, term: Terms) -> Array:
    """theta (K, P), points that rounding left just below the jump at z = 0 of a one-row term moved onto it."""
    moved, row = theta.copy(), term.rows[0]
    # All atoms were computed from the same numbers, the largest of which sets the rounding.
    scale = 1e-14 * float((np.abs(theta) @ np.abs(row)).max() + abs(term.offsets[0]))
    for step in (0.1, 0.3, 1.0):
        z = term.predictors(moved)[:, 0]
        below = (z < 0.0) & (z > -scale)
        if not below.any():
            break
        moved[below] += (step * scale / (row @ row)) * row
    return moved


def covariance_atoms(mean: Array, cov: Array) -> tuple[Array, Array]:
    """2 r equal atoms with this mean (P,) and covariance (P, P) of rank r (one atom where it is 0)."""
    values, vectors = np.linalg.eigh(cov)
    kept = values > 1e-14 * max(float(values[-1]), 1e-300)
    rank = int(kept.sum())
    if rank == 0:
        return mean[None, :].copy(), np.ones(1)
    steps = (vectors[:, kept] * np.sqrt(rank * values[kept])).T
    return np.vstack([mean + steps, mean - steps]), np.full(2 * rank, 0.5 / rank)


def merged(loss: LinearPredictorLoss) -> tuple[list[Terms], float]:
    """The loss's groups without empty terms and with equal terms of a group added up; and the constant left over."""
    groups, constant = [], 0.0
    for group in loss.groups:
        live, fixed = without_constants(group)
        constant += fixed
        if live is None:
            continue
        keys = np.column_stack([live.rows, live.offsets])
        unique, inverse = np.unique(keys, axis=0, return_inverse=True)
        summed = np.asarray(np.bincount(inverse.ravel(), weights=live.weights), dtype=float)
        groups.append(Terms(group.link, unique[:, :-1], unique[:, -1], summed))
    return groups, constant


def without_constants(group: Terms) -> tuple[Terms | None, float]:
    """The terms that depend on theta and have weight (None: there are none), and the sum of the others."""
    null = ~group.rows.any(axis=1)
    live = ~null & (group.weights > 0.0)
    if live.all():
        return group, 0.0
    constant = float(group.link.value(group.offsets[null]) @ group.weights[null])
    if not live.any():
        return None, constant
    return Terms(group.link, group.rows[live], group.offsets[live], group.weights[live]), constant


def _is_statistic(H: Array, structure: str) -> bool:
    """theta^T H theta is a linear function of the family's statistics."""
    if structure == "full" or not H.any():
        return True
    diagonal = np.diagonal(H)
    if not np.array_equal(H, np.diag(diagonal)):
        return False
    return structure == "diagonal" or bool((diagonal == diagonal[0]).all())
