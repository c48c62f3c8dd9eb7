"""bSAM and SAM over several processes: every rank is a sub-batch (or several) of m-sharpness.

Both gradients of a rank are local: noise, forward, backward and perturbation need no communication. What the ranks
share are the sums of g_eps and of |g|, in one all-reduce at the end of a step. s is the same on every rank
afterwards, and sqrt(s) mean|g_k| is averaged after the absolute value, which synchronizing g would get wrong.

    torchrun --nproc-per-node 4 train.py

    dist.init_process_group("nccl")
    broadcast_module(model)                                  # or wrap it in DistributedDataParallel
    optimizer = BSAM(model.parameters(), lr, ..., module=model, distributed=True)
    loss = optimizer.step(closure)                           # closure: this rank's share of the minibatch
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def process_group(distributed: Any) -> Any | None:
    """The process group meant by ``distributed``: False is none, True the default one, else a group itself.

    Raises:
        RuntimeError: True was asked for and torch.distributed is not initialized.
    """
    if distributed is False or distributed is None:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("distributed=True needs torch.distributed.init_process_group to be called first")
    return dist.group.WORLD if distributed is True else distributed


def sum_across_ranks(tensors: Sequence[Tensor], group: Any) -> None:
    """Sum each tensor over the ranks, in place, as one flat all-reduce a device and precision."""
    places: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for t in tensors:
        places.setdefault((t.device, t.dtype), []).append(t)
    for same in places.values():
        flat = torch.cat([t.reshape(-1) for t in same])
        dist.all_reduce(flat, group=group)
        for t, piece in zip(same, torch.split(flat, [t.numel() for t in same]), strict=True):
            t.copy_(piece.view_as(t))


def processes() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def called_within(module: str, kind: str) -> bool:
    """Whether a method of that class has called, directly or not (a module that is not imported has none)."""
    loaded = sys.modules.get(module)
    frame = None if loaded is None else sys._getframe(1)
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), getattr(loaded, kind)):
            return True
        frame = frame.f_back
    return False


def same_on_all(number: int, device: torch.device) -> int:
    """The first process's ``number``: processes that share a parameter need the same seed."""
    tensor = torch.tensor([number], dtype=torch.int64, device=device)
    dist.broadcast(tensor, src=0)
    return int(tensor)


def broadcast_module(module: nn.Module, *, source: int = 0, group: Any | None = None) -> None:
    """Give every rank the parameters and buffers of rank ``source``."""
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor, src=source, group=group)
