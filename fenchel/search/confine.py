"""What is known before the search: proofs that sup h is infinite, or whitened coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.losses import LinearPredictorLoss, Loss
from fenchel.search.bounds import LinearModel, UserModel
from fenchel.search.flat import FlatSpace

__all__ = ["Setting", "Unbounded", "prepare"]

Array = NDArray[np.float64]
# An eigenvalue within this factor of the largest matrix in the problem is rounding.
_FLAT = 1e-13


@dataclass(frozen=True)
class Unbounded:
    """Why sup h is infinite; ``proved`` is False where rounding might make it look so."""

    reason: str
    proved: bool = True


@dataclass(frozen=True)
class Setting:
    """h in the model's coordinates; ``domain`` is the box (center, half) of a bounded loss in those coordinates.

    ``confined`` is False where nothing is known that would bound the search region; ``note`` then says why.
    """

    model: LinearModel | UserModel
    domain: tuple[Array, Array] | None = None
    confined: bool = True
    note: str = ""


def prepare(loss: Loss, lam1: Array, lam2: Array, about: Array | None = None) -> Setting | Unbounded:
    """Coordinates for sup_theta l(theta) + lam1.d + d^T lam2 d, d = theta - about, or a proof that it is infinite.

    ``about`` other than 0 is for losses that are not of linear predictors.
    """
    linear = loss.in_predictors()
    about = np.zeros(loss.dim) if about is None else about
    return _prepare_user(loss, lam1, lam2, about) if linear is None else _prepare_linear(linear, lam1, lam2)


def _prepare_linear(loss: LinearPredictorLoss, lam1: Array, lam2: Array) -> Setting | Unbounded:
    concave = -(2.0 * lam2 + loss.H)
    linear = lam1 + loss.b
    values, axes, units = _scaled_eigen(concave, 2.0 * np.abs(lam2) + np.abs(loss.H))
    flat_size = _FLAT * loss.dim
    if values[0] < -flat_size:
        return Unbounded(
            f"lam2 + H/2 has the positive eigenvalue {-0.5 * values[0]:.3g} (at unit diagonal): it grows without "
            "bound, and the other terms are bounded below by a linear function"
        )
    steepest = _one_sided_growth(loss, concave) if values[0] > flat_size else 0.0
    if steepest > 1.0 + 1e-9:
        return Unbounded(
            f"a term's quadratic growth on one side is {steepest:.6g} times what -lam2 - H/2 takes off in its direction"
        )
    flat = values <= flat_size
    vectors = units[:, None] * axes
    basis = vectors[:, ~flat] / np.sqrt(values[~flat])
    null = vectors[:, flat] / np.abs(vectors[:, flat]).max(axis=0)  # squares of tiny scales' inverses overflow
    null = null / np.linalg.norm(null, axis=0)
    origin = np.zeros(loss.dim)
    if not flat.any():
        return Setting(LinearModel(loss, origin, basis, np.eye(loss.dim), linear @ basis, loss.c))
    scale = np.abs(lam1) + np.abs(loss.b) + sum(g.weights @ np.abs(g.rows) for g in loss.groups)
    drift = np.abs(linear @ null) > 1e-12 * (scale @ np.abs(null))
    varying = [g for g in loss.groups if _varies(g.rows, g.weights, null)]
    exact = FlatSpace.of(loss, lam1, lam2, int(flat.sum()))
    note = "lam2 + H/2 is singular and the loss varies along its null space"
    if not varying:
        apart = exact is not None and exact.orthogonal(loss.groups)
        if drift.any() or (exact is not None and apart and not exact.level):
            reason = "h is linear and not constant along a direction in which lam2 + H/2 vanishes"
            return Unbounded(reason, exact is not None)
        if apart:
            # The loss is constant along the null space: dropping it loses nothing.
            return Setting(LinearModel(loss, origin, basis, np.eye(basis.shape[1]), linear @ basis, loss.c))
        note = "lam2 + H/2 is singular but for rounding, or h is constant along its null space but for rounding"
    if any(g.link.convex for g in varying) and all(g.link.convex or g.link.bounded for g in varying):
        return Unbounded(
            "h is convex and not affine, but for bounded terms, along a direction in which lam2 + H/2 vanishes, "
            "so it grows without bound there",
            exact is not None,
        )
    if drift.any() and all(g.link.bounded for g in varying):
        return Unbounded("h drifts to infinity along a direction in which lam2 + H/2 vanishes", exact is not None)
    full = vectors / np.sqrt(np.where(flat, 1.0, values))
    weights = np.where(flat, 0.0, 1.0)
    model = LinearModel(loss, origin, full, np.diag(weights), linear @ full, loss.c)
    return Setting(model, confined=False, note=note)


def _scaled_eigen(matrix: Array, parts: Array) -> tuple[Array, Array, Array]:
    """(values, axes, units) of diag(units) matrix diag(units), in units in which ``parts`` has a unit diagonal.

    Parameters of very different scales must not make the smaller one look like rounding of the larger.
    """
    diagonal = np.diagonal(parts)
    largest = float(parts.max())
    if largest == 0.0:
        return np.zeros(len(parts)), np.eye(len(parts)), np.ones(len(parts))
    units = 1.0 / np.sqrt(np.where(diagonal > 1e-250, diagonal, largest))
    values, axes = np.linalg.eigh(matrix * units[:, None] * units)
    return values, axes, units


def _one_sided_growth(loss: LinearPredictorLoss, concave: Array) -> float:
    """The largest w bend x^T C^-1 x of one term: above 1, h grows quadratically along C^-1 x."""
    most = 0.0
    for g in loss.groups:
        if g.link.bend:
            along = np.einsum("ni,in->n", g.rows, np.linalg.solve(concave, g.rows.T))
            most = max(most, float((g.weights * g.link.bend * along).max()))
    return most


def _varies(rows: Array, weights: Array, null: Array) -> bool:
    along = np.abs(rows @ null).max(axis=1)
    return bool((weights * along > 1e-12 * weights * np.linalg.norm(rows, axis=1)).any())


def _prepare_user(loss: Loss, lam1: Array, lam2: Array, about: Array) -> Setting | Unbounded:
    dim = loss.dim
    if loss.bounds is not None:
        lo, hi = loss.bounds
        basis = np.diag(0.5 * (hi - lo))
        origin = 0.5 * (lo + hi)
        model = UserModel(loss, *_transformed(lam1, lam2, origin, basis, about))
        return Setting(model, domain=(np.zeros(dim), np.ones(dim)))
    if np.isinf(loss.curvature) and loss.majorizer is None:
        return Unbounded("the loss is declared with infinite curvature and no majorizer: no quadratic majorizes it")
    growth = max(loss.curvature, 0.0) * np.eye(dim) if loss.majorizer is None else loss.majorizer.H
    values, axes, units = _scaled_eigen(-(2.0 * lam2 + growth), 2.0 * np.abs(lam2) + np.abs(growth))
    if values[0] > _FLAT * dim:
        basis = units[:, None] * axes / np.sqrt(values)
        return Setting(UserModel(loss, *_transformed(lam1, lam2, about, basis, about)))
    values, axes, units = _scaled_eigen(-2.0 * lam2, 2.0 * np.abs(lam2))
    if values[0] < -_FLAT * dim:
        return Unbounded(
            f"lam2 has the positive eigenvalue {-0.5 * values[0]:.3g} (at unit diagonal), and Theorem 1 takes losses "
            "as bounded below"
        )
    flat = values <= _FLAT * dim
    null = units[:, None] * axes[:, flat]
    if (np.abs(lam1 @ null) > 1e-12 * (np.abs(lam1) @ np.abs(null))).any():
        return Unbounded("h drifts to infinity along a direction in which lam2 vanishes, for a loss is bounded below")
    basis = units[:, None] * axes / np.sqrt(np.where(flat, 1.0, values))
    model = UserModel(loss, *_transformed(lam1, lam2, about, basis, about))
    note = (
        "the search is not confined: the quadratic grows no faster than the declared "
        + ("majorizer" if loss.majorizer is not None else "curvature allows the loss to")
        + ", and nothing else is known of the loss far away; declare a majorizer that grows more slowly (a number, for "
        "a loss that is bounded), or bounds, or write the loss as a formula (losses.from_expression)"
    )
    return Setting(model, confined=False, note=note)


def _transformed(
    lam1: Array, lam2: Array, origin: Array, basis: Array, about: Array
) -> tuple[Array, Array, Array, Array, float]:
    shift = origin - about
    concave = -2.0 * basis.T @ lam2 @ basis
    linear = basis.T @ (lam1 + 2.0 * lam2 @ shift)
    constant = float(lam1 @ shift + shift @ lam2 @ shift)
    return origin, basis, 0.5 * (concave + concave.T), linear, constant
