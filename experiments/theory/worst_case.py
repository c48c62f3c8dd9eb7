"""The worst-case distribution behind f**: atoms and weights along slices of q, beside the Gaussian."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from experiments.pieces import pieces
from experiments.progress import bar
from experiments.registry import Context, Outcome
from fenchel import Gaussian, biconjugate, expected_loss
from fenchel.arrays import Array
from fenchel.losses import Loss, ThreeWells
from fenchel.problems import murphy_logistic_regression

SIGMAS = (0.2, 0.6, 1.5)
COVARIANCES = (0.05, 1.0)


def run(context: Context) -> Outcome:
    """Atoms over the mean for three widths on the three wells; atoms for two widths on the logistic regression."""
    count = 41 if context.scale == "quick" else 241
    means = np.linspace(-6.0, 6.0, count)
    wells = ThreeWells()
    arrays: dict[str, Any] = {"means": means, "grid": np.linspace(-8.0, 8.0, 1601)}
    arrays["loss"] = wells(arrays["grid"][:, None])
    numbers: dict[str, Any] = {}
    logistic = murphy_logistic_regression()
    base = np.array([[1.0, 0.3], [0.3, 0.8]])
    planar = [Gaussian([1.0, 1.0], scale * base) for scale in COVARIANCES]
    lines = {
        f"wells{k}": partial(_slice, wells, [Gaussian([m], [[sigma**2]]) for m in means], 3, context)
        for k, sigma in enumerate(SIGMAS)
    }
    found = pieces(context, {**lines, "logistic": partial(_slice, logistic, planar, 6, context)})
    for key, part in found.items():
        arrays |= {f"{key}_{name}": value for name, value in part.items()}
    for key, sigma in zip(lines, SIGMAS, strict=True):
        numbers[f"three wells, sigma = {sigma}"] = _checks(found[key])
    axis = np.linspace(-3.0, 5.0, 161)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    arrays["axis"] = axis
    arrays["logistic_loss"] = logistic(points).reshape(161, 161)
    numbers["logistic regression"] = _checks(found["logistic"])
    return Outcome(
        settings={"sigmas": SIGMAS, "covariance scales": COVARIANCES, "covariance": base, "means": count, "tol": 1e-9},
        numbers=numbers,
        arrays=arrays,
    )


def _slice(loss: Loss, qs: list[Gaussian], most: int, context: Context) -> dict[str, Any]:
    """Atoms (n, most, P), weights (n, most; 0 where unused), brackets, f, and residuals recomputed from the atoms."""
    n, dim = len(qs), loss.dim
    atoms, weights = np.full((n, most, dim), np.nan), np.zeros((n, most))
    lower, upper, f, moments, masses = (np.empty(n) for _ in range(5))
    certified = np.zeros(n, dtype=bool)
    warm = None
    for i in bar(range(n), "worst cases", context.progress):
        warm = biconjugate(loss, qs[i], tol=1e-9, warm=warm)
        lower[i], upper[i], certified[i] = warm.lower, warm.upper, warm.certified
        f[i] = -expected_loss(loss, qs[i])
        order = np.argsort(-warm.weights)[:most]
        weights[i, : len(order)], atoms[i, : len(order)] = warm.weights[order], warm.atoms[order]
        step = warm.atoms - qs[i].mean
        second = np.einsum("k,ki,kj->ij", warm.weights, step, step) - qs[i].cov
        moments[i] = max(float(np.abs(warm.weights @ step).max()), float(np.abs(second).max()))
        masses[i] = warm.weights[order].sum()
    return {
        "atoms": atoms,
        "weights": weights,
        "lower": lower,
        "upper": upper,
        "f": f,
        "certified": certified,
        "moments": moments,
        "masses": masses,
    }


def _checks(found: dict[str, Array]) -> dict[str, Any]:
    size = np.maximum(1.0, np.abs(found["lower"]))
    active = (found["weights"] > 1e-9).sum(axis=1)
    return {
        "certified": f"{int(found['certified'].sum())} of {len(size)}",
        "widest relative bracket": float(((found["upper"] - found["lower"]) / size).max()),
        "largest error of the atoms' moments": float(found["moments"].max()),
        "least mass on the atoms shown": float(found["masses"].min()),
        "atoms": f"{int(active.min())} to {int(active.max())}",
        "f** <= f": bool(np.all(found["lower"] <= found["f"] + 1e-9 * size)),
    }
