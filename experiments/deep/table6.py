"""Table 6: all methods on MLP/MNIST and LeNet-5/FashionMNIST, and claim D3 on them."""

from __future__ import annotations

from typing import Any

from experiments.deep import best, deviations, plans, spaces, summary
from experiments.deep.config import METHODS
from experiments.registry import Context, Outcome


def run(context: Context) -> Outcome:
    """Train what is missing, compare every method with bSAM over the seeds."""
    tasks = plans.tasks(context)
    quick = context.scale == "quick"
    known = {model: METHODS if quick else [m for m in METHODS if m in plans.found(model)] for model in tasks}
    configs = [plans.tuned(model, method, context) for model in tasks for method in known[model]]
    rows = plans.execute(context, plans.seeded(configs, context, plans.SEEDS))
    groups = summary.gather(rows, summary.task_and_method)
    at_mean = summary.gather(rows, summary.task_and_method, summary.at_mean)
    missing = [f"{model}: no search yet, python -m experiments run search_{model}" for model in plans.SMALL]
    settings: dict[str, dict[str, Any]] = {}
    for config in configs:
        names = spaces.SPACES[config.method]
        settings.setdefault(config.model, {})[config.method] = {name: getattr(config, name) for name in names}
    return Outcome(
        settings={
            **summary.provenance(rows),
            "deviations": deviations.small(context),
            "hyperparameters": settings,
            "samples": 8 if context.scale == "quick" else plans.SAMPLES,
            "not run": [text for model, text in zip(plans.SMALL, missing, strict=True) if model not in tasks],
        },
        numbers={
            "table": summary.table(groups, ["Task", "Method"]),
            "table_mean": summary.table(at_mean, ["Task", "Method"], mark=False),
        },
        claims=(best.judge(groups, at_mean, doubt="; ".join(filter(None, map(plans.weakness, tasks)))),),
    )
