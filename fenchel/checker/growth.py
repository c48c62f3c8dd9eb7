"""How far an expression can reach over all theta: its range, and bounds of its growth."""

from __future__ import annotations

from typing import Any

from flint import arb

from fenchel.checker.numbers import Refused, ball

__all__ = ["growth", "opened", "value_range"]

Growth = tuple[arb, arb, arb]
_INFINITE = arb.pos_inf()


def opened(node: Any) -> list[Any]:
    """A node of the tree: its name and its parts."""
    if not isinstance(node, list) or len(node) < 2 or not isinstance(node[0], str):
        raise Refused("the expression cannot be read")
    return node


def growth(node: Any, sizes: list[Growth], spread: arb) -> Growth:
    """(c0, c1, c2), c1 and c2 >= 0, with expression <= c0 + c1 r + c2 r^2 for all u, r = |u|.

    ``sizes``: the same for the absolute values of the variables. Logarithms are bounded by a tangent at spread^2.
    """
    top = value_range(node)[1]
    if top.is_finite():
        return top, arb(0), arb(0)
    name, *parts = opened(node)
    if name == "add":
        return _added([growth(part, sizes, spread) for part in parts])
    if name == "mul":
        factor = _constant(parts)
        if factor is not None and factor > 0:
            rest = growth(_without_constants(parts), sizes, spread)
            return factor * rest[0], factor * rest[1], factor * rest[2]
    if name == "log":
        inner = growth(parts[0], sizes, spread)
        far = spread * spread
        return far.log() - 1 + inner[0] / far, inner[1] / far, inner[2] / far
    if name == "softplus":
        inner = growth(parts[0], sizes, spread)
        return arb(2).log() + inner[0].max(arb(0)), inner[1], inner[2]
    return _size(node, sizes, spread)


def _size(node: Any, sizes: list[Growth], spread: arb) -> Growth:
    """The same for the absolute value."""
    lo, hi = value_range(node)
    if lo.is_finite() and hi.is_finite():
        return abs(lo).max(abs(hi)), arb(0), arb(0)
    name, *parts = opened(node)
    if name == "var":
        size: Growth = sizes[parts[0]]
        return size
    if name == "add":
        return _added([_size(part, sizes, spread) for part in parts])
    if name == "mul":
        total = _size(parts[0], sizes, spread)
        for part in parts[1:]:
            total = _multiplied(total, _size(part, sizes, spread))
        return total
    if name == "pow" and isinstance(parts[1], int) and parts[1] in (1, 2):
        inner = _size(parts[0], sizes, spread)
        return inner if parts[1] == 1 else _multiplied(inner, inner)
    if name == "sqrt":
        a, b, c = _size(parts[0], sizes, spread)
        return a.sqrt() + b / 2, arb(1) / 2 + c.sqrt(), arb(0)
    if lo >= 0 and name in ("log", "softplus"):
        return growth(node, sizes, spread)
    raise Refused(f"the growth of the expression is not known ({name})")


def _added(parts: list[Growth]) -> Growth:
    a, b, c = (sum((part[k] for part in parts), arb(0)) for k in range(3))
    return a, b, c


def _multiplied(x: Growth, y: Growth) -> Growth:
    if not (x[1] * y[2] == 0 and x[2] * y[1] == 0 and x[2] * y[2] == 0):
        raise Refused("the expression grows faster than a quadratic")
    return x[0] * y[0], x[0] * y[1] + x[1] * y[0], x[0] * y[2] + x[1] * y[1] + x[2] * y[0]


def _constant(parts: list[Any]) -> arb | None:
    found = [ball(part[1]) for part in parts if part[0] == "const"]
    total = arb(1)
    for factor in found:
        total *= factor
    return total if found and len(found) < len(parts) else None


def _without_constants(parts: list[Any]) -> Any:
    rest = [part for part in parts if part[0] != "const"]
    return rest[0] if len(rest) == 1 else ["mul", *rest]


def value_range(node: Any) -> tuple[arb, arb]:
    """Bounds (lo, hi) over all theta, possibly infinite."""
    name, *parts = opened(node)
    if name == "const":
        return ball(parts[0]), ball(parts[0])
    if name in ("sin", "cos", "tanh"):
        return arb(-1), arb(1)
    if name == "atan":
        return arb(-2), arb(2)
    if name == "add":
        ends = [value_range(part) for part in parts]
        return sum((e[0] for e in ends), arb(0)), sum((e[1] for e in ends), arb(0))
    if name == "mul":
        total = value_range(parts[0])
        for part in parts[1:]:
            total = _times(total, value_range(part))
        return total
    if name in ("pow", "exp", "log", "sqrt", "softplus"):
        lo, hi = value_range(parts[0])
        if name == "pow":
            return _raised(lo, hi, parts[1])
        if name == "exp":
            return lo.exp() if lo.is_finite() else arb(0), hi.exp() if hi.is_finite() else _INFINITE
        if name == "softplus":
            return lo.exp().log1p() if lo.is_finite() else arb(0), hi.exp().log1p() if hi.is_finite() else _INFINITE
        if lo > 0:
            part = arb.log if name == "log" else arb.sqrt
            return part(lo), part(hi) if hi.is_finite() else _INFINITE
        if name == "sqrt" and lo >= 0:
            return arb(0), hi.sqrt() if hi.is_finite() else _INFINITE
    return -_INFINITE, _INFINITE


def _times(x: tuple[arb, arb], y: tuple[arb, arb]) -> tuple[arb, arb]:
    if all(end.is_finite() for end in (*x, *y)):
        products = [a * b for a in x for b in y]
        return products[0].min(products[1]).min(products[2].min(products[3])), products[0].max(products[1]).max(
            products[2].max(products[3])
        )
    flip = 1
    if x[1] <= 0:
        x, flip = (-x[1], -x[0]), -flip
    if y[1] <= 0:
        y, flip = (-y[1], -y[0]), -flip
    if x[0] >= 0 and y[0] >= 0:
        lo, hi = x[0] * y[0], x[1] * y[1] if x[1].is_finite() and y[1].is_finite() else _INFINITE
        return (lo, hi) if flip > 0 else (-hi, -lo)
    return -_INFINITE, _INFINITE


def _raised(lo: arb, hi: arb, power: Any) -> tuple[arb, arb]:
    if not isinstance(power, int):
        raise Refused("an exponent is not an integer")
    if power < 0:
        if lo > 0:
            return 1 / hi**-power if hi.is_finite() else arb(0), 1 / lo**-power
        return -_INFINITE, _INFINITE
    if power % 2:
        return lo**power if lo.is_finite() else -_INFINITE, hi**power if hi.is_finite() else _INFINITE
    top = abs(lo).max(abs(hi)) ** power if lo.is_finite() and hi.is_finite() else _INFINITE
    return lo**power if lo > 0 else hi**power if hi < 0 else arb(0), top
