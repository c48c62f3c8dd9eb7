"""Standard normal noise from torch generators of the optimizer's own, seeded anew for every step.

The stream of a step is a function of (seed, rank, number of the step) alone, so a checkpoint needs no generator's
state: two integers in the optimizer's first group continue it bit for bit, on any number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fenchel.optim.cuda_graph import capturing
from fenchel.optim.shards import Shards


def work_dtype(param: Tensor) -> torch.dtype:
    """The precision in which a parameter's mean, s and momentum are kept: its own, float32 for 16-bit weights."""
    return torch.float32 if param.dtype in (torch.bfloat16, torch.float16) else param.dtype


def follow(master: Tensor, weights: Tensor) -> None:
    """Where 16-bit weights were changed from outside, they are what their float32 mean is."""
    master.copy_(torch.where(master.to(weights.dtype) == weights, master, weights.to(master.dtype)))


def new_seed(seed: int | None) -> int:
    """``seed``, or one from torch's global generator, so that `torch.manual_seed` governs."""
    return int(torch.randint(2**62, (), dtype=torch.int64, device="cpu")) if seed is None else int(seed)


def normal(p: Tensor, shards: Shards, source: torch.Generator | None) -> Tensor:
    """Standard normals for the whole of a parameter, in the precision of its mean."""
    return torch.randn(shards.whole_shape(p), dtype=work_dtype(p), device=p.device, generator=source)


def normal_parts(
    params: Sequence[Tensor], shards: Shards, generator_of: Callable[[torch.device], torch.Generator | None]
) -> list[Tensor]:
    """Standard normals for the parts of ``params`` at hand."""
    return [shards.part(p, normal(p, shards, generator_of(p.device))) for p in params]


class NoiseSource:
    """One generator a device.

    Args:
        purpose: names the stream; sources of different purposes are independent.
        rank: mixed into the seeds, so that every process of a distributed run has its own noise.
    """

    def __init__(self, purpose: str = "noise", rank: int = 0) -> None:
        self.purpose, self.rank = purpose, rank
        self._key = (0, 0)
        self._generators: dict[torch.device, torch.Generator] = {}

    def start(self, seed: int, count: int) -> None:
        """Begin stream number ``count`` of ``seed`` on every device."""
        self._key = (seed, count)
        for device in self._generators:
            self._seed(device)

    def on(self, device: torch.device) -> torch.Generator:
        """The generator of a device, at its place in the present stream."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
            self._seed(device)
        return self._generators[device]

    def _seed(self, device: torch.device) -> None:
        if not capturing(device):  # `GraphedStep` seeds replays
            parts = ("fenchel.optim", self.purpose, self.rank, device.type, *self._key)
            text = ":".join(str(part) for part in parts)
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            self._generators[device].manual_seed(int.from_bytes(digest, "big") >> 1)

    def __getstate__(self) -> dict[str, object]:  # generators cannot be copied, and need not be
        return {**self.__dict__, "_generators": {}}
