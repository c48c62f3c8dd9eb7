"""Fig. 3: predictive probabilities on the logistic regression; claim C2 in three parts, each with its number."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from experiments.registry import Claim, Context, Outcome, register
from experiments.toy.confidence import CLOSE, MEASURE, NOTICEABLE, closer_than_half
from experiments.toy.logistic import data_set, gaussian_predictive, linear_model
from experiments.toy.logistic_runs import (
    DEFAULT_PRIOR,
    DISTRIBUTIONS,
    comparison,
    gather,
    plan,
    sensitivity,
)


@register("fig3", "Predictive probabilities: exact Bayes, SAM, SAM + Laplace, bSAM", claims=("C2",), extras=("deep",))
def run(context: Context) -> Outcome:
    """Compare the methods at every prior, vary every setting, and judge C2."""
    chosen = plan(context.scale)
    by_prior = {f"{prior:g}": gather(context, chosen, prior, count) for prior, count in chosen.priors}
    rows = {f"{prior:g}": sensitivity(context, chosen, prior) for prior, _ in chosen.priors}
    paper = comparison(context, chosen, DEFAULT_PRIOR, 0)
    data = data_set(0)
    second_way = sampled_check(paper)
    arrays: dict[str, np.ndarray] = {
        key: paper[key].astype(np.float32) for key in ("box_exact", "box_sam", "box_laplace")
    }
    arrays["box_bsam"] = paper["box_bsam"].mean(axis=0).astype(np.float32)
    arrays |= {key: paper[key] for key in ("first_axis", "second_axis")}
    arrays |= {"inputs": data.inputs, "labels": data.labels}
    return Outcome(
        settings={
            **asdict(chosen),
            "default_prior_precision": DEFAULT_PRIOR,
            "measure": MEASURE,
            "optimizer": "full batch, cosine; SAM: SGD lr 0.2, momentum 0.9; bSAM: lr 0.1, beta (0.9, 0.99), s_init 1",
        },
        numbers={"by_prior": by_prior, "sensitivity": rows, "second_way": second_way},
        claims=(judge_c2(by_prior, rows, second_way),),
        arrays=arrays,
    )


def sampled_check(paper: dict[str, np.ndarray]) -> dict[str, float]:
    """bSAM's and Laplace's predictive again, by `predict_bma` with sampled weights, in units of its standard error."""
    import torch

    from fenchel.predict import DiagonalGaussian, predict_bma

    points, samples = data_set(0).test_inputs[:200], 4000
    worst = {}
    for name, mean, variance in (
        ("bsam", paper["bsam_mean"][0], paper["bsam_variance"][0]),
        ("laplace", paper["sam"], paper["laplace_variance"]),
    ):
        posterior = DiagonalGaussian(model := linear_model(mean), variance=torch.from_numpy(variance))
        sampled = predict_bma(model, posterior, torch.from_numpy(points), samples, seed=0)[:, 1].numpy()
        integral = gaussian_predictive(mean, variance, points)
        error = np.sqrt(np.clip(integral * (1 - integral), 1e-12, None) / samples)
        worst[name] = float(np.max(np.abs(sampled - integral) / error))
    return worst


def judge_c2(by_prior: dict[str, Any], rows: dict[str, Any], second_way: dict[str, float]) -> Claim:
    """Held: all three parts at every prior with the demo's settings; held only if: all three at some settings run."""
    parts = {prior: numbers["parts"] for prior, numbers in by_prior.items()}
    names = ("sam_overconfident", "laplace_underconfident", "bsam_close")
    everywhere = all(p[name] for p in parts.values() for name in names)
    found = {prior: satisfying(by_prior[prior], listed) for prior, listed in rows.items()}
    somewhere = any(p["all_parts"] for p in found.values())
    verdict = "held" if everywhere else "held only if" if somewhere else "refuted"
    table = {prior: {name: p[name] for name in names} for prior, p in parts.items()}
    statement = "; ".join(describe(prior, by_prior[prior], table[prior]) for prior in by_prior)
    if verdict == "held only if":
        combinations = {prior: p["all_parts"] for prior, p in found.items() if p["all_parts"]}
        statement += f". All three parts together hold only for the settings {combinations}"
    elif verdict == "refuted":
        statement += ". No tried combination of rho, damping and s-update satisfies all three parts together"
    close = {prior: p["bsam_close"] for prior, p in found.items()}
    return Claim(
        "C2",
        verdict,
        statement + f". Settings of bSAM that are close to exact Bayes by the measure, by prior precision: {close}.",
        {
            "parts_at_the_demo_settings": parts,
            "settings_with_every_part": {p: f["all_parts"] for p, f in found.items()},
            "settings_with_bsam_close": close,
            "log_doubt_ratio": {
                prior: {
                    "sam": [n["sam"][w]["log_doubt_ratio"] for w in DISTRIBUTIONS],
                    "laplace": [n["laplace"][w]["log_doubt_ratio"] for w in DISTRIBUTIONS],
                    "bsam": [n["bsam"][w]["log_doubt_ratio"]["mean"] for w in DISTRIBUTIONS],
                }
                for prior, n in by_prior.items()
            },
            "mean_error": {
                prior: {
                    "sam": [n["sam"][w]["mean_error"] for w in DISTRIBUTIONS],
                    "laplace": [n["laplace"][w]["mean_error"] for w in DISTRIBUTIONS],
                    "bsam": [n["bsam"][w]["mean_error"]["mean"] for w in DISTRIBUTIONS],
                }
                for prior, n in by_prior.items()
            },
        },
        MEASURE,
        "predictive probabilities again by averaging 4000 sampled networks with predict_bma: largest of 200 deviations from "
        f"the integral {second_way['bsam']:.1f} (bSAM) and {second_way['laplace']:.1f} (Laplace) bounds of the standard "
        "error; the exact posterior by two independent quadrature rules",
    )


