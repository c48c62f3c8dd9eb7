"""The runs behind Figs. 3 and 5: one comparison a data set and prior, and the sensitivity to every setting."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.registry import Context, piece
from experiments.toy.confidence import closer_than_half, judge, measure, spread
from experiments.toy.logistic import (
    Bsam,
    box,
    data_set,
    exact,
    exact_predictive,
    gaussian_predictive,
    run_bsam,
    sam_laplace,
    sam_residual,
    train_sam,
)

__all__ = ["DEFAULT_PRIOR", "DISTRIBUTIONS", "Plan", "comparison", "gather", "parts", "plan", "sensitivity"]

Array = NDArray[np.float64]

DEFAULT_PRIOR = 1.0
DISTRIBUTIONS = ("test", "box")


@dataclass(frozen=True)
class Plan:
    """Which priors (with how many data sets each), how many noise seeds, how long, and what is varied."""

    priors: tuple[tuple[float, int], ...]
    seeds: int
    sam_steps: int
    bsam_steps: int
    rho: float
    damping: float
    rhos: tuple[float, ...]
    dampings: tuple[float, ...]
    factors: tuple[float, ...]
    columns: int
    rows: int


def plan(scale: str) -> Plan:
    """What a scale runs; rho and damping are those of the authors' demo."""
    if scale == "quick":
        return Plan(((1.0, 2),), 2, 300, 300, 0.05, 0.1, (0.05, 0.5), (0.0, 0.1), (), 23, 19)
    return Plan(
        priors=((1.0, 5), (0.1, 5), (0.01, 1)),
        seeds=8,
        sam_steps=1500,
        bsam_steps=1500,
        rho=0.05,
        damping=0.1,
        rhos=(0.0, 0.05, 0.2, 0.5, 1.0),
        dampings=(0.0, 0.01, 0.1),
        factors=(0.25, 4.0),
        columns=45,
        rows=37,
    )


def comparison(context: Context, plan: Plan, prior: float, index: int) -> dict[str, Array]:
    """All methods on one data set and prior: posteriors, and predictions on the test points and the box."""

    def compute() -> dict[str, Any]:
        data = data_set(index)
        first, second, points = box(plan.columns, plan.rows)
        posterior = exact(data, prior)
        point = train_sam(data, prior, plan.rho, plan.sam_steps)
        variance = sam_laplace(data, prior, point)
        settings = [Bsam(rho=plan.rho, damping=plan.damping)]
        means, variances = run_bsam([data], prior, settings, plan.seeds, plan.bsam_steps, 100 * context.seed + index)
        out: dict[str, Any] = {
            "mean": posterior.mean,
            "cov": posterior.cov,
            "quadrature_error": posterior.error,
            "sam": point,
            "sam_residual": sam_residual(data, prior, plan.rho, point),
            "laplace_variance": variance,
            "bsam_mean": means[0, 0],
            "bsam_variance": variances[0, 0],
            "test_labels": (data.test_labels > 0).astype(float),
            "first_axis": first,
            "second_axis": second,
        }
        for name, inputs in (("test", data.test_inputs), ("box", points)):
            out[f"{name}_exact"] = exact_predictive(posterior, inputs)
            out[f"{name}_sam"] = gaussian_predictive(point, np.zeros(2), inputs)
            out[f"{name}_laplace"] = gaussian_predictive(point, variance, inputs)
            pairs = zip(means[0, 0], variances[0, 0], strict=True)
            out[f"{name}_bsam"] = np.stack([gaussian_predictive(m, v, inputs) for m, v in pairs])
        return out

    return piece(context, f"comparison_{prior:g}_{index}", compute)


def gather(context: Context, plan: Plan, prior: float, count: int) -> dict[str, Any]:
    """Measures of every method at one prior: on the paper's data (seeds of bSAM's noise) and over data sets."""
    runs = [comparison(context, plan, prior, index) for index in range(count)]
    paper = runs[0]
    numbers: dict[str, Any] = {
        "exact": {"mean": paper["mean"], "std": np.sqrt(np.diag(paper["cov"])), "error": paper["quadrature_error"]},
        "sam": {"point": paper["sam"], "stationarity_residual": paper["sam_residual"]},
    }
    exact_std = np.sqrt(np.diag(paper["cov"]))
    numbers["laplace"] = {"std": np.sqrt(paper["laplace_variance"]), **extent(paper["laplace_variance"], paper["cov"])}
    numbers["bsam"] = {
        "mean": paper["bsam_mean"].mean(axis=0),
        "mean_std_over_seeds": paper["bsam_mean"].std(axis=0, ddof=1),
        "std": np.sqrt(paper["bsam_variance"]).mean(axis=0),
        "std_std_over_seeds": np.sqrt(paper["bsam_variance"]).std(axis=0, ddof=1),
        "mean_offset_in_exact_stds": (paper["bsam_mean"].mean(axis=0) - paper["mean"]) / exact_std,
        **extent(paper["bsam_variance"].mean(axis=0), paper["cov"]),
    }
    for where in DISTRIBUTIONS:
        labels = paper["test_labels"] if where == "test" else None
        best = gaussian_predictive(paper["mean"], np.diag(paper["cov"]), _inputs(where, plan))
        numbers.setdefault("moment_matched_diagonal", {})[where] = measure(best, paper[f"{where}_exact"], labels)
        for method in ("sam", "laplace"):
            numbers[method][where] = measure(paper[f"{where}_{method}"], paper[f"{where}_exact"], labels)
            rows = [measure(r[f"{where}_{method}"], r[f"{where}_exact"]) for r in runs]
            numbers[method][f"{where}_over_data_sets"] = spread(rows)
        seeds = [measure(p, paper[f"{where}_exact"], labels) for p in paper[f"{where}_bsam"]]
        numbers["bsam"][where] = spread(seeds)
        rows = [measure(r[f"{where}_bsam"].mean(axis=0), r[f"{where}_exact"]) for r in runs]
        numbers["bsam"][f"{where}_over_data_sets"] = spread(rows)
    numbers["parts"] = parts(numbers)
    return numbers


