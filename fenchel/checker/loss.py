"""A loss as a certificate writes it, and what is proved about l - Q for a quadratic Q: on boxes, and everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flint import arb, arb_mat, fmpq, fmpq_mat

from fenchel.checker.expressions import Jet, jet_above, sized, value_at
from fenchel.checker.numbers import Refused, ball, exact, exacts, symmetric

__all__ = ["Anchor", "Excess", "Loss", "Quadratic"]


@dataclass(frozen=True)
class Quadratic:
    """Q(theta) = constant + slope.d + d^T curvature d, d = theta - center."""

    center: fmpq_mat
    constant: fmpq
    slope: fmpq_mat
    curvature: fmpq_mat

    def value(self, theta: fmpq_mat) -> fmpq:
        d = theta - self.center
        return self.constant + (d.transpose() * (self.slope + self.curvature * d))[0, 0]


@dataclass(frozen=True)
class Term:
    """weight * f(z), z = rows theta + offsets, f an expression in the entries of z."""

    tree: Any
    weight: fmpq
    rows: fmpq_mat
    offsets: fmpq_mat


@dataclass(frozen=True)
class Loss:
    """theta^T H theta / 2 + b.theta + c plus terms."""

    dim: int
    polynomial: Quadratic
    terms: list[Term]

    @classmethod
    def read(cls, record: Any) -> Loss:
        dim = record["dim"]
        if not isinstance(dim, int) or not 1 <= dim <= 1000:
            raise Refused("the loss has no dimension")
        H, b, c = symmetric(record["H"], dim), exacts(record["b"], dim), exact(record["c"])
        terms = []
        for group in record["groups"]:
            parts = zip(group["rows"], group["offsets"], group["weights"], strict=True)
            for rows, offsets, weight in parts:
                matrix = exacts(rows, len(rows), dim)
                terms.append(Term(group["tree"], exact(weight), matrix, exacts(offsets, len(rows))))
        if any(term.weight < 0 for term in terms):
            raise Refused("a term has a negative weight")
        return cls(dim, Quadratic(fmpq_mat(dim, 1), c, b, H / 2), terms)

    def value(self, theta: fmpq_mat) -> arb:
        """l at an exact point; predictors are exact, so that a jump is on the right side."""
        total = arb(self.polynomial.value(theta))
        for term in self.terms:
            z = term.rows * theta + term.offsets
            variables = [_variable(arb(x), arb(x), arb_mat(0, 1)) for x in z.entries()]
            total += term.weight * value_at(term.tree, variables)
        return total


@dataclass(frozen=True)
class Anchor:
    """A point u where Taylor's theorem is used; ``tilts``: slopes at steps; ``spread``: see `parabola_above`."""

    point: arb_mat
    tilts: tuple[arb, ...] = ()
    spread: arb | None = None

    @classmethod
    def read(cls, record: Any, dim: int) -> Anchor:
        tilts = tuple(ball(text) for text in record.get("tilts", []))
        return cls(arb_mat(exacts(record["point"], dim)), tilts, ball(record.get("spread", "0")))


class Excess:
    """l - Q in coordinates u: theta = origin + basis u."""

    def __init__(self, loss: Loss, quadratic: Quadratic, origin: fmpq_mat, basis: fmpq_mat) -> None:
        if basis.det() == 0:
            raise Refused("the basis of the proof's coordinates is singular")
        self.dim = loss.dim
        l, q = loss.polynomial, quadratic
        slope = l.slope + 2 * (l.curvature * origin) - q.slope - 2 * (q.curvature * (origin - q.center))
        self.value = arb(l.value(origin) - q.value(origin))
        self.slope = arb_mat(basis.transpose() * slope)
        self.bent = arb_mat(basis.transpose() * (l.curvature - q.curvature) * basis * 2)
        self.terms = [
            (term.tree, arb(term.weight), arb_mat(term.rows * basis), arb_mat(term.rows * origin + term.offsets))
            for term in loss.terms
        ]

    def above(self, anchor: Anchor, center: arb_mat, half: arb_mat) -> tuple[arb, arb_mat, arb_mat]:
        """(v, s, K): v + s.d + d^T K d / 2, d = u - center, lies above l - Q on the box |d| <= half.

        This is Taylor's theorem at the anchor, with the Hessian on the hull of that point and the box.
        """
        at, spread, slopes = anchor.point, anchor.spread, iter(anchor.tilts)
        box = [c + arb(0, 1) * h for c, h in zip(center.entries(), half.entries(), strict=True)]
        hull = arb_mat(self.dim, 1, [x.union(a) for x, a in zip(box, at.entries(), strict=True)])
        value, slope, bent = self.value, self.slope + self.bent * at, self.bent
        value += (at.transpose() * (self.slope + slope))[0, 0] / 2
        for tree, weight, rows, start in self.terms:
            places = zip((rows * at + start).entries(), (rows * hull + start).entries(), rows.table(), strict=True)
            variables = [_variable(near, wide, arb_mat(self.dim, 1, row)) for near, wide, row in places]
            tilt = next(slopes, _ZERO) if tree[0] == "step" else _ZERO
            found = jet_above(tree, variables, spread, tilt)
            value, slope, bent = value + weight * found.value, slope + weight * found.slope, bent + weight * found.bend
        bent = _upper(bent)
        shift = center - at
        turn = bent * shift
        return value + (shift.transpose() * (slope + turn / 2))[0, 0], slope + turn, bent

    def everywhere(self) -> tuple[arb, arb, arb_mat]:
        """(a, b, K): l - Q <= a + b |u| + u^T K u / 2 for all u.

        The size of a term is at most a polynomial in |z - z0|, z0 its argument at u = 0, of degree two at most; and
        |z - z0| = |rows u| is at most |rows| |u|, which is used for the part of degree one.
        """
        constant, linear, bent = self.value, (self.slope.transpose() * self.slope)[0, 0].sqrt(), self.bent
        for tree, weight, rows, start in self.terms:
            growth = sized(tree, start.entries())
            if growth.degree() > 2:
                raise Refused("the loss may grow faster than a quadratic")
            length = sum((x * x for x in rows.entries()), arb(0)).sqrt()
            constant, linear = constant + weight * growth[0], linear + weight * growth[1] * length
            bent += 2 * weight * growth[2] * (rows.transpose() * rows)
        return constant, linear, bent


def _upper(matrix: arb_mat) -> arb_mat:
    """A matrix of exact numbers that dominates every symmetric matrix in this interval matrix (Gershgorin)."""
    n = range(matrix.nrows())
    middle = [[((matrix[i, j] + matrix[j, i]) / 2).mid() for j in n] for i in n]
    for i in n:
        rest = sum(((matrix[i, j] - middle[i][j]).abs_upper() for j in n if j != i), arb(0))
        middle[i][i] = (matrix[i, i] + rest).upper()
    return arb_mat(middle)


def _variable(near: arb, wide: arb, axis: arb_mat) -> Jet:
    return Jet(near, axis, arb_mat(axis.nrows(), axis.nrows()), lambda: (wide, axis))


_ZERO = arb(0)
