"""Exact numbers of a certificate as rationals and balls, and balls as floats rounded outwards."""

from __future__ import annotations

import math
from typing import Any

from flint import arb, arb_mat, fmpq, fmpq_mat


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
    lines = [[x] for x in record] if columns is None and isinstance(record, list) else record
    width = columns or 1
    if not (
        isinstance(lines, list) and len(lines) == rows and all(isinstance(x, list) and len(x) == width for x in lines)
    ):
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


def inverse_form(matrix: arb_mat, x: arb_mat) -> arb:
    """x^T matrix^-1 x; infinite unless every symmetric matrix in this interval matrix is positive definite."""
    size, total = matrix.nrows(), arb(0)
    rows = [[*line, y] for line, y in zip(matrix.table(), x.entries(), strict=True)]
    for k, top in enumerate(rows):
        if not top[k] > 0:
            return arb.pos_inf()
        total += top[size] ** 2 / top[k]
        for row in rows[k + 1 :]:
            factor = row[k] / top[k]
            row[k + 1 :] = [a - factor * b for a, b in zip(row[k + 1 :], top[k + 1 :], strict=True)]
    return total


def positive(matrix: arb_mat) -> bool:
    """Every symmetric matrix in this interval matrix is positive definite."""
    return bool(inverse_form(matrix, arb_mat(matrix.nrows(), 1)).is_finite())


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
