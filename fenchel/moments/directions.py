"""The directions in which a loss of linear predictors varies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fenchel.losses.linear_predictor import LinearPredictorLoss

__all__ = ["directions", "weighted_rows"]

Array = NDArray[np.float64]


def weighted_rows(white: LinearPredictorLoss) -> Array:
    """The rows of H and of all terms with a weight, (n, P)."""
    return np.concatenate([white.H, *(group.rows[group.weights > 0.0] for group in white.groups)])


def directions(white: LinearPredictorLoss, structure: str) -> tuple[Array, Array]:
    """An orthonormal basis (P, P) of the directions that the family tells apart, and the size of the rows along each.

    Of many rows the triangular factor has the same singular values, without an n x n matrix.
    """
    rows, dim = weighted_rows(white), white.dim
    if structure == "diagonal":
        return np.eye(dim), np.linalg.norm(rows, axis=0)
    factor = np.linalg.qr(rows, mode="r") if rows.shape[0] > dim else rows
    _, singular, basis = np.linalg.svd(factor, full_matrices=True)
    return basis, np.concatenate([singular, np.zeros(dim - singular.size)])
