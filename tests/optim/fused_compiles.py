"""Compiles the fused kernels for a GPU, on any machine with Triton: run as a script, in a process of its own."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import MockTensor

from fenchel.optim.kernels import triton_moves as moves


class Hopper:
    """As much of a driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def main() -> None:
    """Every combination of settings that `fenchel.optim.kernels.fused` uses."""
    triton.runtime.driver.set_active(Hopper())
    whole, real = MockTensor(torch.int64), MockTensor(torch.float32)
    tables = (whole, whole, whole, real)
    common: dict[str, Any] = {"grid": (4,)}
    for kind, aligned, keep in product((tl.float32, tl.bfloat16), (True, False), (True, False)):
        how = {**common, "KIND": kind, "ALIGNED": aligned}
        master = kind is not tl.float32
        moves.noisy_point.warmup(*tables, whole, 5, MASTER=master, KEEP=keep, QUADS=aligned, **how)
        moves.adversarial_point.warmup(*tables, real, real, 5, ADD=keep, SCALED=not keep, **how)
        moves.update.warmup(*tables, real, 0.5, 5, SUM_KIND=kind, MASTER=master, SCALED=keep, **how)
    print("fused kernels compiled")


if __name__ == "__main__":
    main()
