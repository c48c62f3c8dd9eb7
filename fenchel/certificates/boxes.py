"""Finding the tree of boxes that proves a quadratic to lie above a loss. Every step is tried with the checker's own
arithmetic, so that what is found is what will be accepted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from flint import arb, arb_mat

from fenchel.arrays import Array
from fenchel.certificates.multipliers import floats, pulls
from fenchel.checker.cover import confined, height, middle, outside, with_multipliers
from fenchel.checker.loss import Bound, Excess, anchor
from fenchel.checker.numbers import Refused
from fenchel.errors import CertificateError
from fenchel.losses.exact_text import hexes

_SPREADS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e6)
_NEAREST = 1


class Open(Exception):
    """A small box far from every anchor is not closed: there may be a contact that is not known yet."""

    def __init__(self, point: Array) -> None:
        super().__init__("a small box is not closed")
        self.point = point


@dataclass
class Problem:
    """l - Q, which is to be nowhere positive (with ``sphere``: on the unit ball); its anchors, and slopes at jumps."""

    excess: Excess
    anchors: Array
    records: list[dict[str, Any]]
    sphere: bool = False
    core: tuple[Array, Array] | None = None
    """A box outside of which the last of ``records`` proves everything."""

    def __post_init__(self) -> None:
        self.bounds = [self.excess.above(*anchor(record, self.excess.dim)) for record in self.records]

    def above(self, which: int, center: arb_mat, half: arb_mat) -> Bound:
        """See `Excess.above`; -1 is the center."""
        return (self.excess.above(center) if which == -1 else self.bounds[which])(center, half)


@dataclass
class Tree:
    """The region outside of which nothing is left to prove, and the boxes inside, as the checker reads them."""

    root: dict[str, Any]
    nodes: list[Any]


def grow(problem: Problem, *, small: float, max_boxes: int, max_seconds: float) -> Tree:
    """A tree that closes.

    A box of half width ``small`` (in units of the majorant's curvature) that is not closed may be near a contact.

    Raises:
        CertificateError: a box cannot be closed, or a limit is reached.
        Open: another anchor may be needed.
    """
    anchors = problem.anchors
    root, radius = ({}, 1.0) if problem.sphere else _confine(problem.excess)
    lo, hi = np.full(problem.excess.dim, -radius), np.full(problem.excess.dim, radius)
    if not problem.sphere:
        _narrow(problem, radius)
    deadline = time.perf_counter() + max_seconds
    nodes: list[Any] = []
    stack, boxes = [(lo, hi)], 0
    while stack:
        lo, hi = stack.pop()
        boxes += 1
        if boxes > max_boxes or time.perf_counter() > deadline:
            raise CertificateError(f"no proof was found within {boxes - 1} boxes and {max_seconds:g} seconds")
        leaf, axis = _close(problem, lo, hi)
        if leaf is not None:
            nodes.append(leaf)
            continue
        half = 0.5 * (hi - lo)
        known = (np.abs(anchors - 0.5 * (lo + hi)) < 4.0 * half.max()).all(axis=1).any()
        if half.max() < small and not known and _reaches(problem, lo, hi):
            raise Open(0.5 * (lo + hi))
        faces = [] if problem.core is None else [(j, end[j]) for end in problem.core for j in range(lo.size)]
        faces = [(j, face) for j, face in faces if lo[j] < face < hi[j]]
        axis, cut = faces[0] if faces else (axis, _cut(lo[axis], hi[axis], anchors[:, axis]))
        if not lo[axis] < cut < hi[axis]:
            raise CertificateError("a box too small to be cut is not closed: the majorant does not lie above the loss")
        nodes.append([axis, hexes(cut)])
        above, below = lo.copy(), hi.copy()
        above[axis], below[axis] = cut, cut
        stack += [(above, hi), (lo, below)]
    return Tree(root, nodes)


def _confine(excess: Excess) -> tuple[dict[str, Any], float]:
    """The radius beyond which l - Q is not positive, because of what is known of its growth."""
    constant, linear, bent = excess.everywhere()
    _, _, matrix = floats((constant, excess.slope, bent))
    bend = -float(np.linalg.eigvalsh(matrix)[-1]) * (1.0 - 1e-9)
    a, b = float(constant), float(linear)
    if not (bend > 0.0 and np.isfinite([a, b]).all()):
        raise CertificateError("no quadratic was found that confines the proof")
    radius = max(1e-9, (b + np.sqrt(max(0.0, b * b + 2.0 * bend * a))) / bend) * (1.0 + 1e-6)
    if not confined(excess, arb(radius), arb(bend)):
        raise CertificateError("no quadratic was found that confines the proof")
    return {"radius": hexes(radius), "bend": hexes(bend)}, float(radius)


def _narrow(problem: Problem, radius: float) -> None:
    """Find a quadratic above l - Q, by an anchor and a spread, that is positive in a small region only: the core."""
    dim = problem.excess.dim
    center, half = arb_mat(dim, 1), arb_mat(dim, 1, [arb(radius)] * dim)
    best: tuple[int, float, Array, Array] | None = None
    least = np.inf
    for (which, record), spread in product(enumerate(problem.records), _SPREADS):
        point, tilts, _ = anchor(record, dim)
        try:
            found = problem.excess.above(point, tilts, arb(spread))(center, half)
        except Refused:
            continue
        value, slope, matrix = floats(found)
        if not (np.isfinite(value) and np.isfinite(matrix).all() and np.linalg.eigvalsh(matrix)[-1] < 0.0):
            continue
        inverse = np.linalg.inv(-matrix)
        peak = inverse @ slope
        top = max(0.0, value + 0.5 * float(slope @ peak))
        reach = np.sqrt(2.0 * top * np.diag(inverse)) * (1.0 + 1e-6) + 1e-6
        size = float(np.log(reach).sum())
        if size < least:
            least, best = size, (which, spread, peak - reach, peak + reach)
        if top == 0.0:
            break
    if best is None:
        return
    which, spread, lo, hi = best
    problem.records.append(problem.records[which] | {"spread": hexes(spread)})
    problem.bounds.append(problem.excess.above(*anchor(problem.records[-1], dim)))
    problem.core = lo, hi


def _reaches(problem: Problem, lo: Array, hi: Array) -> bool:
    """l - Q is so near to 0 at the center that there may be a contact in or near the box."""
    center, half = middle([arb(x) for x in lo], [arb(x) for x in hi])
    try:
        value, slope, _ = floats(problem.above(-1, center, half))
    except Refused:
        return True
    return value + float(np.abs(slope) @ (hi - lo)) + float(np.sum((hi - lo) ** 2)) > 0.0


def _close(problem: Problem, lo: Array, hi: Array) -> tuple[list[Any] | None, int]:
    """A leaf for the box, or None and the axis to cut."""
    center, half = middle([arb(x) for x in lo], [arb(x) for x in hi])
    if problem.sphere and outside(center, half):
        return [-1, -1, []], 0
    mid, width = 0.5 * (lo + hi), 0.5 * (hi - lo)
    distance = np.abs((problem.anchors - mid) / width).max(axis=1)
    order = [int(k) for k in np.argsort(distance)[:_NEAREST]]
    tries = order if order and distance[order[0]] <= 1.0 else [-1, *order]
    if tries[0] != -1:
        tries = [*tries, -1]
    if problem.core is not None and ((lo >= problem.core[1]) | (hi <= problem.core[0])).any():
        tries = [len(problem.bounds) - 1, *tries]
    elif problem.core is not None and ((lo < problem.core[0]) & (hi > problem.core[1])).any():
        tries = [len(problem.bounds) - 1]
    errors: Array | None = None
    for which in tries:
        try:
            found = problem.above(which, center, half)
        except Refused:
            continue
        leaf, bend = _settle(problem, found, which, center, half)
        if leaf is not None:
            return leaf, 0
        if errors is None and bend is not None:
            errors = bend
    if errors is None or not np.isfinite(errors).all():
        errors = np.ones(mid.size)
    # The bounds also lose by the box alone: an axis without error of its own is cut once it is much the longest.
    return None, int(np.argmax((errors + 0.1) * width * width))


def _settle(
    problem: Problem, found: Any, which: int, center: arb_mat, half: arb_mat
) -> tuple[list[Any] | None, Array | None]:
    """The leaf with the best multipliers, or None and how much curvature the bound adds along each axis."""
    if problem.sphere:
        return _settle_in_ball(found, which, center, half)
    value, slope, matrix = floats(found)
    h = np.array([float(x) for x in half.entries()])
    for pull in pulls(value, h * slope, h[:, None] * matrix * h):
        top = height(found, half, [arb(x) for x in pull])
        if top <= 0:
            return [-1, which, hexes(pull)], None
    own = np.array([float(problem.excess.bent[j, j]) for j in range(h.size)])
    return None, np.maximum(np.diag(matrix) - own, 0.0)


def _settle_in_ball(found: Any, which: int, center: arb_mat, half: arb_mat) -> tuple[list[Any] | None, Array | None]:
    """Multipliers of the sphere from the slope at the box: nu, and beta along the outward normal."""
    mid = np.array([float(x) for x in center.entries()])
    _, slope, matrix = floats(found)
    norm = float(np.linalg.norm(mid))
    normal = mid / norm if norm > 0.0 else np.zeros(mid.size)
    outward = max(0.0, float(slope @ mid))
    bend = max(0.0, float(np.linalg.eigvalsh(matrix)[-1]))
    h = np.array([float(x) for x in half.entries()])
    for nu in dict.fromkeys((0.0, outward, 0.9 * outward, 0.5 * outward)):
        for beta in dict.fromkeys((0.0, 1.1 * max(0.0, bend - nu), 2.0 * bend)):
            rest = [hexes(nu), hexes(beta), hexes(normal)]
            trial = with_multipliers(found, rest, center, half)
            v, s, k = floats(trial)
            for pull in pulls(v, h * s, h[:, None] * k * h):
                top = height(trial, half, [arb(x) for x in pull])
                if top <= 0:
                    return [-1, which, hexes(pull), *rest], None
    return None, np.ones(mid.size)


def _cut(lo: float, hi: float, known: Array) -> float:
    """The middle, or off it where an anchor is near: a contact is to lie inside one box."""
    cut = 0.5 * (lo + hi)
    near = known[np.abs(known - cut) < 0.1 * (hi - lo)]
    if near.size:
        cut = lo + (0.3 if near[0] > cut else 0.7) * (hi - lo)
    return float(cut)
