"""Quadratics above an expression everywhere: tangents of concave functions, and ranges."""

from __future__ import annotations

from functools import reduce
from typing import Any

from flint import arb, arb_mat

from fenchel.checker.expressions import opened
from fenchel.checker.numbers import Refused, above, ball

_INFINITE = arb.pos_inf()
Jet = tuple[arb, arb_mat, arb_mat]
"""Of a quadratic in u: value, gradient (n, 1) and Hessian (n, n) at u = 0."""


def over(node: Any, variables: list[Jet], at: arb_mat, spread: arb) -> Jet:
    """A quadratic in u that is nowhere below the expression: tangent near ``at``; with more ``spread`` flatter.

    ``variables``: the coordinates of theta as quadratics in u.
    """
    name, *parts = opened(node)
    if _degree(node) <= 2:
        return _quadratic(node, variables)
    if name == "add":
        return reduce(added, (over(part, variables, at, spread) for part in parts))
    factor, rest = _without_constants(node)
    if rest is not node and factor > 0:
        return scaled(factor, over(rest, variables, at, spread))
    if rest is not node and factor < 0 and rest[0] == "exp" and _degree(rest[1]) <= 2:  # -exp is concave
        inner = _quadratic(rest[1], variables)
        a = _at(inner, at) - spread * spread
        return scaled(factor * a.exp(), _raised(inner, 1 - a))
    if name in ("log", "sqrt"):
        inner = over(parts[0], variables, at, spread)
        a = _positive(_at(inner, at) + spread * spread)
        if name == "log":
            return _raised(scaled(1 / a, inner), a.log() - 1)
        return _raised(scaled(1 / (2 * a.sqrt()), inner), a.sqrt() / 2)
    if name == "softplus" and _degree(parts[0]) <= 1:
        z = _quadratic(parts[0], variables)
        # softplus(z) = z/2 + (a concave function of z^2): the tangent in z^2 at t^2.
        t = (_at(z, at) ** 2 + spread * spread).sqrt().max(arb(1) / 1024)
        bend = (1 / (1 + (-t).exp()) - arb(0.5)) / t
        square = scaled(bend / 2, times(z, z))
        return _raised(added(scaled(arb(0.5), z), square), t / 2 + (-t).exp().log1p() - bend * t * t / 2)
    top = value_range(node)[1]
    if top.is_finite():
        return _constant(top, variables)
    if name == "softplus":
        return _raised(_size(parts[0], variables, at, spread), arb(2).log())
    return _size(node, variables, at, spread)


def _size(node: Any, variables: list[Jet], at: arb_mat, spread: arb) -> Jet:
    """The same for the absolute value."""
    name, *parts = opened(node)
    lo, hi = value_range(node)
    if lo.is_finite() and hi.is_finite():
        return _constant(abs(lo).max(abs(hi)), variables)
    if lo >= 0 and name in ("log", "sqrt", "softplus"):
        return over(node, variables, at, spread)
    if name == "add":
        return reduce(added, (_size(part, variables, at, spread) for part in parts))
    factor, rest = _without_constants(node)
    if rest is not node:
        return scaled(abs(factor), _size(rest, variables, at, spread))
    if _degree(node) > 1:
        raise Refused(f"the growth of the expression is not known ({name})")
    own = _quadratic(node, variables)
    size = _positive(_at(own, at) ** 2 + spread * spread).sqrt()
    return _raised(scaled(1 / (2 * size), times(own, own)), size / 2)


def float_quadratic(tree: Any, dim: int, spread: float) -> tuple[float, list[float], list[list[float]]] | None:
    """(c, b, H) with the expression <= c + b.theta + theta^T H theta / 2 everywhere; None where none is known.

    What rounding b and H to floats takes from them is added to c and to the diagonal of H.
    """
    n = range(dim)
    unit = [(arb(0), arb_mat(dim, 1, [int(i == k) for i in n]), arb_mat(dim, dim)) for k in n]
    try:
        c, b, H = over(tree, unit, arb_mat(dim, 1), arb(spread))
    except Refused:
        return None
    linear = [float(x) for x in b.entries()]
    bent = [[float(H[i, j] + H[j, i]) / 2 for j in n] for i in n]
    lost = sum((abs(b[i, 0] - linear[i]).upper() for i in n), arb(0))
    lost += sum((abs(H[i, j] - bent[i][j]).upper() for i in n for j in n), arb(0))
    for i in n:
        bent[i][i] = above(bent[i][i] + lost)
    return above(c + lost), linear, bent


