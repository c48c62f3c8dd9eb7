"""Losses sum_i w_i g(x_i.theta + o_i) + theta^T H theta / 2 + b.theta + c: all built-in losses are of this form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.losses.accurate import EPS, TINY, accurate_predictors
from fenchel.losses.base import Loss
from fenchel.losses.exact_text import hexes
from fenchel.losses.inputs import finite_array, finite_number, finite_vector, symmetric_matrix
from fenchel.losses.links import Link

# Below this many numbers the outer products of all rows are formed at once.
_SMALL = 200_000


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms weights[i] * link(rows[i].theta + offsets[i]); rows (n, P), offsets (n,), weights (n,) >= 0."""

    link: Link
    rows: Array
    offsets: Array
    weights: Array

    def predictors(self, theta: Array) -> Array:
        """(k, P) -> (k, n)."""
        return theta @ self.rows.T + self.offsets

    def moved(self, z: Array, off: Array, side: int) -> Array:
        """How much larger (``side`` 1) or smaller (-1) the sum of terms may be for predictors z (k, n) within ``off``.

        Within the error of a jump it may be off by the jump.
        """
        value = self.link.value(z)
        shifted = np.stack([self.link.value(z + off), value, self.link.value(z - off)])
        moved = shifted.max(axis=0) - value if side > 0 else value - shifted.min(axis=0)
        return np.asarray((moved + EPS * (8.0 + np.sqrt(self.weights.size)) * np.abs(value) + TINY) @ self.weights)


