"""SWAG (Maddox et al., 2019): a Gaussian, low rank plus diagonal, from the iterates of any optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fenchel.optim.hyperparameters import check_params
from fenchel.optim.noise import NoiseSource, work_dtype
from fenchel.optim.posterior import held

__all__ = ["SWAG"]


class SWAG:
    """Moments of the iterates, collected once an epoch or so while another optimizer runs.

    With n iterates, their mean, second moment and the last K deviations from the running mean as columns of D, a sample
    is mean + scale (diag^(1/2) z1 / sqrt(2) + D z2 / sqrt(2 (K - 1))); with K < 2 it is mean + scale diag^(1/2) z1.

    Args:
        params: the parameters to follow; those that require no gradient are left alone.
        max_rank: K at most; 0 is the diagonal variant.
        scale: of the samples' deviations.
        seed: of the samples; None takes one from torch's global generator.

    Raises:
        ValueError: no parameters, or ``max_rank`` or ``scale`` negative.
    """

    def __init__(
        self, params: Iterable[Tensor], *, max_rank: int = 20, scale: float = 1.0, seed: int | None = None
    ) -> None:
        self._params = [p for p in params if p.requires_grad]
        check_params(self._params)
        if not self._params:
            raise ValueError("SWAG got no parameter that requires a gradient")
        if max_rank < 0 or scale < 0:
            raise ValueError(f"max_rank and scale must not be negative, got {max_rank!r} and {scale!r}")
        self.max_rank, self.scale, self.count = max_rank, scale, 0
        self._mean = [torch.zeros_like(p, dtype=work_dtype(p)) for p in self._params]
        self._square = [torch.zeros_like(m) for m in self._mean]
        self._deviations: list[list[Tensor]] = []
        self._noise = NoiseSource(seed)

    @torch.no_grad()
    def collect(self) -> None:
        """Take the present weights in."""
        self.count += 1
        deviations = []
        for p, mean, square in zip(self._params, self._mean, self._square, strict=True):
            w = p.to(mean.dtype)
            mean.add_(w - mean, alpha=1 / self.count)
            square.add_(w.square() - square, alpha=1 / self.count)
            deviations.append(w - mean)
        if self.max_rank:
            self._deviations = [*self._deviations, deviations][-self.max_rank :]

    def _collected(self) -> None:
        if not self.count:
            raise RuntimeError("SWAG has no iterate yet; call collect while training")

    def trainable(self) -> list[Tensor]:
        """The parameters followed."""
        return list(self._params)

    @torch.no_grad()
    def posterior_variance(self) -> list[Tensor]:
        """The marginal variance of a sample of each parameter, in the parameter's shape."""
        self._collected()
        rank = len(self._deviations)
        out = []
        for i, (mean, square) in enumerate(zip(self._mean, self._square, strict=True)):
            diagonal = (square - mean.square()).clamp_(min=0)
            if rank >= 2:
                low_rank = sum((d[i].square() for d in self._deviations), torch.zeros_like(mean)) / (rank - 1)
                diagonal = (diagonal + low_rank) / 2
            out.append(diagonal * self.scale**2)
        return out

    @torch.no_grad()
    def _sample(self, generator: torch.Generator | None) -> list[Tensor]:
        self._collected()
        rank = len(self._deviations)

        def normal(like: Tensor) -> Tensor:
            if generator is None:
                return self._noise.like([like])[0]
            return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)

        weights = normal(self._mean[0].new_empty(rank)).tolist() if rank >= 2 else []
        values = []
        for i, (mean, square) in enumerate(zip(self._mean, self._square, strict=True)):
            deviation = (square - mean.square()).clamp_(min=0).sqrt_() * normal(mean)
            if rank >= 2:
                deviation /= math.sqrt(2)
                for d, weight in zip(self._deviations, weights, strict=True):
                    deviation.add_(d[i], alpha=weight / math.sqrt(2 * (rank - 1)))
            values.append(mean + self.scale * deviation)
        return values

    @contextmanager
    def sampled_params(self, generator: torch.Generator | None = None) -> Iterator[None]:
        """Inside, the model holds one sample; afterwards what it held before, bit for bit."""
        with held(self._params, self._sample(generator)):
            yield

    @contextmanager
    def mean_params(self) -> Iterator[None]:
        """Inside, the model holds the mean of the iterates; afterwards what it held before, bit for bit."""
        self._collected()
        with held(self._params, self._mean):
            yield

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only."""
        return {
            "count": self.count,
            "scale": self.scale,
            "max_rank": self.max_rank,
            "mean": [t.clone() for t in self._mean],
            "square": [t.clone() for t in self._square],
            "deviations": [[t.clone() for t in column] for column in self._deviations],
            "noise": self._noise.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.count, self.scale, self.max_rank = int(state["count"]), float(state["scale"]), int(state["max_rank"])
        for mine, saved in zip((self._mean, self._square), (state["mean"], state["square"]), strict=True):
            for t, value in zip(mine, saved, strict=True):
                t.copy_(value)
        self._deviations = [
            [value.to(t).clone() for t, value in zip(self._mean, column, strict=True)] for column in state["deviations"]
        ]
        self._noise.load_state_dict(state["noise"])
