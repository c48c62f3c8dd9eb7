"""Runs the compiled passes of `fenchel.optim.passes` on torch's threads."""

from __future__ import annotations

import ctypes
import warnings
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from fenchel.optim.openmp import runtime

__all__ = ["GRAIN", "HEAD", "WIDTH", "available", "fits", "laid_out", "run"]


HEAD, WIDTH = 2, 8
GRAIN = 1 << 14
"""Numbers that are worth a thread."""


class _Pass(NamedTuple):
    address: int
    call: Callable[[int], None]


@cache
def _passes() -> dict[str, _Pass]:
    try:
        from fenchel.optim.passes import PASSES
    except ImportError:
        return {}
    except Exception as error:  # whatever a compiler can raise: there is another way to compute the same
        warnings.warn(f"the fused kernels could not be compiled, and are not used: {error}", RuntimeWarning, 2)
        return {}
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    return {name: _Pass(task.address, kind(task.address)) for name, task in PASSES.items()}


def available() -> bool:
    """Whether there are compiled passes, and as many threads for them as torch has."""
    if torch.compiler.is_compiling():
        return False
    return bool(_passes()) and (runtime() is not None or torch.get_num_threads() == 1)


def fits(tensor: Tensor) -> bool:
    """Whether a pass can work on the memory of a tensor: plain, on a CPU, float32, without gaps."""
    kind = type(tensor)
    if kind is not Tensor and kind is not torch.nn.Parameter:
        return False
    return tensor.is_cpu and tensor.dtype == torch.float32 and tensor.is_contiguous()


def laid_out(tensor: Tensor) -> Tensor:
    """A tensor on whose memory a pass can read: itself or a copy."""
    if type(tensor) is Tensor and tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    return tensor.as_subclass(Tensor).resolve_neg().contiguous()


def run(name: str, columns: Sequence[Sequence[Tensor]], constants: Sequence[float] = ()) -> None:
    """One pass over lists of tensors that satisfy `fits`.

    The work is handed over as 64-bit integers: how many rows, the address of the constants, and for each row its offset
    among all numbers, its length and up to six addresses.

    Raises:
        ValueError: tensors of a row differ in size (memory would be overrun).
    """
    work = array("q", (len(columns[0]), 0))
    total = 0
    for row in zip(*columns, strict=True):
        size = row[0].numel()
        work.extend((total, size))
        for t in row:
            if t.numel() != size:
                raise ValueError(f"tensors of one parameter differ in size: {[tuple(t.shape) for t in row]}")
            work.append(t.data_ptr())
        work.extend((0,) * (WIDTH - 2 - len(row)))
        total += size
    numbers = array("f", constants)
    work[1] = numbers.buffer_info()[0]
    address, threads, openmp = work.buffer_info()[0], torch.get_num_threads(), runtime()
    if openmp is None or threads == 1 or total <= GRAIN:
        _passes()[name].call(address)
    else:
        openmp.GOMP_parallel(_passes()[name].address, address, threads, 0)
