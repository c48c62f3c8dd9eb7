"""Finding the tree of boxes that proves a quadratic to lie above a loss. Every step is tried with the checker's own
arithmetic, so that what is found is what will be accepted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb, arb_mat
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from fenchel.checker.majorant import Excess, height, middle, outside, summit, with_multipliers
from fenchel.checker.numbers import Refused
from fenchel.errors import CertificateError
from fenchel.losses.exact_text import hexes

__all__ = ["Open", "Tree", "grow"]

Array = NDArray[np.float64]
_SPREADS = (0.0, 1e-3, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e6)
_NEAREST = 3


class Open(Exception):
    """A small box far from every anchor is not closed: there may be a contact that is not known yet."""

    def __init__(self, point: Array) -> None:
        super().__init__("a small box is not closed")
        self.point = point


@dataclass
class Tree:
    """The region outside of which nothing is left to prove, and the boxes inside, as the checker reads them."""

    root: dict[str, Any]
    nodes: list[Any]


def grow(excess: Excess, anchors: Array, *, small: float, max_boxes: int, max_seconds: float) -> Tree:
    """A tree that closes; anchors (K, D) are the points that ``excess`` has already, in its coordinates.

    A box of half width ``small`` (in units of the majorant's curvature) that is not closed may be near a contact.

    Raises:
        CertificateError: a box cannot be closed, or a limit is reached.
        Open: another anchor may be needed.
    """
    root: dict[str, Any] = {}
    if excess.sphere:
        lo, hi = -np.ones(excess.dim), np.ones(excess.dim)
    else:
        root, box = _confine(excess)
        if box is None:
            return Tree(root, [])
        lo, hi = box
    deadline = time.perf_counter() + max_seconds
    nodes: list[Any] = []
    stack, boxes = [(lo, hi)], 0
    while stack:
        lo, hi = stack.pop()
        boxes += 1
        if boxes > max_boxes or time.perf_counter() > deadline:
            raise CertificateError(f"no proof was found within {boxes - 1} boxes and {max_seconds:g} seconds")
        leaf, axis = _close(excess, anchors, lo, hi)
        if leaf is not None:
            nodes.append(leaf)
            continue
        half = 0.5 * (hi - lo)
        known = (np.abs(anchors - 0.5 * (lo + hi)) < 4.0 * half.max()).all(axis=1).any()
        if half.max() < small and not known and _reaches(excess, lo, hi):
            raise Open(0.5 * (lo + hi))
        cut = _cut(lo[axis], hi[axis], anchors[:, axis])
        if not lo[axis] < cut < hi[axis]:
            raise CertificateError("a box too small to be cut is not closed: the majorant does not lie above the loss")
        nodes.append([axis, hexes(cut)])
        above, below = lo.copy(), hi.copy()
        above[axis], below[axis] = cut, cut
        stack += [(above, hi), (lo, below)]
    return Tree(root, nodes)


def _confine(excess: Excess) -> tuple[dict[str, Any], tuple[Array, Array] | None]:
    """The global quadratic with the smallest box around the region where it is positive."""
    best: tuple[float, dict[str, Any], tuple[Array, Array] | None] | None = None
    for which in range(len(excess.anchors)):
        for spread in _SPREADS:
            try:
                top, peak, inverse = summit(excess.everywhere(which, arb(spread)))
            except (Refused, ZeroDivisionError):
                continue
            record = {"anchor": which, "spread": hexes(spread)}
            if top <= 0:
                return record, None
            reach = np.sqrt(2.0 * float(top.upper()) * np.array([float(inverse[j, j]) for j in range(excess.dim)]))
            reach = reach * (1.0 + 1e-6) + 1e-9 * (1.0 + np.abs([float(x) for x in peak.entries()]))
            center = np.array([float(x) for x in peak.entries()])
            size = float(np.log(reach).sum())
            if np.isfinite(size) and (best is None or size < best[0]):
                best = size, record, (center - reach, center + reach)
    if best is None:
        raise CertificateError("no quadratic was found that confines the proof")
    _, record, box = best
    assert box is not None
    return record | {"lo": hexes(box[0]), "hi": hexes(box[1])}, box


def _reaches(excess: Excess, lo: Array, hi: Array) -> bool:
    """l - Q is so near to 0 at the center that there may be a contact in or near the box."""
    center, half = middle([arb(x) for x in lo], [arb(x) for x in hi])
    try:
        value, slope, _ = _floats(excess.above(-1, center, half))
    except Refused:
        return True
    return value + float(np.abs(slope) @ (hi - lo)) + float(np.sum((hi - lo) ** 2)) > 0.0


def _close(excess: Excess, anchors: Array, lo: Array, hi: Array) -> tuple[list[Any] | None, int]:
    """A leaf for the box, or None and the axis to cut."""
    center, half = middle([arb(x) for x in lo], [arb(x) for x in hi])
    if excess.sphere and outside(center, half):
        return [-1, -1, hexes(0.0)], 0
    mid, width = 0.5 * (lo + hi), 0.5 * (hi - lo)
    distance = np.abs((anchors - mid) / width).max(axis=1)
    order = [int(k) for k in np.argsort(distance)[:_NEAREST]]
    tries = order if order and distance[order[0]] <= 1.0 else [-1, *order]
    if tries[0] != -1:
        tries = [*tries, -1]
    errors: Array | None = None
    for which in tries:
        try:
            found = excess.above(which, center, half)
        except Refused:
            continue
        leaf, bend = _settle(excess, found, which, center, half)
        if leaf is not None:
            return leaf, 0
        if errors is None and bend is not None:
            errors = bend
    if errors is None or not np.isfinite(errors).all():
        errors = np.ones(excess.dim)
    # The bounds also lose by the box alone: an axis without error of its own is cut once it is much the longest.
    return None, int(np.argmax((errors + 0.1) * width * width))


def _settle(
    excess: Excess, found: Any, which: int, center: arb_mat, half: arb_mat
) -> tuple[list[Any] | None, Array | None]:
    """The leaf with the best multipliers, or None and how much curvature the bound adds along each axis."""
    if excess.sphere:
        return _settle_in_ball(excess, found, which, center, half)
    value, slope, matrix = _floats(found)
    h = np.array([float(x) for x in half.entries()])
    for pull in _pulls(value, h * slope, h[:, None] * matrix * h):
        top = height(found, half, arb(pull))
        if top is not None and top <= 0:
            return [-1, which, hexes(pull)], None
    own = np.array([float(excess.own[2][j, j]) for j in range(h.size)])
    return None, np.maximum(np.diag(matrix) - own, 0.0)


def _settle_in_ball(
    excess: Excess, found: Any, which: int, center: arb_mat, half: arb_mat
) -> tuple[list[Any] | None, Array | None]:
    """Multipliers of the sphere from the slope at the box: nu, and beta along the outward normal."""
    mid = np.array([float(x) for x in center.entries()])
    _, slope, matrix = _floats(found)
    norm = float(np.linalg.norm(mid))
    normal = mid / norm if norm > 0.0 else np.zeros(mid.size)
    outward = max(0.0, float(slope @ mid))
    bend = max(0.0, float(np.linalg.eigvalsh(matrix)[-1]))
    h = np.array([float(x) for x in half.entries()])
    for nu in dict.fromkeys((0.0, outward, 0.9 * outward, 0.5 * outward)):
        for beta in dict.fromkeys((0.0, 1.1 * max(0.0, bend - nu), 2.0 * bend)):
            rest = [hexes(nu), hexes(beta), hexes(normal)]
            trial = with_multipliers(found, rest, center, half)
            v, s, k = _floats(trial)
            for pull in _pulls(v, h * s, h[:, None] * k * h):
                top = height(trial, half, arb(pull))
                if top is not None and top <= 0:
                    return [-1, which, hexes(pull), *rest], None
    return None, np.ones(mid.size)


def _pulls(value: float, tilt: Array, matrix: Array) -> list[float]:
    """Multipliers that close the box: 0, and that of least value + pull D/2 + tilt (pull - matrix)^-1 tilt / 2."""
    if not (np.isfinite(value) and np.isfinite(tilt).all() and np.isfinite(matrix).all()):
        return []
    bends, axes = np.linalg.eigh(matrix)
    turned = np.square(tilt @ axes)

    def bound(pull: float) -> float:
        return value + 0.5 * pull * tilt.size + 0.5 * float(np.sum(turned / (pull - bends)))

    least = max(0.0, float(bends[-1]) * (1.0 + 1e-9) + 1e-300)
    if bends[-1] < 0.0 and bound(0.0) <= -1e-6 * abs(value):
        return [0.0]
    scale = max(least, float(np.sqrt(turned.sum())), 1e-300)
    found = minimize_scalar(lambda t: bound(least + scale * np.exp(t)), bounds=(-30.0, 5.0), method="bounded")
    pull = least + scale * float(np.exp(found.x))
    choices = [0.0] if bends[-1] < 0.0 else []
    return [p for p in [*choices, pull] if bound(p) <= 0.0]


def _floats(found: Any) -> tuple[float, Array, Array]:
    value, slope, matrix = found
    dim = slope.nrows()
    bent = np.array([float(x) for x in matrix.entries()]).reshape(dim, dim)
    return float(value), np.array([float(x) for x in slope.entries()]), 0.5 * (bent + bent.T)


def _cut(lo: float, hi: float, known: Array) -> float:
    """The middle, or off it where an anchor is near: a contact is to lie inside one box."""
    cut = 0.5 * (lo + hi)
    near = known[np.abs(known - cut) < 0.1 * (hi - lo)]
    if near.size:
        cut = lo + (0.3 if near[0] > cut else 0.7) * (hi - lo)
    return float(cut)
