"""Train one configuration: the reference path, for every network and every device.

The data live on the device as tensors, a checkpoint is written after each epoch, and an interrupted run continues
from it with the same numbers an uninterrupted one would have given.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.deep import data as data_sets
from experiments.deep import distributed, models
from experiments.deep.config import Config
from experiments.deep.data import Split
from experiments.deep.evaluate import describe, measure
from experiments.deep.methods import Method, build
from experiments.deep.order import data_order
from experiments.deep.progress import Progress
from experiments.deep.rows import Row

__all__ = ["Trained", "evaluate", "train", "train_one"]

_EVAL_BATCH = 1000


@dataclass
class Trained:
    """A trained network with its method (which knows the posterior), and what training took."""

    model: nn.Module
    method: Method
    train_loss: float
    seconds: float


def train_one(
    config: Config,
    data: Path | None = None,
    *,
    device: str | None = None,
    checkpoints: Path | None = None,
    progress: bool = False,
    label: str = "",
) -> Row:
    """Train and evaluate one configuration; the row holds everything the tables need.

    Raises:
        InputError: the data are missing or corrupted.
    """
    place = distributed.device() or torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    source = data_sets.load(config.dataset, data)
    split = data_sets.split(source, select=config.select, limit=config.limit).to(place)
    path = checkpoints / f"{config.key()}.pt" if checkpoints is not None else None
    trained = train(config, split, checkpoint=path, progress=progress, label=label)
    begin = time.perf_counter()
    metrics = evaluate(trained, config, split)
    evaluation = time.perf_counter() - begin
    if path is not None and distributed.rank() == 0:
        path.unlink(missing_ok=True)
    row: Row = {
        "key": config.key(),
        "settings": config.settings(),
        "metrics": metrics,
        "train_loss": trained.train_loss,
        "seconds": round(trained.seconds, 3),
        "evaluation_seconds": round(evaluation, 3),
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "backend": "single" if distributed.size() == 1 else f"torchrun, {distributed.size()} processes",
    }
    return row | describe(place)


def evaluate(trained: Trained, config: Config, split: Split) -> dict[str, dict[str, float]]:
    """The metrics at the mean and, for a method with a posterior, averaged over each number of samples."""
    return {name: measure(p, split.eval_labels) for name, p in _predictions(trained, config, split)}


def train(
    config: Config,
    split: Split,
    *,
    checkpoint: Path | None = None,
    progress: bool = False,
    label: str = "",
    max_steps: int | None = None,
    on_epoch: Callable[[int], None] | None = None,
) -> Trained:
    """Train the network of ``config`` on ``split``'s device; ``max_steps`` ends it early (for smoke runs)."""
    device = split.images.device
    shape = (split.images.shape[1], split.images.shape[2], split.images.shape[3])
    model = models.build(config.model, shape, split.classes, config.seed).to(device)
    # Before the optimizer is built: its noise streams are seeded from here. Each process has noise of its own.
    torch.manual_seed(config.seed + 7919 * distributed.rank())
    method = build(config, model, len(split.labels))
    begin, loss, elapsed = 0, float("nan"), 0.0
    if checkpoint is not None and checkpoint.exists():
        begin, loss, elapsed = _resume(checkpoint, model, method, device)
    bar = Progress(config.epochs, label or config.key(), progress)
    for _ in range(begin):
        bar.advance()
    steps = 0
    for epoch in range(begin, config.epochs):
        start = time.perf_counter()
        method.set_lr_factor(config.lr_factor(epoch))
        total = torch.zeros((), device=device)
        order = data_order(len(split.labels), config.batch_size, config.seed, epoch).to(device)
        for batch in order:
            total += _step(config, model, method, split, distributed.shard(batch))
            steps += 1
            if steps == max_steps:
                return Trained(model, method, float(total), elapsed + time.perf_counter() - start)
        method.end_epoch(epoch)
        loss = float(total) / len(order)
        elapsed += time.perf_counter() - start
        if checkpoint is not None and distributed.rank() == 0:
            _save(checkpoint, model, method, epoch + 1, loss, elapsed)
        bar.advance(f"loss {loss:.4f}")
        if on_epoch is not None:
            on_epoch(epoch)
    bar.close()
    return Trained(model, method, loss, elapsed)


def _step(config: Config, model: nn.Module, method: Method, split: Split, batch: Tensor) -> Tensor:
    images, labels = split.images[batch], split.labels[batch]
    if config.augment:
        images = augmented(images)
    pieces = list(zip(images.tensor_split(config.parts), labels.tensor_split(config.parts), strict=True))
    half = config.amp and images.device.type == "cuda"

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            scores = model(x)
        return F.cross_entropy(scores.float() if half else scores, y)

    return method.step(model, pieces, loss_of)


def augmented(images: Tensor) -> Tensor:
    """Random horizontal flips and random crops after a padding of 4, drawn for each image."""
    count, _, height, width = images.shape
    flip = torch.rand(count, device=images.device) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    padded = F.pad(images, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, count, 1), device=images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    members = torch.arange(count, device=images.device)[:, None, None]
    return padded[members, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def _predictions(trained: Trained, config: Config, split: Split) -> list[tuple[str, Tensor]]:
    model, method = trained.model, trained.method
    with method.mean_weights(model, split.images):
        found = [("mean", _probabilities(model, split))]
    if not config.bayesian:
        return found
    torch.manual_seed(config.seed)
    total = torch.zeros_like(found[0][1])
    for count in range(1, max(config.samples) + 1):
        with method.sampled_weights(model, split.images):
            total += _probabilities(model, split)
        if count in config.samples:
            found.append((str(count), total / count))
    return found


def _probabilities(model: nn.Module, split: Split) -> Tensor:
    training = model.training
    model.eval()
    try:
        return torch.cat([model(x).softmax(1) for x in split.eval_images.split(_EVAL_BATCH)])
    finally:
        model.train(training)


def _save(path: Path, model: nn.Module, method: Method, epoch: int, loss: float, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "model": model.state_dict(),
        "method": method.state_dict(),
        "epoch": epoch,
        "loss": loss,
        "seconds": seconds,
        "cpu_generator": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        record["cuda_generator"] = torch.cuda.get_rng_state()
    temporary = path.with_suffix(".tmp")
    torch.save(record, temporary)
    temporary.replace(path)


def _resume(path: Path, model: nn.Module, method: Method, device: torch.device) -> tuple[int, float, float]:
    # The generators' states must stay on the CPU, so everything is read there; loading moves it to the weights.
    record = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(record["model"])
    method.load_state_dict(record["method"])
    torch.set_rng_state(record["cpu_generator"])
    if device.type == "cuda" and "cuda_generator" in record:
        torch.cuda.set_rng_state(record["cuda_generator"])
    return int(record["epoch"]), float(record["loss"]), float(record["seconds"])
