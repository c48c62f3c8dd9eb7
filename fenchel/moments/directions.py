"""The directions in which a loss of linear predictors varies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.losses.accurate import EPS
from fenchel.losses.linear_predictor import LinearPredictorLoss

__all__ = ["FLAT", "Affine", "affine_directions", "directions"]

Array = NDArray[np.float64]
# A row that is this small along a direction, in units of the sizes of what it was computed from, is 0 but for rounding.
FLAT = 16.0 * EPS
# Directions along which all rows are smaller than this are tried, and what leaving them out can change is bounded.
_NEARLY_FLAT = 1e-12
_ALLOWANCE = 1e-10


@dataclass(frozen=True)
class Affine:
    """Whitened directions in which the loss bends, ``kept`` (P, r), and in which it is affine, ``left`` (P, P - r).

    ``allowance`` bounds by how much E[l] of any distribution with q's moments changes where it is made exactly so.
    """

    kept: Array
    left: Array
    allowance: float


def affine_directions(
    loss: LinearPredictorLoss, white: LinearPredictorLoss, factor: Array, structure: str
) -> Affine | None:
    """The directions in which the loss bends, and those in which it does not; None where one of the two is empty.

    ``white`` is the loss composed with ``factor`` and the mean.
    """
    sizes = np.abs(factor)
    rows = _weighted_rows(white)
    parts = [sizes.T @ np.abs(loss.H) @ sizes, *(np.abs(g.rows[g.weights > 0.0]) @ sizes for g in loss.groups)]
    scales = np.linalg.norm(np.concatenate(parts), axis=1)
    scaled = rows[scales > 0.0] / scales[scales > 0.0, None]
    basis, singular = _axes(scaled, structure)
    most = _ALLOWANCE * max(1.0, abs(white(np.zeros(loss.dim))))
    for least in (0.0,) if structure == "diagonal" else (_NEARLY_FLAT * max(scaled.shape), FLAT * sum(scaled.shape)):
        live = singular > least
        if live.all() or not live.any():
            return None
        kept, left = basis[live].T, basis[~live].T
        allowance = _change(white, kept, left, FLAT * loss.dim * scales)
        if allowance <= most:
            return Affine(kept, left, allowance)
    return None


def _change(white: LinearPredictorLoss, kept: Array, left: Array, flat: Array) -> float:
    """`Affine.allowance`; rows shorter along ``left`` than ``flat`` (n,) count as 0, as `WhiteLoss.rounding` allows.

    With x = kept y + left z, E|y|^2 = r and E|z|^2 = P - r, a predictor moves by at most |row left| |z|, and
    |z| <= (1 + |z|^2) / 2. Where a link's slope has no known bound, it may not move at all.
    """
    bent, straight = kept.shape[1], left.shape[1]
    cross, rest = np.linalg.norm(kept.T @ white.H @ left), np.linalg.norm(left.T @ white.H @ left)
    total = 0.5 * float(cross * (bent + straight) + rest * straight)
    first = white.dim
    for group in white.groups:
        live = group.weights > 0.0
        length = np.linalg.norm(group.rows[live] @ left, axis=1)
        moves = length > flat[first : first + length.size]
        first += length.size
        if moves.any():
            total += 0.5 * group.link.steepest * (1.0 + straight) * float(group.weights[live][moves] @ length[moves])
    return total


def _weighted_rows(white: LinearPredictorLoss) -> Array:
    """The rows of H and of all terms with a weight, (n, P)."""
    return np.concatenate([white.H, *(group.rows[group.weights > 0.0] for group in white.groups)])


def directions(white: LinearPredictorLoss, structure: str) -> tuple[Array, Array]:
    """An orthonormal basis (P, P) of directions that the family tells apart, and the size of the rows along each."""
    return _axes(_weighted_rows(white), structure)


def _axes(rows: Array, structure: str) -> tuple[Array, Array]:
    """`directions` of rows (n, P); of many the triangular factor has the same, without an n x n matrix."""
    dim = rows.shape[1]
    if structure == "diagonal":
        return np.eye(dim), np.linalg.norm(rows, axis=0)
    factor = np.linalg.qr(rows, mode="r") if rows.shape[0] > dim else rows
    _, singular, basis = np.linalg.svd(factor, full_matrices=True)
    return basis, np.concatenate([singular, np.zeros(dim - singular.size)])
