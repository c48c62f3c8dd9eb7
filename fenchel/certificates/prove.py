"""The proof that a quadratic lies above a loss everywhere: contacts as anchors, and a tree of boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.certificates.boxes import Open, Problem, grow
from fenchel.certificates.contacts import distinct, find_contacts, jump_slopes
from fenchel.certificates.majorant import Majorant, height
from fenchel.checker.loss import Excess
from fenchel.checker.loss import Loss as Exact
from fenchel.checker.numbers import exacts
from fenchel.errors import CertificateError
from fenchel.losses import Loss
from fenchel.losses.exact_text import hexes

_MOST_CONTACTS = 60


@dataclass(frozen=True)
class Limits:
    """Of the search for a proof."""

    max_boxes: int = 20_000
    max_seconds: float = 300.0


def prove(
    loss: Loss, known: Exact, majorant: Majorant, atoms: Array, room: float, limits: Limits
) -> tuple[dict[str, Any], Majorant]:
    """The proof that the majorant, moved to ``room`` above the highest contact, lies above the loss everywhere."""
    steep = 2.0 * majorant.curvature - np.asarray(getattr(loss, "H", 0.0))
    bends, axes = np.linalg.eigh(steep)
    if not bends[0] > 0.0:
        raise CertificateError("the majorant is flat in some direction, where exact arithmetic would cross the loss")
    basis = axes / np.sqrt(bends)
    contacts = find_contacts(loss, majorant, atoms, basis, 1e-5)
    small = 1e-2
    for _ in range(_MOST_CONTACTS):
        try:
            return _closed(loss, known, majorant, contacts, basis, room, small, limits)
        except Open as missed:
            fresh = find_contacts(loss, majorant, (contacts[0] + basis @ missed.point)[None, :], basis, 5.0 * small)
            if distinct(np.concatenate([contacts, fresh]), basis).shape[0] == contacts.shape[0]:
                small *= 0.1
            else:
                contacts = np.concatenate([contacts, fresh])
    raise CertificateError("the loss touches the majorant at too many points")


def _closed(
    loss: Loss,
    known: Exact,
    majorant: Majorant,
    contacts: Array,
    basis: Array,
    room: float,
    small: float,
    limits: Limits,
) -> tuple[dict[str, Any], Majorant]:
    """`_prove` with these contacts (K, P) as anchors; `Open` where one more may be needed."""
    origin = contacts[0]
    points = np.linalg.solve(basis, (contacts - origin).T).T
    records = [{"point": hexes(u)} for u in points]
    frame = exacts(hexes(origin), origin.size), exacts(hexes(basis), origin.size, origin.size)
    reference = Excess(known, majorant.exact(), *frame)
    for k, record in enumerate(records):
        slopes = jump_slopes(loss, reference, contacts[k], points[k], basis)
        if slopes is not None:
            record["tilts"] = hexes(slopes)
    top = max(height(known, majorant, contact) for contact in contacts)
    lifted = Majorant(majorant.center, majorant.constant + top + room, majorant.slope, majorant.curvature)
    problem = Problem(Excess(known, lifted.exact(), *frame), points, records)
    tree = grow(problem, small=small, max_boxes=limits.max_boxes, max_seconds=limits.max_seconds)
    proof = {
        "origin": hexes(origin),
        "basis": hexes(basis),
        "anchors": problem.records,
        "root": tree.root,
        "tree": tree.nodes,
    }
    return proof, lifted
