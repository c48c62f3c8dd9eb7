"""A user's own loss as an expression: values, derivatives and the bounds of certificates are derived from it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.errors import missing
from fenchel.losses.accurate import TINY
from fenchel.losses.builtin import Quadratic
from fenchel.losses.calculus import Node, hessian_ranges, jets, rounded
from fenchel.losses.curvature_bounds import curvature_bound
from fenchel.losses.exact_text import hexes
from fenchel.losses.formula import ZERO, read, simplified
from fenchel.losses.inputs import shown
from fenchel.losses.user import UserLoss

# Where logarithms and roots are traded for a parabola in the majorizer that confines the search.
_SPREAD = 64.0


class ExpressionLoss(UserLoss):
    """theta^T H theta / 2 + b.theta + c plus a remainder, as `from_expression` splits an expression."""

    def __init__(self, text: str, variables: tuple[str, ...], tree: Node) -> None:
        self.dim = dim = len(variables)
        H, b, c, self.remainder = _split(tree, dim)
        self.text, self.variables, self.tree = text, variables, tree
        self._exact = H, b, c
        self.H = np.array([[float(x) for x in row] for row in H])
        self.b, self.c = np.array([float(x) for x in b]), float(c)
        bound = curvature_bound(self.remainder, dim)
        if not np.isfinite(bound):
            raise ValueError(
                f"no bound of the curvature of {text!r} could be derived; write it with squares, exp, log, sqrt, tanh, "
                "sin, cos, atan or softplus of bounded or affine parts, or use from_function"
            )
        curvature = float(np.linalg.eigvalsh(self.H)[-1]) + bound
        super().__init__(self._values, self._gradients, dim, self._hessians, curvature, self._confining(), None)

    @property
    def assumes(self) -> tuple[str, ...]:
        """Nothing: all bounds are derived from the expression."""
        return ()

    def examine(self, points: Array) -> None:
        """Nothing is declared, so nothing can be false."""

    def __repr__(self) -> str:
        return f"from_expression({self.text!r}, variables={list(self.variables)})"

    def record(self) -> dict[str, Any]:
        """The loss as certificates hold it."""
        H, b, c = self._exact
        ratio = [[_ratio(x) for x in row] for row in H]
        quadratic = {"H": ratio, "b": [_ratio(x) for x in b], "c": _ratio(c)}
        names = {"variables": list(self.variables), "text": self.text}
        eye, zero = hexes(np.eye(self.dim)), hexes(np.zeros(self.dim))
        parts = self.remainder[1:] if self.remainder[0] == "add" else [self.remainder]
        rest = [part for part in parts if part[0] != "softplus"]  # of which the checker knows more if they are alone
        trees = [part for part in parts if part[0] == "softplus"] + ([["add", *rest]] if rest[1:] else rest)
        groups = [{"tree": tree, "rows": [eye], "offsets": [zero], "weights": hexes([1.0])} for tree in trees]
        return {"dim": self.dim, **names, **quadratic, "groups": groups}

    def local_hessian_upper(self, lo: Array, hi: Array) -> Array:
        """Matrices (B, P, P) above the Hessian on each box, by ranges of its entries; nowhere above ``curvature``."""
        total = np.zeros((len(lo), self.dim, self.dim))
        for (i, j), (least, most) in hessian_ranges(self.remainder, lo, hi).items():
            if i == j:
                total[:, i, i] += most
                continue
            with np.errstate(invalid="ignore"):
                total[:, i, j] = total[:, j, i] = 0.5 * (least + most)
                for k in (i, j):
                    total[:, k, k] += 0.5 * (most - least)
        total += self.H
        known = np.flatnonzero(np.isfinite(total).all(axis=(1, 2)))
        better = known[np.linalg.eigvalsh(total[known])[:, -1] < self.curvature]
        upper = self.hessian_upper(lo, hi)
        upper[better] = total[better]
        return upper

    def minorant(self) -> tuple[float, Array, Array] | None:
        """The polynomial part less a quadratic above the remainder's negative; None where none is known."""
        bound = self._growth(["mul", ["const", (-1.0).hex()], self.remainder])
        return None if bound is None else (self.c - bound[0], self.b - bound[1], self.H - bound[2])

    def _confining(self) -> Quadratic:
        """A quadratic above the loss: that part and one above the remainder."""
        bound = self._growth(self.remainder)
        if bound is None:
            raise ValueError(f"{self.text!r} may grow faster than a quadratic, or its growth is not known.")
        return Quadratic(self.H + bound[2], self.b + bound[1], self.c + bound[0])

    def _growth(self, tree: Node) -> tuple[float, Array, Array] | None:
        """(c, b, H) with tree <= c + b.theta + theta^T H theta / 2 everywhere; None where none is known."""
        try:
            from fenchel.losses.growth import float_quadratic
        except ImportError as error:
            raise missing("from_expression", "python-flint", "check") from error
        found = float_quadratic(tree, self.dim, _SPREAD)
        return None if found is None else (found[0], np.array(found[1]), np.array(found[2]))

    def rounding(self, theta: Array, side: int) -> Array:
        """What every step of the evaluation may have moved: in a formula, terms may cancel."""
        with np.errstate(all="ignore"):
            error = np.broadcast_to(rounded(self.tree, theta)[1], theta.shape[:1])
        return np.where(np.isnan(error), np.inf, error) + TINY

    # As the formula is written: the coefficients of (x - a)^2, multiplied out, would cancel.
    def _values(self, theta: Array) -> Array:
        return jets(self.tree, theta, 0)[0]

    def _gradients(self, theta: Array) -> Array:
        return jets(self.tree, theta, 1)[1]

    def _hessians(self, theta: Array) -> Array:
        return jets(self.tree, theta, 2)[2]


