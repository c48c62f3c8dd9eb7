"""Two independent quadratures of exp(log density) for P <= 2: adaptive Gauss-Kronrod boxes, and a uniform grid.

Both work in coordinates u with theta = center + factor u, in which the main mode has unit scale.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.arrays import Array

LogDensity = Callable[[Array], Array]
Coarse = Callable[[Array], NDArray[np.bool_]]

# Gauss-Kronrod (7, 15) on [-1, 1]: the usual table, right half; the Gauss nodes are every second one.
_XK = np.array(
    [
        0.991455371120812639206854697526329,
        0.949107912342758524526189684047851,
        0.864864423359769072789712788640926,
        0.741531185599394439863864773280788,
        0.586087235467691130294144838258730,
        0.405845151377397166906606412076961,
        0.207784955007898467600689403773245,
        0.0,
    ]
)
_WK = np.array(
    [
        0.022935322010529224963732008058970,
        0.063092092629978553290700663189204,
        0.104790010322250183839876322541518,
        0.140653259715525918745189590510238,
        0.169004726639267902826583426598550,
        0.190350578064785409913256402421014,
        0.204432940075298892414161999234649,
        0.209482141084727828012999174891714,
    ]
)
_NODES = np.r_[-_XK, _XK[-2::-1]]
_KRONROD = np.r_[_WK, _WK[-2::-1]]
_GAUSS = np.zeros(15)
_GAUSS[1::2] = np.polynomial.legendre.leggauss(7)[1]
# exp(-45) of the maximum, over the area of any box that matters, is below rounding.
_NEGLIGIBLE = -45.0
_NARROWEST = 1e-12
# Boxes that a mesh may start with, in one and in two dimensions.
_MOST = (400_000, 20_000)
_MOST_POINTS = 4_000_000


@dataclass(frozen=True)
class Nodes:
    """A discrete measure that integrates exp(log density): points (n, P) in u, weights (n,) that sum to 1.

    ``log_mass`` is the log of the integral over u; ``error`` estimates the relative error of the integral and the
    absolute error of first and second moments in units of u. ``finest``: half the smallest box of the first mesh.
    """

    points: Array
    weights: Array
    log_mass: float
    error: float
    evaluations: int
    complete: bool = True
    finest: float = np.inf


def adaptive_nodes(
    log_density: LogDensity,
    lo: Array,
    hi: Array,
    modes: Array,
    widths: Array | None = None,
    *,
    cuts: Array | None = None,
    coarse: Coarse | None = None,
    tol: float = 1e-11,
    max_boxes: int = 60_000,
    end: float = np.inf,
) -> Nodes:
    """Integrate over the box lo, hi (P,) with bisections where Gauss and Kronrod differ.

    ``modes`` (K, P), with their ``widths`` (K,), are points around which the mesh starts out graded, so that no narrow
    peak is stepped over. A peak higher than every mode that turns up on the way is added to them. On the line no box
    reaches across any of the ``cuts`` (c,). The mesh starts without boxes that are ``coarse``: (B, 2, P) -> (B,);
    ``complete`` says whether that could be done, and every box was looked into. After ``end`` (of `time.perf_counter`)
    no box is divided.
    """
    widths = np.ones(len(modes)) if widths is None else widths
    cuts = np.zeros(0) if cuts is None else cuts
    dim = lo.size
    grid = np.stack(np.meshgrid(*[_NODES] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    kronrod, gauss = _tensor(_KRONROD, dim), _tensor(_GAUSS, dim)
    top = float(log_density(modes).max())
    while True:
        boxes, complete = _graded(lo, hi, modes, widths, cuts, coarse, end)
        room = len(boxes) + max_boxes
        finest = 0.5 * float((boxes[:, 1] - boxes[:, 0]).max(axis=1).min())
        done: list[tuple[Array, Array, Array]] = []  # points, weights * density, error a box
        evaluations, total, restart = 0, 0.0, False
        while True:
            center, half = 0.5 * (boxes[:, 0] + boxes[:, 1]), 0.5 * (boxes[:, 1] - boxes[:, 0])
            points = center[:, None, :] + half[:, None, :] * grid
            values, whole = _in_parts(log_density, points.reshape(-1, dim), end)
            values, complete = values.reshape(len(boxes), -1), complete and whole
            evaluations += values.size
            if values.max() > top + 1.0:
                k = int(values.argmax())
                modes = np.vstack([modes, points.reshape(-1, dim)[k]])
                widths = np.append(widths, min(widths.min(), half[k // values.shape[1]].max() / 8.0))
                top, restart = float(values.max()), True
                break
            density = np.exp(np.maximum(values - top, -745.0)) * half.prod(axis=1)[:, None]
            density[values - top < _NEGLIGIBLE] = 0.0
            features = _moments(points)
            difference = np.einsum("bn,bnf->bf", density * (kronrod - gauss), features)
            error = np.abs(difference).max(axis=1)
            mass = density * kronrod
            total = sum(float(d[1].sum()) for d in done) + float(mass.sum())
            pending = sum(float(d[2].sum()) for d in done)
            count = sum(d[2].size for d in done) + len(boxes)
            # Boxes share the tolerance equally; those that keep within their share are finished.
            bad = error > tol * total / max(200, count)
            done.append((points[~bad], mass[~bad], error[~bad]))
            if not bad.any():
                break
            late = time.perf_counter() > end
            if late or count + len(boxes) * 2**dim > room or pending + float(error.sum()) < tol * total:
                done.append((points[bad], mass[bad], error[bad]))
                break
            boxes = _split(boxes[bad])
        if not restart and total == 0.0 and widths.min() > _NARROWEST:
            # All points missed the highest peak, of which one value is known: it is narrower than was thought.
            widths, restart = 0.1 * widths, True
        if not restart:
            break
    if total == 0.0:
        return Nodes(np.zeros((0, dim)), np.zeros(0), -np.inf, np.inf, evaluations, complete)
    weights = np.concatenate([d[1].ravel() for d in done])
    points = np.concatenate([d[0].reshape(-1, dim) for d in done])
    keep = weights > 0.0
    error_sum = sum(float(d[2].sum()) for d in done)
    log_mass = top + float(np.log(total))
    return Nodes(points[keep], weights[keep] / total, log_mass, error_sum / total, evaluations, complete, finest)


def _in_parts(log_density: LogDensity, points: Array, end: float) -> tuple[Array, bool]:
    """The values (n,) at the points (n, P), in parts that fit into memory, and whether all could be had before ``end``.

    The first part is evaluated in any case; for those whose turn is after ``end`` the value is -inf.
    """
    found: list[Array] = []
    for part in np.array_split(points, max(1, points.size // 400_000)):
        if found and time.perf_counter() > end:
            break
        found.append(log_density(part))
    left = len(points) - sum(map(len, found))
    return np.concatenate([*found, np.full(left, -np.inf)]), left == 0


def uniform_nodes(log_density: LogDensity, lo: Array, hi: Array, *, tol: float = 1e-11, end: float = np.inf) -> Nodes:
    """The trapezoidal rule on lo, hi (P,), halving the step until integral and moments settle.

    For a smooth density that vanishes at the border the convergence is exponential; ``error`` is the last change.
    """
    dim = lo.size
    count = 257 if dim == 1 else 97
    previous: Array | None = None
    evaluations = 0
    while True:
        axes = [np.linspace(lo[j], hi[j], count) for j in range(dim)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dim)
        values, _ = _in_parts(log_density, points, np.inf)
        evaluations += values.size
        top = float(values.max())
        density = np.exp(np.maximum(values - top, -745.0))
        total = float(density.sum())
        cell = float(np.prod((hi - lo) / (count - 1)))
        log_mass = top + np.log(total * cell)
        moments = np.r_[log_mass, (density @ _moments(points[None])[0][:, 1:]) / total]
        scale = np.maximum(1.0, np.abs(moments))
        change = np.inf if previous is None else float((np.abs(moments - previous) / scale).max())
        if change < tol or (2 * count - 1) ** dim > _MOST_POINTS or time.perf_counter() > end:
            return Nodes(points, density / total, float(log_mass), change, evaluations)
        previous, count = moments, 2 * count - 1


def _tensor(weights: Array, dim: int) -> Array:
    return weights if dim == 1 else np.outer(weights, weights).ravel()


def _moments(points: Array) -> Array:
    """(b, n, P) -> (b, n, 1 + P + P (P + 1) / 2): 1, u, and the products u_i u_j."""
    i, j = np.triu_indices(points.shape[-1])
    return np.concatenate([np.ones((*points.shape[:-1], 1)), points, points[..., i] * points[..., j]], axis=-1)


def _split(boxes: Array) -> Array:
    """(b, 2, P) -> (b 2^P, 2, P): every box halved along every axis."""
    for axis in range(boxes.shape[2]):
        left, right = boxes.copy(), boxes.copy()
        left[:, 1, axis] = right[:, 0, axis] = 0.5 * (boxes[:, 0, axis] + boxes[:, 1, axis])
        boxes = np.concatenate([left, right])
    return boxes


def _graded(
    lo: Array, hi: Array, modes: Array, widths: Array, cuts: Array, coarse: Coarse | None, end: float
) -> tuple[Array, bool]:
    """Boxes (b, 2, P) over lo, hi: about 4 widths at the modes, and nowhere larger than their distance to one.

    None is ``coarse`` unless there would be too many of them; returns whether that was so.
    """
    most, complete = _MOST[lo.size - 1], True
    boxes, ready = np.stack([lo, hi])[None], [np.zeros((0, 2, lo.size))]
    inside = cuts[(cuts > lo[0]) & (cuts < hi[0])]
    if inside.size:
        edges = np.concatenate([lo, inside, hi])
        boxes = np.stack([edges[:-1], edges[1:]], axis=1)[:, :, None]
    for _ in range(120):
        size = (boxes[:, 1] - boxes[:, 0]).max(axis=1)
        gap = np.maximum(boxes[:, None, 0] - modes, modes - boxes[:, None, 1]).max(axis=2)
        large = (size[:, None] > np.maximum(4.0 * widths, gap)).any(axis=1)
        if coarse is not None:
            if sum(len(part) for part in ready) + len(boxes) > most or time.perf_counter() > end:
                coarse, complete = None, False
            else:
                large[~large] = coarse(boxes[~large])
        ready.append(boxes[~large])
        if not large.any():
            break
        boxes = _halve_longest(boxes[large])
    return np.concatenate(ready), complete


def _halve_longest(boxes: Array) -> Array:
    rows, axis = np.arange(len(boxes)), (boxes[:, 1] - boxes[:, 0]).argmax(axis=1)
    left, right = boxes.copy(), boxes.copy()
    middle = 0.5 * (boxes[rows, 0, axis] + boxes[rows, 1, axis])
    left[rows, 1, axis] = right[rows, 0, axis] = middle
    return np.concatenate([left, right])
