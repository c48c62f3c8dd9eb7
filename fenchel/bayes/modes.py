"""All local minima of l(theta) + (theta - m)^T Lambda (theta - m) / 2 that the posterior can notice, for P <= 2.

Branch and bound: with M above the Hessian on a box, a stationary point inside lies no more than r^T M r / 2 below the
value at the box's center. Boxes whose stationary points are all too high to matter are dropped; the others are halved
until the center tells the height to one unit, and descended from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from fenchel.errors import DomainError
from fenchel.gaussian import Gaussian
from fenchel.losses import LinearPredictorLoss, Loss

__all__ = ["Modes", "relevant_modes"]

Array = NDArray[np.float64]

# Where the density is below exp(-_DEPTH) of its maximum nothing is noticed.
_DEPTH = 50.0
_MOST_MODES = 200


@dataclass(frozen=True)
class Modes:
    """Local minima (K, P), lowest first, and the box [lo, hi] (P,) that holds all that matters.

    ``doubt`` is empty where both are proved, and else says what may have been missed.
    """

    points: Array
    lo: Array
    hi: Array
    doubt: str


class _Energy:
    """l + the prior's quadratic, with its kinked and jumping terms set apart."""

    def __init__(self, loss: Loss, prior: Gaussian) -> None:
        self.loss, self.mean, self.precision = loss, prior.mean, prior.precision
        self.kinks: list[tuple[Array, Array]] = []
        self.jump = 0.0
        self.smooth = loss
        linear = loss.in_predictors()
        if linear is not None:
            plain = []
            for group in linear.groups:
                if not group.link.continuous:
                    self.jump += float(group.weights.sum())
                elif group.link.kinks and group.link.convex:
                    self.kinks.append((np.abs(group.rows), group.weights * np.ptp(group.link.slopes)))
                else:
                    plain.append(group)
            self.smooth = LinearPredictorLoss(plain, dim=loss.dim, H=linear.H, b=linear.b, c=linear.c)

    def value(self, theta: Array) -> Array:
        step = theta - self.mean
        return np.asarray(self.loss._value(theta) + 0.5 * np.einsum("ni,ij,nj->n", step, self.precision, step))

    def one(self, theta: Array) -> tuple[float, Array]:
        step = theta - self.mean
        slope = self.loss._gradient(theta[None, :])[0] + self.precision @ step
        return float(self.value(theta[None, :])[0]), slope

    def room(self, lo: Array, hi: Array) -> Array:
        """How far stationary points in the boxes may lie below the values at their centers (B,)."""
        half = 0.5 * (hi - lo)
        bends = self.smooth.hessian_upper(lo, hi) + self.precision
        finite = np.isfinite(bends).all(axis=(1, 2))
        top = np.full(len(lo), np.inf)
        if finite.any():
            top[finite] = np.maximum(np.linalg.eigvalsh(bends[finite])[:, -1], 0.0)
        with np.errstate(invalid="ignore"):
            room = 0.5 * top * np.square(half).sum(axis=1)
        for rows, jumps in self.kinks:
            room = room + half @ (rows.T @ jumps)
        return np.asarray(room + self.jump)


def relevant_modes(loss: Loss, prior: Gaussian, known: Array, reach: float, *, max_boxes: int = 100_000) -> Modes:
    """The modes of the posterior exp(-l) prior, from those ``known`` (K, P) already; ``reach`` in prior sds.

    Raises:
        DomainError: the posterior is improper.
    """
    energy = _Energy(loss, prior)
    best = float(energy.value(known).min())
    lo, hi, doubt = _region(loss, prior, best + _DEPTH + energy.jump, reach)
    if loss.convex:
        return Modes(known, lo, hi, doubt)
    found = list(known)
    cells, missed = _cells(energy, lo, hi, best, max_boxes)
    doubt = "; ".join(text for text in (doubt, missed) if text)
    box = None if loss.bounds is None else list(zip(lo, hi, strict=True))
    scales = [_width(energy, point) for point in found]
    for cell in cells[np.argsort(energy.value(cells), kind="stable")]:
        if any((np.abs(cell - p) <= 2.0 * s).all() for p, s in zip(found, scales, strict=True)):
            continue
        if len(found) >= _MOST_MODES:
            doubt = "; ".join(text for text in (doubt, f"only {_MOST_MODES} modes are followed") if text)
            break
        method = "BFGS" if box is None else "L-BFGS-B"
        point = optimize.minimize(energy.one, cell, jac=True, method=method, bounds=box).x
        if not any((np.abs(point - p) <= 1e-4 * s).all() for p, s in zip(found, scales, strict=True)):
            found.append(point)
            scales.append(_width(energy, point))
    points = np.array(found)
    values = energy.value(points)
    order = np.argsort(values, kind="stable")
    return Modes(points[order][values[order] <= values.min() + _DEPTH], lo, hi, doubt)


