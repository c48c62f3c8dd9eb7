"""A loss given as an expression: values, and second-order enclosures on boxes by automatic differentiation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flint import arb, arb_mat, fmpq

from fenchel.checker.growth import growth, opened
from fenchel.checker.numbers import Refused, ball, column
from fenchel.checker.tangents import tangent_bound

__all__ = ["Remainder"]

Jet = tuple[arb, list[arb], list[list[arb]]]


class Remainder:
    """An expression in the coordinates of theta, as nested lists ["add", a, b], ["log", a], ["var", 0], ..."""

    def __init__(self, tree: Any, dim: int) -> None:
        self.tree, self.dim = tree, dim

    def value(self, theta: list[fmpq]) -> arb:
        return _jet(self.tree, [arb(t) for t in theta], 0)[0]

    def framed(self, origin: arb_mat, basis: arb_mat) -> FramedRemainder:
        return FramedRemainder(self, origin, basis)


@dataclass
class FramedRemainder:
    """The expression in coordinates u, theta = origin + basis u."""

    remainder: Remainder
    origin: arb_mat
    basis: arb_mat

    def anchor(self, u: arb_mat) -> tuple[arb_mat, arb, arb_mat]:
        """(u, value, slope)."""
        value, slope, _ = self._jet(u)
        return u, value, slope

    def _jet(self, u: arb_mat, order: int = 1) -> tuple[arb, arb_mat, arb_mat]:
        theta = (self.origin + self.basis * u).entries()
        value, gradient, hessian = _jet(self.remainder.tree, theta, order)
        n = len(theta)
        bent = arb_mat(n, n, [x for row in hessian for x in row]) if order > 1 else arb_mat(n, n)
        turned = self.basis.transpose()
        return value, turned * column(gradient), turned * bent * self.basis

    def above(self, anchor: Any, center: arb_mat, half: arb_mat, jumps: Any, *, chords: bool) -> Any:
        """(v, s, K): Taylor at the anchor, with the Hessian's enclosure over the box and the anchor."""
        u, value, slope = anchor
        box = column([c + arb(0, 1) * h for c, h in zip(center.entries(), half.entries(), strict=True)])
        hull = column([a.union(b) for a, b in zip(box.entries(), u.entries(), strict=True)])
        bent = _upper(self._jet(hull, 2)[2])
        shift = center - u
        turn = bent * shift
        return value + (shift.transpose() * (slope + turn / 2))[0, 0], slope + turn, bent

    def everywhere(self, anchor: Any, spread: arb) -> Any:
        """(k, l, K): term by term, tangent at the anchor in a quadratic inner part, else by the term's growth."""
        n = self.basis.nrows()
        theta = (self.origin + self.basis * anchor[0]).entries()
        total = (arb(0), column([arb(0)] * n), arb_mat(n, n))
        for node in self.remainder.tree[1:] if opened(self.remainder.tree)[0] == "add" else [self.remainder.tree]:
            bound = tangent_bound(node, theta, spread)
            part = self._grown(node, spread) if bound is None else self._turned(*bound)
            total = (total[0] + part[0], total[1] + part[1], total[2] + part[2])
        return total

    def _turned(self, c: arb, b: list[arb], A: list[list[arb]]) -> Any:
        """c + b.theta + theta^T A theta in the coordinates u, as (k, l, K)."""
        n = range(len(b))
        linear, bent = column(b), arb_mat(len(b), len(b), [A[i][j] + A[j][i] for i in n for j in n])
        at = bent * self.origin
        constant = c + (self.origin.transpose() * (linear + at / 2))[0, 0]
        turned = self.basis.transpose()
        return constant, turned * (linear + at), turned * bent * self.basis

    def _grown(self, node: Any, spread: arb) -> Any:
        n = self.basis.nrows()
        if not spread > 0:
            raise Refused("the spread of the growth bound must be positive")
        lengths = [sum((self.basis[i, j] ** 2 for j in range(n)), arb(0)).sqrt() for i in range(n)]
        sizes = [(abs(self.origin[i, 0]), lengths[i], arb(0)) for i in range(n)]
        c0, c1, c2 = growth(node, sizes, spread)
        bend = 2 * c2 + c1 / spread
        eye = arb_mat(n, n, [bend if i == j else arb(0) for i in range(n) for j in range(n)])
        return c0 + c1 * spread / 2, column([arb(0)] * n), eye


