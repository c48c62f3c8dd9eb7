"""From a list of configurations to rows by stacks: who can share one, its training, and its evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from experiments.deep import stacked, stacked_models
from experiments.deep.config import BAYESIAN, Config
from experiments.deep.data import Split
from experiments.deep.evaluate import describe, measure
from experiments.deep.rows import Row
from experiments.deep.stacked_updates import Rule

__all__ = ["can_stack", "plan_stacks", "train_rows"]

_MEMBERS = {"lenet5": 96, "mlp": 24}
_CHUNK = 1000


def can_stack(config: Config) -> bool:
    """Whether `stacked` knows this run: a stackable network, no augmentation, equal sub-batches, float32."""
    known = config.model in stacked_models.STACKED and not config.augment and not config.amp
    return known and config.batch_size % config.parts == 0


def plan_stacks(configs: Iterable[Config]) -> list[tuple[list[Config], tuple[int, ...]]]:
    """Groups (configurations without their seeds, seeds) that cover ``configs`` exactly once."""
    seeds: dict[Config, set[int]] = {}
    for config in configs:
        seeds.setdefault(replace(config, seed=0), set()).add(config.seed)
    groups: dict[tuple[object, ...], list[Config]] = {}
    for config, own in seeds.items():
        groups.setdefault((*stacked.compatible(config), tuple(sorted(own))), []).append(config)
    plan = []
    for key, members in groups.items():
        wanted: tuple[int, ...] = key[-1]  # type: ignore[assignment]
        size = max(1, _MEMBERS[members[0].model] // len(wanted))
        pieces = -(-len(members) // size)
        size = -(-len(members) // pieces)
        ordered = sorted(members, key=lambda c: (c.method, c.key()))
        plan += [(ordered[i : i + size], wanted) for i in range(0, len(ordered), size)]
    return plan


def train_rows(
    configs: Sequence[Config],
    seeds: Sequence[int],
    split: Split,
    *,
    on_epoch: Callable[[int], None] | None = None,
) -> list[Row]:
    """Train one stack and evaluate it: one row for each configuration and seed."""
    stack = stacked.train(configs, seeds, split, on_epoch=on_epoch)
    begin = time.perf_counter()
    metrics: dict[tuple[int, int], dict[str, dict[str, float]]] = {}
    offset = 0
    for rule in stack.rules:
        for label, probabilities in _predictions(rule, split):
            for s in range(len(seeds)):
                for c in range(len(rule.configs)):
                    if label == "mean" or int(label) in rule.configs[c].samples:
                        found = measure(probabilities[s, c], split.eval_labels)
                        metrics.setdefault((s, offset + c), {})[label] = found
        offset += len(rule.configs)
    evaluation = time.perf_counter() - begin
    members = len(configs) * len(seeds)
    trained = [config for rule in stack.rules for config in rule.configs]
    rows = []
    for (s, c), measured in metrics.items():
        config = replace(trained[c], seed=int(seeds[s]))
        row = {
            "key": config.key(),
            "settings": config.settings(),
            "metrics": measured,
            "parameters": stack.rules[0].mean.shape[-1],
            "train_loss": float(stack.train_loss[s, c]),
            "seconds": round(stack.seconds / members, 3),
            "evaluation_seconds": round(evaluation / members, 3),
            "backend": f"stacked: {members} runs at once took {stack.seconds:.1f} s",
        }
        rows.append(row | describe(split.images.device))
    return rows


@torch.no_grad()
def _predictions(rule: Rule, split: Split) -> Iterable[tuple[str, Tensor]]:
    """(label, probabilities (seeds, configs, n, classes)) at the mean, then averaged over more and more samples."""
    model = rule.configs[0].model
    yield "mean", _probabilities(model, rule.center(), split)
    if rule.configs[0].method not in BAYESIAN:
        return
    wanted = sorted({k for config in rule.configs for k in config.samples})
    generator = torch.Generator(split.images.device).manual_seed(rule.configs[0].epochs)
    total: Tensor | None = None
    for count in range(1, wanted[-1] + 1):
        drawn = _probabilities(model, rule.sample(generator), split)
        total = drawn if total is None else total.add_(drawn)
        if count in wanted:
            yield str(count), total / count


def _probabilities(model: str, weights: Tensor, split: Split) -> Tensor:
    seeds, configs, _ = weights.shape
    pieces = []
    for images in split.eval_images.split(_CHUNK):
        scores, _ = stacked_models.logits(model, weights[None], images[None, None], split.classes)
        pieces.append(scores.softmax(1).transpose(1, 2).reshape(seeds, configs, len(images), -1))
    return torch.cat(pieces, 2)
