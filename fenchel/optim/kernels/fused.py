"""The tables and launches of `fenchel.optim.kernels.triton_moves`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import accumulate
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from fenchel.optim.amp import LossScale
from fenchel.optim.cuda_graph import capturing
from fenchel.optim.kernels import triton_moves as moves
from fenchel.optim.kernels.bucket import Bucket
from fenchel.optim.shards import local

KINDS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
PADDING = 64
"""Numbers to which the pieces of shared memory are padded, so that each begins at a multiple of 16 bytes."""
CAPTURES = 64
"""Tables of addresses that can be made while a graph is captured, where no pinned memory may be allocated."""


class TritonKernels:
    """The moves of Algorithm 1 for all buckets of one device and one precision.

    Args:
        buckets: their lists of parameters and state must stay as they are; a new layout needs new kernels.
        generator: the generator of the noise on a device.
    """

    def __init__(self, buckets: Sequence[Bucket], generator: Callable[[torch.device], torch.Generator]) -> None:
        self._generator = generator
        self.buckets = list(buckets)
        self.device, self._shards = buckets[0].device, buckets[0].shards
        self._kind, self._master = KINDS[buckets[0].dtype], bool(buckets[0].master)
        self._params = [p for b in buckets for p in b.params]
        weights = [w for b in buckets for w in b.weights]
        self._count = len(weights)
        self._strides = [w.stride() for w in weights]
        sizes = [w.numel() for w in weights]
        positions = [self._shards.position(p) or 0 for b in buckets for p in b.params]
        numbers = [n for b in buckets for n in b.numbers]
        groups = [i for i, b in enumerate(buckets) for _ in b.params]
        self._quads = all(position % 4 == 0 for position in positions)
        blocks = [(t << 32) | i for t, n in enumerate(sizes) for i in range(-(-n // moves.BLOCK.value))]
        self._grid = (len(blocks),)
        self._blocks = self._sent(blocks, torch.int64)
        self._numbers = self._sent([*sizes, *positions, *numbers, *groups], torch.int64)
        pieces = [-(-n // PADDING) * PADDING for n in sizes]
        self._begins = [0, *accumulate(pieces)]
        self._state = [t.data_ptr() for name in ("s", "momentum") for b in buckets for t in getattr(b, name)]
        self._masters = [t for b in buckets for t in b.master]
        self._mean = [t.data_ptr() for t in self._masters]
        self._absolute: list[int] = []
        self._hyper = torch.zeros(len(buckets), moves.COLUMNS.value, device=self.device)
        self._values: list[tuple[float, ...]] = []
        self._tables: dict[tuple[int, ...], tuple[Tensor, bool]] = {}
        pinned = self.device.type == "cuda"
        self._captured = torch.empty((CAPTURES, 6 * self._count), dtype=torch.int64, pin_memory=pinned)
        self._captures = 0
        self._one = torch.ones((), device=self.device)
        self.clear()

    def clear(self) -> None:
        """Forget what belongs to a step."""
        for b in self.buckets:
            b.clear()
        self._fresh = True
        self._kept: Tensor | None = None
        self._summed: Tensor | None = None
        self._gradient: list[Tensor] = []

    def noisy_point(self) -> None:
        """Line 3; first it keeps the mean."""
        fresh = self._fresh
        if fresh:
            self._refresh()
            if not self._master:
                self._kept, self._mean = self._room()
        seed = torch.empty(1, dtype=torch.int64, device=self.device).random_(generator=self._generator(self.device))
        how = {"MASTER": self._master, "KEEP": fresh, "QUADS": self._quads}
        self._launch(moves.noisy_point, [None] * self._count, seed, **how)
        self._fresh = False

    def adversarial_point(self, scale: LossScale | None) -> None:
        """Line 5 and the sum of |g|."""
        add = self._summed is not None
        if not add:
            self._summed, self._absolute = self._room()
        unscale, scaled = self._scale(scale), scale is not None
        self._launch(moves.adversarial_point, self._gradients(), *unscale, ADD=add, SCALED=scaled)

    def collect(self, scale: LossScale | None, *, last: bool) -> None:
        """Line 6; ``last`` as of `Bucket.collect`."""
        pairs = zip(self._params, self._gradients(), strict=True)
        terms = [torch.zeros_like(local(p)) if g is None else g for p, g in pairs]
        if scale is not None:
            terms = scale.unscaled(terms, self.device)
        if self._gradient:
            torch._foreach_add_(self._gradient, terms)
        else:
            alone = last or scale is not None
            self._gradient = terms if alone else [t.to(torch.float32, copy=True) for t in terms]

    def update(self, parts: int, scale: LossScale | None) -> None:
        """Lines 7 to 9; a parameter that no pass reached keeps its mean and its state."""
        seen = [seen for b in self.buckets for seen in b.seen]
        sums = [g if used else None for g, used in zip(self._gradient, seen, strict=True)]
        kind, found = KINDS[self._gradient[0].dtype], self._scale(scale)[1]
        how = {"SUM_KIND": kind, "MASTER": self._master, "SCALED": scale is not None}
        self._launch(moves.update, sums, found, 1.0 / parts, **how)

    def _scale(self, scale: LossScale | None) -> tuple[Tensor, Tensor]:
        return (self._one, self._one) if scale is None else scale.on(self.device)

    # ---- tables ---------------------------------------------------------------------------------------------------

    def _launch(self, kernel: Any, gradients: Sequence[Tensor | None], *args: Any, **constants: Any) -> None:
        if self._grid[0]:  # a process may hold nothing of any parameter
            table, aligned = self._table(gradients)
            tables = (table, self._numbers, self._blocks, self._hyper)
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                kernel[self._grid](*tables, *args, self._count, KIND=self._kind, ALIGNED=aligned, **constants)
        self._shards.changed(self._params, raw=True)

    def _sent(self, values: Sequence[Any], dtype: torch.dtype) -> Tensor:
        """Numbers on the device, without waiting for it: from pinned memory, which torch reuses once it was read."""
        host = torch.tensor(values, dtype=dtype, pin_memory=self.device.type == "cuda")
        return host.to(self.device, non_blocking=True)

    def _room(self) -> tuple[Tensor, list[int]]:
        """Float32 memory like the weights, in one piece, and the addresses in it."""
        memory = torch.empty(self._begins[-1], device=self.device)
        base = memory.data_ptr()
        return memory, [base + 4 * at for at in self._begins[:-1]]

    def _views(self, memory: Tensor | None) -> list[Tensor]:
        """Such memory as tensors; made when they are asked for, since a step as a rule needs none."""
        if memory is None:
            return []
        pairs = zip(self._params, self._strides, self._begins, strict=False)
        return [memory.as_strided(local(p).shape, stride, at) for p, stride, at in pairs]

    def put_back(self) -> None:
        """The weights become the mean, bit for bit."""
        if not self._fresh:
            self._shards.assign(self._params, self._masters or self._views(self._kept))

    def sums(self) -> list[tuple[Tensor, list[Tensor]]]:
        """The parameters, each with its sums of g_eps and |g|."""
        rows = zip(self._params, self._gradient, self._views(self._summed), strict=True)
        return [(p, [g, a]) for p, g, a in rows]

    def _gradients(self) -> list[Tensor | None]:
        """The gradients, in the precision and the strides of the weights."""
        found = [g for b in self.buckets for g in b.found()]
        dtype = self.buckets[0].dtype
        for i, (g, stride) in enumerate(zip(found, self._strides, strict=True)):
            if g is not None and (g.stride() != stride or g.dtype is not dtype):
                w = local(self._params[i])
                same = [a == b for n, a, b in zip(w.shape, w.stride(), g.stride(), strict=True) if n > 1]
                if g.dtype != dtype or not all(same):
                    found[i] = torch.empty_like(w).copy_(g)
        return found

    def _table(self, gradients: Sequence[Tensor | None]) -> tuple[Tensor, bool]:
        """The addresses of everything, and whether all begin at multiples of 16 bytes."""
        weights = [local(p).data_ptr() for p in self._params]
        sums = self._absolute or [0] * self._count
        there = [0 if g is None else g.data_ptr() for g in gradients]
        addresses = (*weights, *self._mean, *self._state, *there, *sums)
        if capturing(self.device):
            if self._captures == CAPTURES:
                raise RuntimeError(f"a captured step may have at most about {CAPTURES // 2 - 1} sub-batches")
            host = self._captured[self._captures]
            self._captures += 1
            host.copy_(torch.tensor(addresses, dtype=torch.int64))
            return host.to(self.device, non_blocking=True), _aligned(addresses)
        found = self._tables.get(addresses)
        if found is None:
            if len(self._tables) >= CAPTURES:
                self._tables.clear()
            found = self._tables[addresses] = (self._sent(addresses, torch.int64), _aligned(addresses))
        return found

    def _refresh(self) -> None:
        """Bring the table of hyperparameters up to date; learning rates in tensors are copied on the device."""
        rows: list[tuple[float, ...]] = []
        for b in self.buckets:
            group, (beta1, beta2) = b.group, b.group["betas"]
            lr = 0.0 if isinstance(group["lr"], Tensor) else group["lr"]
            noise = b.num_data**-0.5 if group["noise"] else 0.0
            decay, offset = group["weight_decay"], group["weight_decay"] + group["damping"]
            first = 1.0 if group["precision_first"] else 0.0
            rates = (beta1, beta2, 1 - beta1, 1 - beta2)
            rows.append((noise, b.sign * group["rho"], lr, *rates, decay, offset, b.sign, b.factor, first))
        if rows != self._values:
            self._values = rows
            self._hyper.copy_(self._sent(rows, torch.float32))
        for i, b in enumerate(self.buckets):
            if isinstance(b.group["lr"], Tensor):
                self._hyper[i, moves.LR.value].copy_(b.group["lr"])


def _aligned(addresses: Sequence[int]) -> bool:
    return all(address % 16 == 0 for address in addresses)
