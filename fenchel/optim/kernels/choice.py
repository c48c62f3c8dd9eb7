"""Which buckets are moved by the fused kernels, and which by torch's functions."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from fenchel.optim.kernels.bucket import Bucket

if TYPE_CHECKING:
    from fenchel.optim.kernels.fused import TritonKernels


def reason_against(bucket: Bucket, *, own_noise: bool) -> str | None:
    """Why the fused kernels cannot move a bucket, or None."""
    if not own_noise:
        return "standard_normal_like is overridden"
    if bucket.device.type != "cuda":
        return f"they need a CUDA device, and the parameters are on {bucket.device}"
    if bucket.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"they compute in float32, and the parameters are {bucket.dtype}"
    if any(bucket.shards.position(p) is None for p in bucket.params):
        return "a parameter is sharded in pieces that are not contiguous"
    # memory that torch would lay out so again has neither gaps nor overlaps
    if any(torch.empty_like(w, device="meta").stride() != w.stride() for w in bucket.weights):
        return "a parameter is not dense in memory"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    return None


def moves_of(
    buckets: Sequence[Bucket], *, own_noise: bool, generator: Callable[[torch.device], torch.Generator]
) -> list[Bucket | TritonKernels]:
    """What moves the buckets: fused kernels, one for each device and precision, and the rest themselves.

    Raises:
        ValueError: a group was made with ``fused=True`` and cannot be moved by fused kernels.
    """
    together: dict[tuple[torch.device, torch.dtype], list[Bucket]] = {}
    for bucket in buckets:
        wanted = bucket.group["fused"]
        reason = "fused=False" if wanted is False else reason_against(bucket, own_noise=own_noise)
        if wanted and reason:
            raise ValueError(f"fused=True cannot be: {reason}")
        bucket.fused = reason is None
        if bucket.fused:
            together.setdefault((bucket.device, bucket.dtype), []).append(bucket)
    moves: list[Bucket | TritonKernels] = [b for b in buckets if not b.fused]
    if together:
        from fenchel.optim.kernels.fused import TritonKernels

        moves += [TritonKernels(same, generator) for same in together.values()]
    return moves
