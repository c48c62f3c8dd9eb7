"""Quadratics above single terms of an expression: concave functions of a polynomial lie below their tangents."""

from __future__ import annotations

from typing import Any

from flint import arb

from fenchel.checker.growth import opened, value_range
from fenchel.checker.links import Softplus
from fenchel.checker.numbers import ball

__all__ = ["tangent_bound"]

Polynomial = tuple[arb, list[arb], list[list[arb]]]


def tangent_bound(node: Any, theta: list[arb], spread: arb) -> Polynomial | None:
    """(c, b, A): c + b.t + t^T A t >= the term at every t; None where none of this kind is known.

    Tangent at theta for ``spread`` 0; with more it is tangent farther out, and flatter.
    """
    name, *parts = opened(node)
    factor = arb(1)
    if name == "mul":
        numbers = [ball(part[1]) for part in parts if opened(part)[0] == "const"]
        rest = [part for part in parts if part[0] != "const"]
        if len(rest) != 1:
            return None
        for number in numbers:
            factor *= number
        name, *parts = opened(rest[0])
    if name not in ("log", "sqrt", "exp", "softplus"):
        return None
    inner = _polynomial(parts[0], len(theta))
    if inner is None:
        return None
    at = _value(inner, theta)
    if name == "exp":  # -exp is concave
        if not factor < 0:
            return None
        at -= spread * spread
        top = factor * at.exp()
        return _shifted(top * (1 - at), top, inner)
    if not factor > 0:
        return None
    if name == "softplus":
        if not _zero(inner[2]):
            return None
        c, a, b = Softplus().everywhere((at * at + spread * spread).sqrt().max(arb(1) / 1024))
        square = _times(inner, inner, len(theta))
        assert square is not None
        return _scaled(factor, _plus(_shifted(c, a, inner), _shifted(arb(0), b / 2, square)))
    at += spread * spread
    if not (value_range(parts[0])[0] >= 0 and at > 0):
        return None
    if name == "log":
        return _scaled(factor, _shifted(at.log() - 1, 1 / at, inner))
    return _scaled(factor, _shifted(at.sqrt() / 2, 1 / (2 * at.sqrt()), inner))


def _polynomial(node: Any, dim: int) -> Polynomial | None:
    """The expression as a polynomial of degree at most two; None where it is none."""
    name, *parts = opened(node)
    zero = [arb(0)] * dim
    if name == "const":
        return ball(parts[0]), zero, [zero for _ in zero]
    if name == "var":
        return arb(0), [arb(int(i == parts[0])) for i in range(dim)], [zero for _ in zero]
    if name == "pow" and parts[1] in (1, 2):
        inner = _polynomial(parts[0], dim)
        return inner if inner is None or parts[1] == 1 else _times(inner, inner, dim)
    if name not in ("add", "mul"):
        return None
    total: Polynomial | None = (arb(int(name == "mul")), zero, [zero for _ in zero])
    for part in parts:
        found = _polynomial(part, dim)
        if found is None or total is None:
            return None
        total = _plus(total, found) if name == "add" else _times(total, found, dim)
    return total


def _times(x: Polynomial, y: Polynomial, dim: int) -> Polynomial | None:
    n = range(dim)
    flat_x, flat_y = _zero(x[2]), _zero(y[2])
    if not ((flat_x or (flat_y and _zero([y[1]]))) and (flat_y or _zero([x[1]]))):
        return None
    linear = [x[0] * y[1][i] + x[1][i] * y[0] for i in n]
    square = [[x[0] * y[2][i][j] + x[2][i][j] * y[0] + x[1][i] * y[1][j] for j in n] for i in n]
    return x[0] * y[0], linear, square


def _zero(rows: list[list[arb]]) -> bool:
    """Every entry is certainly 0."""
    return all(entry == 0 for row in rows for entry in row)


def _plus(x: Polynomial, y: Polynomial) -> Polynomial:
    linear = [a + b for a, b in zip(x[1], y[1], strict=True)]
    return x[0] + y[0], linear, [[a + b for a, b in zip(r, s, strict=True)] for r, s in zip(x[2], y[2], strict=True)]


def _scaled(factor: arb, p: Polynomial) -> Polynomial:
    return factor * p[0], [factor * e for e in p[1]], [[factor * e for e in row] for row in p[2]]


def _shifted(constant: arb, factor: arb, p: Polynomial) -> Polynomial:
    """constant + factor p."""
    c, b, A = _scaled(factor, p)
    return constant + c, b, A


def _value(p: Polynomial, theta: list[arb]) -> arb:
    n = range(len(theta))
    total = p[0] + sum((p[1][i] * theta[i] for i in n), arb(0))
    return total + sum((p[2][i][j] * theta[i] * theta[j] for i in n for j in n), arb(0))
