"""Table 5: m of m-sharpness for bSAM and SAM-SGD, rho chosen anew for every m, and claim D6."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from experiments.deep import deviations, plans, spaces, statistics, summary, verdicts
from experiments.deep.config import Config
from experiments.deep.evaluate import METRICS
from experiments.deep.statistics import mean_interval, paired
from experiments.deep.summary import NAMES, Groups
from experiments.registry import Claim, Context, Outcome

PARTS = (1, 2, 4, 8, 16)
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
# 192 is the largest batch not above the paper's 200 that 16 sub-batches divide.
BATCH = 192


def run(context: Context) -> Outcome:
    """For every method and m choose rho on the validation split, then train on the same batches."""
    model, quick = plans.tasks(context)[0], context.scale == "quick"
    configs = []
    for method in ("bsam", "sam-sgd"):
        start = replace(plans.tuned(model, method, context), samples=(8 if quick else plans.SAMPLES,))
        configs += [replace(start, parts=m, batch_size=48 if quick else BATCH) for m in ((1, 2) if quick else PARTS)]
    trials = {config: [_trial(config, f, context) for f in (FACTORS[1:3] if quick else FACTORS)] for config in configs}
    rows = {row["key"]: row for row in plans.execute(context, [c for many in trials.values() for c in many])}
    chosen, edges = [], []
    for config, many in trials.items():
        measured = [(c, dict(plans.headline(rows[c.key()]))) for c in many]
        order = spaces.ranked([(c, {k: float(v) for k, v in m.items()}) for c, m in measured], plans.held_out(context))
        best = order[0] if order else many[len(many) // 2]
        chosen.append(replace(config, rho=best.rho))
        if best in (many[0], many[-1]):
            edges.append(f"{NAMES[config.method]}, m = {config.parts}")
    found = plans.execute(context, plans.seeded(chosen, context, plans.ABLATION_SEEDS))
    groups = summary.gather(found, lambda row: (NAMES[row["settings"]["method"]], str(row["settings"]["parts"])))
    batch = f"batch {BATCH} instead of 200, so that 16 sub-batches divide it"
    return Outcome(
        settings={
            **summary.provenance(found),
            "rho": {f"{NAMES[c.method]}, m = {c.parts}": c.rho for c in chosen},
            "rho at the edge of what was tried": edges,
            "deviations": deviations.small(context, batch, f"{summary.task(found[0])} instead of CIFAR-100"),
        },
        numbers={"table": summary.table(groups, ["Method", "m"])},
        claims=(judge(groups),),
    )


def _trial(config: Config, factor: float, context: Context) -> Config:
    return replace(
        config, rho=float(f"{config.rho * factor:.3g}"), epochs=-(-config.epochs // 2), select=True, seed=context.seed
    )


def judge(groups: Groups) -> Claim:
    """D6: larger m helps: each metric's slope over log2 m, a least-squares line a seed."""
    slopes: verdicts.Differences = {}
    ends: verdicts.Differences = {}
    for method in sorted({label[0] for label in groups}):
        parts = [label[1] for label in groups if label[0] == method]
        x = np.log2([float(m) for m in parts])
        for metric in METRICS:
            values = np.stack([groups[method, m][metric] for m in parts])
            # The whole way from the smallest m to the largest, so that it compares with a difference worth having.
            slopes[method, metric] = metric, mean_interval(statistics.slopes(x, values) * float(np.ptp(x)))
            ends[method, metric] = metric, paired(values[-1], values[0])
    found, second = verdicts.places(slopes), verdicts.places(ends)
    verdict = verdicts.judge_helps(found)
    return verdict.claim(
        "D6",
        "From the smallest m to the largest, rho chosen anew for each m: slope over log2 m, times its range.",
        verdicts.numbers(found),
        f"the largest m against the smallest, paired: {verdicts.judge_helps(second).word}",
    )
