"""Exact numbers of a certificate as rationals and balls, and balls as floats rounded outwards."""

from __future__ import annotations

import math
from typing import Any

from flint import arb, arb_mat, fmpq

__all__ = ["Refused", "above", "ball", "balls", "below", "column", "exact", "exacts", "identity", "positive", "solved"]


class Refused(Exception):
    """The certificate does not prove its claim, or cannot be read; the text says where."""


def exact(text: Any) -> fmpq:
    """A number written as a hexadecimal float, an integer or a ratio of integers."""
    try:
        if "x" in text:
            return fmpq(*float.fromhex(text).as_integer_ratio())
        numerator, _, denominator = text.partition("/")
        return fmpq(int(numerator), int(denominator or 1))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise Refused(f"{text!r} is not an exact number (a hexadecimal float or a ratio of integers)") from error


def ball(text: Any) -> arb:
    """The ball around that number at the present precision."""
    return arb(exact(text))


def exacts(record: Any, *shape: int) -> list[Any]:
    """Nested lists of exact numbers with the given shape."""
    return _nested(record, shape, exact)


def balls(record: Any, *shape: int) -> arb_mat:
    """A vector (as a column) or a matrix of balls."""
    nested = _nested(record, shape, ball)
    flat = nested if len(shape) == 1 else [entry for row in nested for entry in row]
    return arb_mat(shape[0], 1 if len(shape) == 1 else shape[1], flat)


def _nested(record: Any, shape: tuple[int, ...], read: Any) -> list[Any]:
    if not isinstance(record, list) or len(record) != shape[0]:
        raise Refused(f"a list of {shape[0]} numbers was expected")
    if len(shape) == 1:
        return [read(text) for text in record]
    return [_nested(part, shape[1:], read) for part in record]


def column(entries: list[arb]) -> arb_mat:
    """(n, 1)."""
    return arb_mat(len(entries), 1, entries)


def identity(dim: int) -> arb_mat:
    return arb_mat(dim, dim, [int(i == j) for i in range(dim) for j in range(dim)])


def positive(matrix: arb_mat) -> bool:
    """Every symmetric matrix in this interval matrix is positive definite (elimination with positive pivots)."""
    size = matrix.nrows()
    rows = [[matrix[i, j] for j in range(size)] for i in range(size)]
    for k in range(size):
        if not rows[k][k] > 0:
            return False
        for i in range(k + 1, size):
            factor = rows[i][k] / rows[k][k]
            for j in range(k + 1, size):
                rows[i][j] -= factor * rows[k][j]
    return True


def solved(matrix: arb_mat, right: arb_mat) -> arb_mat:
    """matrix^-1 right; Refused where the precision does not allow it."""
    try:
        return matrix.solve(right)
    except ZeroDivisionError as error:
        raise Refused("a matrix cannot be inverted at this precision") from error


def below(x: arb) -> float:
    """The largest float that is certainly at most x."""
    return -above(-x)


def above(x: arb) -> float:
    """A float that is certainly at least x."""
    if not x.is_finite():
        return math.inf
    end = x.upper()
    value = float(end)
    while math.isfinite(value) and not arb(value) >= end:
        value = math.nextafter(value, math.inf)
    return value
