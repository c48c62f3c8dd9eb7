"""Tables 1 and 2: complete configurations for the residual networks, and what to do where they cannot be run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.deep import plans, summary
from experiments.deep.config import METHODS, Config
from experiments.deep.rows import Row, RowStore, committed_directory
from experiments.deep.summary import NAMES
from experiments.registry import Claim, Context, Outcome

__all__ = ["outcome", "smoke", "table1", "table2"]

SEEDS = 3
_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "tiny-imagenet": 100_000}

# (learning rate, prior precision, rho): the authors' README where it is given, else starting values for a search.
_PUBLISHED: dict[tuple[str, str, str], dict[str, float]] = {
    ("resnet18", "cifar10", "sgd"): {"lr": 0.03, "prior": 25},
    ("resnet18", "cifar10", "sam-sgd"): {"lr": 0.03, "prior": 25, "rho": 0.05},
    ("resnet18", "cifar10", "bsam"): {"lr": 0.5, "prior": 40, "rho": 0.01},
    ("resnet18", "cifar100", "sgd"): {"lr": 0.03, "prior": 25},
    ("resnet18", "cifar100", "sam-sgd"): {"lr": 0.03, "prior": 25, "rho": 0.05},
    ("resnet18", "cifar100", "bsam"): {"lr": 0.5, "prior": 40, "rho": 0.01},
    ("resnet20-frn", "tiny-imagenet", "sgd"): {"lr": 0.1, "prior": 20, "momentum": 0.95},
    ("resnet20-frn", "tiny-imagenet", "sam-sgd"): {"lr": 0.1, "prior": 20, "momentum": 0.95, "rho": 0.01},
    ("resnet20-frn", "tiny-imagenet", "bsam"): {"lr": 0.25, "prior": 25, "rho": 5e-5},
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


def _config(model: str, dataset: str, method: str, *, augment: bool) -> Config:
    values: dict[str, Any] = dict(_PUBLISHED.get((model, dataset, method), _START[method]))
    factor = 4.0 if augment and method in ("bsam", "vogn", "ivon") else 1.0
    decay = values.pop("prior") / (_IMAGES[dataset] * factor)
    parts = 8 if method in ("sam-sgd", "sam-adam", "bsam", "vogn", "ivon") else 1
    config = Config(
        dataset, model, method, weight_decay=decay, parts=parts, data_factor=factor, augment=augment, **values
    )
    if method == "ivon":
        config = replace(config, beta2=0.9999, s_init=0.1)
    if method == "vogn":
        config = replace(config, s_init=0.1)
    if augment:
        return replace(config, epochs=180, warmup=5, schedule="cosine")
    return replace(config, epochs=180, schedule="step", milestones=(100, 120))


def table1() -> list[Config]:
    """ResNet-20-FRN on CIFAR-10 and CIFAR-100 without augmentation, every method."""
    return [_config("resnet20-frn", d, m, augment=False) for d in ("cifar10", "cifar100") for m in METHODS]


def table2() -> list[Config]:
    """With augmentation: ResNet-20-FRN on three data sets, ResNet-18 on CIFAR; the paper's methods for each."""
    small = [
        _config("resnet20-frn", d, m, augment=True)
        for d in ("cifar10", "cifar100", "tiny-imagenet")
        for m in ("sgd", "adam", "sam-sgd", "sam-adam", "bsam", "ivon")
    ]
    large = [
        _config("resnet18", d, m, augment=True)
        for d in ("cifar10", "cifar100")
        for m in ("sgd", "sam-sgd", "bsam", "ivon")
    ]
    return small + large


def smoke(config: Config) -> Config:
    """A few steps of the same network and method on real images of the same shape."""
    parts = min(config.parts, 2)
    return replace(
        config,
        dataset="digits-rgb",
        epochs=1,
        batch_size=4,
        limit=8,
        parts=parts,
        samples=(1,),
        warmup=0,
        milestones=(),
    )


def outcome(context: Context, name: str, configs: Callable[[], Sequence[Config]], published: list[Row]) -> Outcome:
    """Rows of the finished runs; without them and without a GPU the cells say so, with the exact command."""
    import torch

    wanted = list(configs())
    command = f"python -m experiments run {name} --scale full --seed {context.seed} --data DIR"
    full = plans.seeded(wanted, replace(context, scale="full"), SEEDS)
    if context.scale == "full" and torch.cuda.is_available() and context.data is not None:
        plans.execute(context, full)
    if context.scale == "quick":
        seen = {(c.model, c.method): smoke(c) for c in wanted if c.model == "resnet20-frn"}
        plans.execute(context, list(seen.values()))
    store = RowStore(Path(context.partial) / "none", committed_directory())
    finished = [row for row in (store.get(c) for c in full) if row is not None]
    groups = summary.gather(finished, lambda row: (summary.task(row), NAMES[row["settings"]["method"]]))
    cells = summary.table(groups, ["Task", "Method"])
    done = {tuple(c["text"] for c in row[:2]) for row in cells["rows"]}
    for config in wanted:
        label = (f"{config.model} / {config.dataset}", NAMES[config.method])
        if label not in done:
            remark = [{"text": "not run: needs a GPU and the data"}, *({"text": "–"} for _ in range(3))]
            cells["rows"].append([{"text": text} for text in label] + remark)
    state = f"{len(finished)} of {len(full)} runs finished"
    return Outcome(
        settings={
            "command": command,
            "device": ", ".join(sorted({row["device"] for row in finished})) or None,
            "configurations": [config.settings() for config in wanted],
            "seeds": SEEDS,
            "deviations": [
                "learning rates, prior precisions and rho are the authors' where their README gives them, else "
                "starting values, to be searched on the validation split first; 180 epochs, decayed at 100 and 120 "
                "(Table 1) or cosine after 5 epochs of warm-up (Table 2), are our choice where the paper's numbers are "
                "not known",
                f"{state}; to run the rest: {command}",
            ],
        },
        numbers={"table": cells, "published": {"rows": published}},
        claims=(_claim(state, command, len(finished) == len(full)),),
    )


def _claim(state: str, command: str, complete: bool) -> Claim:
    needs: dict[str, Any] = {"needs": "a GPU, the data, and hours", "command": command}
    what = "all runs are there: compare them in the table" if complete else f"{state}; it needs a GPU and the data"
    return Claim("D3", "not run", f"{what}.", needs, "paired 95 % t interval over seeds", "none: not run")
