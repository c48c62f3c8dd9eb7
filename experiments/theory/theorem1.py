"""Theorem 1 and what f** is: claims A1 to A7 on convex and nonconvex losses, three structures, P = 1, 2, 3."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from experiments.pieces import pieces
from experiments.registry import Context, Outcome
from experiments.store import plain
from experiments.theory import convexity, max_loss_form, theorem1_sides
from experiments.theory.theorem1_cases import losses_by_dimension, random_gaussians, wells
from fenchel import Gaussian, conjugate, verify_theorem1
from fenchel import losses as L
from fenchel.theorems.theorem1 import random_naturals


def run(context: Context) -> Outcome:
    """Every part is a finished piece, so that an interrupted run resumes."""
    quick = context.scale == "quick"
    seed = context.seed
    losses = dict(losses_by_dimension())
    if quick:
        losses = {name: losses[name] for name in ("three wells", "logistic regression, P = 2", "wells, P = 2")}
    sides = {f"sides{k}": partial(_verdict, loss, 1 if quick else 2, seed) for k, loss in enumerate(losses.values())}
    found = _kept(
        context,
        {
            **sides,
            "convexity": partial(_convexity, quick, seed),
            "families": partial(theorem1_sides.family_sides, 1 if quick else 3, seed),
            "jumps": partial(theorem1_sides.discontinuous_sides, seed),
            "max_loss": partial(_max_loss, quick, seed),
        },
    )
    verdicts = {name: found[key] for name, key in zip(losses, sides, strict=True)}
    finite = {name: _finite(loss, seed) for name, loss in losses.items()}
    coercive = {name: loss for name, loss in losses.items() if "Cauchy" not in name and "logistic" not in name}
    probes = {n: theorem1_sides.domain_probe(loss, 10 if quick else 60, seed) for n, loss in coercive.items()}
    claims = (
        convexity.claim_a1(*found["convexity"]),
        theorem1_sides.claim_a2(verdicts),
        theorem1_sides.claim_a3(finite, theorem1_sides.growth_of_quartic(10 if quick else 50, seed)),
        theorem1_sides.claim_a4(probes, theorem1_sides.boundary_points()),
        theorem1_sides.claim_a5(found["families"], theorem1_sides.fixed_covariance_gaps()),
        theorem1_sides.claim_a6(found["jumps"]),
        max_loss_form.claim_a7(*found["max_loss"]),
    )
    path = verdicts["three wells"]["rows"][0]
    return Outcome(
        settings={"losses": list(losses), "naturals_per_structure": 1 if quick else 2, "seed": seed},
        numbers={"table": verdicts},
        claims=claims,
        arrays={"path": np.array(path["path"]), "path_theta": np.array(path["over_theta"])},
    )


def _kept(context: Context, computes: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Pieces that are nests of plain numbers rather than arrays."""
    stored = pieces(context, {key: partial(_as_json, compute) for key, compute in computes.items()})
    return {key: _numbers(json.loads(str(arrays["json"]))) for key, arrays in stored.items()}


def _as_json(compute: Callable[[], Any]) -> dict[str, Any]:
    return {"json": np.array(json.dumps(plain(compute())))}


def _numbers(value: Any) -> Any:
    """Undo `plain` for non-finite numbers."""
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return float(value) if value in ("inf", "-inf", "nan") else value


def _verdict(loss: L.Loss, count: int, seed: int) -> dict[str, Any]:
    verdict = verify_theorem1(loss, count=count, seed=seed, max_seconds=None)
    return {"holds": verdict.holds, "explanation": verdict.explanation, **verdict.measured}


def _finite(loss: L.Loss, seed: int) -> dict[str, float]:
    lam1, lam2 = random_naturals(loss, "full", 1, seed + 7)[0]
    found = conjugate(loss, lam1, lam2)
    return {"value": found.value, "upper": found.upper, "certified": float(found.certified)}


def _convexity(quick: bool, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    logistic = L.LogisticRegression(rng.normal(size=(30, 2)), np.arange(30) % 2)
    losses: dict[str, tuple[L.Loss, int]] = {
        "three wells": (L.ThreeWells(), 4 if quick else 40),
        "logistic regression, P = 2": (logistic, 2 if quick else 10),
        "wells, P = 2": (wells(2), 2 if quick else 6),
    }
    segments, minorants = {}, {}
    for name, (loss, count) in losses.items():
        for structure in ("full", "diagonal", "isotropic") if loss.dim > 1 else ("full",):
            key = f"{name}, {structure}"
            segments[key] = convexity.convexity_on_segments(loss, structure, count, seed)
            q = random_gaussians(loss.dim, 3, structure, seed + 3)[2]
            minorants[key] = convexity.largest_minorant(loss, q)
    return segments, minorants


def _max_loss(quick: bool, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    line = np.linspace(-40.0, 40.0, 8001)[:, None]
    square = np.stack([g.ravel() for g in np.meshgrid(*([np.linspace(-12.0, 12.0, 97)] * 2))], axis=1)
    rng = np.random.default_rng(seed)
    cases: dict[str, tuple[L.Loss, np.ndarray]] = {
        "three wells": (L.ThreeWells(), line),
        "logistic regression, P = 1": (L.LogisticRegression(rng.normal(size=(20, 1)), np.arange(20) % 2), line),
        "wells, P = 2": (wells(2), square),
    }
    conjugates, biconjugates = {}, {}
    for name, (loss, grid) in cases.items():
        for k in range(1 if quick or loss.dim > 1 else 3):
            mean = rng.normal(size=loss.dim)
            sd = float(rng.uniform(0.4, 1.5))
            conjugates[f"{name} {k}"] = max_loss_form.max_loss_conjugate(loss, Gaussian(mean, sd**2), grid)
            if loss.dim == 1 or not quick:
                biconjugates[f"{name} {k}"] = max_loss_form.max_loss_biconjugate(loss, Gaussian(mean, sd**2), grid, k)
    return conjugates, biconjugates
