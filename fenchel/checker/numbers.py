"""Exact numbers of a certificate as rationals and balls, and balls as floats rounded outwards."""

from __future__ import annotations

import math
from typing import Any

from flint import arb, arb_mat, fmpq, fmpq_mat

__all__ = ["Refused", "above", "ball", "below", "exact", "exacts", "identity", "positive", "solved", "symmetric"]


class Refused(Exception):
    """The certificate does not prove its claim, or cannot be read; the text says where."""


def exact(text: Any) -> fmpq:
    """A number written as a hexadecimal float, an integer or a ratio of integers."""
    try:
        if "x" in text:
            return fmpq(*float.fromhex(text).as_integer_ratio())
        numerator, _, denominator = text.partition("/")
        return fmpq(int(numerator), int(denominator or 1))
    except (AttributeError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise Refused(f"{text!r} is not an exact number (a hexadecimal float or a ratio of integers)") from error


def ball(text: Any) -> arb:
    """The ball around that number at the present precision."""
    return arb(exact(text))


def exacts(record: Any, rows: int, columns: int | None = None) -> fmpq_mat:
    """A list of numbers as a column, or a list of lists as a matrix."""
    lines = record if columns is not None else [[x] for x in record] if isinstance(record, list) else None
    width = 1 if columns is None else columns
    if not isinstance(lines, list) or len(lines) != rows:
        raise Refused(f"a list of {rows} numbers was expected")
    if not all(isinstance(line, list) and len(line) == width for line in lines):
        raise Refused(f"a matrix of {rows} rows and {width} columns was expected")
    return fmpq_mat(rows, width, [exact(text) for line in lines for text in line])


def symmetric(record: Any, size: int) -> fmpq_mat:
    """A symmetric matrix."""
    matrix = exacts(record, size, size)
    if matrix != matrix.transpose():
        raise Refused("a matrix is not symmetric")
    return matrix


def identity(size: int) -> fmpq_mat:
    return fmpq_mat(size, size, [int(i == j) for i in range(size) for j in range(size)])


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
    """A float that is certainly at most x."""
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
