"""Theorem 1 (Eq. 10), checked: the conjugate over mu against the supremum over theta, computed independently."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.checks import check_count, check_loss, check_seconds, check_tolerance, check_unbounded
from fenchel.conjugate import conjugate
from fenchel.gaussian import STRUCTURES
from fenchel.losses import Loss
from fenchel.losses.inputs import finite_array, finite_vector
from fenchel.results import Verdict
from fenchel.theorems.gaussian_supremum import supremum_over_gaussians


def verify_theorem1(
    loss: Loss,
    lam1: Any = None,
    lam2: Any = None,
    *,
    structures: tuple[str, ...] = ("full", "diagonal", "isotropic"),
    count: int = 2,
    tol: float = 1e-6,
    seed: int = 0,
    max_seconds: float | None = 120.0,
) -> Verdict:
    """Does sup over Gaussians of <lambda', mu> - f(mu) equal sup over theta of <lambda', T(theta)> + l(theta)?

    Args:
        loss: any loss.
        lam1, lam2: one lambda' to test, lam2 in blocks of any family (it fixes the structure); by default ``count``
            random members of Omega for each of ``structures``, inside the domain of f* and near its edge (for the
            first alone where P = 1: there they are one family).
        tol: relative agreement asked for.
        max_seconds: for all of it (None: no limit); what was reached by then is judged, and the explanation says so.
        seed: of the random lambda' and of the starts of the search over Gaussians.

    Returns:
        `Verdict`. ``holds`` is False where a Gaussian beats the certified upper end of the supremum over theta (which
        the theorem forbids) or one side is finite and the other not; True where both sides agree within tol for
        every lambda'; None where the search over Gaussians ended lower, which proves nothing.
        ``measured["rows"]``: structure, both sides, their difference, the final largest standard deviation.

    Raises:
        ValueError: an unknown structure, or shapes that do not fit.
    """
    check_loss(loss)
    check_unbounded(loss, "the side of Theorem 1 over Gaussians")
    check_tolerance(tol)
    check_count(seed, "seed", 0)
    cases: list[tuple[str, Array, Array]] = []
    if lam1 is not None or lam2 is not None:
        if lam1 is None or lam2 is None:
            raise ValueError("lam1 and lam2 must be given together")
        block = finite_array(lam2, "lam2")
        cases.append((("isotropic", "diagonal", "full")[min(block.ndim, 2)], finite_vector(lam1, "lam1"), block))
    else:
        check_count(count, "count")
        if not isinstance(structures, (list, tuple)):
            raise TypeError(f"structures must be a tuple of names, got {type(structures).__name__}.")
        for structure in structures:
            if structure not in STRUCTURES:
                raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}, got {structure!r}")
        for structure in structures[:1] if loss.dim == 1 else structures:
            cases += [(structure, *pair) for pair in random_naturals(loss, structure, count, seed)]
    limit = check_seconds(max_seconds)
    begin, rows = time.perf_counter(), []
    for k, case in enumerate(cases):
        left = limit - (time.perf_counter() - begin)
        if left <= 0.0:
            break
        # The cases share what is left, so that the first cannot take it all.
        rows.append(_compare(loss, *case, seed=seed + k, max_seconds=left / (len(cases) - k)))
    states = [_state(row, tol) for row in rows]
    holds = False if False in states else None if None in states else True
    worst = max((abs(r["difference"]) / max(1.0, abs(r["over_theta"])) for r in rows if r["both_finite"]), default=0.0)
    text = {
        True: f"both suprema agree for all {len(rows)} lambda' (worst relative difference {worst:.1e})",
        False: f"the suprema differ: {[r for r, s in zip(rows, states, strict=True) if s is False][:1]}",
        None: f"the search over Gaussians ended below the supremum over theta (by up to {worst:.1e}): undecided",
    }[holds]
    if len(rows) < len(cases):
        holds = None if holds else holds
        text = f"the time limit was reached after {len(rows)} of {len(cases)} lambda'; of these: {text}"
    return Verdict(holds, {"rows": rows, "worst": worst, "tol": tol}, text)


def _compare(loss: Loss, structure: str, lam1: Array, lam2: Array, *, seed: int, max_seconds: float) -> dict[str, Any]:
    theta = conjugate(loss, lam1, lam2, tol=1e-10, max_seconds=0.5 * max_seconds)
    mu = supremum_over_gaussians(loss, lam1, lam2, structure, seed=seed, max_seconds=max_seconds - theta.seconds)
    both = bool(np.isfinite(theta.value) and np.isfinite(mu.value))
    return {
        "structure": structure,
        "lam1": lam1.tolist(),
        "lam2": np.asarray(lam2).tolist(),
        "over_mu": mu.value,
        "over_theta": theta.value,
        "over_theta_upper": theta.upper,
        "difference": mu.value - theta.value if both else 0.0,
        "both_finite": both,
        "certified": theta.certified,
        "final_std": float(mu.path[-1, 0]) if mu.path.size else 0.0,
        "path": mu.path.tolist(),
        "message": "; ".join(text for text in (theta.message, mu.message) if text),
    }


def _state(row: dict[str, Any], tol: float) -> bool | None:
    """Every Gaussian met bounds the supremum over mu from below: only one above the other supremum refutes."""
    if row["over_mu"] == row["over_theta"]:
        return True
    scale = tol * max(1.0, abs(row["over_theta"]))
    if max((height for _, height in row["path"]), default=-np.inf) > row["over_theta_upper"] + scale:
        return False
    if not row["both_finite"]:
        return None
    return True if abs(row["difference"]) <= scale and row["certified"] else None


def random_naturals(loss: Loss, structure: str, count: int, seed: int) -> list[tuple[Array, Array]]:
    """Random lambda' in Omega, in the structure's blocks, precise enough to dominate the loss's growth."""
    rng = np.random.default_rng(seed)
    dim = loss.dim
    pairs = []
    for _ in range(count):
        margin = float(np.exp(rng.uniform(-2.5, 1.0)))
        mean = 1.5 * rng.normal(size=dim)
        growth = _growth_matrix(loss)
        if structure == "full":
            root = rng.normal(size=(dim, dim))
            precision = growth + margin * (root @ root.T / dim + 0.3 * np.eye(dim))
            pairs.append((precision @ mean, -0.5 * precision))
            continue
        largest = max(float(np.linalg.eigvalsh(growth)[-1]), 0.0)
        scales = largest + margin * rng.uniform(0.3, 1.5, size=dim if structure == "diagonal" else ())
        pairs.append((np.asarray(scales * mean), np.asarray(-0.5 * scales)))
    return pairs


def _growth_matrix(loss: Loss) -> Array:
    """H of a quadratic that majorizes the loss up to linear terms; 0 where none is known."""
    linear = loss.in_predictors()
    if linear is not None:
        return np.asarray(linear.H)
    if loss.majorizer is not None:
        return np.asarray(loss.majorizer.H)
    if np.isfinite(loss.curvature):
        return loss.curvature * np.eye(loss.dim)
    return np.zeros((loss.dim, loss.dim))
