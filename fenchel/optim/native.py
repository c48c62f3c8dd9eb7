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

__all__ = ["available", "fits", "laid_out", "run"]


class _Pass(NamedTuple):
    address: int
    call: Callable[[int], None]


class _Compiled(NamedTuple):
    passes: dict[str, _Pass]
    width: int  # integers of a row
    grain: int  # numbers up to which one thread does it all


@cache
def _compiled() -> _Compiled | None:
    try:
        from fenchel.optim import passes
    except ImportError:
        return None
    except Exception as error:  # whatever a compiler can raise: there are other ways to compute the same
        warnings.warn(f"the fused kernels could not be compiled, and are not used: {error}", RuntimeWarning, 2)
        return None
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    found = {name: _Pass(task.address, kind(task.address)) for name, task in passes.PASSES.items()}
    return _Compiled(found, passes.WIDTH, passes.GRAIN)


def available() -> bool:
    """Whether there are compiled passes, and as many threads for them as torch has."""
    if torch.compiler.is_compiling():
        return False
    return _compiled() is not None and (runtime() is not None or torch.get_num_threads() == 1)


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

    The work is handed over as 64-bit integers: how many rows, the address of the constants, whether one thread is to do
    it all, and for each row its offset among all numbers, its length and up to six addresses.

    Raises:
        ValueError: the tensors of a row differ in size, precision or layout, so that other memory than theirs would be
            read or written. RuntimeError: nothing is `available`.
    """
    compiled = _compiled()
    if compiled is None:
        raise RuntimeError("there are no compiled passes here: numba is not installed, or could not compile them")
    work = array("q", (len(columns[0]), 0, 0))
    total = 0
    for row in zip(*columns, strict=True):
        size = row[0].numel()
        work.extend((total, size))
        for t in row:
            if t.numel() != size or t.dtype != torch.float32 or not t.is_contiguous():
                raise ValueError(
                    "a compiled pass needs contiguous float32 tensors of one size for each parameter, "
                    f"got {[(str(other.dtype), tuple(other.shape), other.stride()) for other in row]}"
                )
            work.append(t.data_ptr())
        work.extend((0,) * (compiled.width - 2 - len(row)))
        total += size
    numbers = array("f", constants)
    openmp, threads = runtime(), torch.get_num_threads()
    alone = openmp is None or threads == 1 or total <= compiled.grain
    work[1], work[2] = numbers.buffer_info()[0], alone
    address = work.buffer_info()[0]
    if openmp is None or alone:
        compiled.passes[name].call(address)
    else:
        openmp.GOMP_parallel(compiled.passes[name].address, address, threads, 0)