def _upper(matrix: arb_mat) -> arb_mat:
    """A matrix of exact numbers that dominates every symmetric matrix in this interval matrix (Gershgorin)."""
    n = range(matrix.nrows())
    middle = [[((matrix[i, j] + matrix[j, i]) / 2).mid() for j in n] for i in n]
    for i in n:
        middle[i][i] += sum(((matrix[i, j] - middle[i][j]).abs_upper() for j in n if j != i), arb(0))
        middle[i][i] += (matrix[i, i] - matrix[i, i].mid()).abs_upper()
    return arb_mat(
        len(n), len(n), [x.upper() if i == j else x for i, row in enumerate(middle) for j, x in enumerate(row)]
    )


def _jet(node: Any, theta: list[arb], order: int) -> Jet:
    """Value, gradient and Hessian over the box theta (as far as ``order`` asks)."""
    n = len(theta)
    name, *parts = opened(node)
    zero = [arb(0)] * n if order else []
    flat = [zero] * n if order > 1 else []
    if name == "const":
        return ball(parts[0]), zero, flat
    if name == "var":
        index = parts[0]
        if not isinstance(index, int) or not 0 <= index < n:
            raise Refused("the expression names a variable that does not exist")
        return theta[index], [arb(int(i == index)) for i in range(n)] if order else [], flat
    if name == "pow":
        return _chain(_jet(parts[0], theta, order), lambda x: _power(x, parts[1]), order)
    jets = [_jet(part, theta, order) for part in parts]
    if name == "add":
        total = jets[0]
        for jet in jets[1:]:
            total = _sum(total, jet)
        return total
    if name == "mul":
        total = jets[0]
        for jet in jets[1:]:
            total = _product(total, jet, order)
        return total
    if name not in _FUNCTIONS or len(jets) != 1:
        raise Refused(f"nothing is known here about the function {name!r}")
    return _chain(jets[0], _FUNCTIONS[name], order)


def _sum(a: Jet, b: Jet) -> Jet:
    gradient = [x + y for x, y in zip(a[1], b[1], strict=True)]
    return a[0] + b[0], gradient, [[x + y for x, y in zip(r, s, strict=True)] for r, s in zip(a[2], b[2], strict=True)]


def _product(a: Jet, b: Jet, order: int) -> Jet:
    value = a[0] * b[0]
    gradient = [a[0] * y + x * b[0] for x, y in zip(a[1], b[1], strict=True)]
    if order < 2:
        return value, gradient, []
    n = range(len(gradient))
    cross = [[a[0] * b[2][i][j] + a[2][i][j] * b[0] + a[1][i] * b[1][j] + a[1][j] * b[1][i] for j in n] for i in n]
    return value, gradient, cross


def _chain(inner: Jet, outer: Any, order: int) -> Jet:
    value, first, second = outer(inner[0])
    if not (value.is_finite() and (order < 1 or first.is_finite()) and (order < 2 or second.is_finite())):
        raise Refused("the expression is not finite on a box")
    gradient = [first * x for x in inner[1]]
    if order < 2:
        return value, gradient, []
    n = range(len(gradient))
    return value, gradient, [[second * inner[1][i] * inner[1][j] + first * inner[2][i][j] for j in n] for i in n]


def _power(x: arb, exponent: Any) -> tuple[arb, arb, arb]:
    if not isinstance(exponent, int) or abs(exponent) > 64:
        raise Refused("an exponent is not a small integer")
    if exponent == 2:
        return _square(x), 2 * x, arb(2)
    k = exponent
    return x**k, k * x ** (k - 1) if k else arb(0), k * (k - 1) * x ** (k - 2) if k * (k - 1) else arb(0)


def _square(x: arb) -> arb:
    size = x.abs_lower().union(x.abs_upper())
    return size * size


def _exp(x: arb) -> tuple[arb, arb, arb]:
    return (x.exp(),) * 3


def _log(x: arb) -> tuple[arb, arb, arb]:
    return x.log(), 1 / x, -1 / _square(x)


def _sqrt(x: arb) -> tuple[arb, arb, arb]:
    root = x.sqrt()
    return root, 1 / (2 * root), -1 / (4 * root * x)


def _tanh(x: arb) -> tuple[arb, arb, arb]:
    t = x.tanh()
    first = (1 / x.cosh()) ** 2
    return t, first, -2 * t * first


def _softplus(x: arb) -> tuple[arb, arb, arb]:
    s = 1 / (1 + (-x).exp())
    size = x.exp().log1p() if x < 0 else x + (-x).exp().log1p()
    return size, s, 1 / (4 * _square((x / 2).cosh()))


_FUNCTIONS = {
    "exp": _exp,
    "log": _log,
    "sqrt": _sqrt,
    "tanh": _tanh,
    "softplus": _softplus,
    "sin": lambda x: (x.sin(), x.cos(), -x.sin()),
    "cos": lambda x: (x.cos(), -x.sin(), -x.cos()),
    "atan": lambda x: (x.atan(), 1 / (1 + _square(x)), -2 * x / _square(1 + _square(x))),
}
