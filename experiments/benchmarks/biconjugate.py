"""Certified biconjugates beside the paper's sampled program, and the hull beside single solves.

Everything that is compared is timed in the same run, interleaved, and reported with its error: a fast wrong number
is not a fast number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fenchel
from fenchel import losses, problems


def _timed(run: Callable[..., Any], *args: Any, **options: Any) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = run(*args, **options)
    return time.perf_counter() - begin, result


def against_sampled(tol: float = 1e-6, repeats: int = 5) -> None:
    """Cold and warm certified solves beside the sampled program, on a sequence of nearby q."""
    loss = problems.murphy_logistic_regression()
    q = fenchel.Gaussian(np.array([1.0, 1.0]), np.array([[1.0, 0.3], [0.3, 0.8]]))
    reference = fenchel.biconjugate(loss, q, tol=1e-10)
    previous = fenchel.biconjugate(loss, q, tol=tol)
    fenchel.biconjugate(loss, q, "sampled", num_pieces=4)  # imports and compilation happen once
    cold: list[float] = []
    warm: list[float] = []
    sampled: dict[int, list[float]] = {100: [], 400: []}
    errors: dict[int, list[float]] = {100: [], 400: []}
    worst = 0.0
    for step in range(repeats):
        near = fenchel.Gaussian(q.mean + 0.01 * (step + 1), q.cov * (1.0 + 0.01 * (step + 1)))
        seconds, result = _timed(fenchel.biconjugate, loss, near, tol=tol)
        cold.append(seconds)
        seconds, again = _timed(fenchel.biconjugate, loss, near, tol=tol, warm=previous)
        warm.append(seconds)
        if not (result.certified and again.certified):
            raise RuntimeError("a benchmark solve was not certified")
        worst, previous = max(worst, again.gap / abs(again.value)), again
        for pieces, timings in sampled.items():
            seconds, rough = _timed(fenchel.biconjugate, loss, near, "sampled", num_pieces=pieces, rng=step)
            timings.append(seconds)
            errors[pieces].append(abs(rough.value - result.value) / abs(result.value))
    base, again_base = float(np.median(cold)), float(np.median(warm))
    print(f"certified f** against the sampled program: P=2, n=60, tol={tol:g}, {repeats} nearby q, medians")
    print(f"  reference value {reference.value:.7f} (gap {reference.gap:.1e})")
    print(f"  certified, cold   {1e3 * base:9.2f} ms   relative gap at most {worst:.1e}, proved")
    print(f"  certified, warm   {1e3 * again_base:9.2f} ms")
    for pieces, timings in sampled.items():
        middle = float(np.median(timings))
        print(
            f"  sampled, K={pieces:<4}   {1e3 * middle:9.2f} ms   relative error {np.median(errors[pieces]):.1e}"
            f"   ratio to cold {middle / base:.0f}, to warm {middle / again_base:.0f}"
        )


def hull_against_singles(side: int = 200, singles: int = 60) -> None:
    """The surface of f** over (m, sigma), P = 1, beside a loop of certified single solves (timed on a subset)."""
    loss = losses.ThreeWells()
    means, stds = np.linspace(-6, 6, side), np.linspace(0.1, 4, side)
    fenchel.biconjugate_surface(loss, means[:3], stds[:3])
    seconds, surface = _timed(fenchel.biconjugate_surface, loss, means, stds)
    rng = np.random.default_rng(0)
    picks = rng.integers(0, side, size=(singles, 2))
    spent, worst = 0.0, 0.0
    for i, j in picks:
        q = fenchel.Gaussian(means[i : i + 1], np.array([[stds[j] ** 2]]))
        single, result = _timed(fenchel.biconjugate, loss, q)
        spent += single
        worst = max(worst, abs(result.value - surface[i, j]))
    loop = spent / singles * side * side
    print(f"hull surface {side} x {side}: {seconds:.3f} s; loop of single solves (from {singles}): {loop:.0f} s")
    print(f"  ratio {loop / seconds:.0f}, largest difference {worst:.1e}")


def main() -> None:
    """Print every comparison."""
    against_sampled()
    hull_against_singles()


if __name__ == "__main__":
    main()
