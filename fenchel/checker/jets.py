"""Values, gradients and Hessians of an expression over balls, by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from flint import arb, arb_mat

from fenchel.checker.numbers import Refused, ball

__all__ = ["Jet", "added", "jet", "opened", "scaled", "times"]

Jet = tuple[arb, arb_mat, arb_mat]
"""Value, gradient (n, 1) and Hessian (n, n) in coordinates u; a quadratic is given by its own at u = 0."""


def opened(node: Any) -> list[Any]:
    """A node of the tree, ["add", a, b], ["log", a], ["var", 0], ...: its name and its parts."""
    if not isinstance(node, list) or len(node) < 2 or not isinstance(node[0], str):
        raise Refused("the expression cannot be read")
    return node


def jet(node: Any, variables: list[Jet]) -> Jet:
    """The expression's jet over the balls of the variables' jets."""
    name, *parts = opened(node)
    n = variables[0][1].nrows()
    if name == "const":
        return ball(parts[0]), arb_mat(n, 1), arb_mat(n, n)
    if name == "var":
        if not isinstance(parts[0], int) or not 0 <= parts[0] < len(variables):
            raise Refused("the expression names a variable that does not exist")
        return variables[parts[0]]
    if name == "pow":
        return _chain(jet(parts[0], variables), lambda x: _power(x, parts[1]))
    jets = [jet(part, variables) for part in parts]
    if name in ("add", "mul"):
        return reduce(added if name == "add" else times, jets)
    if name not in _FUNCTIONS or len(jets) != 1:
        raise Refused(f"nothing is known here about the function {name!r}")
    return _chain(jets[0], _FUNCTIONS[name])


def added(a: Jet, b: Jet) -> Jet:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def scaled(factor: arb, a: Jet) -> Jet:
    return factor * a[0], factor * a[1], factor * a[2]


def times(a: Jet, b: Jet) -> Jet:
    cross = a[1] * b[1].transpose()
    return a[0] * b[0], a[0] * b[1] + b[0] * a[1], a[0] * b[2] + b[0] * a[2] + cross + cross.transpose()


def _chain(inner: Jet, outer: Callable[[arb], tuple[arb, arb, arb]]) -> Jet:
    value, first, second = outer(inner[0])
    if not (value.is_finite() and (inner[1].nrows() == 0 or (first.is_finite() and second.is_finite()))):
        raise Refused("the expression is not finite on a box")
    return value, first * inner[1], second * inner[1] * inner[1].transpose() + first * inner[2]


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


_FUNCTIONS: dict[str, Callable[[arb], tuple[arb, arb, arb]]] = {
    "exp": lambda x: (x.exp(),) * 3,
    "log": lambda x: (x.log(), 1 / x, -1 / _square(x)),
    "sqrt": _sqrt,
    "tanh": _tanh,
    "softplus": _softplus,
    "sin": lambda x: (x.sin(), x.cos(), -x.sin()),
    "cos": lambda x: (x.cos(), -x.sin(), -x.cos()),
    "atan": lambda x: (x.atan(), 1 / (1 + _square(x)), -2 * x / _square(1 + _square(x))),
}
