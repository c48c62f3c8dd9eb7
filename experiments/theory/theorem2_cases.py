"""The losses on which Theorem 2 and claim B5 are charted, one cell of the atlas, and the second ways of checking it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter1d

from fenchel.losses import (
    Huber,
    LinearPredictorLoss,
    LogisticRegression,
    Quadratic,
    Softplus,
    Terms,
    ThreeWells,
)
from fenchel.losses.bounded_links import BumpLink
from fenchel.sharpness.relaxed_mean import closing_on_line, prior_precision
from fenchel.theorems.theorem2 import verify_theorem2

#: What a cell of the atlas is, in the order of the figure's colours.
CATEGORIES = (
    "pair, and the global minimizer of relaxed Bayes",
    "pair, but not the proximal maximizer",
    "delta sigma^2 >= 1: no such prior",
    "kink, recovered at the dual multiplier",
    "kink, not recovered",
    "perturbation inactive",
    "undecided",
)
FIELDS = (
    "category", "holds", "pairs_map", "proximal_maximizer", "maps_to_local", "maps_to_global", "active", "kink",
    "prior_valid", "certified", "edge", "pairs", "valid_priors", "pairs_complete", "pair_residual", "pair_distance",
    "duality_gap", "duality_gap_lower", "worst_perturbations", "sigma", "distance", "size", "sam_value",
    "relaxed_value", "sam_deviation", "relaxed_deviation",
)  # fmt: skip


def random_wells(seed: int, dim: int, *, clustered: bool = False) -> LinearPredictorLoss:
    """A bowl of stiffness .1 with wells of random place, width and depth: ridges along random directions for P = 2."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 6)) if dim == 1 else int(rng.integers(3, 7))
    widths = rng.uniform(0.25, 1.6, size=count)
    centers = rng.uniform(-4.0, 4.0, size=count)
    if clustered:
        # Neighbours in place and equal in width: sharp from near, one broad valley from afar.
        centers[1:3], widths[:3] = centers[0] + np.array([1.0, 2.0])[: count - 1] * 0.9, 0.3
    rows = np.ones((count, 1)) if dim == 1 else rng.normal(size=(count, dim))
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) / widths[:, None]
    wells = Terms(BumpLink(), rows, -centers / widths, rng.uniform(0.5, 3.0, size=count))
    return LinearPredictorLoss([wells], H=0.1 * np.eye(dim))


def families(scale: str) -> dict[str, LinearPredictorLoss]:
    """The named losses of the atlas."""
    rng = np.random.default_rng(11)
    H = np.diag([4.0, 1.0])
    overlapping = rng.normal(size=(12, 1))
    plane = rng.normal(size=(10, 2))
    losses: dict[str, LinearPredictorLoss] = {
        "quadratic, center 1": Quadratic(1.0, -1.0, 0.5),
        "Huber, center 3/2": Huber(0.5).compose([[1.0]], [-1.5]),
        "softplus": Softplus(),
        "logistic, separable": LogisticRegression(np.array([[1.0], [2.0], [4.0]]), np.ones(3)),
        "logistic, overlapping": LogisticRegression(overlapping, np.sign(overlapping[:, 0] + rng.normal(size=12))),
        "three wells": ThreeWells(),
        "random wells 1": random_wells(1, 1),
        "random wells 2": random_wells(2, 1),
        "quadratic diag(4, 1), P = 2": Quadratic(H, -H @ np.ones(2), 2.5),
        "logistic, separable, P = 2": LogisticRegression(plane, np.where(plane @ np.array([1.0, 0.5]) > 0, 1.0, -1.0)),
        "logistic, overlapping, P = 2": LogisticRegression(plane, np.sign(plane[:, 0] + 1.5 * rng.normal(size=10))),
        "random wells 3, P = 2": random_wells(3, 2),
    }
    if scale == "quick":
        kept = ("quadratic, center 1", "logistic, separable", "three wells", "quadratic diag(4, 1), P = 2")
        return {name: losses[name] for name in kept}
    return losses


