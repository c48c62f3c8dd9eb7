"""f and certified f** on the paper's logistic regression; the sampled program's error; claim C4 on sums of blocks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import linprog

from experiments.pieces import pieces
from experiments.progress import bar
from experiments.registry import Claim, Context, Outcome, settle
from fenchel import Gaussian, biconjugate, expected_loss, sum_of_biconjugates
from fenchel.arrays import Array
from fenchel.errors import SolverError
from fenchel.losses import LogisticRegression
from fenchel.problems import murphy

MEAN = np.array([1.0, 1.0])
COV = np.array([[1.0, 0.3], [0.3, 0.8]])
TOL = 1e-9
# Blocks are consecutive in one order of the data, so that these splits refine each other.
_CHAIN = (1, 2, 4, 20, 60)
STRUCTURES = ("full", "diagonal", "isotropic")


def run(context: Context) -> Outcome:
    """One q in detail, a grid of q, the sampled program over its number of pieces, and blocks of data."""
    quick = context.scale == "quick"
    sizes = (20, 100) if quick else (20, 50, 100, 200, 400)
    repeats = 2 if quick else 10
    counts = (1, 2, 6, 20, 60) if quick else (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60)
    problem = murphy()
    q = Gaussian(MEAN, COV)
    example = _example(problem.loss, q)
    cases = 2 if quick else 6
    found = pieces(
        context,
        {
            "sampled": partial(_sampled, problem.loss, q, sizes, repeats, context),
            "grid": partial(_grid, problem.loss, 3 if quick else 7),
            "blocks": partial(_blocks, problem.inputs, problem.labels, counts, cases, context),
        },
    )
    sampled, grid, blocks = found["sampled"], found["grid"], found["blocks"]
    truth = example["full"]["lower"]
    errors = 100 * np.abs(sampled["values"] - truth) / abs(truth)  # in per cent of f**
    numbers: dict[str, Any] = {
        "example": example,
        "sampled program": {
            f"K={k}": {
                "median of -f**": float(np.nanmedian(-sampled["values"][i])),
                "median error in % of f**": float(np.nanmedian(errors[i])),
                "largest error in %": float(np.nanmax(errors[i])),
                "solver failures": int(np.isnan(sampled["values"][i]).sum()),
            }
            for i, k in enumerate(sizes)
        },
        "grid of q": {
            "q certified": f"{int(grid['certified'].sum())} of {grid['certified'].size}",
            "widest relative bracket": float(grid["gap"].max()),
            "f** <= f at every q": bool(np.all(grid["lower"] <= grid["f"] + 1e-9 * np.abs(grid["f"]))),
            "(f - f**) / |f|, smallest and largest": [float(_relaxation(grid).min()), float(_relaxation(grid).max())],
        },
    }
    return Outcome(
        settings={"mean": MEAN, "cov": COV, "tol": TOL, "pieces": sizes, "repeats": repeats, "blocks": counts},
        numbers=numbers,
        claims=(_claim_c4(blocks, counts),),
        arrays={
            "pieces": np.array(sizes),
            "sampled": sampled["values"],
            "counts": np.array(counts),
            **{f"grid_{k}": v for k, v in grid.items()},
            **{f"blocks_{k}": v for k, v in blocks.items()},
        },
    )


def dense_program(loss: LogisticRegression, q: Gaussian, points: int = 161) -> float:
    """f** from above by one linear program over a fixed grid of atoms: independent of the certified method."""
    root = np.linalg.cholesky(q.cov)
    axis = np.sinh(3.0 * np.linspace(-1.0, 1.0, points)) / np.sinh(3.0) * 12.0
    white = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    statistics = np.stack([np.ones(len(white)), *white.T, *(white**2).T, white[:, 0] * white[:, 1]])
    moments = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    solution = linprog(-loss(q.mean + white @ root.T), A_eq=statistics, b_eq=moments, method="highs")
    if solution.status != 0:
        raise SolverError(f"the dense linear program ended with: {solution.message}")
    return float(solution.fun)


def _relaxation(grid: Mapping[str, Array]) -> Array:
    return np.asarray((grid["f"] - grid["lower"]) / np.abs(grid["f"]))


def _example(loss: LogisticRegression, q: Gaussian) -> dict[str, Any]:
    found: dict[str, Any] = {"f": -expected_loss(loss, q)}
    for structure in STRUCTURES:
        result = biconjugate(loss, q, structure=structure, tol=TOL)
        found[structure] = {"lower": result.lower, "upper": result.upper, "certified": result.certified}
    found["sum of f_i**"] = sum_of_biconjugates(loss, q).value
    found["dense linear program (full, from above)"] = dense_program(loss, q)
    return found


def _sampled(
    loss: LogisticRegression, q: Gaussian, pieces: tuple[int, ...], repeats: int, context: Context
) -> dict[str, Any]:
    values = np.full((len(pieces), repeats), np.nan)
    for i, r in bar(list(np.ndindex(values.shape)), "sampled program", context.progress):
        rng = np.random.default_rng([context.seed, pieces[i], r])
        try:
            values[i, r] = biconjugate(loss, q, method="sampled", num_pieces=pieces[i], rng=rng).value
        except SolverError:
            continue  # counted as a failure: the entry stays NaN
    return {"values": values}


def _grid(loss: LogisticRegression, size: int) -> dict[str, Any]:
    means = np.linspace(-2.0, 4.0, size)
    scales = np.geomspace(0.01, 3.0, size)
    shape = (size, size, size)
    f, lower, upper = np.empty(shape), np.empty(shape), np.empty(shape)
    certified = np.zeros(shape, dtype=bool)
    warm = None
    for i, j, k in np.ndindex(shape):
        q = Gaussian(np.array([means[i], means[j]]), scales[k] * COV)
        f[i, j, k] = -expected_loss(loss, q)
        warm = biconjugate(loss, q, tol=TOL, warm=warm)
        lower[i, j, k], upper[i, j, k], certified[i, j, k] = warm.lower, warm.upper, warm.certified
    gap = (upper - lower) / np.maximum(1.0, np.abs(lower))
    return {
        "means": means,
        "scales": scales,
        "f": f,
        "lower": lower,
        "upper": upper,
        "certified": certified,
        "gap": gap,
    }


def _blocks(inputs: Array, labels: Array, counts: tuple[int, ...], cases: int, context: Context) -> dict[str, Any]:
    """Brackets of the sum over m blocks of f_block**, and the same by a second route, for several q and orders."""
    rng = np.random.default_rng([context.seed, 4])
    lower, upper, second = (np.empty((cases, len(counts))) for _ in range(3))
    for case, column in bar(list(np.ndindex(lower.shape)), "blocks", context.progress):
        if column == 0:
            order = rng.permutation(len(labels))
            root = rng.normal(size=(2, 2))
            cov = root @ root.T + 0.1 * np.eye(2)
            q = Gaussian(MEAN, COV) if case == 0 else Gaussian(rng.normal(size=2), cov)
        parts = [LogisticRegression(inputs[rows], labels[rows]) for rows in np.array_split(order, counts[column])]
        results = [biconjugate(part, q, tol=TOL) for part in parts]
        lower[case, column] = sum(r.lower for r in results)
        upper[case, column] = sum(r.upper for r in results)
        if counts[column] == len(labels):
            second[case, column] = sum_of_biconjugates(LogisticRegression(inputs, labels), q).value
        else:
            second[case, column] = (
                sum(dense_program(part, q, 81) for part in parts[:4]) if counts[column] <= 4 else np.nan
            )
    return {"lower": lower, "upper": upper, "second": second}


def _claim_c4(blocks: Mapping[str, Array], counts: tuple[int, ...]) -> Claim:
    lower, upper, second = blocks["lower"], blocks["upper"], blocks["second"]
    size = np.abs(upper[:, :1])
    below = bool(np.all(lower <= upper[:, :1] + 1e-12 * size))
    strict = bool(np.all(upper[:, -1] < lower[:, 0]))
    gap = (lower[:, :1] - upper) / size
    nested = [j for j, m in enumerate(counts) if m in _CHAIN]
    dense = np.isfinite(second) & (np.array(counts) < counts[-1])
    excess = (second - lower) / size
    agrees = bool(np.all(excess[dense] >= -1e-9) and np.all(excess[dense] < 2e-3))
    closed = float(np.max(np.abs(second[:, -1] - upper[:, -1]) / size[:, 0]))
    word, condition = settle(below and agrees and closed < 1e-8, lower, upper, second[:, -1])
    return Claim(
        id="C4",
        verdict=word,
        condition=condition,
        statement=(
            f"Sum over m blocks of f_block** against f** of the whole, {len(lower)} pairs of q and order: the sum is "
            f"below the whole in {'every case' if below else 'some cases only'}, strictly at m = n in "
            f"{'every case' if strict else 'some cases only'}; the median gap is {np.median(gap[:, 1]):.2%} of |f**| "
            f"at m = {counts[1]} and {np.median(gap[:, -1]):.2%} at m = {counts[-1]}."
        ),
        numbers={
            "median relative gap by m": {f"m={m}": float(np.median(gap[:, j])) for j, m in enumerate(counts)},
            "largest relative gap by m": {f"m={m}": float(gap[:, j].max()) for j, m in enumerate(counts)},
            "widest relative bracket": float(((upper - lower) / size).max()),
            "gap grows along nested splits": bool(np.all(np.diff(gap[:, nested], axis=1) >= -1e-9)),
        },
        tolerance="certified brackets; the order is asked for beyond them",
        second_way=(
            f"m <= 4: one dense linear program a block on a fixed grid, from above and within 2e-3: {agrees}; "
            f"m = n: closed form a datum (Jaakkola-Jordan), relative difference {closed:.1e}"
        ),
    )
