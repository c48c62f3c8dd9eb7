"""Standard normal noise: one flat draw a device, own generators, the same numbers whatever the number of threads.

The normal draw is half of what bSAM costs beside its two gradients. On a CPU torch draws on one thread; here a large
draw is cut into a fixed number of pieces, each with its own generator, which threads fill in parallel. Which piece a
number belongs to depends on the size of the draw alone, never on the machine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

__all__ = ["NoiseSource", "work_dtype"]

STREAMS = 4
PARALLEL_FROM = 1 << 17

_pool: ThreadPoolExecutor | None = None


def _drop_pool() -> None:
    global _pool
    _pool = None  # threads do not survive a fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_pool)


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(STREAMS - 1, thread_name_prefix="fenchel-noise")
    return _pool


def work_dtype(param: Tensor) -> torch.dtype:
    """The precision in which a parameter's mean, s and momentum are kept: its own, float32 for 16-bit weights."""
    return torch.float32 if param.dtype in (torch.bfloat16, torch.float16) else param.dtype


def _derived(*parts: object) -> int:
    text = ":".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class NoiseSource:
    """Generators by device, seeded from one number; saved and restored with the optimizer.

    Args:
        seed: any integer; None takes one from torch's global generator, so `torch.manual_seed` governs.
        rank: mixed into the seeds, so that every process of a distributed run has its own noise.
    """

    def __init__(self, seed: int | None = None, rank: int = 0) -> None:
        self.seed = int(torch.randint(2**62, (), dtype=torch.int64)) if seed is None else int(seed)
        self.rank = rank
        self.generators: dict[str, list[torch.Generator]] = {}

    def on(self, device: torch.device) -> list[torch.Generator]:
        """The generators of a device: several for a CPU, one for an accelerator."""
        key = str(device)
        if key not in self.generators:
            count = STREAMS if device.type == "cpu" else 1
            made = [torch.Generator(device) for _ in range(count)]
            self._seed(key, made)
            self.generators[key] = made
        return self.generators[key]

    def _seed(self, key: str, made: list[torch.Generator]) -> None:
        for i, generator in enumerate(made):
            generator.manual_seed(_derived("fenchel.optim", self.seed, self.rank, key, i))

    def flat(self, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """``size`` standard normals as a vector."""
        out = torch.empty(size, dtype=dtype, device=device)
        generators = self.on(device)
        if len(generators) == 1 or size < PARALLEL_FROM:
            return out.normal_(generator=generators[0])
        cuts = [(size * i // STREAMS) & ~15 for i in range(STREAMS)] + [size]
        pieces = [out[a:b] for a, b in pairwise(cuts)]
        workers = min(torch.get_num_threads(), STREAMS)
        if workers == 1:
            _fill(pieces, generators)
        else:
            jobs = [_threads().submit(_fill, pieces[i::workers], generators[i::workers]) for i in range(1, workers)]
            _fill(pieces[::workers], generators[::workers])
            for job in jobs:
                job.result()
        return out

    def like(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Noise of the shapes of ``params``, from one draw per device and precision, laid out in parameter order."""
        places: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for i, p in enumerate(params):
            places.setdefault((p.device, work_dtype(p)), []).append(i)
        noise: list[Tensor] = list(params)
        for (device, dtype), indices in places.items():
            sizes = [params[i].numel() for i in indices]
            for i, piece in zip(indices, torch.split(self.flat(sum(sizes), dtype, device), sizes), strict=True):
                noise[i] = piece.view(params[i].shape)
        return noise

    def state_dict(self) -> dict[str, Any]:
        """Tensors and integers only, so that `torch.load(..., weights_only=True)` reads it."""
        states = {key: torch.stack([g.get_state() for g in made]) for key, made in self.generators.items()}
        return {"seed": self.seed, "rank": self.rank, "states": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the saved streams; a process of another rank starts streams of its own from the saved seed."""
        own = int(state["rank"]) == self.rank
        self.seed = int(state["seed"])
        for key, made in self.generators.items():
            if key not in state["states"]:  # had not drawn yet when the state was saved
                self._seed(key, made)
        for key, saved in state["states"].items():
            device = torch.device(key)
            if device.type != "cpu" and not torch.accelerator.is_available():
                continue
            made = self.on(device)
            for i, (generator, row) in enumerate(zip(made, saved, strict=True)):
                if own:
                    generator.set_state(row.to(device="cpu", dtype=torch.uint8, copy=True))
                else:
                    digest = hashlib.blake2b(row.cpu().numpy().tobytes(), digest_size=8).hexdigest()
                    generator.manual_seed(_derived("fenchel.optim", digest, self.rank, key, i))


def _fill(pieces: Sequence[Tensor], generators: Sequence[torch.Generator]) -> None:
    for piece, generator in zip(pieces, generators, strict=True):
        piece.normal_(generator=generator)
