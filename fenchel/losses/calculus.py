"""Derivatives of expression trees on many points, and a bound of their curvature over all of R^P.

A tree is a nested list: ["const", hexadecimal], ["var", index], ["add", ...], ["mul", ...], ["pow", tree, integer], or
[function, tree].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from fenchel.arrays import Array
from fenchel.losses.accurate import EPS
from fenchel.losses.intervals import Interval

Node = list[Any]
Values = Any  # (n,), or a number for all points
Outer = tuple[Values, Values, Values]


def jets(node: Node, theta: Array, order: int) -> tuple[Array, Array, Array]:
    """Value (n,), gradient (n, P) and Hessian (n, P, P) at theta (n, P), as far as ``order`` asks; zeros beyond it."""
    n, dim = theta.shape
    gradient, bend = np.zeros((n, dim)), np.zeros((n, dim, dim) if order > 1 else (n, 0, 0))
    with np.errstate(all="ignore"):
        jet = _jet(node, list(np.ascontiguousarray(theta.T)), order)
    for i, slope in jet.slope.items():
        gradient[:, i] = slope
    for (i, j), entry in jet.bend.items():
        bend[:, i, j] = bend[:, j, i] = entry
    return np.broadcast_to(jet.value, (n,)).astype(float), gradient, bend


def hessian_ranges(node: Node, lo: Array, hi: Array) -> dict[tuple[int, int], tuple[Array, Array]]:
    """The entries i <= j of the Hessian on boxes lo, hi (B, P): those that are not zero, as bounds (B,) or numbers."""
    ranges: list[Values] = [Interval(*ends) for ends in zip(lo.T, hi.T, strict=True)]
    jet = _jet(node, ranges, 2)
    return {
        pair: (entry.lo, entry.hi) if isinstance(entry, Interval) else (entry, entry)
        for pair, entry in jet.bend.items()
    }


def rounded(node: Node, theta: Array) -> tuple[Values, Values]:
    """The value at theta (n, P), and how far rounding may have moved it: step by step along the tree, as it is taken.

    NaN or infinite where a step may leave the domain of a function.
    """
    name, *parts = node
    if name == "const":
        return float.fromhex(parts[0]), 0.0
    if name == "var":
        return theta[:, parts[0]], 0.0
    value, error = rounded(parts[0], theta)
    if name in ("add", "mul"):
        for part in parts[1:]:
            other, off = rounded(part, theta)
            error = error + off if name == "add" else np.abs(value) * off + (np.abs(other) + off) * error
            value = value + other if name == "add" else value * other
            error = error + EPS * np.abs(value)
        return value, error
    outer = _power(parts[1]) if name == "pow" else OUTER[name]
    middle, *ends = (outer(value + side * error, 0)[0] for side in (0.0, -1.0, 1.0))
    moved = np.maximum(*(np.abs(end - middle) for end in ends)) + 4.0 * EPS * np.abs(middle)
    # Where the ends do not tell: beyond a whole turn, and across a pole.
    if name in ("sin", "cos"):
        moved = np.where(error > 1.0, 2.0, moved)
    elif name == "pow" and parts[1] < 0:
        moved = np.where(np.abs(value) <= error, np.inf, moved)
    return middle, moved


@dataclass(frozen=True)
class _Jet:
    """A value, and the derivatives that are not zero: by variable, and by pairs i <= j; numbers where constant."""

    value: Values
    slope: dict[int, Values]
    bend: dict[tuple[int, int], Values]

    def scaled(self, factor: Values) -> _Jet:
        return _Jet(
            factor * self.value,
            {i: factor * s for i, s in self.slope.items()},
            {ij: factor * h for ij, h in self.bend.items()},
        )

    def plus(self, other: _Jet) -> _Jet:
        return _Jet(self.value + other.value, _summed(self.slope, other.slope), _summed(self.bend, other.bend))

    def times(self, other: _Jet, order: int) -> _Jet:
        if not self.slope:
            return other.scaled(self.value)
        if not other.slope:
            return self.scaled(other.value)
        slope = _summed(self.scaled(other.value).slope, other.scaled(self.value).slope) if order > 0 else {}
        bend = _summed(self.scaled(other.value).bend, other.scaled(self.value).bend)
        if order > 1:
            for i, a in self.slope.items():
                for j, b in other.slope.items():
                    pair = (min(i, j), max(i, j))
                    bend[pair] = bend.get(pair, 0.0) + (2.0 * a * b if i == j else a * b)
        return _Jet(self.value * other.value, slope, bend)


def _summed(a: dict[Any, Values], b: dict[Any, Values]) -> dict[Any, Values]:
    return a | {key: a[key] + value if key in a else value for key, value in b.items()}


def _jet(node: Node, x: list[Values], order: int) -> _Jet:
    name, *parts = node
    if name == "const":
        return _Jet(float.fromhex(parts[0]), {}, {})
    if name == "var":
        return _Jet(x[parts[0]], {parts[0]: 1.0} if order > 0 else {}, {})
    if name in ("add", "mul"):
        total = _jet(parts[0], x, order)
        for part in parts[1:]:
            other = _jet(part, x, order)
            total = total.plus(other) if name == "add" else total.times(other, order)
        return total
    inner = _jet(parts[0], x, order)
    value, first, second = (_power(parts[1]) if name == "pow" else OUTER[name])(inner.value, order)
    slope = {i: first * s for i, s in inner.slope.items()}
    bend = {pair: first * h for pair, h in inner.bend.items()}
    if order > 1:
        for i, a in inner.slope.items():
            for j, b in inner.slope.items():
                if i <= j:
                    bend[i, j] = bend.get((i, j), 0.0) + second * a * b
    return _Jet(value, slope, bend)


def _power(k: int) -> Callable[[Values, int], Outer]:
    def outer(x: Values, order: int) -> Outer:
        if k == 2:
            return x * x, 2.0 * x, 2.0
        x = np.multiply(1.0, x)
        value = x ** float(k)
        first = k * x ** (k - 1.0) if k and order > 0 else 0.0
        return value, first, k * (k - 1) * x ** (k - 2.0) if k * (k - 1) and order > 1 else 0.0

    return outer


def _tanh(x: Values, order: int) -> Outer:
    t = np.tanh(x)
    first = 1.0 - t * t if order > 0 else 0.0
    return t, first, -2.0 * t * first


def _softplus(x: Values, order: int) -> Outer:
    s = expit(x) if order > 0 else 0.0
    return np.logaddexp(0.0, x), s, s * (1.0 - s)


def _atan(x: Values, order: int) -> Outer:
    d = 1.0 / (1.0 + x * x) if order > 0 else 0.0
    return np.arctan(x), d, -2.0 * x * d * d


def _sqrt(x: Values, order: int) -> Outer:
    r = np.sqrt(x)
    return r, 0.5 / r, -0.25 / (r * x)


def _exp(x: Values, order: int) -> Outer:
    value = np.exp(x)
    return value, value, value


def _log(x: Values, order: int) -> Outer:
    first = np.divide(1.0, x)
    return np.log(x), first, -first * first


def _sin(x: Values, order: int) -> Outer:
    sine = np.sin(x)
    return sine, np.cos(x) if order > 0 else 0.0, -sine


def _cos(x: Values, order: int) -> Outer:
    cosine = np.cos(x)
    return cosine, -np.sin(x) if order > 0 else 0.0, -cosine


OUTER: dict[str, Callable[[Values, int], Outer]] = {
    "exp": _exp,
    "log": _log,
    "sqrt": _sqrt,
    "tanh": _tanh,
    "softplus": _softplus,
    "atan": _atan,
    "sin": _sin,
    "cos": _cos,
}
Range = tuple[float, float]