def from_expression(expression: Any, variables: Sequence[str]) -> ExpressionLoss:
    """A loss from a formula, such as ``from_expression("log(1 + (x - 1)**2)", variables=["x"])``.

    Args:
        expression: a string, or a sympy expression, in the variables, numbers, pi, E, + - * / ** with integer powers,
            exp, log, log1p, sqrt, tanh, sin, cos, atan, cosh (inside log), softplus and sigmoid.
        variables: the names of theta_1 .. theta_P, in order.

    The gradient, the Hessian, a bound of the curvature and a quadratic above the loss are derived from it, so that
    nothing is taken on trust and certificates can be checked (`fenchel.check`). Numbers are read as floats.

    Raises:
        ValueError: the formula cannot be read, or no bound could be derived. MissingDependencyError: no python-flint.
    """
    names = tuple(str(name) for name in variables) if isinstance(variables, Iterable) else ()
    if not names or len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
        raise ValueError(f"variables must be distinct names, got {names or shown(variables)}.")
    text = str(expression)
    try:
        parsed = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"expression {text!r} is not a formula: {error.msg}.") from error
    return ExpressionLoss(text, names, simplified(read(parsed, names)))


def _split(tree: Node, dim: int) -> tuple[list[list[Fraction]], list[Fraction], Fraction, Node]:
    """The polynomial part of degree two as exact (H, b, c), and the rest."""
    H = [[Fraction(0)] * dim for _ in range(dim)]
    b, c = [Fraction(0)] * dim, Fraction(0)
    rest = []
    for part in tree[1:] if tree[0] == "add" else [tree]:
        polynomial = _polynomial(part)
        if polynomial is None:
            rest.append(part)
            continue
        for powers, factor in polynomial.items():
            if len(powers) == 0:
                c += factor
            elif len(powers) == 1:
                b[powers[0]] += factor
            else:
                i, j = powers
                H[i][j] += factor
                H[j][i] += factor
    if not rest:
        return H, b, c, ZERO
    return H, b, c, rest[0] if len(rest) == 1 else ["add", *rest]


def _polynomial(node: Node) -> dict[tuple[int, ...], Fraction] | None:
    """Coefficients by sorted variable indices, for polynomials of degree at most two; None for anything else."""
    name, *parts = node
    if name == "const":
        return {(): Fraction(float.fromhex(parts[0]))}
    if name == "var":
        return {(parts[0],): Fraction(1)}
    if name == "pow":
        return None if parts[1] not in (1, 2) else _polynomial(["mul", *[parts[0]] * parts[1]])
    if name not in ("add", "mul"):
        return None
    found = [_polynomial(part) for part in parts]
    total: dict[tuple[int, ...], Fraction] = {} if name == "add" else {(): Fraction(1)}
    for polynomial in found:
        if polynomial is None:
            return None
        if name == "add":
            for powers, factor in polynomial.items():
                total[powers] = total.get(powers, Fraction(0)) + factor
            continue
        product: dict[tuple[int, ...], Fraction] = {}
        for p, x in total.items():
            for r, y in polynomial.items():
                powers = tuple(sorted(p + r))
                product[powers] = product.get(powers, Fraction(0)) + x * y
        total = product
    return total if all(len(powers) <= 2 for powers in total) else None


def _ratio(x: Fraction) -> str:
    return f"{x.numerator}/{x.denominator}"
