"""Certified biconjugates beside the paper's sampled program, the hull beside single solves, and scaling.

Everything that is compared is timed in the same run, interleaved, and reported with its error: a fast wrong number
is not a fast number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fenchel
from fenchel import losses

Array = NDArray[np.float64]


def _timed(run: Callable[..., Any], *args: Any, **options: Any) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = run(*args, **options)
    return time.perf_counter() - begin, result


def _paper_example() -> tuple[losses.LogisticRegression, fenchel.Gaussian]:
    """Theory section 6: 60 data in the plane, q = N((1, 1), [[1, .3], [.3, .8]])."""
    rng = np.random.RandomState(0)
    X = np.vstack([rng.randn(30, 2) + np.array([1, 5]), 2.2 * rng.randn(30, 2) + np.array([-5, 1])])
    loss = losses.LogisticRegression(X, np.r_[np.ones(30), -np.ones(30)])
    return loss, fenchel.Gaussian(np.array([1.0, 1.0]), np.array([[1.0, 0.3], [0.3, 0.8]]))


def random_problem(n: int, dim: int, seed: int = 0) -> tuple[losses.LogisticRegression, fenchel.Gaussian]:
    """A logistic regression whose labels follow a noisy linear rule, and a full-covariance Gaussian."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, dim))
    labels = (X @ rng.normal(size=dim) + 2.0 * rng.normal(size=n) > 0).astype(float)
    root = rng.normal(size=(dim, dim))
    cov = root @ root.T / dim + 0.2 * np.eye(dim)
    return losses.LogisticRegression(X, labels), fenchel.Gaussian(0.7 * rng.normal(size=dim), cov)


def against_sampled(tol: float = 1e-6, repeats: int = 5) -> None:
    """Cold and warm certified solves beside the sampled program, on a sequence of nearby q."""
    loss, q = _paper_example()
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


def scaling(limit: float = 60.0) -> None:
    """Time and gap in n, P and the tolerance."""

    def row(label: str, n: int, dim: int, tol: float) -> None:
        loss, q = random_problem(n, dim)
        seconds, result = _timed(fenchel.biconjugate, loss, q, tol=tol, max_seconds=limit)
        print(
            f"  {label:16s} {seconds:8.3f} s   relative gap {result.gap / abs(result.value):.1e}"
            f"   {'certified' if result.certified else 'not certified'}   {result.info['boxes']} boxes"
        )

    print("scaling in the number of data (P = 2, tol 1e-8)")
    for n in (10, 50, 200, 1000):
        row(f"n={n}", n, 2, 1e-8)
    print("scaling in the number of parameters (n = 60)")
    for dim, tol in ((1, 1e-8), (2, 1e-8), (3, 1e-6), (4, 1e-4), (5, 1e-3)):
        row(f"P={dim} tol={tol:g}", 60, dim, tol)
    print("scaling in the tolerance (P = 2, n = 60)")
    for tol in (1e-2, 1e-4, 1e-6, 1e-8, 1e-10):
        row(f"tol={tol:g}", 60, 2, tol)


def many_parameters(limit: float = 30.0) -> None:
    """P = 31: scikit-learn's breast cancer data with a bias; the width of the bracket."""
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError:
        print("P = 31: scikit-learn is not installed (extra `deep`)")
        return
    data = load_breast_cancer()
    X = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    loss = losses.LogisticRegression(np.hstack([X, np.ones((X.shape[0], 1))]), data.target)
    print(f"P = 31, n = 569 (breast cancer), q = N(0, s^2 I), {limit:g} s a solve: bracket of -f**, relative width")
    for sigma in (0.1, 1.0):
        q = fenchel.Gaussian(np.zeros(31), sigma**2 * np.eye(31))
        for structure in ("full", "diagonal", "isotropic"):
            seconds, result = _timed(fenchel.biconjugate, loss, q, tol=1e-3, structure=structure, max_seconds=limit)
            width = result.gap / max(abs(result.upper), 1e-300)
            bracket = f"[{-result.upper:.3f}, {-result.lower:.3f}]"
            print(f"  s={sigma:<4} {structure:9s} {bracket:24s} {width:8.3%}   {seconds:.0f} s")


def main() -> None:
    """Print every comparison."""
    against_sampled()
    hull_against_singles()
    scaling()
    many_parameters()


if __name__ == "__main__":
    main()
