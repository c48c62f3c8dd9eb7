"""The order in which a run sees its data: a function of the seed and the epoch alone."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["data_order"]


def data_order(count: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """The batches of one epoch (steps, batch_size); the last incomplete batch is left out."""
    size = min(batch_size, count)
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(count, generator=generator)
    return order[: count // size * size].view(-1, size)