def _quadratic(node: Any, variables: list[Jet]) -> Jet:
    """A polynomial of degree two at most."""
    name, *parts = opened(node)
    if name == "const":
        return _constant(ball(parts[0]), variables)
    if name == "var":
        own: Jet = variables[parts[0]]
        return own
    if name == "pow":
        return reduce(times, [_quadratic(parts[0], variables)] * parts[1])
    found = [_quadratic(part, variables) for part in parts]
    return reduce(added, found) if name == "add" else reduce(times, found)


def added(a: Jet, b: Jet) -> Jet:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def scaled(factor: arb, a: Jet) -> Jet:
    return factor * a[0], factor * a[1], factor * a[2]


def times(a: Jet, b: Jet) -> Jet:
    cross = a[1] * b[1].transpose()
    return a[0] * b[0], a[0] * b[1] + b[0] * a[1], a[0] * b[2] + b[0] * a[2] + cross + cross.transpose()


def _at(quadratic: Jet, u: arb_mat) -> arb:
    return quadratic[0] + (u.transpose() * (quadratic[1] + quadratic[2] * u / 2))[0, 0]


def _raised(quadratic: Jet, constant: arb) -> Jet:
    return quadratic[0] + constant, quadratic[1], quadratic[2]


def _constant(value: arb, variables: list[Jet]) -> Jet:
    n = variables[0][1].nrows()
    return value, arb_mat(n, 1), arb_mat(n, n)


def _positive(a: arb) -> arb:
    if not a > 0:
        raise Refused("the point or the spread of a growth bound must be positive")
    return a


def _degree(node: Any) -> int:
    """Of the expression as a polynomial; more than 64 where it is none."""
    name, *parts = opened(node)
    if name in ("const", "var"):
        return int(name == "var")
    if name == "add":
        return max(_degree(part) for part in parts)
    if name == "mul":
        return sum(_degree(part) for part in parts)
    if name == "pow" and isinstance(parts[1], int) and parts[1] > 0:
        return parts[1] * _degree(parts[0])
    return 65


def _without_constants(node: Any) -> tuple[arb, Any]:
    """The factor before a product, and the rest of it."""
    name, *parts = opened(node)
    rest = [part for part in parts if opened(part)[0] != "const"] if name == "mul" else []
    if not rest or len(rest) == len(parts):
        return arb(1), node
    factor = reduce(lambda total, part: total * ball(part[1]), (p for p in parts if p[0] == "const"), arb(1))
    return factor, rest[0] if len(rest) == 1 else ["mul", *rest]


def value_range(node: Any) -> tuple[arb, arb]:
    """Bounds (lo, hi) over all theta, possibly infinite."""
    name, *parts = opened(node)
    if name == "const":
        return ball(parts[0]), ball(parts[0])
    if name in ("sin", "cos", "tanh", "atan"):
        return (arb(-2), arb(2)) if name == "atan" else (arb(-1), arb(1))
    if name == "var":
        return -_INFINITE, _INFINITE
    if name in ("add", "mul"):
        ends = [value_range(part) for part in parts]
        return reduce((lambda x, y: (x[0] + y[0], x[1] + y[1])) if name == "add" else _product, ends)
    lo, hi = value_range(parts[0])
    if name == "pow":
        return _power(lo, hi, parts[1])
    function, least = _INCREASING[name]
    inside = lo.is_finite() and (name in ("exp", "softplus") or lo > 0)
    return function(lo) if inside else least, function(hi) if hi.is_finite() else _INFINITE


_INCREASING = {
    "exp": (arb.exp, arb(0)),
    "softplus": (lambda x: x.exp().log1p(), arb(0)),
    "log": (arb.log, -_INFINITE),
    "sqrt": (arb.sqrt, arb(0)),
}


def _product(x: tuple[arb, arb], y: tuple[arb, arb]) -> tuple[arb, arb]:
    ends = [arb(0) if a == 0 or b == 0 else a * b for a in x for b in y]
    return reduce(arb.min, ends), reduce(arb.max, ends)


def _power(lo: arb, hi: arb, power: Any) -> tuple[arb, arb]:
    if not isinstance(power, int):
        raise Refused("an exponent is not an integer")
    if power < 0:
        if not lo > 0:
            return -_INFINITE, _INFINITE
        return 1 / hi**-power if hi.is_finite() else arb(0), 1 / lo**-power
    ends = [x**power if x.is_finite() else abs(x) for x in (lo, hi)]
    if power % 2:
        return ends[0] if lo.is_finite() else lo, ends[1]
    return ends[0] if lo > 0 else ends[1] if hi < 0 else arb(0), ends[0].max(ends[1])
