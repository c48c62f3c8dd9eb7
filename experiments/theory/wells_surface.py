"""f and f** of the three-well loss over (m, sigma): slices, surfaces, and where each well stops being one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from fenchel import Gaussian, biconjugate, biconjugate_surface, expected_loss, expected_loss_result
from fenchel import losses as L
from fenchel.arrays import Array

WELLS = ("A", "B", "C")


def expected_surface(loss: L.Loss, means: Array, stds: Array) -> Array:
    """f = -E_q[l] on the grid, (len(means), len(stds))."""
    return -np.array([[expected_loss(loss, Gaussian([m], s * s)) for s in stds] for m in means])


def certified_slice(loss: L.Loss, means: Array, sd: float) -> dict[str, float]:
    """The hull's f** against certified single solves at some means: worst difference and worst certified gap."""
    by_hull = biconjugate_surface(loss, means, [sd])[:, 0]
    single = [biconjugate(loss, Gaussian([m], sd * sd), tol=1e-9) for m in means]
    return {
        "difference": max(abs(h - r.value) for h, r in zip(by_hull, single, strict=True)),
        "gap": max(r.gap for r in single),
        "certified": float(all(r.certified for r in single)),
    }


def surviving_wells(loss: L.ThreeWells, values: Array, means: Array) -> dict[str, bool]:
    """Which of the local maxima of ``values`` (f or f** over ``means``) belong to which well: the nearest center."""
    inner = (values[1:-1] > values[:-2]) & (values[1:-1] > values[2:])
    at = means[1:-1][inner]
    basins = _basins(loss)
    return {name: bool(np.any((at > lo) & (at < hi))) for name, (lo, hi) in zip(WELLS, basins, strict=True)}


def vanishing_sigma(loss: L.ThreeWells, kind: str, well: str, *, largest: float = 6.0) -> float:
    """The sigma at which the local maximum of f ("expected") or f** ("relaxed") over m in a well's basin is lost.

    Bisected to 1e-4; inf where the well survives ``largest``.
    """
    index = WELLS.index(well)
    lo, hi = _basins(loss)[index]
    means = np.linspace(lo, hi, 401)

    def alive(sd: float) -> bool:
        if kind == "relaxed":
            values = biconjugate_surface(loss, means, [sd])[:, 0]
        else:
            values = expected_surface(loss, means, np.array([sd]))[:, 0]
        return bool(np.any((values[1:-1] > values[:-2]) & (values[1:-1] > values[2:])))

    low, high = 0.01, largest
    if not alive(low):
        return 0.0
    # The first loss of the maximum: coarse steps, then bisection.
    steps = np.geomspace(low, high, 20)
    lost = next((k for k, s in enumerate(steps) if not alive(float(s))), None)
    if lost is None:
        return float("inf")
    low, high = float(steps[lost - 1]), float(steps[lost])
    while high - low > 1e-4:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if alive(middle) else (low, middle)
    return 0.5 * (low + high)


def thresholds(loss: L.ThreeWells) -> dict[str, dict[str, float]]:
    """Vanishing sigmas for both f and f**, all wells."""
    return {kind: {w: vanishing_sigma(loss, kind, w) for w in WELLS} for kind in ("expected", "relaxed")}


def expected_threshold_by_roots(loss: L.ThreeWells, well: str) -> float:
    """A second way for f: the sigma at which the slope of E[l] in m has a double root inside the well's basin.

    The largest slope of E_q[l] to the right of the center, as a function of sigma, passes through 0 there; the slope is
    exact (`expected_loss_gradient`'s closed form). The side that loses its barrier first decides.
    """
    lo, hi = _basins(loss)[WELLS.index(well)]
    center = loss.centers[WELLS.index(well)]

    def slope(m: float, sd: float) -> float:
        return float(expected_loss_result(loss, Gaussian([m], sd * sd)).gradient[0])

    def barrier(sd: float) -> float:
        """The smaller of the two barriers: positive while E[l] rises on both sides of its minimum."""
        grid = np.linspace(lo, hi, 201)
        slopes = np.array([slope(m, sd) for m in grid])
        right, left = float(slopes[grid >= center].max()), float(slopes[grid <= center].min())

        def refined(target: float, sign: float, inside: Any) -> float:
            k = int(np.argmin(np.where(inside, -sign * slopes, np.inf)))
            a, b = grid[max(0, k - 1)], grid[min(grid.size - 1, k + 1)]
            found = minimize_scalar(lambda m: -sign * slope(float(m), sd), bounds=(a, b), method="bounded")
            return max(target, -float(found.fun))

        return min(refined(right, 1.0, grid >= center), refined(-left, -1.0, grid <= center))

    scale = loss.widths[WELLS.index(well)]
    sds = np.geomspace(0.3 * scale, 6.0, 24)
    heights = [barrier(float(s)) for s in sds]
    k = next((i for i, h in enumerate(heights) if h <= 0.0), None)
    if k is None or k == 0:
        return float("inf") if k is None else 0.0
    return float(brentq(barrier, sds[k - 1], sds[k], xtol=1e-6))


def relaxed_barrier_by_gradient(loss: L.ThreeWells, well: str, sd: float, count: int = 61) -> float:
    """A second way for f**: the smaller barrier's largest slope, from the gradients of certified single solves.

    At fixed sigma, d f** / d m = lambda1 + 2 m lambda2 with (lambda1, lambda2) = grad f**(mu). Positive while -f**
    rises on both sides of its minimum in the well's basin, so that the well is there.
    """
    lo, hi = _basins(loss)[WELLS.index(well)]
    center = loss.centers[WELLS.index(well)]
    grid = np.linspace(lo, hi, count)
    slopes = []
    for m in grid:
        lam1, lam2 = biconjugate(loss, Gaussian([m], sd * sd), tol=1e-9).natural or (np.nan, np.nan)
        slopes.append(-(float(np.ravel(lam1)[0]) + 2.0 * m * float(np.ravel(lam2)[0])))
    rising = np.array(slopes)
    return min(float(rising[grid >= center].max()), -float(rising[grid <= center].min()))


def _basins(loss: L.ThreeWells) -> list[tuple[float, float]]:
    """The interval between the peaks of l around each well (3 units beyond the outer centers)."""
    centers = loss.centers
    cuts = [centers[0] - 3.0]
    for a, b in pairwise(centers):
        grid = np.linspace(a, b, 2001)
        cuts.append(float(grid[np.argmax(loss(grid[:, None]))]))
    cuts.append(centers[-1] + 3.0)
    return list(pairwise(cuts))
