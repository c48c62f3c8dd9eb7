"""An upper bound of the largest eigenvalue of an expression's Hessian, from the ranges of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fenchel.losses.calculus import OUTER

Node = list[Any]
Range = tuple[float, float]


_OUTWARD = 1.0 + 1e-12


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
            value, first, second = OUTER[name](np.array([lo, hi]), 2)
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
