"""Tables 1 and 2: the residual networks. Rows that are there are shown, the rest with the command that makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from experiments.deep import best, plans, spaces, summary
from experiments.deep.config import METHODS, Config
from experiments.deep.rows import Row
from experiments.deep.summary import NAMES
from experiments.registry import Claim, Context, InputError, Outcome, Stopped
from fenchel.metrics import correct_published_nll

SEEDS = 3
REHEARSED = 200
_IMAGES = {"cifar10": 50_000, "cifar10-jpeg": 50_000, "cifar100": 50_000, "tiny-imagenet-32": 100_000}

# (learning rate, prior precision, rho): the authors' README for these tasks.
_PUBLISHED: dict[tuple[str, str, str], dict[str, float]] = {
    ("resnet18", "cifar10", "sgd"): {"lr": 0.03, "prior": 25},
    ("resnet18", "cifar10", "sam-sgd"): {"lr": 0.03, "prior": 25, "rho": 0.05},
    ("resnet18", "cifar10", "bsam"): {"lr": 0.5, "prior": 40, "rho": 0.01},
    ("resnet20-frn", "tiny-imagenet-32", "sgd"): {"lr": 0.1, "prior": 20, "momentum": 0.95},
    ("resnet20-frn", "tiny-imagenet-32", "sam-sgd"): {"lr": 0.1, "prior": 20, "momentum": 0.95, "rho": 0.01},
    ("resnet20-frn", "tiny-imagenet-32", "bsam"): {"lr": 0.25, "prior": 25, "rho": 5e-5},
}
_START: dict[str, dict[str, float]] = {
    "sgd": {"lr": 0.1, "prior": 25},
    "sam-sgd": {"lr": 0.1, "prior": 25, "rho": 0.05},
    "swag": {"lr": 0.1, "prior": 25},
    "vogn": {"lr": 0.05, "prior": 25},
    "adam": {"lr": 1e-3, "prior": 25},
    "sam-adam": {"lr": 1e-3, "prior": 25, "rho": 0.05},
    "bsam": {"lr": 0.25, "prior": 25, "rho": 0.01},
    "ivon": {"lr": 0.05, "prior": 25},
}
"""Where nothing is published and nothing was searched."""
# The authors' README: accuracy, NLL as printed, ECE, AUROC. Their script divides the NLL by the last batch index.
PUBLISHED_RESULTS: tuple[tuple[str, str, float, float, float, float], ...] = (
    ("resnet18 / cifar10", "SGD", 0.9477, 0.2058, 0.0306, 0.9336),
    ("resnet18 / cifar10", "SAM-SGD", 0.9569, 0.1431, 0.0134, 0.9468),
    ("resnet18 / cifar10", "bSAM", 0.9595, 0.1239, 0.0082, 0.9536),
    ("resnet20-frn / tiny-imagenet", "SGD", 0.5228, 2.0077, 0.0452, 0.8316),
    ("resnet20-frn / tiny-imagenet", "SAM-SGD", 0.5239, 1.9961, 0.0317, 0.8304),
    ("resnet20-frn / tiny-imagenet", "bSAM", 0.5337, 1.9594, 0.0206, 0.8272),
)


def _config(model: str, dataset: str, method: str, *, augment: bool, epochs: int) -> Config:
    config = spaces.base(model, method, dataset)
    searched = plans.found(model).get(method) if not augment and dataset == spaces.TASKS.get(model) else None
    if searched is not None:
        config = spaces.with_values(config, searched)
    else:
        plain = dataset.removesuffix("-jpeg").replace("cifar100", "cifar10")
        values: dict[str, Any] = dict(_PUBLISHED.get((model, plain, method), _START[method]))
        factor = 4.0 if augment and method in ("bsam", "vogn", "ivon") else 1.0
        decay = values.pop("prior") / (_IMAGES.get(dataset, 50_000) * factor)
        if method in ("vogn", "ivon"):
            values["s_init"] = 0.1
        config = replace(config, weight_decay=decay, data_factor=factor, augment=augment, **values)
    config = replace(config, epochs=epochs, samples=plans.COUNTS if method == "bsam" else (plans.SAMPLES,))
    if augment:
        return replace(config, warmup=5, schedule="cosine")
    return replace(config, schedule="step", milestones=(5 * epochs // 9, 2 * epochs // 3))


def table1(context: Context) -> list[Config]:
    """ResNet-20-FRN without augmentation, every method; on the user's own data sets where they are given."""
    names = context.datasets or ("cifar10-jpeg", "cifar100")
    epochs = plans.EPOCHS["resnet20-frn"]
    return [_config("resnet20-frn", d, m, augment=False, epochs=epochs) for d in names for m in METHODS]


def table2(context: Context) -> list[Config]:
    """With augmentation: ResNet-20-FRN and ResNet-18, the paper's methods for each."""
    small = [
        _config("resnet20-frn", d, m, augment=True, epochs=180)
        for d in ("cifar10-jpeg", "tiny-imagenet-32", "cifar100")
        for m in ("sgd", "adam", "sam-sgd", "sam-adam", "bsam", "ivon")
    ]
    wide = [
        _config("resnet18", d, m, augment=True, epochs=180)
        for d in ("cifar10-jpeg", "cifar100")
        for m in ("sgd", "sam-sgd", "bsam", "ivon")
    ]
    return small + wide