def simple_losses() -> Iterator[tuple[str, LinearPredictorLoss]]:
    """Losses from simple to less simple, with their formulas: the search for counterexamples stops at the first."""
    for h, c in ((1.0, 0.0), (1.0, 1.0), (2.0, 1.0)):
        yield f"{h / 2:g} (t - {c:g})^2", Quadratic(h, -h * c, 0.5 * h * c * c)
    for k in (1.0, 2.0, 4.0):
        yield f"log(1 + exp(-{k:g} t))", LogisticRegression([[k]], [1.0])
    for k in (2.0, 4.0):
        yield f"log(1 + exp(-t)) + log(1 + exp({k:g} t))", LogisticRegression([[1.0], [-k]], [1.0, 1.0])
    for depth in (1.0, 2.0):
        for center in (1.0, 2.0):
            for width in (1.0, 0.5):
                terms = Terms(BumpLink(), np.array([[1 / width]]), np.array([-center / width]), np.array([depth]))
                yield f"-{depth:g} exp(-(t - {center:g})^2/{2 * width**2:g})", LinearPredictorLoss([terms])
    for depths in ((1.0, 2.0), (2.0, 1.0), (1.0, 1.0)):
        for width in (0.5, 1.0):
            terms = Terms(BumpLink(), np.full((2, 1), 1.0 / width), np.array([-1.0, 1.0]) / width, np.array(depths))
            first, second = (f"{d:g} exp(-(t {s} 1)^2/{2 * width**2:g})" for d, s in zip(depths, "-+", strict=True))
            yield f"-{first} - {second}", LinearPredictorLoss([terms])
    H = np.diag([2.0, 1.0])
    yield "(x - 1)^2 + (y - 1)^2/2", Quadratic(H, -H @ np.ones(2), 1.5)
    for rows in (
        [[1.0, 0.0], [0.0, 1.0]],
        [[1.0, 0.0], [-1.0, 1.0]],
        [[2.0, 0.0], [-1.0, 1.0]],
        [[2.0, 1.0], [-1.0, 2.0]],
    ):
        text = " + ".join(f"log(1 + exp(-({a:g} x + {b:g} y)))" for a, b in rows)
        yield text, LogisticRegression(rows, [1.0, 1.0])
    for rows in ([[1.0, 0.0], [-2.0, 1.0], [0.0, 1.0]], [[2.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]):
        text = " + ".join(f"log(1 + exp(-({a:g} x + {b:g} y)))" for a, b in rows)
        yield text, LogisticRegression(rows, [1.0, 1.0, 1.0])


def cell(loss: LinearPredictorLoss, rho: float, delta: float) -> dict[str, float]:
    """`verify_theorem2` as numbers by the names of FIELDS (True 1, False 0, undecided -1), with its checks by grids."""
    verdict = verify_theorem2(loss, rho, delta)
    m = verdict.measured
    out = {name: _number(m.get(name, np.nan)) for name in FIELDS}
    out |= {
        "category": float(_category(m)),
        "holds": _number(verdict.holds),
        "size": float(np.linalg.norm(m["theta"])),
    }
    if loss.dim == 1 and out["size"] < 8.0:
        out["sam_deviation"] = abs(grid_sam(loss, rho, delta) - m["sam_value"])
        if "relaxed_value" in m and np.isfinite(m["relaxed_value"]) and m["prior_valid"]:
            value = grid_relaxed(loss, m["sigma"], delta)
            out["relaxed_deviation"] = abs(value - m["relaxed_value"])
    return out


def grid_sam(loss: LinearPredictorLoss, rho: float, delta: float, *, half: float = 14.0) -> float:
    """min of E_SAM by a sliding maximum over an even grid (P = 1), and again, finely, around the best."""
    steps = max(1, round(rho / 5e-4))
    h = rho / steps
    theta = h * np.arange(-int(half / h), int(half / h) + 1)
    values = maximum_filter1d(loss(theta[:, None]), 2 * steps + 1) + 0.5 * delta * theta * theta
    inside = slice(steps, -steps)
    i = steps + int(np.argmin(values[inside]))
    fine = theta[i] + np.linspace(-2.0 * h, 2.0 * h, 2001)
    near = theta[np.abs(theta - theta[i]) <= rho - 2.0 * h]
    tops = [loss((fine + rho)[:, None]), loss((fine - rho)[:, None])]
    if near.size:
        tops.append(np.full(fine.shape, loss(near[:, None]).max()))
    return float((np.max(tops, axis=0) + 0.5 * delta * fine * fine).min())


def grid_relaxed(loss: LinearPredictorLoss, sigma: float, delta: float, *, half: float = 60.0) -> float:
    """min of Eq. 12 in m by Toland duality on a grid: a convex hull and one minimum, no inner maximum."""
    grid = np.linspace(-half, half, 60_001)
    delta0 = prior_precision(sigma, delta)
    return float((closing_on_line(loss, sigma, grid) + 0.5 * delta0 * grid * grid).min())


def _category(m: dict[str, Any]) -> int:
    if not m["active"]:
        return 5
    if m["kink"]:
        if m["maps_to_global"] and not m["prior_valid"]:
            return 2
        return {True: 3, False: 4, None: 6}[m["maps_to_global"]]
    if not m["prior_valid"]:
        return 2
    if m["proximal_maximizer"] is False:
        return 1
    return 0 if m["maps_to_global"] else 6


def _number(value: Any) -> float:
    if value is None:
        return -1.0
    return float(value)
