"""Fig. 6 and claim C3: on two moons SAM is overconfident, SAM + Laplace underconfident, bSAM close to exact Bayes.

Judged as C2 is, with the same thresholds, where the networks fit and s is at its fixed point; exact Bayes is NUTS under
the prior that every method has. The authors' demo has no reference that can be reached under its prior, and its s is
still on its way: it is looked at for the ordering of the three methods alone, as the paper shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import nn

from experiments.pieces import pieces
from experiments.registry import Claim, Context, Outcome
from experiments.toy.confidence import NOTICEABLE, SHARE, VARIANTS, decide, interval, needed, share_of_way, would_change
from experiments.toy.moons import Moons, moons
from experiments.toy.moons_study import METHODS, SEARCHED, UNDAMPED, WIDTHS, WORSE, Place, Plan, plan, regions, study
from experiments.toy.moons_training import Settings, average, laplace_fit, laplace_integral, train_bsam, train_sam
from experiments.toy.nuts import num_parameters
from fenchel.arrays import Array
from fenchel.optim import BSAM

WHERE = "both"
"""Predictions are compared over the box and the test inputs, a half of the weight each."""
R_HAT, EFFECTIVE, DIVERGENT = 1.05, 100, 0.02
"""A reference counts within these."""
FITS = ("MAP", "SAM", "SAM + Laplace", "ceiling")
"""What has to fit for a draw to count."""
STRICT = {name: f"{said}, without damping" for name, said in zip(UNDAMPED, VARIANTS.values(), strict=True)}
DEMO = ("SAM", "bSAM", "SAM + Laplace")
"""In the order of their doubt, as the paper shows them."""
DEMO_SAMPLES = 256


def run(context: Context) -> Outcome:
    """Study every place, leave out draws without a sound reference or fit, judge; beside it the authors' demo."""
    chosen_plan = plan(context.scale)
    numbers: dict[str, Any] = {}
    judged: dict[str, dict[str, dict[str, Array]]] = {}
    arrays: dict[str, Array] = {}
    for place in chosen_plan.places:
        found = study(context, chosen_plan, place)
        kept = sound(found["references"], found["measures"])
        measures = {
            method: {key: values[kept].mean(axis=1) for key, values in by.items()}
            for method, by in found["measures"].items()
        }
        name = str(place)
        if kept.any():
            judged[name] = measures
        numbers[name] = {"place": asdict(place), **_numbers(chosen_plan, found, measures, kept)}
        arrays |= {f"{name}/{m}/{k}": v for m, by in measures.items() for k, v in by.items()}
        arrays |= _maps(chosen_plan, place, found)
    epochs, seeds = (Settings().epochs, 10) if context.scale == "full" else (5, 1)
    data = moons()
    runs = {f"demo_{seed}": partial(demo, epochs, seed) for seed in range(seeds)}
    found = pieces(context, {**runs, "frames": partial(animate_frames, data, epochs)})
    rows = [found[key] for key in runs]
    order = demo_order(rows)
    numbers["demo"] = order
    arrays |= {"demo/inputs": data.inputs, "demo/labels": data.labels}
    arrays |= {f"demo/map/{name}": rows[0][f"{name}/p"][regions(data)["box"]].astype(np.float32) for name in DEMO}
    arrays |= {"first_axis": data.first_axis, "second_axis": data.second_axis}
    arrays |= found["frames"]
    return Outcome(
        settings={
            "widths": list(WIDTHS),
            "parameters": num_parameters(WIDTHS),
            "places": [str(p) for p in chosen_plan.places],
            "choosing draws": list(chosen_plan.choose),
            "judging draws": list(chosen_plan.judge),
            "seeds": chosen_plan.seeds,
            "weight samples": chosen_plan.samples,
            "SAM steps": chosen_plan.sam_steps,
            "bSAM steps": chosen_plan.bsam_steps,
            "ceiling steps": chosen_plan.ceiling_steps,
            "searched": {
                "SAM rho": list(chosen_plan.sam_rhos),
                "bSAM rho": list(chosen_plan.bsam_rhos),
                "bSAM gamma": list(chosen_plan.dampings),
            },
            "chains": asdict(chosen_plan.chains),
            "noticeable": NOTICEABLE,
            "share": SHARE,
            "network": "2-10-10-1, tanh, float64; the demo's: 2-32-32-32-32-1, ELU",
            "optimizer": "full batch; SAM over Adam, lr 0.02; bSAM from the maximum a posteriori in 10 sub-batches, "
            "lr 0.1, beta (0.9, 0.99), s_init 1; cosine rates",
            "demo": asdict(Settings(epochs=epochs)),
        },
        numbers=numbers,
        claims=(judge(judged, order),),
        arrays=arrays,
    )


