"""Directions in which a quadratic is flat, told in rational arithmetic: a proof cannot rest on a rounded zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fenchel.losses import LinearPredictorLoss, Terms

__all__ = ["FlatSpace"]

Array = NDArray[np.float64]
Vector = list[Fraction]
# Above this many parameters rational elimination takes too long, and nothing is claimed.
_MOST = 24


@dataclass(frozen=True)
class FlatSpace:
    """The exact null space of lam2 + H/2, and whether h has an exactly zero slope along all of it."""

    basis: list[Vector]
    level: bool

    @classmethod
    def of(cls, loss: LinearPredictorLoss, lam1: Array, lam2: Array, count: int) -> FlatSpace | None:
        """The null space where it has exactly ``count`` dimensions, else None."""
        if loss.dim > _MOST:
            return None
        matrix = [
            [2 * Fraction(float(a)) + Fraction(float(h)) for a, h in zip(row, bent, strict=True)]
            for row, bent in zip(lam2, loss.H, strict=True)
        ]
        basis = _null_space(matrix)
        if len(basis) != count:
            return None
        slope = [Fraction(float(a)) + Fraction(float(b)) for a, b in zip(lam1, loss.b, strict=True)]
        return cls(basis, all(_dot(slope, vector) == 0 for vector in basis))

    def orthogonal(self, groups: Iterable[Terms]) -> bool:
        """Every row of the groups is exactly orthogonal to the space."""
        rows = np.concatenate([np.zeros((0, len(self.basis[0]))), *(g.rows[g.weights > 0.0] for g in groups)])
        exact = ([Fraction(float(x)) for x in row] for row in rows)
        return all(_dot(row, vector) == 0 for row in exact for vector in self.basis)


def _dot(a: Vector, b: Vector) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True) if x and y), Fraction(0))


def _null_space(matrix: list[Vector]) -> list[Vector]:
    """A basis of the null space, by Gauss-Jordan elimination."""
    rows, size, pivots = [row[:] for row in matrix], len(matrix), list[int]()
    for column in range(size):
        top = len(pivots)
        found = next((i for i in range(top, size) if rows[i][column]), None)
        if found is None:
            continue
        rows[top], rows[found] = rows[found], rows[top]
        lead = rows[top][column]
        rows[top] = [x / lead for x in rows[top]]
        for i in range(size):
            factor = rows[i][column]
            if i != top and factor:
                rows[i] = [x - factor * y for x, y in zip(rows[i], rows[top], strict=True)]
        pivots.append(column)
    basis = []
    for free in (j for j in range(size) if j not in pivots):
        vector = [Fraction(int(j == free)) for j in range(size)]
        for i, column in enumerate(pivots):
            vector[column] = -rows[i][free]
        basis.append(vector)
    return basis