def _published() -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "method": method,
            "accuracy": accuracy,
            "nll": nll,
            "nll corrected": correct_published_nll(nll, 50),
            "ece": ece,
            "auroc": auroc,
        }
        for task, method, accuracy, nll, ece, auroc in PUBLISHED_RESULTS
    ]


def outcome(
    context: Context,
    name: str,
    configs: Callable[[Context], Sequence[Config]],
    published: Sequence[Mapping[str, Any]] = (),
) -> Outcome:
    """The table from the rows that are finished, after training what can be trained here."""
    wanted = [replace(c, precision=context.precision or c.precision) for c in configs(context)]
    command = f"python -m experiments run {name} --scale full --seed {context.seed} --data DIR"
    full = plans.seeded(wanted, replace(context, scale="full"), SEEDS)
    rehearsal = _rehearsal([c for c in wanted if c.dataset != "cifar100"])
    remark = ""
    if context.scale == "quick":
        seen = {(c.model, c.method): plans.quick(c) for c in wanted if c.model == "resnet20-frn"}
        plans.execute(context, list(seen.values()))
    else:
        try:
            plans.execute(context, rehearsal)
            plans.execute(context, [c for c in full if c.dataset != "cifar100"])
        except (Stopped, InputError) as reason:
            if context.plan:
                raise
            remark = str(reason)
    finished = plans.rows_of(replace(context, scale="full"), full)

    groups = summary.gather(finished, summary.task_and_method)
    cells = summary.table(groups, ["Task", "Method"], mark=False)
    for config in wanted:
        place = (summary.task_name(config.model, config.dataset), NAMES[config.method])
        if place not in groups:
            rest = [{"text": "not run"}, *({"text": "–"} for _ in range(3))]
            cells["rows"].append([{"text": text} for text in place] + rest)
    state = f"{len(finished)} of {len(full)} runs are finished"
    return Outcome(
        settings={
            "command": command,
            **(summary.provenance(finished) if finished else {"device": None}),
            "configurations": [config.settings() for config in wanted],
            "seeds planned": SEEDS,
            "complete": len(finished) == len(full),
            "deviations": [
                "CIFAR-10 re-encoded as JPEG and Tiny ImageNet scaled to 32 x 32: not the original pixels",
                "learning rates, prior precisions and rho are the authors' where their README gives them, ours from a "
                "search where there was one, else untuned starting values",
                "60 epochs decayed by 10 at 5/9 and 6/9 (Table 1), 180 with a cosine after 5 epochs of warm-up (Table "
                "2), bf16 passes (VOGN: tf32)",
                f"{state}{'; ' + remark if remark else ''}; to go on: {command}",
                _said(plans.rows_of(replace(context, scale="full"), rehearsal), len(rehearsal)),
            ],
        },
        numbers={"table": cells, "published": {"rows": list(published)}},
        claims=(_claim(groups, summary.gather(finished, summary.task_and_method, summary.at_mean), state, command),),
    )


def _rehearsal(configs: Sequence[Config]) -> list[Config]:
    """Every method and every task once, on a small part of the training images: a proof that it works, no more."""
    methods = {c.method: c for c in reversed(configs)}
    tasks = {(c.model, c.dataset): c for c in reversed(configs)}
    return [_rehearsed(c) for c in dict.fromkeys([*methods.values(), *tasks.values()])]


def _rehearsed(config: Config) -> Config:
    return replace(
        config,
        limit=REHEARSED,
        epochs=1,
        batch_size=40,
        samples=(1,),
        precision="float32",
        warmup=0,
        schedule="cosine",
        milestones=(),
    )


def _said(rows: Sequence[Row], count: int) -> str:
    """What a rehearsal showed."""
    begun = f"end to end on {REHEARSED} training images for one epoch, without a meaning for the methods"
    if not rows:
        return f"{begun}: not run"
    tasks = "; ".join(sorted({summary.task(row) for row in rows}))
    seconds = sum(row["seconds"] for row in rows)
    accuracy = [100.0 * row["metrics"]["mean"]["accuracy"] for row in rows]
    return (
        f"{begun}: {len(rows)} of {count} runs (every method and every task once) were trained, evaluated on the "
        f"whole test set and stored ({tasks}; "
        f"{seconds:.0f} s of {rows[0]['device']}, accuracies {min(accuracy):.1f} to {max(accuracy):.1f} %)"
    )


def _claim(groups: summary.Groups, at_mean: summary.Groups, state: str, command: str) -> Claim:
    """D3 on the tasks of which every method of the paper has at least three seeds."""
    needed = [NAMES[m] for m in METHODS if m != "ivon"]
    tasks = [
        task
        for task in dict.fromkeys(label[0] for label in groups)
        if all(len(groups.get((task, name), {"nll": []})["nll"]) >= SEEDS for name in needed)
    ]
    if not tasks:
        needs = {"needs": "a GPU and the data", "command": command}
        return Claim("D3", "not run", f"{state}; no task has all methods with {SEEDS} seeds.", needs, "none", "none")
    return best.judge(
        {label: v for label, v in groups.items() if label[0] in tasks},
        {label: v for label, v in at_mean.items() if label[0] in tasks},
    )


RUNS = {
    "table1": partial(outcome, name="table1", configs=table1),
    "table2": partial(outcome, name="table2", configs=table2, published=_published()),
}
