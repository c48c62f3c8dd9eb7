"""Train many small networks at once: seeds x configurations in one stack, a step captured in one CUDA graph.

Small networks leave a GPU idle between kernel launches; a stack fills it. The rows equal those of `runner`, up to
rounding and the random numbers of the noise: same data order, same initial weights, same rules.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from experiments.deep import models, stacked_models
from experiments.deep.config import Config
from experiments.deep.data import Split
from experiments.deep.order import data_order
from experiments.deep.stacked_updates import Rule, rule_for

__all__ = ["Stack", "compatible", "initial_weights", "train"]


def compatible(config: Config) -> tuple[object, ...]:
    """Configurations with equal values here can be trained in one stack."""
    rule = rule_for(config.method)
    shared = (config.dataset, config.model, config.epochs, config.batch_size, config.select, config.limit)
    # Weights of the MLP are large: cutting its batch finer than its own sub-batches would only move them more often.
    parts = config.parts if config.model == "mlp" else 0
    return (*shared, parts, config.schedule, config.warmup, config.milestones, rule.passes, rule.squares)


def pieces(configs: Sequence[Config], size: int) -> int:
    """How many equal pieces every batch of ``size`` is cut into: a multiple of everyone's sub-batches.

    Averaging gradients over the pieces of one sub-batch changes nothing, and convolutions on about 25 examples fill a
    GPU best.

    Raises:
        ValueError: the sub-batches do not divide the batch.
    """
    common = math.lcm(*(c.parts for c in configs))
    if size % common:
        raise ValueError(f"parts must divide the batch, got {sorted({c.parts for c in configs})} and {size}")
    wanted = max(size // common // 25, 1) if configs[0].model == "lenet5" else 1
    return common * next(k for k in range(wanted, 0, -1) if size // common % k == 0)


def initial_weights(config: Config, shape: tuple[int, int, int], classes: int, seed: int) -> Tensor:
    """The flat initial weights of the network of ``config``."""
    return parameters_to_vector(models.build(config.model, shape, classes, seed).parameters()).detach()


@dataclass
class Stack:
    """Trained rules (one a method) with their configurations in order, and what training took."""

    rules: list[Rule]
    configs: list[Config]
    seeds: tuple[int, ...]
    train_loss: Tensor
    seconds: float


def train(
    configs: Sequence[Config],
    seeds: Sequence[int],
    split: Split,
    *,
    on_epoch: Callable[[int], None] | None = None,
) -> Stack:
    """Train every configuration with every seed on the device of ``split``.

    Raises:
        ValueError: configurations that cannot share a stack, or parts that do not divide the batch.
    """
    configs = sorted(configs, key=_block)
    first = configs[0]
    if len({compatible(c) for c in configs}) != 1:
        raise ValueError("configurations of one stack must share data, model, batches, epochs and passes")
    shape = (split.images.shape[1], split.images.shape[2], split.images.shape[3])
    device = split.images.device
    start = torch.stack([initial_weights(first, shape, split.classes, s) for s in seeds]).to(device)
    blocks: dict[tuple[object, ...], list[Config]] = {}
    for config in configs:
        blocks.setdefault(_block(config), []).append(config)
    rules = [
        rule_for(block[0].method)(block, start[:, None].repeat(1, len(block), 1), len(split.labels))
        for block in blocks.values()
    ]
    loop = _Loop(rules, split, len(seeds))
    if device.type == "cuda":
        torch.cuda.manual_seed(int(seeds[0]))
    else:
        torch.manual_seed(int(seeds[0]))
    begin = time.perf_counter()
    for epoch in range(first.epochs):
        loop.run_epoch(epoch, seeds)
        if on_epoch is not None:
            on_epoch(epoch)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    return Stack(rules, list(configs), tuple(seeds), loop.mean_loss().cpu(), seconds)


def _block(config: Config) -> tuple[object, ...]:
    """Configurations with equal values here share one rule."""
    swag = (config.swag_epoch, config.swag_rank) if config.method == "swag" else (0, 0)
    return (config.method, config.parts, *swag)


class _Loop:
    """The buffers of a training loop, and its step, captured where the device is a GPU."""

    def __init__(self, rules: list[Rule], split: Split, seeds: int) -> None:
        self.rules, self.split = rules, split
        self.config = rules[0].configs[0]
        size = min(self.config.batch_size, len(split.labels))
        self.pieces = pieces([c for rule in rules for c in rule.configs], size)
        device = split.images.device
        self.steps = len(split.labels) // size
        self.order = torch.zeros(self.steps, seeds, size, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.loss = torch.zeros(seeds, sum(len(r.configs) for r in rules), device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._capture()

    def run_epoch(self, epoch: int, seeds: Sequence[int]) -> None:
        count, size = len(self.split.labels), self.config.batch_size
        self.order.copy_(torch.stack([data_order(count, size, s, epoch) for s in seeds], 1))
        self.position.zero_()
        self.loss.zero_()
        for rule in self.rules:
            factors = torch.tensor([c.lr_factor(epoch) for c in rule.configs], dtype=torch.float64)[:, None]
            rule.hyper.lr.copy_(rule.hyper.base_lr * factors.to(rule.hyper.lr))
        for _ in range(self.steps):
            if self.graph is None:
                self.step()
            else:
                self.graph.replay()
        for rule in self.rules:
            rule.end_epoch(epoch)

    def mean_loss(self) -> Tensor:
        """The last epoch's mean training loss (seeds, configs), at the points of the first evaluation."""
        return self.loss / self.steps

    def step(self) -> None:
        """One step of every member."""
        rules = self.rules
        chosen = self.order.index_select(0, self.position)[0]
        batch = chosen.view(len(chosen), self.pieces, -1).transpose(0, 1)
        images, labels = self.split.images[batch], self.split.labels[batch]
        noises = [rule.noise() for rule in rules]
        points = [rule.first_points(z) for rule, z in zip(rules, noises, strict=True)]
        squares: Sequence[Tensor | None] = [None] * len(rules)
        if rules[0].squares:
            gradient, mean_squares, losses = stacked_models.squared_gradients(
                self.config.model, self._spread(points), images, labels, self.split.classes
            )
            squares = self._gathered(mean_squares)
        else:
            gradient, losses = self._gradients(points, images, labels)
        first = self._gathered(gradient)
        second: Sequence[Tensor | None] = [None] * len(rules)
        if rules[0].passes == 2:
            points = [rule.second_points(g) for rule, g in zip(rules, first, strict=True)]
            second = self._gathered(self._gradients(points, images, labels)[0])
        for rule, g1, g2, square, z in zip(rules, first, second, squares, noises, strict=True):
            rule.update(g1, g2, square, z)
        self.loss.add_(losses.mean(0))
        self.position.add_(1)

    def _gradients(self, points: list[Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        weights = self._spread(points)
        return stacked_models.gradients(self.config.model, weights, images, labels, self.split.classes)

    def _spread(self, points: list[Tensor]) -> Tensor:
        """Every rule's weights by sub-batch, repeated for the pieces of a sub-batch: (pieces, seeds, configs, P)."""
        repeated = [p if len(p) == self.pieces else p.repeat_interleave(self.pieces // len(p), 0) for p in points]
        return repeated[0] if len(repeated) == 1 else torch.cat(repeated, 2)

    def _gathered(self, values: Tensor) -> list[Tensor]:
        """The inverse: each rule's configurations, averaged over the pieces of each of its sub-batches."""
        found = []
        for rule, own in zip(self.rules, values.split([len(r.configs) for r in self.rules], 2), strict=True):
            if rule.parts != self.pieces:
                own = own.unflatten(0, (rule.parts, self.pieces // rule.parts)).mean(1)
            found.append(own)
        return found

    def _capture(self) -> None:
        changed = [self.position, self.loss, *(t for rule in self.rules for t in rule.state())]
        saved = [t.clone() for t in changed]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()
        for tensor, value in zip(changed, saved, strict=True):
            tensor.copy_(value)
