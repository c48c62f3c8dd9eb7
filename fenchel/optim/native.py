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

__all__ = ["Column", "available", "fits", "laid_out", "run"]


class _Pass(NamedTuple):
    address: int
    call: Callable[[int], None]


class _Compiled(NamedTuple):
    passes: dict[str, _Pass]
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
    return _Compiled(found, passes.GRAIN)


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


class Column(list[Tensor]):
    """Tensors on whose memory passes work, with their addresses.

    Args:
        tensors: plain, float32, contiguous, on the CPU.
        held: keep the memory that the tensors have now, so that the addresses stay valid whatever becomes of them.

    Raises:
        ValueError: a tensor of another precision or layout.
    """

    __slots__ = ("addresses", "memory", "sizes")

    def __init__(self, tensors: Sequence[Tensor], *, held: bool = False) -> None:
        super().__init__(tensors)
        self.sizes, self.addresses = array("q"), array("q")
        for t in self:
            if t.dtype != torch.float32 or not t.is_contiguous():
                raise ValueError(
                    "a compiled pass needs contiguous float32 tensors, "
                    f"got {t.dtype} of shape {tuple(t.shape)} and strides {t.stride()}"
                )
            self.sizes.append(t.numel())
            self.addresses.append(t.data_ptr())
        self.memory = [t.untyped_storage() for t in self] if held else []


def run(name: str, columns: Sequence[Sequence[Tensor]], constants: Sequence[float] = ()) -> None:
    """One pass over lists of tensors that satisfy `fits`, each of them a `Column` or made one.

    The work is handed over as 64-bit integers: the number of rows, the address of the constants, whether one thread is
    to do it all, how many numbers there are; then the sizes of the rows, and the addresses, column by column.

    Raises:
        ValueError: the tensors of a row differ in size (other memory than theirs would be read or written), or cannot
            be a `Column`. RuntimeError: nothing is `available`.
    """
    compiled = _compiled()
    if compiled is None:
        raise RuntimeError("there are no compiled passes here: numba is not installed, or could not compile them")
    laid = [c if type(c) is Column else Column(c) for c in columns]
    sizes = laid[0].sizes
    total = sum(sizes)
    openmp, threads = runtime(), torch.get_num_threads()
    alone = openmp is None or threads == 1 or total <= compiled.grain
    numbers = array("f", constants)
    work = array("q", (len(sizes), numbers.buffer_info()[0], alone, total))
    work += sizes
    for c in laid:
        if c.sizes != sizes:
            raise ValueError(f"tensors of one parameter differ in size: {[list(other.sizes) for other in laid]}")
        work += c.addresses
    address = work.buffer_info()[0]
    if openmp is None or alone:
        compiled.passes[name].call(address)
    else:
        openmp.GOMP_parallel(compiled.passes[name].address, address, threads, 0)
