"""A loss is nowhere above a quadratic: proved on every box of a tree, and by growth outside of the first box."""

from __future__ import annotations

from typing import Any

from flint import arb, arb_mat

from fenchel.checker.loss import Bound, Excess, anchor
from fenchel.checker.numbers import Refused, ball, exacts, identity, inverse_form, positive


def nowhere_positive(excess: Excess, proof: Any, *, sphere: bool = False) -> int:
    """Check that l - Q <= 0 for all u, or with ``sphere`` for |u| <= 1; the number of boxes.

    Raises:
        Refused: a box is not closed, or the region outside of the first box is not.
    """
    dim = excess.dim
    anchors = [excess.above(*anchor(entry, dim)) for entry in proof["anchors"]]
    radius = arb(1) if sphere else ball(proof["root"]["radius"])
    if not sphere and not confined(excess, radius, ball(proof["root"]["bend"])):
        raise Refused("l - Q may be positive outside the first box")
    boxes, stack, nodes = 0, [([-radius] * dim, [radius] * dim)], iter(proof["tree"])
    while stack:
        lo, hi = stack.pop()
        node: list[Any] = next(nodes, [None, None])
        axis, number, *rest = node
        if axis in range(dim):
            cut = ball(number)
            if not (lo[axis] <= cut and cut <= hi[axis]):
                raise Refused("a box is cut outside itself")
            stack.append(([*lo[:axis], cut, *lo[axis + 1 :]], hi))
            stack.append((lo, [*hi[:axis], cut, *hi[axis + 1 :]]))
            continue
        boxes += 1
        center, half = middle(lo, hi)
        if sphere and outside(center, half):
            continue
        if number not in range(-1, len(anchors)):
            raise Refused("the tree of boxes ends too early, or names an anchor that is not there")
        found = (excess.above(center) if number == -1 else anchors[number])(center, half)
        if sphere:
            found = with_multipliers(found, rest[1:], center, half)
        if not height(found, half, [ball(text) for text in rest[0]]) <= 0:
            raise Refused(f"box {boxes} of the proof is not closed")
    if next(nodes, None) is not None:
        raise Refused("the tree of boxes holds more than its boxes")
    return boxes


def confined(excess: Excess, radius: arb, bend: arb) -> bool:
    """l - Q <= 0 for |u| >= radius: there a + b r - bend r^2 / 2, r = |u|, is not positive and does not increase."""
    constant, linear, bent = excess.everywhere()
    concave = positive(-bent - bend * arb_mat(identity(excess.dim))) and radius > 0
    return bool(concave and linear <= bend * radius and constant + (linear - bend * radius / 2) * radius <= 0)


def middle(lo: list[arb], hi: list[arb]) -> tuple[arb_mat, arb_mat]:
    """Center and half widths (rounded up) of a box."""
    center = [((a + b) / 2).mid() for a, b in zip(lo, hi, strict=True)]
    half = [[(c - a).max(b - c).upper()] for a, b, c in zip(lo, hi, center, strict=True)]
    return arb_mat([[c] for c in center]), arb_mat(half)


def outside(center: arb_mat, half: arb_mat) -> bool:
    """The box does not meet the unit ball."""
    pairs = zip(center.entries(), half.entries(), strict=True)
    return bool(sum(((abs(c) - h).max(arb(0)) ** 2 for c, h in pairs), arb(0)) > 1)


def height(bound: Bound, half: arb_mat, pulls: list[arb]) -> arb:
    """At least v + s.d + d^T K d / 2 on |d| <= half: its supremum with sum_i pull_i (1 - y_i^2) / 2 added, y = d/half.

    Infinite where the sum is not concave.
    """
    value, slope, matrix = bound
    n, h = range(half.nrows()), half.entries()
    if not all(pull >= 0 for pull in pulls):
        raise Refused("a multiplier is negative")
    bowl = arb_mat([[pulls[i] * int(i == j) - h[i] * h[j] * matrix[i, j] for j in n] for i in n])
    tilt = arb_mat([[h[i] * slope[i, 0]] for i in n])
    return value + (sum(pulls, arb(0)) + inverse_form(bowl, tilt)) / 2


def with_multipliers(bound: Bound, rest: Any, center: arb_mat, half: arb_mat) -> Bound:
    """Plus nu (1 - |u|^2) / 2 and beta t (T - t) / 2, both >= 0 in the ball on this box, t = |n| - n.u in [0, T]."""
    value, slope, matrix = bound
    nu, beta, normal = ball(rest[0]), ball(rest[1]), arb_mat(exacts(rest[2], center.nrows()))
    if not (nu >= 0 and beta >= 0):
        raise Refused("a multiplier is negative")
    length = (normal.transpose() * normal)[0, 0].sqrt().upper()
    t = length - (normal.transpose() * center)[0, 0]
    most = (t + sum((abs(n) * h for n, h in zip(normal.entries(), half.entries(), strict=True)), arb(0))).upper()
    value += nu * (1 - (center.transpose() * center)[0, 0]) / 2 + beta * t * (most - t) / 2
    slope += -nu * center - beta * (most / 2 - t) * normal
    return value, slope, matrix - nu * arb_mat(identity(center.nrows())) - beta * (normal * normal.transpose())
