"""From rows to the groups a table compares, their statistics, and the table itself as plain cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.deep import plans
from experiments.deep.evaluate import METRICS
from experiments.deep.rows import Row
from experiments.deep.statistics import paired, spread

NAMES = {
    "sgd": "SGD",
    "sam-sgd": "SAM-SGD",
    "swag": "SWAG",
    "vogn": "VOGN",
    "adam": "Adam",
    "sam-adam": "SAM-Adam",
    "bsam": "bSAM",
    "ivon": "IVON",
}
TASKS = {
    ("mlp", "mnist"): "MLP / MNIST",
    ("lenet5", "fashion-mnist"): "LeNet-5 / FashionMNIST",
    ("mlp", "digits"): "MLP / digits",
    ("lenet5", "digits"): "LeNet-5 / digits",
    ("resnet20-frn", "cifar10-jpeg"): "ResNet-20-FRN / CIFAR-10 (JPEG)",
    ("resnet18", "cifar10-jpeg"): "ResNet-18 / CIFAR-10 (JPEG)",
    ("resnet20-frn", "tiny-imagenet-32"): "ResNet-20-FRN / Tiny ImageNet-32",
}

Label = tuple[str, ...]
Groups = dict[Label, dict[str, NDArray[np.float64]]]


def task(row: Row) -> str:
    """Network and data of a row, as the tables print them."""
    return task_name(row["settings"]["model"], row["settings"]["dataset"])


def task_name(model: str, dataset: str) -> str:
    """Network and data, as the tables print them."""
    return TASKS.get((model, dataset), f"{model} / {dataset}")


def task_and_method(row: Row) -> Label:
    """The labels of a table of methods."""
    return task(row), NAMES[row["settings"]["method"]]


def at_mean(row: Row) -> Mapping[str, float]:
    """The metrics at the mean, without an average over samples."""
    metrics: Mapping[str, float] = row["metrics"]["mean"]
    return metrics


def gather(
    rows: Iterable[Row],
    label: Callable[[Row], Label],
    choose: Callable[[Row], Mapping[str, float]] = plans.headline,
) -> Groups:
    """Metrics by label, each an array over seeds in the order of the seeds (so that groups can be paired)."""
    members: dict[Label, list[Row]] = {}
    for row in rows:
        members.setdefault(label(row), []).append(row)
    groups: Groups = {}
    for key, group in members.items():
        unique = {row["key"]: row for row in group}.values()
        ordered = sorted(unique, key=lambda row: row["settings"]["seed"])
        groups[key] = {m: np.array([float(choose(row)[m]) for row in ordered]) for m in METRICS}
    return groups


def best_or_tied(groups: Groups, metric: str, *, bootstrap: bool = False) -> set[Label]:
    """The groups that no other group beats beyond the paired 95 % interval."""
    winners = set()
    for label, values in groups.items():
        others = (g[metric] for key, g in groups.items() if key != label)
        beaten = any(paired(values[metric], other).favours(metric, bootstrap=bootstrap) < 0 for other in others)
        if np.isfinite(values[metric]).all() and not beaten:
            winners.add(label)
    return winners


def table(groups: Groups, columns: Sequence[str], *, within: int = 1, mark: bool = True) -> dict[str, Any]:
    """Plain cells: a row a group; ``best`` where nothing among the same first ``within`` labels is better."""
    rows = []
    winners: dict[tuple[Label, str], set[Label]] = {}
    for label, values in groups.items():
        peers = {k: v for k, v in groups.items() if k[:within] == label[:within]}
        cells: list[dict[str, Any]] = [{"text": text} for text in label]
        for metric in METRICS:
            place = (label[:within], metric)
            if place not in winners:
                winners[place] = best_or_tied(peers, metric) if mark and len(peers) > 1 else set()
            mean, std = spread(values[metric])
            cells.append(
                {"mean": mean, "std": std, "seeds": len(values[metric]), "best": label in winners[place], "of": metric}
            )
        rows.append(cells)
    return {"columns": [*columns, "Accuracy (%)", "NLL", "ECE", "AUROC"], "rows": rows}


def provenance(rows: Sequence[Row]) -> dict[str, Any]:
    """What the rows of a table have in common: where and when they were made, and what they took."""

    def seen(name: str) -> list[Any]:
        return sorted({row[name] for row in rows})

    return {
        "device": ", ".join(seen("device")),
        "precision": sorted({row["settings"]["precision"] for row in rows}),
        "ran": seen("ran"),
        "revisions": seen("revision"),
        "diverged": sorted(row["key"] for row in rows if row["diverged"]),
        "torch": seen("torch"),
        "dates": seen("date"),
        "runs": len({row["key"] for row in rows}),
        "training_seconds": round(sum({row["key"]: row["seconds"] for row in rows}.values()), 1),
        "epochs": sorted({row["settings"]["epochs"] for row in rows}),
        "batch_sizes": sorted({row["settings"]["batch_size"] for row in rows}),
        "seeds": sorted({row["settings"]["seed"] for row in rows}),
    }
