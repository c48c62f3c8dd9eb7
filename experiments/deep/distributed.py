"""Several processes under torchrun: who we are, and which part of a batch is ours. One process otherwise."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["average_gradients", "barrier", "device", "finish", "rank", "shard", "size", "start"]


def start() -> None:
    """Join the group that torchrun announces in the environment; without torchrun nothing happens."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def finish() -> None:
    """Leave the group."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for everyone."""
    if _active():
        dist.barrier()


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 without torchrun."""
    return dist.get_rank() if _active() else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _active() else 1


def device() -> torch.device | None:
    """The GPU torchrun gives this process; None without torchrun."""
    if not _active():
        return None
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")


def shard(batch: Tensor) -> Tensor:
    """This process's share of a batch of indices."""
    return batch.tensor_split(size())[rank()] if size() > 1 else batch


def average_gradients(parameters: list[Tensor]) -> None:
    """Replace every gradient by its mean over the processes."""
    if size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= size()
