"""Ranges of expressions on boxes: intervals that numpy's functions take, and thereby `fenchel.losses.calculus` too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from scipy.special import expit

from fenchel.arrays import Array

# More than the functions below are rounded by.
_OUTWARD = 1e-14
_TURN = 2.0 * np.pi


class Interval(NDArrayOperatorsMixin):
    """[lo, hi] (n,): what a formula may be, rounded outwards; (-inf, inf) where that is not known."""

    def __init__(self, lo: Any, hi: Any) -> None:
        self.lo, self.hi = np.asarray(lo, dtype=float), np.asarray(hi, dtype=float)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        rule = _RULES.get(ufunc)
        if rule is None or method != "__call__" or options:
            return NotImplemented
        with np.errstate(all="ignore"):
            lo, hi = rule(*(x if isinstance(x, Interval) else Interval(x, x) for x in inputs))
            slack = _OUTWARD * np.maximum(np.abs(lo), np.abs(hi)) + 1e-300
            lo, hi = np.asarray(lo - slack), np.asarray(hi + slack)
        known = ~(np.isnan(lo) | np.isnan(hi))
        return Interval(np.where(known, lo, -np.inf), np.where(known, hi, np.inf))


def _ends(*values: Any) -> tuple[Array, Array]:
    # Zero times infinity is zero here: the factor zero is exact.
    found = [np.where(np.isnan(value), 0.0, value) for value in values]
    return np.minimum.reduce(found), np.maximum.reduce(found)


def _multiply(a: Interval, b: Interval) -> tuple[Array, Array]:
    if a is b:
        return _power(a, Interval(2.0, 2.0))
    return _ends(a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi)


def _divide(a: Interval, b: Interval) -> tuple[Array, Array]:
    lo, hi = _ends(a.lo / b.lo, a.lo / b.hi, a.hi / b.lo, a.hi / b.hi)
    split = (b.lo <= 0.0) & (b.hi >= 0.0)
    return np.where(split, -np.inf, lo), np.where(split, np.inf, hi)


def _power(a: Interval, k: Interval) -> tuple[Array, Array]:
    n = float(k.lo)
    if n < 0.0:
        return _divide(Interval(1.0, 1.0), Interval(*_power(a, Interval(-n, -n))))
    lo, hi = a.lo**n, a.hi**n
    if n % 2.0:
        return lo, hi
    return np.where((a.lo < 0.0) & (a.hi > 0.0), 0.0, np.minimum(lo, hi)), np.maximum(lo, hi)


def _sine(a: Interval, shift: float = 0.0) -> tuple[Array, Array]:
    lo, hi = np.sin(a.lo + shift), np.sin(a.hi + shift)
    # Far out an end is rounded by more than a value of the sine is.
    room = 1e-9 + 1e-14 * np.maximum(np.abs(a.lo), np.abs(a.hi))

    def passes(peak: float) -> Array:
        first = np.ceil((a.lo + shift - room - peak) / _TURN) * _TURN + peak
        return np.asarray(~(first > a.hi + shift + room))

    low, high = np.minimum(lo, hi) - room, np.maximum(lo, hi) + room
    return np.where(passes(-0.5 * np.pi), -1.0, low), np.where(passes(0.5 * np.pi), 1.0, high)


_RULES: dict[Any, Any] = {
    np.add: lambda a, b: (a.lo + b.lo, a.hi + b.hi),
    np.subtract: lambda a, b: (a.lo - b.hi, a.hi - b.lo),
    np.negative: lambda a: (-a.hi, -a.lo),
    np.multiply: _multiply,
    np.divide: _divide,
    np.power: _power,
    np.log: lambda a: (np.log(np.maximum(a.lo, 0.0)), np.log(a.hi)),
    np.sqrt: lambda a: (np.sqrt(np.maximum(a.lo, 0.0)), np.sqrt(a.hi)),
    np.sin: _sine,
    np.cos: lambda a: _sine(a, 0.5 * np.pi),
    np.logaddexp: lambda a, b: (np.logaddexp(a.lo, b.lo), np.logaddexp(a.hi, b.hi)),
    **{f: (lambda a, f=f: (f(a.lo), f(a.hi))) for f in (np.exp, np.tanh, np.arctan, expit)},
}
