"""Expressions as trees, ["add", a, b], ["log", a], ["pow", a, 2], ["var", 0], ["const", "0x1p0"]: Taylor and growth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

from flint import arb, arb_mat, arb_poly

from fenchel.checker.functions import ONE_SIDED, SMOOTH, parabola_above, power, powers
from fenchel.checker.numbers import Refused, ball

__all__ = ["Jet", "jet_above", "opened", "sized", "value_at"]


@dataclass
class Jet:
    """Of a function f on a box around a point a, in coordinates u, d = u - a. For all u of the box

    f(u) - f(a) is in ``slope``.d + d^T ``bend`` d / 2, f(a) in ``value``; and with (R, s) = wide(), f(u) is in R and
    f(u) - f(a) in s.d.
    """

    value: arb
    slope: arb_mat
    bend: arb_mat
    wide: Callable[[], tuple[arb, arb_mat]]


_INFINITE = arb.pos_inf()


def opened(node: Any) -> list[Any]:
    """A node of the tree: its name and its parts."""
    if not isinstance(node, list) or len(node) < 2 or not isinstance(node[0], str):
        raise Refused("the expression cannot be read")
    if node[0] == "var" and (not isinstance(node[1], int) or node[1] < 0):
        raise Refused("the expression names a variable that does not exist")
    if node[0] == "pow" and not (len(node) == 3 and isinstance(node[2], int) and abs(node[2]) <= 64):
        raise Refused("an exponent is not a small integer")
    if node[0] not in ("add", "mul", "pow") and len(node) != 2:
        raise Refused(f"{node[0]!r} has one argument")
    return node


def jet(node: Any, variables: list[Jet]) -> Jet:
    """The jet of an expression of smooth functions, in variables whose jets are given."""
    name, *parts = opened(node)
    if name == "const":
        number, none = ball(parts[0]), 0 * variables[0].slope
        return Jet(number, none, 0 * variables[0].bend, lambda: (number, none))
    if name == "var":
        own: Jet = variables[parts[0]]
        return own
    found = [jet(part, variables) for part in (parts[:1] if name == "pow" else parts)]
    if name in ("add", "mul"):
        total: Jet = reduce(_sum if name == "add" else _product, found)
        return total
    if name != "pow" and name not in SMOOTH:
        raise Refused(f"nothing is known here about the function {name!r} inside an expression")
    f = powers(parts[1]) if name == "pow" else SMOOTH[name]
    reach, slopes = found[0].wide()
    whole = reach.union(found[0].value)
    at = f.value(found[0].value), f.slope(found[0].value), f.bend(whole)
    return composed(found[0], *at, slopes, lambda: (f.value(whole), f.slope(whole) * slopes))


def jet_above(node: Any, variables: list[Jet], spread: arb | None, tilt: arb) -> Jet:
    """The same for a function that is nowhere below the expression; kinks and jumps are known if outermost only."""
    name, *parts = opened(node)
    if name not in ONE_SIDED and name != "step":
        return jet(node, variables)
    inner = jet(parts[0], variables)
    reach, slopes = inner.wide()
    return composed(inner, *parabola_above(name, inner.value, reach.union(inner.value), spread, tilt), slopes)


def value_at(node: Any, variables: list[Jet]) -> arb:
    """The expression's value where the variables are numbers: the parabola of spread 0 touches it there."""
    if opened(node)[0] != "step":
        return jet_above(node, variables, arb(0), arb(0)).value
    z = jet(node[1], variables).value
    return arb(1) if z >= 0 else arb(0) if z < 0 else arb(0).union(arb(1))


def composed(inner: Jet, value: arb, slope: arb, bend: arb, slopes: arb_mat, wide: Any = None) -> Jet:
    """value + slope (z - z0) + bend (z - z0)^2 / 2, where z - z0 = slope.d + d^T bend d / 2 and = slopes.d."""
    if not (value.is_finite() and slope.is_finite() and bend.is_finite()):
        raise Refused("the expression is not finite on a box")
    square = slopes * slopes.transpose()
    for i, x in enumerate(slopes.entries()):
        square[i, i] = power(x, 2)
    return Jet(value, slope * inner.slope, slope * inner.bend + bend * square, wide)


def _sum(f: Jet, g: Jet) -> Jet:
    def wide() -> tuple[arb, arb_mat]:
        (x, s), (y, t) = f.wide(), g.wide()
        return x + y, s + t

    return Jet(f.value + g.value, f.slope + g.slope, f.bend + g.bend, wide)


