"""Standard normal noise: one flat draw a device from a generator of the optimizer's own.

The normal draw is half of what bSAM costs beside its two gradients, so it is made once for all parameters, and large
draws on a CPU come from `fenchel.optim.keystream`. Drawing by torch on several threads was tried and left out: behind
a parallel backward pass it gained nothing, and it lost on busy machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fenchel.optim.keystream import KeyStream, is_fast
from fenchel.optim.workspace import Workspace

__all__ = ["NoiseSource", "work_dtype"]


def work_dtype(param: Tensor) -> torch.dtype:
    """The precision in which a parameter's mean, s and momentum are kept: its own, float32 for 16-bit weights."""
    return torch.float32 if param.dtype in (torch.bfloat16, torch.float16) else param.dtype


LARGE = 1 << 16
"""Draws of float32 on a CPU of this size or more come from a `KeyStream`; below, its calls would cost more."""


def _digest(size: int, *parts: object) -> bytes:
    text = ":".join(str(part) for part in ("fenchel.optim", *parts))
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def _derived(*parts: object) -> int:
    return int.from_bytes(_digest(8, *parts), "big") >> 1


class NoiseSource:
    """Generators by device, seeded from one number; saved and restored with the optimizer.

    Args:
        seed: any integer; None takes one from torch's global generator, so `torch.manual_seed` governs.
        rank: mixed into the seeds, so that every process of a distributed run has its own noise.
    """

    def __init__(self, seed: int | None = None, rank: int = 0) -> None:
        self.seed = int(torch.randint(2**62, (), dtype=torch.int64)) if seed is None else int(seed)
        self.rank = rank
        self.generators: dict[str, torch.Generator] = {}
        self.stream = KeyStream(_digest(16, self.seed, self.rank, "stream"))

    def on(self, device: torch.device) -> torch.Generator:
        """The generator of a device."""
        key = str(device)
        if key not in self.generators:
            self.generators[key] = torch.Generator(device)
            self._seed(key)
        return self.generators[key]

    def _seed(self, key: str) -> None:
        self.generators[key].manual_seed(_derived(self.seed, self.rank, key))

    def normal_(self, out: Tensor) -> Tensor:
        """Fill a vector with standard normals, and return it."""
        if out.device.type == "cpu" and out.dtype == torch.float32 and out.numel() >= LARGE and is_fast():
            return self.stream.normal_(out)
        return out.normal_(generator=self.on(out.device))

    def rooms(self, params: Sequence[Tensor], workspace: Workspace) -> tuple[list[Tensor], list[Tensor]]:
        """Memory for noise of the shapes of ``params``: vectors, one a device and precision, and the pieces of them.

        The pieces lie in parameter order; `normal_` fills a vector.
        """
        places: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for i, p in enumerate(params):
            places.setdefault((p.device, work_dtype(p)), []).append(i)
        noise, vectors = list(params), []
        for (device, dtype), indices in places.items():
            vector, pieces = workspace.pieces("noise", [params[i].shape for i in indices], dtype, device)
            vectors.append(vector)
            for i, piece in zip(indices, pieces, strict=True):
                noise[i] = piece
        return vectors, noise

    def like(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Noise of the shapes of ``params``, from one draw per device and precision."""
        vectors, noise = self.rooms(params, Workspace())
        for vector in vectors:
            self.normal_(vector)
        return noise

    def state_dict(self) -> dict[str, Any]:
        """Tensors and integers only, so that `torch.load(..., weights_only=True)` reads it."""
        states = {key: generator.get_state() for key, generator in self.generators.items()}
        return {"seed": self.seed, "rank": self.rank, "states": states, "stream": self.stream.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the saved streams; a process of another rank starts streams of its own from the saved ones."""
        own = int(state["rank"]) == self.rank
        self.seed = int(state["seed"])
        stream = state["stream"]
        self.stream = (
            KeyStream.from_state(stream) if own else KeyStream(_digest(16, bytes(stream.tolist()).hex(), self.rank))
        )
        for key in self.generators:
            if key not in state["states"]:  # had not drawn yet when the state was saved
                self._seed(key)
        for key, saved in state["states"].items():
            device = torch.device(key)
            if device.type != "cpu" and not torch.accelerator.is_available():
                continue
            generator = self.on(device)
            if own:
                generator.set_state(saved.to(device="cpu", dtype=torch.uint8, copy=True))
            else:
                digest = hashlib.blake2b(saved.cpu().numpy().tobytes(), digest_size=8).hexdigest()
                generator.manual_seed(_derived(digest, self.rank, key))