def _width(energy: _Energy, point: Array) -> Array:
    """The standard deviations (P,) of a mode, by its curvature."""
    bend = energy.loss._hessian(point[None, :])[0] + energy.precision
    values, vectors = np.linalg.eigh(bend)
    values = np.maximum(values, 1e-3 * np.linalg.eigvalsh(energy.precision)[0])
    return np.asarray(np.sqrt(np.square(vectors) @ (1.0 / values)))


def _cells(energy: _Energy, lo: Array, hi: Array, best: float, max_boxes: int) -> tuple[Array, str]:
    """Centers (K, P) of the boxes that may hold a stationary point that matters, and what could not be excluded."""
    low, high = lo[None, :], hi[None, :]
    kept = [np.zeros((0, lo.size))]
    boxes = 0
    while low.size:
        boxes += len(low)
        center = 0.5 * (low + high)
        room = energy.room(low, high)
        value = energy.value(center)
        best = min(best, float(value.min()))
        alive = value - room <= best + _DEPTH
        # The jumps' own height does not shrink with the box.
        done = alive & (room - energy.jump <= 1.0)
        kept.append(center[done])
        rest = alive & ~done
        if boxes + 2 * int(rest.sum()) > max_boxes:
            kept.append(center[rest])
            return np.concatenate(kept), "wells narrower than the search could resolve may have been missed"
        low, high, center = low[rest], high[rest], center[rest]
        if not len(low):
            break
        axis = (high - low).argmax(axis=1)
        rows = np.arange(len(low))
        cut = center[rows, axis]
        right, left = low.copy(), high.copy()
        right[rows, axis], left[rows, axis] = cut, cut
        low, high = np.concatenate([low, right]), np.concatenate([left, high])
    return np.concatenate(kept), ""


def _region(loss: Loss, prior: Gaussian, level: float, reach: float) -> tuple[Array, Array, str]:
    """A box outside of which l + the prior's quadratic exceeds ``level``, and a doubt where that is not proved."""
    if loss.bounds is not None:
        return loss.bounds[0], loss.bounds[1], ""
    minorant = loss.minorant()
    center = prior.mean
    spread = reach * np.sqrt(np.diag(prior.cov))
    if minorant is None:
        _refuse_improper(loss, prior)
        return (
            center - spread,
            center + spread,
            f"modes beyond {reach:g} standard deviations of the prior are not excluded",
        )
    constant, slope, H = minorant
    matrix = H + prior.precision
    if np.linalg.eigvalsh(matrix)[0] <= 1e-12 * max(1.0, float(np.abs(matrix).max())):
        _refuse_improper(loss, prior)
        return center - spread, center + spread, "the loss's own growth does not confine the posterior"
    inverse = np.linalg.inv(matrix)
    pull = prior.precision @ prior.mean - slope
    peak = inverse @ pull
    lowest = constant + 0.5 * float(prior.mean @ prior.precision @ prior.mean) - 0.5 * float(pull @ peak)
    half = np.sqrt(2.0 * max(0.0, level - lowest) * np.diag(inverse)) * (1.0 + 1e-9)
    return peak - half, peak + half, ""


def _refuse_improper(loss: Loss, prior: Gaussian) -> None:
    """DomainError where the energy falls along a ray, far away."""
    directions = np.concatenate([np.eye(prior.dim), -np.eye(prior.dim)])
    if prior.dim > 1:
        extra = np.random.default_rng(0).normal(size=(64, prior.dim))
        directions = np.concatenate([directions, extra / np.linalg.norm(extra, axis=1, keepdims=True)])
    energy = _Energy(loss, prior)
    size = float(np.sqrt(np.diag(prior.cov)).max())
    near, far = (energy.value(prior.mean + r * size * directions) for r in (1e3, 1e4))
    if (far <= near + 1.0).any():
        raise DomainError("the posterior is improper: the loss falls faster than the prior's logarithm does")
