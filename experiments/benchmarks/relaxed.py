"""Learning rules: a warm certified relaxed iteration against the sampled program; the per-datum rule at scale."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable

import numpy as np

from fenchel import Gaussian, bayesian_learning_rule, problems, relaxed_bayes_objective
from fenchel.bayes.surrogates import Evaluation, make_surrogate
from fenchel.losses import LinearPredictorLoss, Terms
from fenchel.losses.links import SoftplusLink

PIECES = 100
# (n, P): towards a million data and a thousand parameters (both at once take 17 GB of memory).
SIZES = ((10_000, 10), (100_000, 10), (1_000_000, 10), (10_000, 100), (10_000, 1000), (100_000, 300))


def iteration_ratio(iterations: int = 12) -> dict[str, float]:
    """Median time of an iteration along the plain rule at alpha = 1/2, both surrogates at the same q, interleaved."""
    loss, prior = problems.murphy_logistic_regression(), Gaussian(np.zeros(2), 1.0)
    certified = make_surrogate("relaxed", loss)
    sampled = make_surrogate("sampled", loss, {"num_pieces": PIECES, "rng": 0})
    history = bayesian_learning_rule(loss, prior, "relaxed", 0.5, max_iterations=iterations, acceleration=0).history
    warm: Evaluation | None = certified.evaluate(history[0], None)
    sampled.evaluate(history[0], None)
    times: dict[str, list[float]] = {"certified": [], "sampled": []}
    gaps, errors = [], []
    for q in history[1:]:
        start = time.perf_counter()
        warm = certified.evaluate(q, warm)
        middle = time.perf_counter()
        rough = sampled.evaluate(q, None)
        times["certified"].append(middle - start)
        times["sampled"].append(time.perf_counter() - middle)
        gaps.append(warm.upper - warm.lower)
        errors.append(abs(rough.value - warm.value))
    fast, slow = statistics.median(times["certified"]), statistics.median(times["sampled"])
    return {
        "certified_ms": 1e3 * fast,
        "sampled_ms": 1e3 * slow,
        "ratio": slow / fast,
        "widest_bracket": max(gaps),
        "largest_sampled_error": max(errors),
    }


def per_datum_scaling(n: int, dim: int, seed: int = 0) -> dict[str, float]:
    """One iteration of the per-datum and of the exact rule at n data and P = dim; peak memory of the process in MB."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, dim))
    y = np.where(X @ (rng.standard_normal(dim) / np.sqrt(dim)) + rng.logistic(size=n) > 0, 1.0, -1.0)
    q = Gaussian(np.zeros(dim), np.eye(dim) / max(1.0, 0.05 * n))
    data = X.nbytes / 1e6
    # The terms themselves, -y_i x_i: `LogisticRegression` would keep X beside them.
    X *= -y[:, None]
    loss = LinearPredictorLoss([Terms(SoftplusLink(), X, np.zeros(n), np.ones(n))])
    del X
    per_datum, exact = make_surrogate("per-datum", loss), make_surrogate("exact", loss)
    fast = _time(lambda: per_datum.evaluate(q, None))
    slow = _time(lambda: exact.evaluate(q, None))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"per_datum_s": fast, "exact_s": slow, "ratio": slow / fast, "data_mb": data, "peak_mb": peak}


def _time(call: Callable[[], object], repeats: int = 2) -> float:
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return float(best)


def main() -> None:
    """Print the ratios."""
    found = iteration_ratio()
    print(
        f"relaxed iteration, warm and certified: {found['certified_ms']:.1f} ms "
        f"(bracket {found['widest_bracket']:.0e}); sampled program, K = {PIECES}: {found['sampled_ms']:.0f} ms "
        f"(error up to {found['largest_sampled_error']:.2g}); ratio {found['ratio']:.0f} (bar 10)"
    )
    loss, prior = problems.murphy_logistic_regression(), Gaussian(np.zeros(2), 1.0)
    start = time.perf_counter()
    run = bayesian_learning_rule(loss, prior, "relaxed")
    seconds = time.perf_counter() - start
    cold = _time(lambda: relaxed_bayes_objective(loss, prior, prior, tol=1e-9))
    print(
        f"relaxed posterior of the paper's data, certified to the end: {seconds:.2f} s, "
        f"{run.iterations} iterations; one cold f**: {1e3 * cold:.1f} ms"
    )
    for n, dim in SIZES:
        row = per_datum_scaling(n, dim)
        print(
            f"n = {n:>7}, P = {dim:>4}: per-datum iteration {row['per_datum_s']:.3g} s, "
            f"exact rule {row['exact_s']:.3g} s (ratio {row['ratio']:.1f}); "
            f"data {row['data_mb']:.0f} MB, peak {row['peak_mb']:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
