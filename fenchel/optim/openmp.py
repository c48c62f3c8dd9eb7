"""The OpenMP runtime that torch computes with on a CPU.

Code that starts threads of its own beside torch's finds the processors taken by torch's, which wait for their next
work by spinning. So the compiled passes of `fenchel.optim.native` run on torch's threads, by the entry point that
compilers use for a parallel region.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch

__all__ = ["runtime"]

NAMES = ("libgomp.so.1", "libiomp5.so", "libomp.so")
ENTRIES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


@cache
def runtime() -> ctypes.CDLL | None:
    """The loaded library, never a second copy; None if it is not found or has no `GOMP_parallel`."""
    if not (torch.backends.openmp.is_available() and hasattr(os, "RTLD_NOLOAD")):
        return None
    bundled = Path(torch.__file__).parent
    own = [*bundled.glob("lib/lib*omp*"), *bundled.parent.glob("torch.libs/lib*omp*")]
    for name in (*map(str, own), *NAMES):
        try:
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        except OSError:
            continue
        if all(hasattr(library, entry) for entry in ENTRIES):
            library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            library.GOMP_parallel.restype = None
            return library
    return None