def sound(references: Sequence[Mapping[str, float]], measures: Mapping[str, Mapping[str, Array]]) -> NDArray[np.bool_]:
    """Draws whose chains agree, and on which everything in `FITS` fits about as well as NUTS does."""
    mixed = [
        r["r_hat_99_percent"] < R_HAT
        and r["r_hat_log_likelihood"] < R_HAT
        and r["effective_smallest"] >= EFFECTIVE
        and r["divergences"] <= DIVERGENT
        for r in references
    ]
    accuracy = np.array([r["accuracy"] for r in references])
    fits = [measures[name]["accuracy"].mean(axis=1) >= accuracy - WORSE for name in FITS]
    found: NDArray[np.bool_] = np.logical_and.reduce([np.array(mixed, dtype=bool), *fits])
    return found


def judge(by_place: Mapping[str, Mapping[str, Mapping[str, Array]]], order: Mapping[str, Any]) -> Claim:
    """C3 by `decide` over places; the demo's ordering is said beside it and decides nothing."""
    word, condition, shares = decide(by_place, where=WHERE)
    if word == "held":
        condition = "where the networks fit and s is at its fixed point"
    strict, which, undamped = decide(by_place, where=WHERE, variants=STRICT)
    ways = {
        f"{variant}, {name}": float(np.median(share_of_way(measures, variant, WHERE)))
        for variant in (*VARIANTS, *STRICT)
        for name, measures in by_place.items()
    }
    alone = {where: decide(by_place, where=where)[:2] for where in ("box", "test")}
    return Claim(
        "C3",
        word,
        "Draws of two moons in which SAM is overconfident, SAM + Laplace underconfident and bSAM close to NUTS, all "
        "under one prior: "
        + "; ".join(f"{key}: {value['all three']}" for key, value in (shares | undamped).items())
        + f". With gamma = 0, so that s knows the same prior: {f'{strict} {which}'.strip()}. "
        "Median share of the way from SAM + Laplace to the best diagonal Gaussian: "
        + "; ".join(f"{key}: {value:.2f}" for key, value in ways.items())
        + f". The authors' demo, for the ordering alone: SAM doubts less than bSAM and bSAM less than SAM + Laplace in "
        f"{order['ordered']} of {order['seeds']} seeds, with {order['share of s_init']:.0%} of s still its start.",
        {
            "shares": shares | undamped,
            "way": ways,
            "share needed": needed(by_place, VARIANTS | STRICT, where=WHERE),
            "judged on": {where: f"{w} {c}".strip() for where, (w, c) in alone.items()},
            "without damping": f"{strict} {which}".strip(),
            "demo": dict(order),
        },
        f"mean doubt off by a factor {np.exp(NOTICEABLE):.2g}; close: {SHARE:g} of the way in predictive KL from SAM "
        "+ Laplace to the exact diagonal optimum, and nearer than SAM; box and test inputs at equal weight; 95 % "
        f"intervals of the shares of draws. Draws count where R-hat is below {R_HAT:g}, at least {EFFECTIVE} draws are "
        f"effective, at most {DIVERGENT:.0%} diverge, and {', '.join(FITS)} are at most {WORSE:g} less accurate than "
        "NUTS. The thresholds are those of C2, stated before; places and the weight of box and test were set on a draw "
        "that does not judge. Four rules came after first runs, in which a rho chosen on draws without a fit, "
        "by one seed, spoiled SAM + Laplace and so helped bSAM: that SAM and SAM + Laplace have to fit, five seeds in "
        "the search for SAM's rho, choosing only on draws where the maximum a posteriori fits, and damping up to 1 in "
        "the search",
        "NUTS by R-hat, effective sizes and the divergence between halves of its chains, in the tests by quadrature; "
        "the diagonal optimum against the Bayesian learning rule; rows side by side against the shipped optimizers",
        condition=condition,
        would_change=would_change("place"),
    )


