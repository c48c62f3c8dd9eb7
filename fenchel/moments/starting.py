"""What is known before the first round: atoms and quadratics, given, of an earlier result, or of the closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np

from fenchel.closed.sums import sum_of_biconjugates
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.losses.inputs import finite_array
from fenchel.moments.atoms import merge
from fenchel.moments.certificate import LowerBound
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.polish import ActiveSet
from fenchel.moments.rounds import Start
from fenchel.results import BiconjugateResult

__all__ = ["known_start"]


def known_start(loss: Loss, q: Gaussian, frame: MomentFrame, warm: Any) -> Start:
    """Atoms, quadratics and proved lower bounds known before the first round."""
    if isinstance(warm, BiconjugateResult):
        return _warm(frame, warm)
    points = np.zeros((0, frame.dim))
    if warm is not None:
        theta = finite_array(warm, "warm")
        if theta.ndim != 2 or theta.shape[1] != q.dim or not np.all(np.isfinite(theta)):
            raise ValueError(f"warm must be a BiconjugateResult or finite atoms of shape (K, {q.dim}).")
        points = frame.to_white(theta)
    linear = loss.in_predictors()
    hard = linear is not None and any(g.link.bend or not g.link.continuous for g in linear.groups)
    if frame.dim <= 2 and not hard:
        # The starting design already brings the bracket to a few percent here, and costs less. Not so where the best
        # quadratic grows exactly as the loss does, or meets it at a jump: those the terms' closed forms know.
        return Start(points)
    try:
        summed = sum_of_biconjugates(loss, q, structure=frame.structure)
    except TypeError:  # not a sum of terms with closed forms
        return Start(points)
    if not np.isfinite(summed.lower):
        return Start(points)
    lam1, lam2 = summed.natural.lam1, frame.matrix(summed.natural.lam2)
    pairing, _ = frame.pairing(lam1, lam2)
    bound = LowerBound(float(summed.lower), lam1, lam2)
    return Start(points, (frame.from_natural(pairing - summed.lower, lam1, lam2),), bound)


def _warm(frame: MomentFrame, warm: BiconjugateResult) -> Start:
    """The atoms, and in the same family the active set. No bound is taken over: it might belong to another loss."""
    if warm.atoms.ndim != 2 or warm.atoms.shape[1] != frame.mean.size or warm.natural is None:
        raise ValueError(f"warm must be a result for {frame.mean.size} parameters, with atoms and a natural parameter.")
    if not (np.isfinite(warm.atoms).all() and np.isfinite(warm.weights).all() and (warm.weights >= 0.0).all()):
        raise ValueError("warm must have finite atoms and finite weights that are not negative.")
    if not (np.isfinite(warm.natural.lam1).all() and np.isfinite(warm.natural.lam2).all()):
        raise ValueError("warm must have a finite natural parameter.")
    points = frame.to_white(warm.atoms)
    offset = warm.info.get("majorant_offset")
    if warm.structure != frame.structure or offset is None or not np.isfinite(offset) or points.shape[0] == 0:
        return Start(points)
    c = frame.from_natural(float(offset), warm.natural.lam1, frame.matrix(warm.natural.lam2))
    # Atoms spread over directions left out coincide here; those that only mend the moments carry next to nothing.
    first, owner = merge(points)
    mass = np.asarray(np.bincount(owner, weights=warm.weights, minlength=first.size), dtype=float)
    touched = mass > 1e-9
    return Start(points, (), None, ActiveSet(points[first[touched]], mass[touched], c, np.inf))
