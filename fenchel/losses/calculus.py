"""Derivatives of expression trees on many points, and a bound of their curvature over all of R^P.

A tree is a nested list: ["const", hexadecimal], ["var", index], ["add", ...], ["mul", ...], ["pow", tree, integer], or
[function, tree].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

__all__ = ["Node", "curvature_bound", "jets"]

Array = NDArray[np.float64]
Node = list[Any]
Jet = tuple[Array, Array, Array]
_OUTWARD = 1.0 + 1e-12


def jets(node: Node, theta: Array, order: int) -> Jet:
    """Value (n,), gradient (n, P) and Hessian (n, P, P) at theta (n, P), as far as ``order`` asks."""
    n, dim = theta.shape
    name, *parts = node
    flat = np.zeros((n, dim)), np.zeros((n, dim, dim)) if order > 1 else np.zeros((n, 0, 0))
    if name == "const":
        return np.full(n, float.fromhex(parts[0])), *flat
    if name == "var":
        flat[0][:, parts[0]] = 1.0
        return theta[:, parts[0]].copy(), *flat
    if name == "add":
        found = [jets(part, theta, order) for part in parts]
        return tuple(sum(jet[k] for jet in found[1:]) + found[0][k] for k in range(3))  # type: ignore[return-value]
    if name == "mul":
        total = jets(parts[0], theta, order)
        for part in parts[1:]:
            total = _product(total, jets(part, theta, order), order)
        return total
    inner, slope, bend = jets(parts[0], theta, order)
    with np.errstate(all="ignore"):
        value, first, second = (_power(parts[1]) if name == "pow" else _OUTER[name])(inner)
        gradient = first[:, None] * slope
        if order < 2:
            return value, gradient, bend
        outer = slope[:, :, None] * slope[:, None, :]
        return value, gradient, second[:, None, None] * outer + first[:, None, None] * bend


def _product(a: Jet, b: Jet, order: int) -> Jet:
    gradient = a[0][:, None] * b[1] + b[0][:, None] * a[1]
    if order < 2:
        return a[0] * b[0], gradient, a[2]
    cross = a[1][:, :, None] * b[1][:, None, :]
    bend = a[0][:, None, None] * b[2] + b[0][:, None, None] * a[2] + cross + cross.transpose(0, 2, 1)
    return a[0] * b[0], gradient, bend


def _power(k: int) -> Callable[[Array], Jet]:
    def outer(x: Array) -> Jet:
        first = k * x ** (k - 1.0) if k else 0.0 * x
        return x ** float(k), first, k * (k - 1) * x ** (k - 2.0) if k * (k - 1) else 0.0 * x

    return outer


def _tanh(x: Array) -> Jet:
    t = np.tanh(x)
    return t, 1.0 - t * t, -2.0 * t * (1.0 - t * t)


def _softplus(x: Array) -> Jet:
    s = expit(x)
    return np.logaddexp(0.0, x), s, s * (1.0 - s)


def _atan(x: Array) -> Jet:
    d = 1.0 / (1.0 + x * x)
    return np.arctan(x), d, -2.0 * x * d * d


def _sqrt(x: Array) -> Jet:
    r = np.sqrt(x)
    return r, 0.5 / r, -0.25 / (r * x)


_OUTER: dict[str, Callable[[Array], Jet]] = {
    "exp": lambda x: (np.exp(x),) * 3,
    "log": lambda x: (np.log(x), 1.0 / x, -1.0 / (x * x)),
    "sqrt": _sqrt,
    "tanh": _tanh,
    "softplus": _softplus,
    "atan": _atan,
    "sin": lambda x: (np.sin(x), np.cos(x), -np.sin(x)),
    "cos": lambda x: (np.cos(x), -np.sin(x), -np.cos(x)),
}


@dataclass(frozen=True)
class _Bounds:
    """Over all theta: the range [lo, hi], the gradient's norm, and the largest eigenvalues of the Hessian and its
    negative, all possibly infinite.
    """

    lo: float
    hi: float
    steep: float
    up: float
    down: float


def curvature_bound(node: Node, dim: int) -> float:
    """At least the largest eigenvalue of the Hessian anywhere; inf where none could be derived."""
    return max(0.0, _bounds(node).up) * _OUTWARD


def _bounds(node: Node) -> _Bounds:
    name, *parts = node
    if name == "const":
        value = float.fromhex(parts[0])
        return _Bounds(value, value, 0.0, 0.0, 0.0)
    if name == "var":
        return _Bounds(-np.inf, np.inf, 1.0, 0.0, 0.0)
    if name == "add":
        affine = _affine(node)
        if affine is not None:
            return _Bounds(-np.inf, np.inf, float(np.linalg.norm(list(affine.values()))) * _OUTWARD, 0.0, 0.0)
        found = [_bounds(part) for part in parts]
        return _Bounds(*(float(sum(getattr(b, f) for b in found)) for f in ("lo", "hi", "steep", "up", "down")))
    if name == "mul":
        total = _bounds(parts[0])
        for part in parts[1:]:
            total = _times(total, _bounds(part))
        return total
    inner = _bounds(parts[0])
    outer = _outer_bounds(name, inner, parts[1] if name == "pow" else 0)
    (lo, hi), (first_lo, first_hi), (second_lo, second_hi) = outer
    squared = _squared_slope(name, inner, parts[1] if name == "pow" else 0)

    def bend(most: float, least: float, second: float) -> float:
        straight = _zero_times(max(0.0, most), inner.up) + _zero_times(max(0.0, -least), inner.down)
        return straight + min(_zero_times(max(0.0, second), inner.steep**2), squared if second > 0.0 else 0.0)

    steep = _zero_times(max(abs(first_lo), abs(first_hi)), inner.steep)
    up, down = bend(first_hi, first_lo, second_hi), bend(-first_lo, -first_hi, -second_lo)
    return _Bounds(lo, hi, steep, up * _OUTWARD, down * _OUTWARD)


def _affine(node: Node) -> dict[int, float] | None:
    """Coefficients by variable of an affine expression; None for anything else."""
    name, *parts = node
    if name == "const":
        return {}
    if name == "var":
        return {parts[0]: 1.0}
    if name == "mul" and parts[0][0] == "const" and len(parts) == 2:
        inner = _affine(parts[1])
        return None if inner is None else {k: float.fromhex(parts[0][1]) * v for k, v in inner.items()}
    if name != "add":
        return None
    total: dict[int, float] = {}
    for part in parts:
        inner = _affine(part)
        if inner is None:
            return None
        for k, v in inner.items():
            total[k] = total.get(k, 0.0) + v
    return total


def _zero_times(a: float, b: float) -> float:
    return 0.0 if a == 0.0 or b == 0.0 else a * b


def _times(a: _Bounds, b: _Bounds) -> _Bounds:
    ends = [_zero_times(x, y) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    size_a, size_b = max(abs(a.lo), abs(a.hi)), max(abs(b.lo), abs(b.hi))
    steep = _zero_times(size_a, b.steep) + _zero_times(size_b, a.steep)
    cross = 2.0 * _zero_times(a.steep, b.steep)

    def bend(up_a: float, down_a: float, up_b: float, down_b: float) -> float:
        total = _zero_times(max(0.0, a.hi), up_b) + _zero_times(max(0.0, -a.lo), down_b)
        return total + _zero_times(max(0.0, b.hi), up_a) + _zero_times(max(0.0, -b.lo), down_a) + cross

    up = bend(a.up, a.down, b.up, b.down)
    down = bend(a.down, a.up, b.down, b.up)
    return _Bounds(min(ends), max(ends), steep, up, down)


Range = tuple[float, float]


def _outer_bounds(name: str, inner: _Bounds, k: int) -> tuple[Range, Range, Range]:
    """Ranges of an outer function, of its derivative and of its second derivative, over the range of its argument."""
    lo, hi = inner.lo, inner.hi
    everything = (-np.inf, np.inf)
    if name in ("sin", "cos"):
        return (-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0)
    if name == "tanh":
        return (-1.0, 1.0), (0.0, 1.0), (-0.7699, 0.7699)
    if name == "atan":
        return (-1.5708, 1.5708), (0.0, 1.0), (-0.6496, 0.6496)
    with np.errstate(all="ignore"):
        if name == "softplus":
            return (float(np.logaddexp(0.0, lo)), float(np.logaddexp(0.0, hi))), (0.0, 1.0), (0.0, 0.25)
        if name == "exp":
            ends = float(np.exp(lo)), float(np.exp(hi))
            return ends, ends, ends
        if name in ("log", "sqrt") and lo > 0.0:
            value, first, second = _OUTER[name](np.array([lo, hi]))
            top = second[1] if np.isfinite(hi) else 0.0
            return (value[0], value[1]), (first[1] if np.isfinite(hi) else 0.0, first[0]), (second[0], top)
        if name == "pow" and k == 2:
            low = 0.0 if lo <= 0.0 <= hi else min(lo * lo, hi * hi)
            return (low, max(lo * lo, hi * hi)), (2.0 * lo, 2.0 * hi), (2.0, 2.0)
        if name == "pow" and (np.isfinite([lo, hi]).all() or (k < 0 < lo)) and (k > 0 or lo > 0.0 or hi < 0.0):
            return (
                _monomial(k, lo, hi),
                _scaled(k, _monomial(k - 1, lo, hi)),
                _scaled(k * (k - 1), _monomial(k - 2, lo, hi)),
            )
    return everything, everything, everything


def _monomial(k: int, lo: float, hi: float) -> Range:
    ends = [float(x) ** k if np.isfinite(x) else 0.0 for x in (lo, hi)]
    if k > 0 and k % 2 == 0 and lo < 0.0 < hi:
        ends.append(0.0)
    return (1.0, 1.0) if k == 0 else (min(ends), max(ends))


def _scaled(factor: int, ends: Range) -> Range:
    a, b = factor * ends[0], factor * ends[1]
    return min(a, b), max(a, b)


def _squared_slope(name: str, inner: _Bounds, k: int) -> float:
    """sup |outer''| |grad inner|^2, by |grad f|^2 <= 2 L (f - inf f) for f bounded below with Hessian at most L.

    (And the mirror image for f bounded above.) inf where there is no such bound.
    """
    if np.isfinite(inner.lo) and np.isfinite(inner.up) and inner.lo > 0.0:
        room, f0 = 2.0 * inner.up, inner.lo
        if name == "log":
            return room / (4.0 * f0)
        if name == "sqrt":
            return float(room * 0.5 * f0 / (3.0 * f0) ** 1.5)
        if name == "pow" and k < 0:
            power = 2 - k
            t = f0 / (power - 1.0)
            return float(room * k * (k - 1) * t / (f0 + t) ** power)
    if name == "exp" and np.isfinite(inner.hi) and np.isfinite(inner.down):
        return 2.0 * inner.down * float(np.exp(inner.hi - 1.0))
    return np.inf