def demo(epochs: int, seed: int) -> dict[str, Any]:
    """The authors' demo: predictions of SAM, SAM + Laplace and bSAM, and how much of s is still its start."""
    data, settings = moons(), Settings(epochs=epochs)
    sam = train_sam(data, settings, seed)
    model, optimizer = train_bsam(data, settings, seed)
    count = len(data.inputs)
    steps = settings.epochs * (count // settings.batch)
    variance = np.concatenate([v.numpy().ravel() for v in optimizer.posterior_variance()])
    return {
        "SAM/p": average(sam, None, data.points, 0, seed),
        "SAM + Laplace/p": laplace_integral(laplace_fit(data, sam, count * settings.weight_decay), data.points),
        "bSAM/p": average(model, optimizer, data.points, DEMO_SAMPLES, seed),
        "share of s_init": np.mean(settings.betas[1] ** steps * count * variance),
    }


def demo_order(rows: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    """In how many seeds the three doubt in the paper's order, over box and test inputs at equal weight."""
    where = regions(moons())

    def doubt_of(p: Array) -> float:
        return float(np.mean([np.minimum(p[at], 1 - p[at]).mean() for at in where.values()]))

    doubt = {name: np.array([doubt_of(row[f"{name}/p"]) for row in rows]) for name in DEMO}
    ordered = int(np.sum((doubt["SAM"] < doubt["bSAM"]) & (doubt["bSAM"] < doubt["SAM + Laplace"])))
    return {
        "ordered": ordered,
        "seeds": len(rows),
        "interval": [round(v, 3) for v in interval(ordered, len(rows))],
        "share of s_init": float(np.mean([r["share of s_init"] for r in rows])),
        **{f"doubt of {name}": _mean(values) for name, values in doubt.items()},
    }


def _mean(values: Array) -> dict[str, float]:
    """Mean and the half width of its 95 % interval over data sets or seeds."""
    count = len(values)
    half = float(student.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    return {"mean": float(values.mean()), "half width": half}


def _numbers(
    plan: Plan, found: Mapping[str, Any], measures: Mapping[str, Mapping[str, Array]], kept: NDArray[np.bool_]
) -> dict[str, Any]:
    """What is stored of a place, with intervals over draws."""
    runs, raw = found["runs"], found["measures"]
    variants = list(VARIANTS)
    return {
        "draws": [d for d, k in zip(plan.judge, kept, strict=True) if k],
        "left out": [d for d, k in zip(plan.judge, kept, strict=True) if not k],
        "chosen": {n: (f"rho {s:g}" if isinstance(s, float) else _setting(s)) for n, s in found["chosen"].items()},
        "at an edge": found["at an edge"],
        "settings that diverged": found["diverged"],
        "references": found["references"],
        "s still moving by": {n: float(runs[f"{n}/moved"].max()) for n in variants},
        "starting s that is left": 0.99**plan.bsam_steps,
        "difference of log s if s starts at 30": {
            n: float(np.abs(2 * (runs[f"{n}/width"][:, 0] - runs[f"{n}/width from 30"])).max()) for n in variants
        },
        "log standard deviation": {n: _mean(runs[f"{n}/width"].mean(axis=1)) for n in (*variants, "ceiling")},
        "below the ceiling's Bayes objective": {
            n: f"{int((raw[n]['elbo'] <= raw['ceiling']['elbo']).sum())} of {raw[n]['elbo'].size}" for n in variants
        },
        "spread over seeds of KL": {
            n: float(raw[n]["kl_both"].std(axis=1, ddof=1).mean()) for n in (*SEARCHED, *UNDAMPED)
        }
        if plan.seeds > 1
        else {},
        "measures": {n: {k: _mean(v) for k, v in by.items()} for n, by in measures.items()} if kept.any() else {},
    }


def _setting(setting: Any) -> str:
    return f"rho {setting.rho:g}, gamma {setting.damping:g}"


def _maps(plan: Plan, place: Place, found: Mapping[str, Any]) -> dict[str, Array]:
    """The first judging draw's maps (seed 0; the ceiling's best), and what NUTS predicts on every draw."""
    name, data = str(place), place.draw(plan.judge[0])
    box, test = regions(data)["box"], regions(data)["test"]
    first, runs = len(plan.choose), found["runs"]
    best = int(runs["ceiling/elbo"][0].argmax())
    out: dict[str, Any] = {
        f"{name}/inputs": data.inputs,
        f"{name}/labels": data.labels,
        f"{name}/nuts/box": found["exact"][:, box],
        f"{name}/nuts/test": found["exact"][:, test],
        f"{name}/map/exact Bayes": found["exact"][first, box],
        **{f"{name}/map/{n}": runs[f"{n}/p"][0, best if n == "ceiling" else 0, box] for n in METHODS},
    }
    return {key: np.asarray(v, dtype=np.float32) for key, v in out.items()}


def animate_frames(data: Moons, epochs: int) -> dict[str, np.ndarray]:
    """The demo's bSAM, seed 0: at a few epochs the mean's and 8 samples' probabilities on the grid, in percent."""
    every, settings = max(1, epochs // 25), Settings(epochs=epochs)
    seen: list[int] = []
    means: list[np.ndarray] = []
    samples: list[np.ndarray] = []

    def watch(epoch: int, model: nn.Module, optimizer: BSAM) -> None:
        if epoch % every and epoch != epochs - 1:
            return
        seen.append(epoch + 1)
        means.append(average(model, optimizer, data.grid, 0, 0))
        samples.append(np.stack([average(model, optimizer, data.grid, 1, k) for k in range(8)]))

    train_bsam(data, settings, 0, watch)
    return {
        "frame_epochs": np.array(seen),
        "frame_means": np.round(100 * np.stack(means)).astype(np.uint8),
        "frame_samples": np.round(100 * np.stack(samples)).astype(np.uint8),
    }