def extent(variance: Array, cov: Array) -> dict[str, Any]:
    """Size of N(., diag(variance)) against a covariance: log ratios of marginal stds, of volume, of the trace."""
    return {
        "log_std_ratio": 0.5 * np.log(variance / np.diag(cov)),
        "log_volume_ratio": 0.5 * float(np.log(variance).sum() - np.linalg.slogdet(cov)[1]),
        "log_trace_ratio": float(np.log(variance.sum() / np.trace(cov))),
    }


def parts(numbers: dict[str, Any]) -> dict[str, Any]:
    """The three parts of C2 from the measures on the paper's data: thresholds, and signs alone."""
    ratio = {
        "sam": [numbers["sam"][w]["log_doubt_ratio"] for w in DISTRIBUTIONS],
        "laplace": [numbers["laplace"][w]["log_doubt_ratio"] for w in DISTRIBUTIONS],
        "bsam": [numbers["bsam"][w]["log_doubt_ratio"]["mean"] for w in DISTRIBUTIONS],
    }
    errors = [numbers["bsam"][w]["mean_error"]["mean"] for w in DISTRIBUTIONS]
    others = [min(numbers[k][w]["mean_error"] for k in ("sam", "laplace")) for w in DISTRIBUTIONS]
    return {
        "sam_overconfident": judge("sam", ratio["sam"], [], []),
        "laplace_underconfident": judge("laplace", ratio["laplace"], [], []),
        "bsam_close": judge("bsam", ratio["bsam"], errors, others),
        "sam_overconfident_by_sign": all(r < 0 for r in ratio["sam"]),
        "laplace_underconfident_by_sign": all(r > 0 for r in ratio["laplace"]),
        "bsam_error_at_most_half_of_both": closer_than_half(errors, others),
        "bsam_error_below_both": all(e < o for e, o in zip(errors, others, strict=True)),
    }


def sensitivity(context: Context, plan: Plan, prior: float) -> list[dict[str, Any]]:
    """bSAM, SAM and SAM + Laplace on the paper's data for every setting: measures, and whether bSAM is closest."""
    settings = [
        Bsam(rho=rho, damping=damping, sqrt_num_data=root)
        for rho, damping, root in itertools.product(plan.rhos, plan.dampings, (False, True))
    ]
    settings += [Bsam(rho=plan.rho, damping=plan.damping, data_factor=factor) for factor in plan.factors]
    data, seeds = data_set(0), max(2, plan.seeds // 2)

    def compute() -> dict[str, Any]:
        means, variances = run_bsam([data], prior, settings, seeds, plan.bsam_steps, 7919 + context.seed)
        points = np.stack([train_sam(data, prior, rho, plan.sam_steps) for rho in plan.rhos])
        return {
            "means": means[:, 0],
            "variances": variances[:, 0],
            "points": points,
            "laplace": np.stack([sam_laplace(data, prior, point) for point in points]),
            "residuals": [sam_residual(data, prior, rho, p) for rho, p in zip(plan.rhos, points, strict=True)],
        }

    found = piece(context, f"sensitivity_{prior:g}", compute)
    paper = comparison(context, plan, prior, 0)
    zero = np.zeros(2)

    def both(mean: Array, variance: Array) -> dict[str, Any]:
        return {
            w: measure(gaussian_predictive(mean, variance, _inputs(w, plan)), paper[f"{w}_exact"])
            for w in DISTRIBUTIONS
        }

    rows: list[dict[str, Any]] = []
    for rho, point, variance, residual in zip(
        plan.rhos, found["points"], found["laplace"], found["residuals"], strict=True
    ):
        rows.append(
            {"method": "sam", "rho": rho, "stationarity_residual": float(residual), **_short(both(point, zero))}
        )
        laplace = {**_short(both(point, variance)), "log_std_ratio": extent(variance, paper["cov"])["log_std_ratio"]}
        rows.append({"method": "laplace", "rho": rho, **laplace})
    for setting, means, variances in zip(settings, found["means"], found["variances"], strict=True):
        mean, variance = means.mean(axis=0), variances.mean(axis=0)
        row = {"method": "bsam", **asdict(setting), **_short(both(mean, variance))}
        rows.append({**row, "mean": mean, "log_std_ratio": extent(variance, paper["cov"])["log_std_ratio"]})
    return rows


def _short(measures: dict[str, dict[str, float]]) -> dict[str, float]:
    keys = ("log_doubt_ratio", "mean_error")
    return {f"{where}_{key}": values[key] for where, values in measures.items() for key in keys}


def _inputs(where: str, plan: Plan) -> Array:
    return data_set(0).test_inputs if where == "test" else box(plan.columns, plan.rows)[2]
