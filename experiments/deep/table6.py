"""Table 6: all methods on MLP/MNIST and LeNet-5/FashionMNIST, and claim D3 on them."""

from __future__ import annotations

from typing import Any

from experiments.deep import deviations, plans, summary
from experiments.deep.evaluate import METRICS
from experiments.deep.statistics import paired
from experiments.deep.summary import NAMES, Groups
from experiments.registry import Claim, Context, Outcome, register

__all__ = ["judge", "run"]


@register("table6", "Table 6: MLP/MNIST and LeNet-5/FashionMNIST, all methods", claims=("D3",), extras=("deep",))
def run(context: Context) -> Outcome:
    """Train what is missing, compare every method with bSAM over the seeds."""
    rows = plans.execute(context, plans.table6(context))
    groups = summary.gather(rows, lambda row: (summary.task(row), NAMES[row["settings"]["method"]]))
    at_mean = summary.gather(
        rows, lambda row: (summary.task(row), NAMES[row["settings"]["method"]]), lambda row: row["metrics"]["mean"]
    )
    full = context.scale == "full"
    return Outcome(
        settings={
            **summary.provenance(rows),
            "deviations": deviations.COMMON if full else deviations.QUICK,
            "hyperparameters": _hyperparameters(context),
            "samples": plans.SAMPLES if full else 8,
        },
        numbers={
            "table": summary.table(groups, ["Task", "Method"]),
            "table_mean": summary.table(at_mean, ["Task", "Method"], mark=False),
            "differences": _differences(groups),
        },
        claims=(judge(groups, at_mean),),
    )


def judge(groups: Groups, at_mean: Groups) -> Claim:
    """D3 from the seeds: bSAM is best or tied where no method of the paper beats it beyond the interval."""
    places, second, with_ivon = {}, {}, {}
    for name in sorted({label[0] for label in groups}):
        everyone = {k: v for k, v in groups.items() if k[0] == name}
        paper = {k: v for k, v in everyone.items() if k[1] != "IVON"}
        means = {k: (at_mean[k] if k[1] == "bSAM" else v) for k, v in paper.items()}
        for metric in METRICS:
            place = f"{name}, {metric}"
            places[place] = (name, "bSAM") in summary.best_or_tied(paper, metric)
            with_ivon[place] = (name, "bSAM") in summary.best_or_tied(everyone, metric)
            second[place] = {
                "bootstrap": (name, "bSAM") in summary.best_or_tied(paper, metric, bootstrap=True),
                "bSAM at its mean": (name, "bSAM") in summary.best_or_tied(means, metric),
            }
    held = [place for place, won in places.items() if won]
    verdict = "held" if len(held) == len(places) else "held only if" if held else "refuted"
    where = "; ".join(held) or "nowhere"
    agree = sum(second[p]["bootstrap"] == won for p, won in places.items())
    mean_agree = sum(second[p]["bSAM at its mean"] == won for p, won in places.items())
    ours = ("NLL and ECE against SGD, Adam and SAM-Adam: ") + _against(groups)
    return Claim(
        id="D3",
        verdict=verdict,
        statement=(
            f"Among the paper's seven methods bSAM is best or tied in {len(held)} of {len(places)} places (network and "
            f"data, metric): {where}. {ours} Table 1 and 2 were not run here."
        ),
        numbers={"best or tied": places, "also counting IVON": with_ivon, "second way": second},
        tolerance="tied: the paired 95 % t interval over seeds of the difference from each method contains zero",
        second_way=(
            f"bootstrap over seeds agrees in {agree} of {len(places)} places; with bSAM's predictions at the mean "
            f"instead of 32 samples in {mean_agree}"
        ),
    )


def _against(groups: Groups) -> str:
    parts = []
    for name in sorted({label[0] for label in groups}):
        beaten = []
        for metric in ("nll", "ece"):
            for other in ("SGD", "Adam", "SAM-Adam"):
                difference = paired(groups[name, "bSAM"][metric], groups[name, other][metric])
                word = {1: "better", 0: "no difference", -1: "worse"}[difference.favours(metric)]
                beaten.append(
                    f"{metric.upper()} {word} than {other}"
                    if word != "no difference"
                    else f"{metric.upper()} not distinguishable from {other}"
                )
        parts.append(f"on {name} " + ", ".join(beaten))
    return "; ".join(parts) + "."


def _differences(groups: Groups) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, method in groups:
        if method != "bSAM":
            for metric in METRICS:
                difference = paired(groups[name, "bSAM"][metric], groups[name, method][metric])
                found[f"{name}: bSAM - {method}, {metric}"] = difference.numbers()
    return found


def _hyperparameters(context: Context) -> dict[str, Any]:
    import json

    chosen: dict[str, Any] = json.loads(plans.HYPERPARAMETERS.read_text())
    return {"source": "experiments/deep/hyperparameters.json, from `python -m experiments run search`", **chosen}