def _product(f: Jet, g: Jet) -> Jet:
    """f g - f(a) g(a) = f(a) (g - g(a)) + g(a) (f - f(a)) + (f - f(a)) (g - g(a))."""
    (x, s), (y, t) = f.wide(), g.wide()
    cross = s * t.transpose()
    bend = f.value * g.bend + g.value * f.bend + cross + cross.transpose()
    return Jet(f.value * g.value, f.value * g.slope + g.value * f.slope, bend, lambda: (x * y, f.value * t + y * s))


def sized(node: Any, start: list[arb]) -> arb_poly:
    """A polynomial s with coefficients >= 0 such that |f(z)| <= s(|z - z0|) for all z; ``start``: the entries of z0."""
    name, *parts = opened(node)
    lo, hi = bounds(node)
    if lo.is_finite() and hi.is_finite():
        return arb_poly([abs(lo).max(abs(hi)).upper()])
    if name == "var":
        return arb_poly([abs(start[parts[0]]).upper(), 1])
    if name in ("add", "mul"):
        found = [sized(part, start) for part in parts]
        return sum(found, arb_poly([0])) if name == "add" else prod(found, start=arb_poly([1]))
    inner = sized(parts[0], start)
    if name == "pow" and parts[1] > 0:
        total: arb_poly = inner ** parts[1]
        return total
    if name in ("abs", "relu", "huber"):
        return inner
    if name == "softplus":  # between 0 and |z| + log 2
        return inner + arb(2).log()
    if name == "squared-relu":
        return inner * inner
    if name == "sqrt":
        return _root(inner)
    if name == "log" and lo.is_finite():  # log z <= sqrt z
        return _root(inner) + abs(lo)
    raise Refused(f"the growth of the expression is not known ({name})")


def _root(square: arb_poly) -> arb_poly:
    """Above the root of a polynomial in r: the roots of its terms, with r^(k + 1/2) <= (r^k + r^(k+1)) / 2."""
    r, total = arb_poly([0, 1]), arb_poly([0])
    for k, coefficient in enumerate(square.coeffs()):
        total += (r ** (k // 2) + r ** ((k + 1) // 2)) * (coefficient.sqrt() / 2)
    return total


_RANGES = {"sin": (-1, 1), "cos": (-1, 1), "tanh": (-1, 1), "atan": (-2, 2), "step": (0, 1), "bump": (-1, 0)}
_INCREASING = ("exp", "log", "sqrt", "softplus")


def bounds(node: Any) -> tuple[arb, arb]:
    """Bounds (lo, hi) over all values of the variables, possibly infinite."""
    name, *parts = opened(node)
    if name == "const":
        return ball(parts[0]), ball(parts[0])
    if name == "var":
        return -_INFINITE, _INFINITE
    ends = [bounds(part) for part in (parts[:1] if name == "pow" else parts)]
    if name == "add":
        return reduce(lambda x, y: (x[0] + y[0], x[1] + y[1]), ends)
    if name == "mul":
        return reduce(_interval_product, ends)
    lo, hi = ends[0]
    if name == "pow":
        return _power_bounds(lo, hi, parts[1])
    if name in _RANGES:
        return arb(_RANGES[name][0]), arb(_RANGES[name][1])
    least, most = (-_INFINITE if name == "log" else arb(0)), _INFINITE
    if name in _INCREASING:
        least = SMOOTH[name].value(lo) if lo.is_finite() and (lo > 0 or name in ("exp", "softplus")) else least
        most = SMOOTH[name].value(hi) if hi.is_finite() else most
    return least, most


def _interval_product(x: tuple[arb, arb], y: tuple[arb, arb]) -> tuple[arb, arb]:
    ends = [arb(0) if a == 0 or b == 0 else a * b for a in x for b in y]
    return reduce(arb.min, ends), reduce(arb.max, ends)


def _power_bounds(lo: arb, hi: arb, n: int) -> tuple[arb, arb]:
    if n < 0:
        lo, hi = _power_bounds(lo, hi, -n)
        return (1 / hi, 1 / lo) if lo > 0 else (-_INFINITE, _INFINITE)
    if n % 2 == 0:
        lo, hi = lo.max(-hi).max(arb(0)), hi.max(-lo)
    return lo**n if lo.is_finite() else lo, hi**n if hi.is_finite() else hi
