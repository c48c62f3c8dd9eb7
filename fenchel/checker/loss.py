"""A loss as a certificate writes it, and what is proved about l - Q for a quadratic Q: on boxes, and everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

from flint import arb, arb_mat, fmpq, fmpq_mat

from fenchel.checker.expressions import sized, terms_above
from fenchel.checker.numbers import Refused, ball, exact, exacts, symmetric

Bound = tuple[arb, arb_mat, arb_mat]
"""(v, s, K): v + s.d + d^T K d / 2 on a box, d = u - center."""
OnBox = Callable[[arb_mat, arb_mat], Bound]


class Quadratic(NamedTuple):
    """Q(theta) = constant + slope.d + d^T curvature d, d = theta - center."""

    center: fmpq_mat
    constant: fmpq
    slope: fmpq_mat
    curvature: fmpq_mat

    def value(self, theta: fmpq_mat) -> fmpq:
        d = theta - self.center
        return self.constant + (d.transpose() * (self.slope + self.curvature * d))[0, 0]


class Group(NamedTuple):
    """Terms weight * f(z), f an expression in the entries of z; rows[k] theta + offsets[k] holds z_k of every term."""

    tree: Any
    weights: list[Any]
    rows: list[Any]
    offsets: list[Any]

    @classmethod
    def read(cls, record: Any, dim: int) -> Group:
        size = len(record["weights"])
        weights = exacts(record["weights"], size).entries()
        if any(weight < 0 for weight in weights):
            raise Refused("a term has a negative weight")
        rows = [exacts(list(lines), size, dim) for lines in zip(*record["rows"], strict=True)]
        return cls(record["tree"], weights, rows, [exacts(list(x), size) for x in zip(*record["offsets"], strict=True)])

    def framed(self, origin: fmpq_mat, basis: fmpq_mat) -> Group:
        """The same in balls, and in coordinates u: theta = origin + basis u."""
        offsets = [arb_mat(r * origin + o) for r, o in zip(self.rows, self.offsets, strict=True)]
        return Group(self.tree, [arb(w) for w in self.weights], [arb_mat(r * basis) for r in self.rows], offsets)

    def places(self, point: Any) -> list[tuple[Any, ...]]:
        """The variables of every term."""
        columns = [(r * point + o).entries() for r, o in zip(self.rows, self.offsets, strict=True)]
        return list(zip(*columns, strict=True))


class Loss(NamedTuple):
    """theta^T H theta / 2 + b.theta + c plus terms."""

    dim: int
    polynomial: Quadratic
    groups: list[Group]

    @classmethod
    def read(cls, record: Any) -> Loss:
        dim = record["dim"]
        if not isinstance(dim, int) or not 1 <= dim <= 1000:
            raise Refused("the loss has no dimension")
        H, b, c = symmetric(record["H"], dim), exacts(record["b"], dim), exact(record["c"])
        groups = [Group.read(group, dim) for group in record["groups"] if group["weights"]]
        return cls(dim, Quadratic(fmpq_mat(dim, 1), c, b, H / 2), groups)

    def value(self, theta: fmpq_mat) -> arb:
        """l at an exact point; predictors are exact, so that a jump is on the right side."""
        total = arb(self.polynomial.value(theta))
        for group in self.groups:
            places = [[arb(x) for x in z] for z in group.places(theta)]
            found = terms_above(group.tree, places, _ZERO, [-arb(1)] * len(places))(places)  # which touches there
            total += sum((weight * v for weight, (v, *_) in zip(group.weights, found, strict=True)), _ZERO)
        return total


def anchor(record: Any, dim: int) -> tuple[arb_mat, list[arb], arb]:
    """The point, the tilts and the spread for `Excess.above`."""
    tilts = [ball(text) for text in record.get("tilts", [])]
    return arb_mat(exacts(record["point"], dim)), tilts, ball(record.get("spread", "0"))


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
        self.groups = [group.framed(origin, basis) for group in loss.groups]

    def above(self, at: arb_mat, tilts: Sequence[arb] = (), spread: arb | None = None) -> OnBox:
        """From center and half of a box to (v, s, K): v + s.d + d^T K d / 2, d = u - center, lies above l - Q on it.

        This is Taylor's theorem at the point u = ``at``, for every term in its own variables, with ``tilts`` for the
        terms that jump, one after the other; see `parabola_above`.
        """
        own, slopes, known = self.slope + self.bent * at, iter(tilts), []
        start = self.value + (at.transpose() * (self.slope + own))[0, 0] / 2
        for group in self.groups:
            near = group.places(at)
            chosen = [next(slopes, _ZERO) if group.tree[0] == "step" else _ZERO for _ in near]
            known.append(terms_above(group.tree, near, spread, chosen))

        def on_box(center: arb_mat, half: arb_mat) -> Bound:
            box = center + arb_mat([[_UNIT * h] for h in half.entries()])
            value, slope, bent = start, own, self.bent
            for group, terms in zip(self.groups, known, strict=True):
                columns = zip(*terms(group.places(box)), strict=True)
                values, *found = ([w * x for w, x in zip(group.weights, column, strict=True)] for column in columns)
                value = sum(values, value)
                for rows, pull in zip(group.rows, found, strict=False):
                    slope = slope + rows.transpose() * arb_mat([[x] for x in pull])
                for (rows, others), bends in zip(product(group.rows, repeat=2), found[len(group.rows) :], strict=True):
                    bent = bent + rows.transpose() * _scaled(bends, others)
            if not all(x.is_finite() for x in (value, *slope.entries(), *bent.entries())):
                raise Refused("the loss is not finite on a box")
            shift = center - at
            turn = bent * shift
            return value + (shift.transpose() * (slope + turn / 2))[0, 0], slope + turn, bent

        return on_box

    def everywhere(self) -> tuple[arb, arb, arb_mat]:
        """(a, b, K): l - Q <= a + b |u| + u^T K u / 2 for all u.

        The size of a term is at most a polynomial in |z - z0|, z0 its argument at u = 0, of degree two at most; and
        |z - z0| = |rows u| is at most |rows| |u|, which is used for the part of degree one.
        """
        constant, linear, bent = self.value, (self.slope.transpose() * self.slope)[0, 0].sqrt(), self.bent
        for group in self.groups:
            growth = [sized(group.tree, z) for z in group.places(arb_mat(self.dim, 1))]
            if any(size.degree() > 2 for size in growth):
                raise Refused("the loss may grow faster than a quadratic")
            terms = zip(growth, group.weights, *(rows.table() for rows in group.rows), strict=True)
            for size, weight, *lines in terms:
                length = sum((x * x for line in lines for x in line), _ZERO).sqrt()
                constant += weight * size[0]
                linear += weight * size[1] * length
            bends = [2 * weight * size[2] for size, weight in zip(growth, group.weights, strict=True)]
            for rows in group.rows:
                bent = bent + rows.transpose() * _scaled(bends, rows)
        return constant, linear, bent


def _scaled(factors: list[arb], rows: arb_mat) -> arb_mat:
    """diag(factors) rows."""
    return arb_mat([[c * x for x in row] for c, row in zip(factors, rows.table(), strict=True)])


_ZERO, _UNIT = arb(0), arb(0, 1)
