"""Minibatches: which images a step sees, and how they are augmented, is a function of seed, epoch and step alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.deep.config import Config
from experiments.deep.data import Split

PADDING = 4


def data_order(count: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """The batches of one epoch (steps, batch_size); the last incomplete batch is left out."""
    size = min(batch_size, count)
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(count, generator=generator)
    return order[: count // size * size].view(-1, size)


class Feed:
    """The minibatches of a run, gathered where the data live.

    Order and position are tensors in fixed memory, so that a captured step moves through an epoch by itself.
    """

    def __init__(self, config: Config, split: Split) -> None:
        self._config, self._split = config, split
        count, device = len(split.labels), split.images.device
        size = min(config.batch_size, count)
        self.steps = count // size
        self._order = torch.zeros((self.steps, size), dtype=torch.int64, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._moves = torch.zeros((count, 3), dtype=torch.int64, device=device) if config.augment else None

    def begin(self, epoch: int, step: int = 0) -> None:
        """Go to ``step`` of ``epoch``."""
        config, count = self._config, len(self._split.labels)
        self._order.copy_(data_order(count, config.batch_size, config.seed, epoch))
        self._position.fill_(step)
        if self._moves is not None:
            generator = torch.Generator().manual_seed(1_000_003 * config.seed + epoch + 500_009)
            crops = torch.randint(0, 2 * PADDING + 1, (count, 2), generator=generator)
            flips = torch.randint(0, 2, (count, 1), generator=generator)
            self._moves.copy_(torch.cat([crops, flips], 1))

    def batch(self) -> tuple[Tensor, Tensor]:
        """The images and labels of the present step ; goes on to the next."""
        index = self._order.index_select(0, self._position)[0]
        self._position += 1
        images, labels = self._split.images.index_select(0, index), self._split.labels.index_select(0, index)
        if self._moves is not None:
            images = augmented(images, self._moves.index_select(0, index))
        return images, labels


def augmented(images: Tensor, moves: Tensor) -> Tensor:
    """Crops after a padding of 4, and horizontal flips: ``moves`` (n, 3) are top, left and whether to flip."""
    _, _, height, width = images.shape
    top, left, flip = moves.unbind(1)
    images = torch.where(flip.bool()[:, None, None, None], images.flip(3), images)
    padded = F.pad(images, (PADDING,) * 4)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    members = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[members, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
