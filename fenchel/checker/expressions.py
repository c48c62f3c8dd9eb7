"""Expressions as trees, ["add", a, b], ["log", a], ["pow", a, 2], ["var", 0], ["const", "0x1p0"]: Taylor and growth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from math import prod
from operator import add
from typing import Any, NamedTuple

from flint import arb, arb_mat, arb_poly

from fenchel.checker.functions import ONE_SIDED, SMOOTH, parabola_above, power, powers
from fenchel.checker.numbers import Refused, ball

Place = Sequence[arb]
Places = Sequence[Place]
Above = tuple[arb, ...]


class Jet(NamedTuple):
    """Of a function f on a box around a point a, d = z - a: f(z) - f(a) is in slope.d + d^T bend d / 2 for all z of it.

    ``value`` holds f(a), ``reach`` f on the box.
    """

    value: arb
    slope: arb_mat
    bend: arb_mat
    reach: arb


_INFINITE = arb.pos_inf()
_INCREASING = ("exp", "log", "sqrt", "softplus", "tanh", "atan")


def opened(node: Any) -> list[Any]:
    """A node of the tree: its name and its parts."""
    if not (isinstance(node, list) and len(node) > 1 and isinstance(node[0], str)):
        raise Refused("the expression cannot be read")
    name, _, *rest = node
    if name == "pow" and not (len(rest) == 1 and isinstance(rest[0], int) and abs(rest[0]) <= 64):
        raise Refused("an exponent is not a small integer")
    if rest and name not in ("add", "mul", "pow"):
        raise Refused(f"{name!r} has one argument")
    return node


def jet(node: Any, variables: dict[int, Jet], step: arb_mat) -> Jet:
    """The jet of an expression of smooth functions, in variables whose jets are given; ``step`` holds every d."""
    name, *parts = opened(node)
    if name == "const":
        number = ball(parts[0])
        return Jet(number, 0 * step, 0 * step * step.transpose(), number)
    if name == "var":
        return variables[parts[0]]
    found = [jet(part, variables, step) for part in (parts[:1] if name == "pow" else parts)]
    if name == "add":
        return Jet(*(reduce(add, column) for column in zip(*found, strict=True)))
    if name == "mul":
        return reduce(lambda f, g: _product(f, g, step), found)
    if name != "pow" and name not in SMOOTH:
        raise Refused(f"nothing is known here about the function {name!r} inside an expression")
    f, (z, _, _, whole) = powers(parts[1]) if name == "pow" else SMOOTH[name], found[0]
    reach = f.value(whole.lower()).union(f.value(whole.upper())) if name in _INCREASING else f.value(whole)
    return _composed(found[0], f.value(z), f.slope(z), f.bend(whole), step)._replace(reach=reach)


def _product(f: Jet, g: Jet, step: arb_mat) -> Jet:
    """f g - f(a) g(a) = f(a) (g - g(a)) + g(a) (f - f(a)) + (f - f(a)) (g - g(a))."""
    cross = (f.slope + f.bend * step / 2) * (g.slope + g.bend * step / 2).transpose()
    bend = f.value * g.bend + g.value * f.bend + cross + cross.transpose()
    return Jet(f.value * g.value, f.value * g.slope + g.value * f.slope, bend, f.reach * g.reach)


def _composed(inner: Jet, value: arb, slope: arb, bend: arb, step: arb_mat) -> Jet:
    """value + slope (z - z0) + bend (z - z0)^2 / 2, where z - z0 = (inner.slope + inner.bend d / 2).d."""
    slopes = inner.slope + inner.bend * step / 2
    square = slopes * slopes.transpose()
    for i, x in enumerate(slopes.entries()):
        square[i, i] = power(x, 2)
    return inner._replace(value=value, slope=slope * inner.slope, bend=slope * inner.bend + bend * square)


def terms_above(node: Any, near: Places, spread: arb | None, tilts: Sequence[arb]) -> Callable[[Places], list[Above]]:
    """From balls for the variables z of every term to (v, *s, *K): f(z) <= v + s.d + d^T K d / 2, d = z - near.

    Kinks and jumps are known if outermost only. K is exact.
    """
    name, *parts = opened(node)
    outer = name in ONE_SIDED or name == "step"
    if outer and parts[0] == ["var", 0] and all(len(z) == 1 for z in near):
        links = [parabola_above(name, z, spread, tilt) for (z,), tilt in zip(near, tilts, strict=True)]
        return lambda places: [link(ball) for link, (ball,) in zip(links, places, strict=True)]

    def above(z0: Place, balls: Place, tilt: arb) -> Above:
        wide, n = [x.union(z) for x, z in zip(balls, z0, strict=True)], range(len(z0))
        step, none = arb_mat([[x - z] for x, z in zip(wide, z0, strict=True)]), arb_mat(len(z0), len(z0))
        variables = {k: Jet(z0[k], arb_mat([[int(i == k)] for i in n]), none, wide[k]) for k in n}
        found = jet(parts[0] if outer else node, variables, step)
        if outer:
            found = _composed(found, *parabola_above(name, found.value, spread, tilt)(found.reach), step)
        return found.value, *found.slope.entries(), *_upper(found.bend)

    return lambda places: [above(*term) for term in zip(near, places, tilts, strict=True)]


def _upper(matrix: arb_mat) -> list[arb]:
    """Entries, exact, of a matrix that dominates every symmetric matrix in this interval matrix (Gershgorin)."""
    n, even = range(matrix.nrows()), (matrix + matrix.transpose()) / 2
    found = [[even[i, j].mid() for j in n] for i in n]
    for i in n:
        rest = sum(((even[i, j] - found[i][j]).abs_upper() for j in n if j != i), arb(0))
        found[i][i] = (even[i, i] + rest).upper()
    return [x for line in found for x in line]


def sized(node: Any, start: Sequence[arb]) -> arb_poly:
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
        return prod([inner] * parts[1], start=arb_poly([1]))
    if name == "log" and lo.is_finite():  # log z <= sqrt z
        return _root(inner) + abs(lo)
    if name in ("abs", "relu", "huber", "softplus"):  # softplus is between 0 and |z| + log 2
        return inner + (arb(2).log() if name == "softplus" else 0)
    if name in ("squared-relu", "sqrt"):
        return inner * inner if name == "squared-relu" else _root(inner)
    raise Refused(f"the growth of the expression is not known ({name})")


def _root(square: arb_poly) -> arb_poly:
    """Above the root of a polynomial in r: the roots of its terms, with r^(k + 1/2) <= (r^k + r^(k+1)) / 2."""
    r, total = arb_poly([0, 1]), arb_poly([0])
    for k, coefficient in enumerate(square.coeffs()):
        total += (r ** (k // 2) + r ** ((k + 1) // 2)) * (coefficient.sqrt() / 2)
    return total


_RANGES = {"sin": (-1, 1), "cos": (-1, 1), "tanh": (-1, 1), "atan": (-2, 2), "step": (0, 1), "bump": (-1, 0)}


def bounds(node: Any) -> tuple[arb, arb]:
    """Bounds (lo, hi) over all values of the variables, possibly infinite."""
    name, *parts = opened(node)
    if name in ("const", "var"):
        return (-_INFINITE, _INFINITE) if name == "var" else (ball(parts[0]), ball(parts[0]))
    ends = [bounds(part) for part in (parts[:1] if name == "pow" else parts)]
    if name == "add":
        return reduce(lambda x, y: (x[0] + y[0], x[1] + y[1]), ends)
    if name == "mul":
        return reduce(_interval_product, ends)
    lo, hi = ends[0]
    if name == "pow":
        return _power_bounds(lo, hi, parts[1])
    least, most = _RANGES.get(name, (-_INFINITE if name == "log" else 0, _INFINITE))
    if name in _INCREASING:
        low, high = SMOOTH[name].value(lo), SMOOTH[name].value(hi)
        least, most = low if low.is_finite() else least, high if high.is_finite() else most
    return arb(least), arb(most)


def _interval_product(x: tuple[arb, arb], y: tuple[arb, arb]) -> tuple[arb, arb]:
    ends = [arb(0) if a == 0 or b == 0 else a * b for a in x for b in y]
    return reduce(arb.min, ends), reduce(arb.max, ends)


def _power_bounds(lo: arb, hi: arb, n: int) -> tuple[arb, arb]:
    if n < 0:
        lo, hi = _power_bounds(lo, hi, -n)
        return (1 / hi, 1 / lo) if lo > 0 else (-_INFINITE, _INFINITE)
    if n % 2 == 0:
        lo, hi = lo.max(-hi).max(arb(0)), hi.max(-lo)
    return lo**n, hi**n
