"""Parts of the theorem2 experiment: the worked quadratic, the map rho <-> sigma, the reverse map, drawn landscapes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments.theory.theorem2_cases import cell, families, random_wells
from fenchel.arrays import Array
from fenchel.losses import LinearPredictorLoss, Loss, Quadratic
from fenchel.sharpness.proximal import proximal_sup
from fenchel.sharpness.relaxed_mean import minimize_proximal
from fenchel.sharpness.sam import minimize_sam, sam_objective
from fenchel.theorems.theorem2 import verify_theorem2


def first_looks(scale: str) -> dict[str, Array]:
    """H = diag(4, 1), center (1, 1), delta = .3: pairs, kinks, the threshold between them, the limit sigma^2 -> 1/4."""
    H, delta = np.diag([4.0, 1.0]), 0.3
    loss = Quadratic(H, -H @ np.ones(2), 2.5)
    rhos = np.array([0.02, 0.05, 0.08, 0.096, 0.1, 0.3, 1.0])
    verdicts = [verify_theorem2(loss, float(rho), delta) for rho in rhos]
    low, high = 0.05, 0.1
    for _ in range(6 if scale == "quick" else 30):
        middle = 0.5 * (low + high)
        kink = verify_theorem2(loss, middle, delta, pairs=False).measured["worst_perturbations"] > 1
        low, high = (low, middle) if kink else (middle, high)
    inside = 10.0 ** -np.arange(1.0, 7.0)
    limits = np.array([minimize_proximal(loss, 0.5 * np.sqrt(1.0 - t), delta).argmin for t in inside])
    target = verdicts[-1].measured["theta"]
    return {
        "rho": rhos,
        "theta": np.array([v.measured["theta"] for v in verdicts]),
        "kink": np.array([v.measured["kink"] for v in verdicts], dtype=float),
        "gap": np.array([v.measured["duality_gap"] for v in verdicts]),
        "edge": np.array([v.measured["edge"] for v in verdicts], dtype=float),
        "sigma": np.array([v.measured["sigma"] for v in verdicts]),
        "threshold": np.asarray(0.5 * (low + high)),
        # The pair's multiplier delta |theta| / rho falls to the largest eigenvalue where theta reaches the kink.
        "threshold_exact": np.asarray(delta * np.linalg.norm(target) / 4.0),
        "inside": inside,
        "limit_distance": np.linalg.norm(limits - target, axis=1),
    }


def radius_map(scale: str) -> dict[str, Array]:
    """sigma over rho for SAM minimizers (kinks: the dual multiplier), and |eps*| over sigma for the relaxed ones."""
    names = ("quadratic, center 1", "softplus", "logistic, separable", "three wells")
    losses = families("full")
    count = 4 if scale == "quick" else 25
    rhos, sigmas = np.geomspace(0.02, 3.0, count), np.geomspace(0.1, 2.2, count)
    delta = 0.1
    out: dict[str, Array] = {"rhos": rhos, "sigmas": sigmas, "delta": np.asarray(delta)}
    for k, name in enumerate(names):
        loss = losses[name]
        cells = [cell(loss, float(rho), delta) for rho in rhos]
        out[f"sigma{k}"] = np.array([c["sigma"] for c in cells])
        out[f"category{k}"] = np.array([c["category"] for c in cells])
        out[f"radius{k}"] = np.array([_radius(loss, float(sigma), delta) for sigma in sigmas])
    return out


def _radius(loss: Loss, sigma: float, delta: float) -> tuple[float, float]:
    """The smallest and the largest |eps| of the worst perturbations at the relaxed minimizer (nan where unbounded)."""
    if sigma * sigma * delta >= 1.0:
        return np.nan, np.nan
    found = minimize_proximal(loss, sigma, delta)
    if not np.isfinite(found.value):
        return np.nan, np.nan
    sup = proximal_sup(loss, found.argmin, sigma)
    tied = sup.maximizers[sup.values >= sup.lower - 1e-7 * (1.0 + abs(sup.lower))]
    sizes = np.linalg.norm(tied, axis=1)
    return float(sizes.min()), float(sizes.max())


def reverse(seed: int, count: int) -> dict[str, Array]:
    """Back: is the relaxed minimizer, where it is a pair, the SAM minimizer at rho = |eps*|? (P = 1, certified)"""
    smooth = recovered = other = undecided = 0
    worst, example = 0.0, np.full(3, np.nan)
    for i in range(count):
        rng = np.random.default_rng((seed, 7, i))
        sigma, delta = float(rng.uniform(0.1, 1.0)), float(np.exp(rng.uniform(np.log(0.02), 0.0)))
        loss = random_wells(2000 + i, 1)
        found = minimize_proximal(loss, sigma, delta)
        sup = proximal_sup(loss, found.argmin, sigma)
        eps, slope = sup.argmax, loss.gradient(found.argmin + sup.argmax)
        if not found.certified or np.abs(slope + delta * found.argmin).max() > 1e-6 * (1.0 + np.abs(slope).max()):
            continue
        smooth += 1
        rho = float(np.abs(eps[0]))
        here, best = sam_objective(loss, found.argmin, rho, delta), minimize_sam(loss, rho, delta)
        slack = 1e-8 * (1.0 + abs(best.value))
        if here.lower > best.upper + slack:
            other += 1
            if here.lower - best.upper > worst:
                worst, example = here.lower - best.upper, np.array([float(i), sigma, delta])
        elif here.upper <= best.lower + slack:
            recovered += 1
        else:
            undecided += 1
    names = ("smooth", "recovered", "other", "undecided", "worst")
    values = (smooth, recovered, other, undecided, worst)
    return {k: np.asarray(v) for k, v in zip(names, values, strict=True)} | {"example": example}


def zoom_sam(losses: Mapping[str, LinearPredictorLoss], count: int, seed: int) -> dict[str, Array]:
    """P = 2: how far a zooming grid search gets below the minimum that the descents found (never, if it is global)."""
    rng = np.random.default_rng((seed, 3))
    planar = [loss for loss in losses.values() if loss.dim == 2] + [random_wells(1000 + i, 2) for i in range(6)]
    angle = 2.0 * np.pi * np.arange(180) / 180
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ball = np.vstack([ring, *(r * ring[::3] for r in (0.25, 0.5, 0.75)), np.zeros((1, 2))])
    deviation: list[float] = []
    distance: list[float] = []
    for i in range(count):
        loss = planar[i % len(planar)]
        rho, delta = (
            float(np.exp(rng.uniform(np.log(0.05), np.log(1.5)))),
            float(np.exp(rng.uniform(np.log(0.05), 0.0))),
        )
        found = minimize_sam(loss, rho, delta)
        center, half, where = np.zeros(2), 6.0, np.zeros(2)
        for _ in range(7):
            axes = np.linspace(-half, half, 49)
            grid = center + np.stack(np.meshgrid(axes, axes, indexing="ij"), axis=-1).reshape(-1, 2)
            values = np.concatenate(
                [
                    loss((part[:, None, :] + rho * ball).reshape(-1, 2)).reshape(len(part), -1).max(axis=1)
                    for part in np.array_split(grid, 24)
                ]
            ) + 0.5 * delta * np.square(grid).sum(axis=1)
            where = grid[values.argmin()]
            center, half = where, half / 6.0
        # The grid's inner maximum is a lower bound, so its honest value at its own minimizer is evaluated exactly.
        honest = sam_objective(loss, where, rho, delta).value
        deviation.append(max(0.0, found.value - honest))
        distance.append(float(np.linalg.norm(where - found.argmin)))
    return {"deviation": np.array(deviation), "distance": np.array(distance)}


def landscape(loss: LinearPredictorLoss, rho: float, delta: float) -> dict[str, Array]:
    """E_SAM and Eq. 12 at the mapped (or dual) sigma around the SAM minimizer: curves (P = 1) or surfaces (P = 2)."""
    m = verify_theorem2(loss, rho, delta).measured
    theta, sigma = m["theta"], float(m["sigma"])
    other = m.get("relaxed_argmin", theta)
    out = {
        "theta": theta,
        "relaxed": other,
        "sigma": np.asarray(sigma),
        "rho": np.asarray(rho),
        "delta": np.asarray(delta),
    }
    nu = sigma**-2
    offset = 0.5 * nu * rho * rho
    if loss.dim == 1:
        spread = 1.5 * max(abs(float(other[0] - theta[0])), 2.0 * rho)
        axis = np.linspace(float(theta[0]) - spread, float(other[0]) + spread, 401)
        sam_line = [sam_objective(loss, np.array([t]), rho, delta).value for t in axis]
        relaxed_line = [proximal_sup(loss, np.array([t]), sigma, tol=1e-8).lower + 0.5 * delta * t * t for t in axis]
        plain = loss(axis[:, None]) + 0.5 * delta * axis * axis
        return out | {
            "axis": axis,
            "sam": np.array(sam_line),
            "prox": np.array(relaxed_line) + offset,
            "loss": plain,
        }
    spread = max(2.5 * float(np.linalg.norm(other - theta)), 0.2 * rho)
    axes = [np.linspace(theta[i] - spread, theta[i] + spread, 81) for i in range(2)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    angle = 2.0 * np.pi * np.arange(720) / 720
    ball = rho * np.vstack([r * np.stack([np.cos(angle), np.sin(angle)], axis=1) for r in (1.0, 0.5)])
    reach = max(4.0 * rho, 4.0 * sigma)
    net_axis = np.linspace(-reach, reach, 241)
    net = np.stack(np.meshgrid(net_axis, net_axis, indexing="ij"), axis=-1).reshape(-1, 2) + theta
    on_net = loss(net)
    sam = np.array([loss(t + ball).max() for t in grid])
    x = net[[int((on_net - 0.5 * nu * np.square(net - t).sum(axis=1)).argmax()) for t in grid]]
    for _ in range(4):
        slope = loss.gradient(x) - nu * (x - grid)
        bend = loss.hessian(x) - nu * np.eye(2)
        trial = x - np.linalg.solve(bend, slope[:, :, None])[:, :, 0]
        better = _proximal(loss, trial, grid, nu) > _proximal(loss, x, grid, nu)
        x = np.where(better[:, None], trial, x)
    relaxed = _proximal(loss, x, grid, nu)
    penalty = 0.5 * delta * np.square(grid).sum(axis=1)
    shape = (81, 81)
    return out | {
        "x": axes[0], "y": axes[1], "sam": (sam + penalty).reshape(shape),
        "prox": (relaxed + penalty + offset).reshape(shape),
    }  # fmt: skip


def _proximal(loss: LinearPredictorLoss, x: Array, m: Array, nu: float) -> Array:
    return np.asarray(loss(x) - 0.5 * nu * np.square(x - m).sum(axis=1))
