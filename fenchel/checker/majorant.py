"""A loss minus a quadratic is nowhere positive: proved by a tree of boxes, each closed by a quadratic above it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flint import arb, arb_mat, fmpq

from fenchel.checker.expressions import Remainder
from fenchel.checker.numbers import Refused, ball, balls, column, exacts, identity, positive, solved
from fenchel.checker.terms import Group, Terms

__all__ = ["Excess", "Loss", "nowhere_positive"]

Quadratic = tuple[arb, arb_mat, arb_mat]


@dataclass
class Loss:
    """theta^T H theta / 2 + b.theta + c plus sums of terms, or the remainder of an expression."""

    dim: int
    H: list[list[fmpq]]
    b: list[fmpq]
    c: fmpq
    groups: list[Group]
    remainder: Remainder | None = None

    @classmethod
    def read(cls, record: Any) -> Loss:
        kind, dim = record.get("kind"), record.get("dim")
        if not isinstance(dim, int) or not 1 <= dim <= 1000:
            raise Refused("the loss has no dimension")
        if kind not in ("linear-predictors", "expression"):
            raise Refused(f"a loss given as {kind!r} cannot be checked; give it as an expression")
        H = exacts(record.get("H"), dim, dim)
        if any(H[i][j] != H[j][i] for i in range(dim) for j in range(i)):
            raise Refused("H is not symmetric")
        b, c = exacts(record.get("b"), dim), exacts([record.get("c")], 1)[0]
        if kind == "expression":
            return cls(dim, H, b, c, [], Remainder(record.get("remainder"), dim))
        return cls(dim, H, b, c, [Group.read(group, dim) for group in record.get("groups", [])])

    def value(self, theta: list[fmpq]) -> arb:
        """l at an exact point."""
        total = self.c
        for i, t in enumerate(theta):
            total += t * (self.b[i] + sum((self.H[i][j] * s for j, s in enumerate(theta)), fmpq(0)) / 2)
        value = arb(total)
        for group in self.groups:
            value += group.value(theta)
        return value if self.remainder is None else value + self.remainder.value(theta)


class Excess:
    """l - Q, Q = u + v.(theta - center) + (theta - center)^T w (theta - center), in u: theta = origin + basis u.

    In ``sphere`` mode only |u| <= 1 counts.
    """

    def __init__(self, loss: Loss, quadratic: Any, origin: Any, basis: Any, *, sphere: bool = False) -> None:
        n = range(loss.dim)
        self.dim, self.sphere, self.axes = loss.dim, sphere, basis
        center, u, v, w = quadratic
        turned = [sum((w[i][j] * center[j] for j in n), fmpq(0)) for i in n]
        constant = loss.c - u + sum((center[i] * (v[i] - turned[i]) for i in n), fmpq(0))
        linear = column([arb(loss.b[i] - v[i] + 2 * turned[i]) for i in n])
        bent = arb_mat(loss.dim, loss.dim, [arb(loss.H[i][j] - 2 * w[i][j]) for i in n for j in n])
        start, axes = balls(origin, loss.dim), balls(basis, loss.dim, loss.dim)
        if axes.det().contains(0):
            raise Refused("the basis of the proof's coordinates is singular")
        self.own: Quadratic = (
            arb(constant) + (start.transpose() * (linear + bent * start / 2))[0, 0],
            axes.transpose() * (linear + bent * start),
            axes.transpose() * bent * axes,
        )
        self.terms: Any = Terms(loss.groups, start, axes)
        if loss.remainder is not None:
            self.terms = loss.remainder.framed(start, axes)
        self.anchors: list[Any] = []
        self.jumps: list[list[arb]] = []

    def add(self, record: Any) -> None:
        """One more anchor, with the slopes that it gives to jumps."""
        self.anchors.append(self.terms.anchor(balls(record.get("point"), self.dim)))
        self.jumps.append([ball(text) for text in record.get("jumps", [])])

    def pick(self, which: Any) -> Any:
        if not isinstance(which, int) or not 0 <= which < len(self.anchors):
            raise Refused("the proof names an anchor that it does not hold")
        return self.anchors[which]

    def above(self, which: Any, center: arb_mat, half: arb_mat) -> Quadratic:
        """(v, s, K): v + s.d + d^T K d / 2, d = u - center, is at least l - Q on the box; anchor -1 is its center."""
        at = self.terms.anchor(center) if which == -1 else self.pick(which)
        jumps = [] if which == -1 else self.jumps[which]
        value, slope, matrix = self.terms.above(at, center, half, jumps, chords=which == -1)
        turn = self.own[2] * center
        value += self.own[0] + (center.transpose() * (self.own[1] + turn / 2))[0, 0]
        return value, slope + self.own[1] + turn, matrix + self.own[2]

    def everywhere(self, which: Any, spread: arb) -> Quadratic:
        """(k, l, K): k + l.u + u^T K u / 2 is at least l - Q for all u."""
        parts = self.terms.everywhere(self.pick(which), spread)
        return parts[0] + self.own[0], parts[1] + self.own[1], parts[2] + self.own[2]


def nowhere_positive(loss: Loss, quadratic: Any, proof: Any, *, sphere: bool = False) -> int:
    """Check that the loss is nowhere above the quadratic (center, u, v, w); the number of boxes.

    Raises:
        Refused: a box is not closed, or the region outside the last box is not.
    """
    excess = Excess(loss, quadratic, proof.get("origin"), proof.get("basis"), sphere=sphere)
    for record in proof.get("anchors", []):
        excess.add(record)
    dim = loss.dim
    lo, hi = ([arb(-1)] * dim, [arb(1)] * dim) if sphere else _confined(excess, proof.get("root", {}))
    if not lo:
        return 0
    boxes, stack, nodes = 0, [(lo, hi)], iter(proof.get("tree", []))
    while stack:
        lo, hi = stack.pop()
        node = next(nodes, None)
        if not isinstance(node, list) or len(node) < 2:
            raise Refused("the tree of boxes ends too early")
        axis = node[0]
        if isinstance(axis, int) and 0 <= axis < dim:
            cut = ball(node[1])
            if not (lo[axis] <= cut and cut <= hi[axis]):
                raise Refused("a box is cut outside itself")
            stack.append(([*lo[:axis], cut, *lo[axis + 1 :]], hi))
            stack.append((lo, [*hi[:axis], cut, *hi[axis + 1 :]]))
            continue
        boxes += 1
        center, half = middle(lo, hi)
        if sphere and outside(center, half):
            continue
        found = excess.above(node[1], center, half)
        if sphere:
            found = with_multipliers(found, node[3:], center, half)
        top = height(found, half, ball(node[2]))
        if top is None or not top <= 0:
            raise Refused(f"box {boxes} of the proof is not closed")
    if next(nodes, None) is not None:
        raise Refused("the tree of boxes holds more than its boxes")
    return boxes


def middle(lo: list[arb], hi: list[arb]) -> tuple[arb_mat, arb_mat]:
    """Center and half widths (rounded up) of a box."""
    center = column([(a + b) / 2 for a, b in zip(lo, hi, strict=True)])
    return center, column([((b - a) / 2).upper() for a, b in zip(lo, hi, strict=True)])


def outside(center: arb_mat, half: arb_mat) -> bool:
    """The box does not meet the unit ball."""
    pairs = zip(center.entries(), half.entries(), strict=True)
    return bool(sum(((abs(c) - h).max(arb(0)) ** 2 for c, h in pairs), arb(0)) > 1)


def height(quadratic: Quadratic, half: arb_mat, pull: arb) -> arb | None:
    """An upper bound of v + s.d + d^T K d / 2 on |d| <= half, by adding pull (dim - |y|^2) / 2 >= 0, y = d / half.

    None where the sum is not concave.
    """
    value, slope, matrix = quadratic
    dim, h = half.nrows(), half.entries()
    if not pull >= 0:
        raise Refused("a multiplier is negative")
    n = range(dim)
    bowl = arb_mat(dim, dim, [pull * int(i == j) - h[i] * h[j] * matrix[i, j] for i in n for j in n])
    if not positive(bowl):
        return None
    tilt = column([a * b for a, b in zip(h, slope.entries(), strict=True)])
    return value + pull * dim / 2 + (tilt.transpose() * solved(bowl, tilt))[0, 0] / 2


def with_multipliers(quadratic: Quadratic, rest: Any, center: arb_mat, half: arb_mat) -> Quadratic:
    """Plus nu (1 - |u|^2) / 2 and beta t (T - t) / 2, both >= 0 in the ball on this box, t = |n| - n.u in [0, T]."""
    dim = center.nrows()
    value, slope, matrix = quadratic
    nu, beta, normal = ball(rest[0]), ball(rest[1]), balls(rest[2], dim)
    if not (nu >= 0 and beta >= 0):
        raise Refused("a multiplier is negative")
    length = (normal.transpose() * normal)[0, 0].sqrt().upper()
    t = length - (normal.transpose() * center)[0, 0]
    most = (t + sum((abs(n) * h for n, h in zip(normal.entries(), half.entries(), strict=True)), arb(0))).upper()
    value += nu * (1 - (center.transpose() * center)[0, 0]) / 2 + beta * t * (most - t) / 2
    slope += -nu * center - beta * (most / 2 - t) * normal
    return value, slope, matrix - nu * identity(dim) - beta * (normal * normal.transpose())


def summit(quadratic: Quadratic) -> tuple[arb, arb_mat, arb_mat]:
    """(top, peak, inverse) of a concave quadratic: its maximum, where it is, and the inverse of -K."""
    value, slope, matrix = quadratic
    if not positive(-matrix):
        raise Refused("the quadratic that confines the proof is not concave")
    inverse = solved(-matrix, identity(matrix.nrows()))
    peak = inverse * slope
    return value + (slope.transpose() * peak)[0, 0] / 2, peak, inverse


def _confined(excess: Excess, root: Any) -> tuple[list[arb], list[arb]]:
    """The box outside of which a quadratic above l - Q everywhere is not positive; empty lists where it never is."""
    top, peak, inverse = summit(excess.everywhere(root.get("anchor"), ball(root.get("spread"))))
    if top <= 0:
        return [], []
    lo, hi = (balls(root.get(end), excess.dim).entries() for end in ("lo", "hi"))
    for j in range(excess.dim):
        for room in (hi[j] - peak[j, 0], peak[j, 0] - lo[j]):
            if not (room > 0 and room * room >= 2 * top * inverse[j, j]):
                raise Refused("l - Q may be positive outside the last box")
    return lo, hi
