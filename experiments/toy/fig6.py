"""Fig. 6: two moons; SAM, SAM + Laplace and bSAM against NUTS on the same network; claim C3 in three parts."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from torch import nn

from experiments.registry import Claim, Context, Outcome, piece
from experiments.toy.confidence import MEASURE, closer_than_half, judge, measure, spread
from experiments.toy.moons import Moons, moons, num_parameters
from experiments.toy.moons_reference import plans, points, reference
from experiments.toy.moons_training import (
    Settings,
    average,
    laplace_fit,
    laplace_integral,
    train_bsam,
    train_sam,
)
from experiments.toy.nuts import Reference
from fenchel.optim import BSAM

SAMPLES = 256
METHODS = ("sam", "laplace", "bsam")
WHERE = ("test", "box")


def cases(scale: str, demo: Settings, num_data: int) -> dict[str, tuple[Settings, float, str]]:
    """Settings, prior precision of Laplace, and the reference's name.

    "demo" is the authors' demo, set against the converged reference nearest to its nominal prior; "matched" cases have
    no damping and a weight decay that is the reference's prior, so that all methods and NUTS share one prior.
    """
    floor = demo.weight_decay + demo.damping
    listed = {
        "demo": (demo, num_data * demo.weight_decay, "unit" if scale == "full" else "floor"),
        "matched_floor": (replace(demo, weight_decay=floor, damping=0.0), num_data * floor, "floor"),
        "matched_unit": (replace(demo, weight_decay=1.0 / num_data, damping=0.0), 1.0, "unit"),
    }
    return {k: v for k, v in listed.items() if scale == "full" or v[2] == "floor"}


def run(context: Context) -> Outcome:
    """Sample the references, train every method, compare, and judge C3."""
    data, full = moons(), context.scale == "full"
    demo, seeds = (Settings(), 3) if full else (Settings(epochs=15), 2)
    num_data, grid = len(data.inputs), len(data.grid)
    priors = {p.name: p for p in plans(context.scale, num_data, demo.weight_decay, demo.damping)}
    references = {name: reference(context, data, p) for name, p in priors.items()}
    diagnoses = {
        name: {"prior_precision": priors[name].prior_precision, **diagnose(*r, grid)} for name, r in references.items()
    }
    numbers: dict[str, Any] = {"references": diagnoses}
    arrays: dict[str, np.ndarray] = {
        "inputs": data.inputs,
        "labels": data.labels,
        "first_axis": data.first_axis,
        "second_axis": data.second_axis,
    }
    for name, (found, _) in references.items():
        arrays[f"nuts_{name}"] = found.probabilities[:grid].astype(np.float32)
        arrays[f"r_hat_{name}"] = found.r_hat[:grid].astype(np.float32)
    for case, (settings, prior_precision, target) in cases(context.scale, demo, num_data).items():
        runs = [one_seed(context, data, case, settings, prior_precision, seed) for seed in range(seeds)]
        numbers[case] = {"prior_precision": prior_precision, "reference": target}
        for name, (found, _) in references.items():
            numbers[case][f"against_{name}"] = compare(data, runs, found.probabilities, grid)
        own = numbers[case][f"against_{target}"]
        numbers[case]["parts"] = parts(own)
        numbers[case]["parts_by_reference"] = {name: parts(numbers[case][f"against_{name}"]) for name in references}
        numbers[case]["laplace_prior_tuned"] = [float(r["tuned_prior"]) for r in runs]
        for method in (*METHODS, "tuned", "bsam_mean"):
            arrays[f"{case}_{method}"] = runs[0][method][:grid].astype(np.float32)
        numbers[case]["laplace_second_way"] = float(max(r["laplace_second_way"] for r in runs))
    frames = piece(context, "frames", lambda: animate_frames(data, demo, context.scale))
    arrays |= frames
    return Outcome(
        settings={
            **asdict(demo),
            "seeds": seeds,
            "samples": SAMPLES,
            "parameters": num_parameters(),
            "network": "2-32-32-32-32-1, ELU, float64",
            "measure": MEASURE,
            "cases": {
                k: {**asdict(s), "laplace_prior": p, "reference": r}
                for k, (s, p, r) in cases(context.scale, demo, num_data).items()
            },
        },
        numbers=numbers,
        claims=(judge_c3(numbers),),
        arrays=arrays,
    )


def one_seed(
    context: Context, data: Moons, case: str, settings: Settings, prior_precision: float, seed: int
) -> dict[str, np.ndarray]:
    """Predictions of every method at all recorded points, for one seed of initialization, batches and noise."""

    def compute() -> dict[str, Any]:
        where = points(data)
        sam = train_sam(data, settings, seed)
        posterior = laplace_fit(data, sam, prior_precision)
        tuned = laplace_fit(data, sam, prior_precision, tune=True)
        laplace = average(sam, posterior, where, SAMPLES, seed)
        few = slice(0, None, 40)
        integral = laplace_integral(posterior, where[few])
        error = np.sqrt(np.clip(integral * (1 - integral), 1e-9, None) / SAMPLES)
        model, optimizer = train_bsam(data, settings, seed)
        return {
            "sam": average(sam, None, where, 0, seed),
            "laplace": laplace,
            "laplace_second_way": np.max(np.abs(laplace[few] - integral) / error),
            "tuned": average(sam, tuned, where, SAMPLES, seed),
            "tuned_prior": tuned.prior_precision,
            "bsam": average(model, optimizer, where, SAMPLES, seed),
            "bsam_mean": average(model, optimizer, where, 0, seed),
        }

    return piece(context, f"{case}_{seed}", compute)


def compare(data: Moons, runs: list[dict[str, np.ndarray]], exact: np.ndarray, grid: int) -> dict[str, Any]:
    """Measures over seeds of every method against one reference, on the test points and on the box."""
    start = grid + len(data.inputs)
    ranges = {"test": (slice(start, None), data.test_labels), "box": (slice(0, grid), None)}
    return {
        method: {
            name: spread([measure(r[method][part], exact[part], labels) for r in runs])
            for name, (part, labels) in ranges.items()
        }
        for method in (*METHODS, "tuned", "bsam_mean")
    }


def parts(numbers: dict[str, Any]) -> dict[str, bool]:
    """The three parts of C3, by the thresholds and by sign, from means over seeds."""
    ratio = {m: [numbers[m][w]["log_doubt_ratio"]["mean"] for w in WHERE] for m in METHODS}
    error = {m: [numbers[m][w]["mean_error"]["mean"] for w in WHERE] for m in METHODS}
    others = [min(pair) for pair in zip(error["sam"], error["laplace"], strict=True)]
    return {
        "sam_overconfident": judge("sam", ratio["sam"], [], []),
        "laplace_underconfident": judge("laplace", ratio["laplace"], [], []),
        "bsam_close": judge("bsam", ratio["bsam"], error["bsam"], others),
        "sam_overconfident_by_sign": all(r < 0 for r in ratio["sam"]),
        "laplace_underconfident_by_sign": all(r > 0 for r in ratio["laplace"]),
        "bsam_error_at_most_half_of_both": closer_than_half(error["bsam"], others),
        "bsam_error_below_both": all(e < o for e, o in zip(error["bsam"], others, strict=True)),
        "bsam_least_biased": all(
            abs(b) < min(abs(s), abs(lap))
            for b, s, lap in zip(ratio["bsam"], ratio["sam"], ratio["laplace"], strict=True)
        ),
    }


def diagnose(found: Reference, traces: dict[str, np.ndarray], grid: int) -> dict[str, Any]:
    """Whether the chains mixed: R-hat and effective sizes of predictions, and the weights' squared norm."""
    size = num_parameters()
    norm = traces["squared_norm"][:, traces["squared_norm"].shape[1] // 2 :].mean() / size
    median, worst = (float(np.quantile(found.r_hat[:grid], q)) for q in (0.5, 0.99))
    return {
        "chains": found.chains,
        "draws_a_chain": found.draws,
        "divergences": found.divergences,
        "r_hat_median": median,
        "r_hat_99_percent": worst,
        "r_hat_log_likelihood": found.log_likelihood_r_hat,
        "effective_median": float(np.median(found.effective[:grid])),
        "effective_smallest": float(found.effective[:grid].min()),
        "largest_standard_error": float(found.standard_error[:grid].max()),
        "squared_norm_over_its_prior_mean": float(norm),
        "log_likelihood_mean": float(traces["log_likelihood"].mean()),
        "steps_a_draw": float(traces["steps"].mean()),
        # A high-dimensional posterior lies near the prior's shell; a chain that is still far inside it has not arrived.
        "converged": bool(found.chains >= 2 and worst < 1.05 and found.log_likelihood_r_hat < 1.05 and norm > 0.8),
    }


def judge_c3(numbers: dict[str, Any]) -> Claim:
    """Held: all parts in every case whose reference converged; held only if: in some; all by the thresholds."""
    cases_found = {k: v for k, v in numbers.items() if k != "references"}
    sound = {k: v for k, v in cases_found.items() if numbers["references"][v["reference"]]["converged"]}
    names = ("sam_overconfident", "laplace_underconfident", "bsam_close")
    signs = ("sam_overconfident_by_sign", "laplace_underconfident_by_sign", "bsam_error_below_both")
    strict = [k for k, v in sound.items() if all(v["parts"][n] for n in names)]
    loose = [k for k, v in sound.items() if all(v["parts"][n] for n in signs)]
    if not sound:
        verdict = "not run"
    elif len(strict) == len(sound):
        verdict = "held"
    else:
        verdict = "held only if" if strict else "refuted"
    clauses = []
    for case, found in cases_found.items():
        own = found[f"against_{found['reference']}"]
        ratios = ", ".join(
            f"{m} " + "/".join(f"{own[m][w]['log_doubt_ratio']['mean']:+.2f}" for w in WHERE) for m in METHODS
        )
        errors = ", ".join(f"{m} " + "/".join(f"{own[m][w]['mean_error']['mean']:.3f}" for w in WHERE) for m in METHODS)
        passed = ", ".join(n.replace("_", " ") for n in names if found["parts"][n]) or "none"
        state = "converged" if case in sound else "not converged"
        clauses.append(
            f"{case} (prior precision {found['prior_precision']:g}, NUTS {found['reference']} {state}): log doubt "
            f"ratio test/box {ratios}; mean |p - p_exact| {errors}; parts that pass: {passed}"
        )
    least = [k for k, v in sound.items() if v["parts"]["bsam_least_biased"]]
    note = f"of the three, the log doubt ratio of bSAM is the nearest to zero in {least or 'no case'}; "
    note += f"all parts by the thresholds in {strict or 'no case'}; "
    note += f"by sign, with bSAM closer than both, in {loose or 'no case'}"
    nominal = numbers["references"].get("nominal")
    tail = ""
    if nominal is not None and not nominal["converged"]:
        share = nominal["squared_norm_over_its_prior_mean"]
        tail = (
            ". At the demo's nominal prior (precision N delta) NUTS did not reach the posterior: |theta|^2 is "
            f"{share:.2f} of its prior mean, so there is no exact reference for it"
        )
    second = max(v["laplace_second_way"] for v in cases_found.values())
    return Claim(
        "C3",
        verdict,
        "; ".join(clauses) + ". " + note[0].upper() + note[1:] + tail + ".",
        {
            "parts": {k: v["parts"] for k, v in cases_found.items()},
            "parts_by_reference": {k: v.get("parts_by_reference") for k, v in cases_found.items()},
            "references": numbers["references"],
        },
        MEASURE
        + "; a reference counts when at least two chains agree: R-hat below 1.05 on 99 % of the box and for the "
        "log-likelihood, weights on the prior's shell",
        "the linearized Laplace predictive by sampled forward derivatives and by quadrature of Jacobians: largest "
        f"difference {second:.1f} bounds of the standard error; NUTS by R-hat and effective sample size of its "
        "predictions over separate chains. (The bound sqrt(p(1 - p)/256) is small where p is: single samples weigh.)",
    )


def animate_frames(data: Moons, settings: Settings, scale: str) -> dict[str, np.ndarray]:
    """bSAM's training, seed 0: at a few epochs the mean's and 8 samples' probabilities on a coarse grid, in percent."""
    every = 10 if scale == "full" else 5
    first, second = data.first_axis[::2], data.second_axis[::2]
    grid = np.column_stack([g.ravel() for g in np.meshgrid(first, second)])
    epochs: list[int] = []
    means: list[np.ndarray] = []
    samples: list[np.ndarray] = []

    def watch(epoch: int, model: nn.Module, optimizer: BSAM) -> None:
        if epoch % every and epoch != settings.epochs - 1:
            return
        epochs.append(epoch + 1)
        means.append(average(model, optimizer, grid, 0, 0))
        samples.append(np.stack([average(model, optimizer, grid, 1, k) for k in range(8)]))

    train_bsam(data, settings, 0, watch)
    return {
        "frame_epochs": np.array(epochs),
        "frame_means": np.round(100 * np.stack(means)).astype(np.uint8),
        "frame_samples": np.round(100 * np.stack(samples)).astype(np.uint8),
        "frame_first_axis": first,
        "frame_second_axis": second,
    }
