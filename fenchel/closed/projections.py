"""How a function of one linear predictor z = x.theta sees each Gaussian family.

Only the family's own moments are fixed, so that the largest variance of z over all distributions with these moments is
x^T S x (full), (sum_j |x_j| s_j)^2 (diagonal), |x|^2 tr S (isotropic).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.losses.accurate import accurate_predictors
from fenchel.results import Natural

STRUCTURES = ("full", "diagonal", "isotropic")


def check_structure(structure: Any) -> str:
    """The structure's name, or ValueError."""
    if structure not in STRUCTURES:
        raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}, got {structure!r}")
    return str(structure)


def projected_variance(rows: Array, cov: Array, structure: str) -> Array:
    """The largest variances (n,) of rows (n, P) times theta that the family's moments allow; cov (P, P)."""
    if structure == "full":
        factor = np.linalg.cholesky(cov)
        return np.asarray(np.square(rows @ factor).sum(axis=1))
    if structure == "diagonal":
        return np.asarray(np.square(np.abs(rows) @ np.sqrt(np.diagonal(cov))))
    return np.asarray(np.square(rows).sum(axis=1) * np.trace(cov))


def uncertainty(rows: Array, offsets: Array, mean: Array, cov: Array, structure: str) -> tuple[Array, Array]:
    """How far rounding may move the `accurate_predictors` of rows (n, P), and `projected_variance`; each (n,)."""
    eps, size = float(np.finfo(float).eps) * (2.0 + mean.size), np.abs(rows)
    terms = size @ np.abs(mean) + np.abs(offsets)
    of_mean = 2.0 * eps * (np.abs(accurate_predictors(rows, mean, offsets)) + eps * terms)
    if structure == "full":
        # Cancellation between correlated parameters shows in the sizes of what is added up.
        largest = np.square(size @ np.abs(np.linalg.cholesky(cov))).sum(axis=1)
    elif structure == "diagonal":
        largest = np.square(size @ np.sqrt(np.diagonal(cov)))
    else:
        largest = np.square(rows).sum(axis=1) * np.trace(cov)
    return of_mean, 4.0 * eps * largest


def worst_direction(row: Array, cov: Array, structure: str) -> Array:
    """d (P,) such that theta = m + d (z - E z) + rest has the family's moments, rest being independent of z."""
    if structure == "full":
        bent = cov @ row
        return np.asarray(bent / (row @ bent))
    if structure == "diagonal":
        spread = np.sqrt(np.diagonal(cov))
        return np.asarray(np.where(row < 0.0, -spread, spread) / (np.abs(row) @ spread))
    return np.asarray(row / (row @ row))


def majorant_natural(rows: Array, slope: Array, curvature: Array, mean: Array, cov: Array, structure: str) -> Natural:
    """lam' of the family such that -<lam', T> is, up to a constant, above sum_i of the terms' majorants.

    Term i is slope_i x_i.(theta - m) + curvature_i/2 (x_i.(theta - m))^2; its square is at most
    (theta - m)^T D (theta - m) with D = x x^T, diag(|x_j| sum_k |x_k| s_k / s_j), |x|^2 I, with equality in
    expectation for the worst distribution.
    """
    linear = slope @ rows
    if structure == "full":
        D = (rows.T * curvature) @ rows
        return Natural(np.asarray(D @ mean - linear), -0.5 * D)
    if structure == "diagonal":
        spread = np.sqrt(np.diagonal(cov))
        size = np.abs(rows)
        d = ((curvature * (size @ spread)) @ size) / spread
        return Natural(np.asarray(d * mean - linear), -0.5 * d)
    total = float(curvature @ np.square(rows).sum(axis=1))
    return Natural(np.asarray(total * mean - linear), np.asarray(-0.5 * total))
