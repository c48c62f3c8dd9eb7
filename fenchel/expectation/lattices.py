"""Quadrature in several dimensions: lattices, adaptive boxes, scrambled Sobol points."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fenchel.arrays import Array
from fenchel.expectation.quadrature import _BATCH, REACH, Estimate

Integrand = Callable[[Array], Array]


def trapezoid(
    integrand: Integrand, dim: int, *, tol: float = 1e-12, step: float = np.inf, max_points: int = 2_500_000
) -> tuple[Estimate, float]:
    """The trapezoidal rule on a ball, its step halved until converged: for smooth integrands on R^P, P <= 3.

    For an integrand analytic in a strip of half-width d the error is about exp(-2 pi d / step): halving the step
    squares it, which Gauss-Hermite rules do not achieve. The estimate is the last change, or its power 3/2 where the
    changes themselves shrank as fast as that. Also returns the last step, which is at most ``step`` unless the points
    run out before.
    """
    finest, step, points = step, 0.6, 0
    total, size = _lattice(integrand, dim, step, None)
    gaps: list[Array] = []
    while True:
        points = int(np.ceil(2 * REACH / step)) ** dim
        if points * 2**dim > max_points and gaps:
            return Estimate(total, _trapezoid_error(gaps, size), points, "trapezoidal rule"), step
        step *= 0.5
        finer, magnitude = _lattice(integrand, dim, step, (total, size))
        gaps.append(np.abs(finer - total) + 1e-15 * magnitude)
        total, size = finer, magnitude
        error = _trapezoid_error(gaps, size)
        if np.all(error <= tol * size) and step <= finest:
            return Estimate(total, error, points * 2**dim, "trapezoidal rule"), step


def _trapezoid_error(gaps: list[Array], size: Array) -> Array:
    floor = 1e-15 * size
    if len(gaps) < 2:
        return gaps[-1]
    unit = np.maximum(size, 1e-300)
    before, last = gaps[-2] / unit, gaps[-1] / unit
    fast = (last <= np.maximum(before, 1e-15) ** 1.4) & (before < 1e-2)
    return np.where(fast, np.maximum(unit * last**1.5, floor), gaps[-1])


def _lattice(integrand: Integrand, dim: int, step: float, coarse: tuple[Array, Array] | None) -> tuple[Array, Array]:
    """Sums over the lattice of this step in the ball; ``coarse`` are those of twice the step, whose points it skips."""
    reach = int(REACH / step)
    axis = np.arange(-reach, reach + 1)
    total, size = (0.0, 0.0) if coarse is None else (0.5**dim * coarse[0], 0.5**dim * coarse[1])
    slabs = np.meshgrid(*([axis] * (dim - 1)), indexing="ij")
    rest = np.stack([g.ravel() for g in slabs], axis=1) if dim > 1 else np.zeros((1, 0), dtype=int)
    per_batch = max(1, _BATCH // rest.shape[0])
    for start in range(0, axis.size, per_batch):
        first = axis[start : start + per_batch]
        index = np.column_stack([np.repeat(first, rest.shape[0]), np.tile(rest, (first.size, 1))])
        if coarse is not None:
            index = index[np.any(index % 2 != 0, axis=1)]
        x = step * index
        square = np.sum(x * x, axis=1)
        x, square = x[square < REACH * REACH], square[square < REACH * REACH]
        if x.shape[0] == 0:
            continue
        weights = (step / np.sqrt(2.0 * np.pi)) ** dim * np.exp(-0.5 * square)
        values = integrand(x)
        total = total + values @ weights
        size = size + np.abs(values) @ weights
    return np.asarray(total), np.asarray(size)


def adaptive_boxes(integrand: Integrand, dim: int, *, tol: float = 1e-11, max_points: int = 1_000_000) -> Estimate:
    """Globally adaptive tensor rule on boxes for integrands that are not smooth (P <= 3).

    Each box carries two Gauss-Legendre rules, whose difference is its error; the worst boxes are halved along the axis
    that matters until the sum of errors is below tol of the integral of the absolute value, or points run out.
    """
    orders = {1: (15, 10), 2: (10, 7), 3: (7, 5)}[dim]
    fine, coarse = (np.polynomial.legendre.leggauss(n) for n in orders)
    edges = np.linspace(-REACH, REACH, 7)
    cells = list(product(range(6), repeat=dim))
    lo = edges[np.array(cells)]
    half = np.full_like(lo, 0.5 * (edges[1] - edges[0]))
    center = lo + half
    per_box = orders[0] ** dim + orders[1] ** dim
    value, size, gap, axis = _box_rules(integrand, center, half, fine, coarse)
    points = per_box * center.shape[0]
    while True:
        scale = np.maximum(size.sum(axis=0), 1e-300)
        error = gap.sum(axis=0)
        if np.all(error <= tol * scale) or points + 2 * per_box > max_points:
            break
        relative = np.max(gap / scale, axis=1)
        order = np.argsort(-relative)
        # Halve the boxes that carry all but a tenth of the error.
        count = int(np.searchsorted(np.cumsum(relative[order]), 0.9 * relative.sum())) + 1
        count = min(count, max(1, (max_points - points) // (2 * per_box)), 4096)
        worst = order[:count]
        rest = np.setdiff1d(np.arange(relative.size), worst)
        narrow = half[worst].copy()
        rows = np.arange(count)
        narrow[rows, axis[worst]] *= 0.5
        shift = np.zeros_like(narrow)
        shift[rows, axis[worst]] = narrow[rows, axis[worst]]
        new_center = np.vstack([center[worst] - shift, center[worst] + shift])
        new_half = np.vstack([narrow, narrow])
        fresh = _box_rules(integrand, new_center, new_half, fine, coarse)
        points += per_box * new_center.shape[0]
        center, half = np.vstack([center[rest], new_center]), np.vstack([half[rest], new_half])
        value, size, gap = (np.vstack([old[rest], new]) for old, new in zip((value, size, gap), fresh[:3], strict=True))
        axis = np.concatenate([axis[rest], fresh[3]])
    return Estimate(value.sum(axis=0), error + 1e-15 * scale, points, "adaptive boxes")


def _box_rules(
    integrand: Integrand, center: Array, half: Array, fine: tuple[Array, Array], coarse: tuple[Array, Array]
) -> tuple[Array, Array, Array, NDArray[np.intp]]:
    """(boxes, k) integrals, integrals of absolute values and errors, and the axis to halve, for boxes (B, P)."""
    parts: list[tuple[Array, Array, Array, NDArray[np.intp]]] = []
    step = max(1, _BATCH // fine[0].size ** center.shape[1])
    for start in range(0, center.shape[0], step):
        parts.append(_box_batch(integrand, center[start : start + step], half[start : start + step], fine, coarse))
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))  # type: ignore[return-value]


def _box_batch(
    integrand: Integrand, center: Array, half: Array, fine: tuple[Array, Array], coarse: tuple[Array, Array]
) -> tuple[Array, Array, Array, NDArray[np.intp]]:
    boxes, dim = center.shape
    sums = []
    for x, w in (fine, coarse):
        nodes = np.stack([g.ravel() for g in np.meshgrid(*([x] * dim), indexing="ij")], axis=1)
        weights = np.prod(np.stack([g.ravel() for g in np.meshgrid(*([w] * dim), indexing="ij")]), axis=0)
        at = center[:, None, :] + half[:, None, :] * nodes
        density = np.exp(-0.5 * np.sum(at * at, axis=2)) / np.sqrt(2.0 * np.pi) ** dim
        values = integrand(at.reshape(-1, dim)).reshape(-1, boxes, weights.size)
        mass = density * weights * np.prod(half, axis=1)[:, None]
        sums.append((np.einsum("kbn,bn->bk", values, mass), values, mass, nodes))
    value, values, mass, _ = sums[0]
    size = np.einsum("kbn,bn->bk", np.abs(values), mass)
    # The axis along which the integrand (its first component, with the density) is roughest on a line of nodes.
    cube = (values[0] * mass).reshape(boxes, *([fine[0].size] * dim))
    rough = np.stack(
        [np.abs(np.diff(cube, n=2, axis=1 + a)).sum(axis=tuple(range(1, dim + 1))) for a in range(dim)], axis=1
    )
    return value, size, np.abs(value - sums[1][0]), np.argmax(rough, axis=1)


def scrambled_sobol(
    integrand: Integrand, dim: int, *, points: int = 4096, scramblings: int = 16, seed: int = 0
) -> Estimate:
    """Mean over independent scramblings of a Sobol sequence; ``error`` is the standard error of that mean."""
    from scipy.stats import qmc  # takes as long to import as all the rest of fenchel

    if dim > qmc.Sobol.MAXDIM:
        raise ValueError(f"quasi-Monte Carlo points exist for at most {qmc.Sobol.MAXDIM} dimensions, got {dim}")
    means = []
    power = int(np.ceil(np.log2(points)))
    for generator in np.random.default_rng(seed).spawn(scramblings):
        uniform = qmc.Sobol(dim, rng=generator).random_base2(power)
        x = ndtri(np.clip(uniform, 1e-16, 1.0 - 1e-16))
        means.append(integrand(x).mean(axis=1))
    table = np.array(means)
    error = table.std(axis=0, ddof=1) / np.sqrt(scramblings)
    return Estimate(table.mean(axis=0), error, scramblings << power, "scrambled Sobol points")
