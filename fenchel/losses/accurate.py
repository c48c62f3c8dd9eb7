"""Sums of products as if formed in twice the precision: predictors at a mean that is large beside the covariance."""

from __future__ import annotations

import numpy as np

from fenchel.arrays import Array

EPS = float(np.finfo(float).eps)
# More than underflow takes from a product or from an exponential.
TINY = float(np.finfo(float).tiny)
# Veltkamp's constant for 53 bits; products of numbers beyond this size would overflow in the splitting.
_SPLIT, _LARGE = 134217729.0, 1e140


def accurate_predictors(rows: Array, point: Array, offsets: Array) -> Array:
    """rows (n, P) @ point (P,) + offsets (n,), to one rounding of the result and the square of rounding of its terms.

    (Ogita, Rump and Oishi's Dot2.) Plain arithmetic where numbers are too large to be split.
    """
    if max(np.abs(rows).max(initial=0.0), np.abs(point).max(initial=0.0)) > _LARGE:
        return np.asarray(rows @ point + offsets)
    total, low = np.array(offsets, dtype=float), np.zeros(offsets.shape)
    high_point, low_point = _split(point)
    for j in range(point.size):
        column = rows[:, j]
        high, rest = _split(column)
        product = column * point[j]
        error = ((high * high_point[j] - product) + high * low_point[j] + rest * high_point[j]) + rest * low_point[j]
        fresh = total + product
        back = fresh - total
        low += ((total - (fresh - back)) + (product - back)) + error
        total = fresh
    return np.asarray(total + low)


def _split(value: Array) -> tuple[Array, Array]:
    scaled = _SPLIT * value
    high = scaled - (scaled - value)
    return high, value - high
