"""Where a loss touches its majorant: maximizers of l - Q, on the jumps of the loss too."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from flint import arb_mat
from scipy.optimize import nnls

from fenchel.arrays import Array
from fenchel.certificates.majorant import Majorant
from fenchel.checker.loss import Excess
from fenchel.checker.numbers import exacts
from fenchel.losses import Loss
from fenchel.losses.exact_text import hexes


def find_contacts(loss: Loss, majorant: Majorant, starts: Array, basis: Array, reach: float) -> Array:
    """The starts (K, P), moved uphill on l - Q by Newton's method; those within ``reach`` of jumps onto the jumps.

    ``reach`` is in the coordinates of the proof, in which Q has curvature 1.
    """
    theta = distinct(starts if starts.shape[0] else majorant.center[None, :], basis)
    on_jumps = [_lowest_on_jumps(loss, majorant, point, basis, reach) for point in theta]
    moved = theta.copy()
    for _ in range(30):
        with np.errstate(all="ignore"):
            step = moved - majorant.center
            slope = (loss._gradient(moved) - majorant.slope - 2.0 * step @ majorant.curvature) @ basis
            hessian = basis.T @ (loss._hessian(moved) - 2.0 * majorant.curvature) @ basis
            if not (np.isfinite(slope).all() and np.isfinite(hessian).all()):
                break
            bends, axes = np.linalg.eigh(hessian)
            turned = np.einsum("kij,ki->kj", axes, slope) / np.maximum(np.abs(bends), 1e-3)
            moved = moved + np.einsum("kij,kj->ki", axes, turned) @ basis.T
    far = np.abs(np.linalg.solve(basis, (moved - theta).T).T).max(axis=1)
    better = np.isfinite(moved).all(axis=1) & (far < 0.1)
    better &= _heights(loss, majorant, moved) >= _heights(loss, majorant, theta) - 1e-9
    smooth = np.where(better[:, None], moved, theta)
    return np.array([smooth[k] if jump is None else jump for k, jump in enumerate(on_jumps)])


def _lowest_on_jumps(loss: Loss, majorant: Majorant, theta: Array, basis: Array, reach: float) -> Array | None:
    """The highest point of (smooth part) - Q on the jumps within ``reach``, without those that hold it back; None
    without jumps. The smooth part counts by its slope at theta."""
    planes = jumps(loss)
    if planes is None:
        return None
    rows, offsets = planes[0] @ basis, planes[0] @ theta + planes[1]
    near = np.flatnonzero(np.abs(offsets) <= reach * np.linalg.norm(rows, axis=1))
    step = np.zeros(theta.size)
    while near.size:
        slope = -(majorant.slope + 2.0 * majorant.curvature @ (theta - majorant.center)) @ basis
        slope = slope + loss._gradient(theta[None, :])[0] @ basis
        gram = rows[near] @ rows[near].T
        pull = np.linalg.lstsq(gram, -(rows[near] @ slope + offsets[near]), rcond=1e-12)[0]
        if pull.min() >= -1e-12 * np.abs(pull).max():
            step = slope + rows[near].T @ pull
            break
        near = np.delete(near, np.argmin(pull))
    if near.size == 0:
        return None
    return _upwards(planes[0][near], planes[1][near], theta + basis @ step)


def jumps(loss: Loss) -> tuple[Array, Array] | None:
    """The planes rows.theta + offsets = 0 on which terms jump; None for a continuous loss."""
    linear = loss.in_predictors()
    if linear is None or linear.continuous:
        return None
    groups = [g for g in linear.groups if not g.link.continuous]
    return np.concatenate([g.rows for g in groups]), np.concatenate([g.offsets for g in groups])


def _heights(loss: Loss, majorant: Majorant, theta: Array) -> Array:
    step = theta - majorant.center
    with np.errstate(all="ignore"):
        values = loss._value(theta) - step @ majorant.slope - np.einsum("ki,ij,kj->k", step, majorant.curvature, step)
    return np.asarray(np.where(np.isfinite(values), values, -np.inf), dtype=float)


def distinct(theta: Array, basis: Array) -> Array:
    """One of every group of points that coincide in the coordinates of the proof."""
    u = np.linalg.solve(basis, theta.T).T
    near = np.abs(u[:, None, :] - u[None, :, :]).max(axis=2) < 1e-6 * (1.0 + np.abs(u).max(axis=1))[:, None]
    return np.asarray(theta[np.argmax(near, axis=1) == np.arange(theta.shape[0])])


def jump_slopes(loss: Loss, excess: Excess, theta: Array, u: Array, basis: Array) -> Array | None:
    """Slopes >= 0 for the terms that jump at this contact, such that l - Q has none there; None without jumps."""
    planes, linear = jumps(loss), loss.in_predictors()
    if planes is None or linear is None:
        return None
    rows, offsets = planes
    weights = np.concatenate([g.weights for g in linear.groups if not g.link.continuous])
    touched = np.abs(rows @ theta + offsets) <= 1e-9 * (np.abs(rows) @ np.abs(theta) + np.abs(offsets))
    slopes = np.zeros(touched.size)
    if touched.any():
        at = arb_mat(exacts(hexes(u), u.size))
        slope = np.array([float(x) for x in excess.above(at)(at, 0 * at)[1].entries()])
        system = (rows * weights[:, None])[touched] @ basis
        slopes[touched] = nnls(system.T, -slope)[0]
    return slopes


def _upwards(rows: Array, offsets: Array, theta: Array) -> Array:
    """The point moved, by units in the last place, to where rows.theta + offsets >= 0 exactly."""
    if rows.shape[0] == 0:
        return theta
    point = theta - np.linalg.pinv(rows) @ np.array(
        [_predictor(r, o, theta) for r, o in zip(rows, offsets, strict=True)]
    )
    inward = np.linalg.pinv(rows) @ (np.abs(rows) @ np.abs(point) + np.abs(offsets))
    for k in range(8):
        if all(_predictor(r, o, point) >= 0.0 for r, o in zip(rows, offsets, strict=True)):
            break
        point = point + 2.0**k * 1e-16 * inward
    return np.asarray(point)


def _predictor(row: Array, offset: float, point: Array) -> float:
    """row.point + offset, rounded once."""
    terms = (Fraction(float(a)) * Fraction(float(t)) for a, t in zip(row, point, strict=True))
    return float(sum(terms, Fraction(float(offset))))


def on_jumps(loss: Loss, theta: Array) -> Array:
    """Atoms within rounding of a jump, moved onto its upper side."""
    planes = jumps(loss)
    if planes is None:
        return theta
    size = np.abs(planes[1]) + np.abs(theta) @ np.abs(planes[0].T)
    near = np.abs(theta @ planes[0].T + planes[1]) <= 1e-11 * size
    return np.array([_upwards(planes[0][on], planes[1][on], point) for on, point in zip(near, theta, strict=True)])