def describe(prior: str, numbers: dict[str, Any], parts: dict[str, bool]) -> str:
    """One clause: the log doubt ratios at a prior, and which parts pass."""
    sam, laplace = numbers["sam"], numbers["laplace"]
    bsam = numbers["bsam"]
    test, plot = DISTRIBUTIONS
    passed = ", ".join(name.replace("_", " ") for name, ok in parts.items() if ok) or "none"
    return (
        f"delta0 = {prior}: log doubt ratio (test, box) of SAM {sam[test]['log_doubt_ratio']:+.2f}, "
        f"{sam[plot]['log_doubt_ratio']:+.2f}, SAM + Laplace {laplace[test]['log_doubt_ratio']:+.2f}, "
        f"{laplace[plot]['log_doubt_ratio']:+.2f}, bSAM {bsam[test]['log_doubt_ratio']['mean']:+.2f}, "
        f"{bsam[plot]['log_doubt_ratio']['mean']:+.2f}; mean |p - p_exact| on the test points "
        f"{sam[test]['mean_error']:.4f}, {laplace[test]['mean_error']:.4f}, {bsam[test]['mean_error']['mean']:.4f}; "
        f"parts that pass the thresholds: {passed}"
    )


def satisfying(numbers: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Settings under which bSAM is close, and under which all three parts hold with SAM's rho equal to bSAM's."""
    sam = {r["rho"]: r for r in rows if r["method"] == "sam"}
    laplace = {r["rho"]: r for r in rows if r["method"] == "laplace"}
    close, every = [], []
    for row in (r for r in rows if r["method"] == "bsam"):
        rho = row["rho"]
        errors = [row[f"{w}_mean_error"] for w in DISTRIBUTIONS]
        others = [min(m[rho][f"{w}_mean_error"] for m in (sam, laplace)) for w in DISTRIBUTIONS]
        near = all(abs(row[f"{w}_log_doubt_ratio"]) <= CLOSE for w in DISTRIBUTIONS) and closer_than_half(
            errors, others
        )
        label = (
            f"rho {rho:g}, gamma {row['damping']:g}, {'sqrt(N)' if row['sqrt_num_data'] else 'Algorithm 1'} s-update"
        )
        label += f", N x {row['data_factor']:g}" if row["data_factor"] != 1 else ""
        if near:
            close.append(label)
        if (
            near
            and all(sam[rho][f"{w}_log_doubt_ratio"] < -NOTICEABLE for w in DISTRIBUTIONS)
            and all(laplace[rho][f"{w}_log_doubt_ratio"] > NOTICEABLE for w in DISTRIBUTIONS)
        ):
            every.append(label)
    return {"bsam_close": close, "all_parts": every}