class LinearPredictorLoss(Loss):
    """sum over groups of weights.link(rows theta + offsets), plus the quadratic theta^T H theta / 2 + b.theta + c.

    H must be symmetric; it may be indefinite, although Theorem 1 asks for a lower-bounded loss.
    """

    def __init__(
        self,
        groups: Sequence[Terms],
        *,
        dim: int | None = None,
        H: Any = None,
        b: Any = None,
        c: Any = 0.0,
    ) -> None:
        self.groups = tuple(_checked(group) for group in groups)
        dims = {group.rows.shape[1] for group in self.groups}
        square = None if H is None else symmetric_matrix(H, "H")
        linear = None if b is None else finite_vector(b, "b")
        dims |= {part.shape[0] for part in (square, linear) if part is not None}
        if dim is not None:
            dims.add(dim)
        if len(dims) != 1:
            raise ValueError(f"the parts of the loss must agree on one dimension, got {sorted(dims)}")
        self.dim = dims.pop()
        if self.dim < 1:
            raise ValueError("a loss needs at least one parameter")
        self.H = np.zeros((self.dim, self.dim)) if square is None else square
        self.b = np.zeros(self.dim) if linear is None else linear
        self.c = finite_number(c, "c")
        self.quadratic_only = not self.groups
        self._has_quadratic = bool(self.H.any() or self.b.any())
        smallest = float(np.linalg.eigvalsh(self.H)[0]) if self.H.any() else 0.0
        self.convex = smallest >= -1e-13 * np.abs(self.H).max() and all(g.link.convex for g in self.groups)
        self.continuous = all(group.link.continuous for group in self.groups)

    def in_predictors(self) -> LinearPredictorLoss:
        """The loss itself."""
        return self

    def _value(self, theta: Array) -> Array:
        total = np.full(theta.shape[0], self.c)
        if self._has_quadratic:
            total += 0.5 * np.einsum("ni,ij,nj->n", theta, self.H, theta) + theta @ self.b
        for group in self.groups:
            total += group.link.value(group.predictors(theta)) @ group.weights
        return total

    def _gradient(self, theta: Array) -> Array:
        total = theta @ self.H + self.b
        for group in self.groups:
            total = total + (group.link.slope(group.predictors(theta)) * group.weights) @ group.rows
        return np.asarray(total)

    def _hessian(self, theta: Array) -> Array:
        total = np.broadcast_to(self.H, (theta.shape[0], self.dim, self.dim)).copy()
        for group in self.groups:
            total += outer_sum(group.link.curvature(group.predictors(theta)) * group.weights, group.rows)
        return total

    def rounding(self, theta: Array, side: int) -> Array:
        """What rounding of the predictors and of the sums over parameters and data may have moved."""
        size, dim = np.abs(theta), self.dim + 2
        total = np.full(theta.shape[0], EPS * dim * abs(self.c) + TINY)
        if self._has_quadratic:
            second = np.einsum("ki,ij,kj->k", size, np.abs(self.H), size)
            total += EPS * dim * (second + size @ np.abs(self.b))
        for group in self.groups:
            off = EPS * (dim * size @ np.abs(group.rows).T + 2.0 * np.abs(group.offsets))
            total += group.moved(group.predictors(theta), off, side)
        return np.asarray(total)

    def hessian_upper(self, lo: Array, hi: Array) -> Array:
        """Boxes lo, hi (B, P) -> (B, P, P): H + sum_i w_i sup g''(interval of x_i.theta) x_i x_i^T."""
        total = np.broadcast_to(self.H, (lo.shape[0], self.dim, self.dim)).copy()
        center, half = 0.5 * (lo + hi), 0.5 * (hi - lo)
        for group in self.groups:
            middle, reach = group.predictors(center), half @ np.abs(group.rows).T
            sup = group.link.curvature_sup(middle - reach, middle + reach)
            kinked = np.isinf(sup) & (group.weights > 0.0)
            total += outer_sum(np.where(kinked, 0.0, sup) * group.weights, group.rows)
            if kinked.any():
                # An infinite curvature times a zero entry of x stays out of the sum.
                total[outer_sum(kinked.astype(float), np.abs(group.rows)) > 0.0] = np.inf
        return total

    def record(self) -> dict[str, Any]:
        """The loss as certificates hold it; ValueError for links that are given by code."""
        groups = []
        for group in self.groups:
            if not group.link.name:
                raise ValueError(f"a certificate cannot hold {group.link!r}, which is given by code")
            unit = Fraction(group.link.delta)
            rows = [[[Fraction(float(x)) / unit for x in row]] for row in group.rows]
            offsets = [[Fraction(float(o)) / unit] for o in group.offsets]
            weights = [Fraction(float(w)) * unit**2 for w in group.weights]
            columns = {"rows": hexes(rows), "offsets": hexes(offsets), "weights": hexes(weights)}
            groups.append({"tree": [group.link.name, ["var", 0]]} | columns)
        quadratic = {name: hexes(getattr(self, name)) for name in ("H", "b", "c")}
        return {"dim": self.dim, **quadratic, "groups": groups}

    def minorant(self) -> tuple[float, Array, Array]:
        """The quadratic, and for each term a line below it at theta = 0."""
        constant, slope = self.c, self.b.copy()
        for group in self.groups:
            value, rise = group.link.below(group.offsets)
            constant += float(value @ group.weights)
            slope = slope + (rise * group.weights) @ group.rows
        return constant, slope, self.H

    def compose(self, matrix: Any, offset: Any = None) -> LinearPredictorLoss:
        """theta -> l(A theta + o), A (dim, P) or, for a scalar loss, (P,); see `fenchel.closed.projections`."""
        A = np.asarray(matrix, dtype=float)
        A = finite_array(A[None, :] if A.ndim == 1 and self.dim == 1 else A, "matrix", 2)
        if A.shape[0] != self.dim:
            raise ValueError(f"matrix must have {self.dim} rows, got shape {A.shape}")
        o = np.zeros(self.dim) if offset is None else finite_vector(offset, "offset")
        if o.shape != (self.dim,):
            raise ValueError(f"offset must have shape ({self.dim},), got {o.shape}")
        groups = [Terms(g.link, g.rows @ A, accurate_predictors(g.rows, o, g.offsets), g.weights) for g in self.groups]
        constant = self.c + float(self.b @ o + 0.5 * o @ self.H @ o)
        H = A.T @ self.H @ A
        return LinearPredictorLoss(groups, dim=A.shape[1], H=0.5 * (H + H.T), b=A.T @ (self.b + self.H @ o), c=constant)

    def __add__(self, other: object) -> LinearPredictorLoss:
        if not isinstance(other, LinearPredictorLoss):
            return NotImplemented
        if other.dim != self.dim:
            raise ValueError(f"losses to be added must agree in dimension, got {self.dim} and {other.dim}")
        return LinearPredictorLoss(
            self.groups + other.groups, H=self.H + other.H, b=self.b + other.b, c=self.c + other.c
        )

    def __mul__(self, factor: object) -> LinearPredictorLoss:
        scale = finite_number(factor, "factor")
        if scale < 0.0:
            raise ValueError(f"a loss can only be scaled by a nonnegative factor, got {scale}")
        groups = [Terms(g.link, g.rows, g.offsets, scale * g.weights) for g in self.groups] if scale else []
        return LinearPredictorLoss(groups, H=scale * self.H, b=scale * self.b, c=scale * self.c)

    __rmul__ = __mul__


def outer_sum(coefficients: Array, rows: Array) -> Array:
    """sum_i coefficients[:, i] rows[i] rows[i]^T: (k, n), (n, P) -> (k, P, P)."""
    n, dim = rows.shape
    if dim == 0:
        return np.zeros((len(coefficients), 0, 0))
    if n * dim * dim <= _SMALL:
        products = (rows[:, :, None] * rows[:, None, :]).reshape(n, dim * dim)
        return np.asarray((coefficients @ products).reshape(-1, dim, dim))
    return np.stack([(rows.T * one) @ rows for one in coefficients]) if len(coefficients) else np.empty((0, dim, dim))


def _checked(group: Terms) -> Terms:
    rows = finite_array(group.rows, "rows", 2, copy=False)
    if rows.shape[0] == 0 or rows.shape[1] == 0:
        raise ValueError(f"rows must not be empty, got shape {rows.shape}")
    offsets = finite_array(group.offsets, "offsets", 1, copy=False)
    weights = finite_array(group.weights, "weights", 1, copy=False)
    if offsets.shape != (rows.shape[0],) or weights.shape != (rows.shape[0],):
        raise ValueError("offsets and weights must have one entry a row")
    if (weights < 0.0).any():
        raise ValueError("weights must not be negative")
    return Terms(group.link, rows, offsets, weights)
