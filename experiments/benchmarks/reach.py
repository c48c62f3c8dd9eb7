"""How far the certified f** of a logistic regression reaches: parameters, data, seconds, gap."""

from __future__ import annotations

import time

import numpy as np

import fenchel
from fenchel import losses

_CASES = (
    *((2, count) for count in (60, 1000, 20_000)),
    *((3, 500), (4, 500), (5, 50), (6, 10), (6, 100), (6, 500), (7, 30), (7, 100)),
    *((8, 10), (8, 30), (8, 100), (10, 30), (31, 200)),
)


def main() -> None:
    """Print the table, for the full family at tolerance 1e-6 and a minute each."""
    print(f"{'P':>3} {'n':>6} {'certified':>9} {'gap/value':>9} {'seconds':>8} {'boxes':>9}")
    for dim, count in _CASES:
        loss, q = problem(dim, count)
        begin = time.perf_counter()
        found = fenchel.biconjugate(loss, q, tol=1e-6, max_seconds=60.0)
        seconds = time.perf_counter() - begin
        width = found.gap / max(1.0, abs(found.value))
        certified = "yes" if found.certified else "no"
        print(f"{dim:>3} {count:>6} {certified:>9} {width:>9.1e} {seconds:>8.1f} {found.info['boxes']:>9}", flush=True)


def problem(dim: int, count: int) -> tuple[losses.LogisticRegression, fenchel.Gaussian]:
    """Random inputs with labels that tell nothing, and a correlated Gaussian."""
    rng = np.random.default_rng(1)
    rows, labels = rng.normal(size=(count, dim)), rng.integers(0, 2, count)
    root = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    mean = 0.5 * rng.normal(size=dim)
    return losses.LogisticRegression(rows, labels), fenchel.Gaussian(mean, root @ root.T + 0.2 * np.eye(dim))


if __name__ == "__main__":
    main()
