"""A loss given as an expression: values, second-order enclosures on boxes, and quadratics above it everywhere."""

from __future__ import annotations

from typing import Any

from flint import arb, arb_mat, fmpq

from fenchel.checker.growth import over
from fenchel.checker.jets import Jet, jet
from fenchel.checker.numbers import column

__all__ = ["Remainder"]


class Remainder:
    """An expression in the coordinates of theta."""

    def __init__(self, tree: Any, dim: int) -> None:
        self.tree, self.dim = tree, dim

    def value(self, theta: list[fmpq]) -> arb:
        return jet(self.tree, [(arb(t), arb_mat(0, 1), arb_mat(0, 0)) for t in theta])[0]

    def framed(self, origin: arb_mat, basis: arb_mat) -> FramedRemainder:
        return FramedRemainder(self.tree, origin, basis)


class FramedRemainder:
    """The expression in coordinates u, theta = origin + basis u."""

    def __init__(self, tree: Any, origin: arb_mat, basis: arb_mat) -> None:
        self.tree, self.origin, self.basis = tree, origin, basis

    def _variables(self, u: arb_mat) -> list[Jet]:
        theta, n = self.origin + self.basis * u, self.basis.ncols()
        return [(t, column([self.basis[i, j] for j in range(n)]), arb_mat(n, n)) for i, t in enumerate(theta.entries())]

    def anchor(self, u: arb_mat) -> tuple[arb_mat, arb, arb_mat]:
        """(u, value, slope)."""
        value, slope, _ = jet(self.tree, self._variables(u))
        return u, value, slope

    def above(self, anchor: Any, center: arb_mat, half: arb_mat, jumps: Any, *, chords: bool) -> Jet:
        """(v, s, K): Taylor at the anchor, with the Hessian's enclosure over the box and the anchor."""
        u, value, slope = anchor
        box = [c + arb(0, 1) * h for c, h in zip(center.entries(), half.entries(), strict=True)]
        hull = column([a.union(b) for a, b in zip(box, u.entries(), strict=True)])
        bent = _upper(jet(self.tree, self._variables(hull))[2])
        shift = center - u
        turn = bent * shift
        return value + (shift.transpose() * (slope + turn / 2))[0, 0], slope + turn, bent

    def everywhere(self, anchor: Any, spread: arb) -> Jet:
        """(k, l, K): see `fenchel.checker.growth.over`."""
        return over(self.tree, self._variables(arb_mat(self.basis.ncols(), 1)), anchor[0], spread)


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
