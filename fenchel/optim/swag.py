"""SWAG (Maddox et al., 2019): a Gaussian, low rank plus diagonal, from the iterates of any optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fenchel.optim.distributed import same_on_all
from fenchel.optim.hyperparameters import check_params
from fenchel.optim.noise import NoiseSource, new_seed, normal_parts, work_dtype
from fenchel.optim.posterior import held
from fenchel.optim.shards import Shards, local

__all__ = ["SWAG"]


class SWAG:
    """Moments of the iterates, collected once an epoch or so while another optimizer runs.

    With n iterates, their mean, variance and the last K deviations from the running mean as columns of D, a sample
    is mean + scale (diag^(1/2) z1 / sqrt(2) + D z2 / sqrt(2 (K - 1))); with K < 2 it is mean + scale diag^(1/2) z1.

    Args:
        params: the parameters to follow; those that require no gradient are left alone.
        max_rank: K at most; 0 is the diagonal variant.
        scale: of the samples' deviations.
        seed: of the samples; None takes one from torch's global generator.
        module: the network; needed under FSDP1.

    Raises:
        ValueError: no parameters, or ``max_rank`` or ``scale`` negative.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        max_rank: int = 20,
        scale: float = 1.0,
        seed: int | None = None,
        module: nn.Module | None = None,
    ) -> None:
        self._params = [p for p in params if p.requires_grad]
        check_params(self._params)
        if not self._params:
            raise ValueError("SWAG got no parameter that requires a gradient")
        if max_rank < 0 or scale < 0:
            raise ValueError(f"max_rank and scale must not be negative, got {max_rank!r} and {scale!r}")
        self.max_rank, self.scale, self.count, self.draws = max_rank, scale, 0, 0
        self.seed = new_seed(seed)
        self._shards = Shards(module)
        self._origin = [torch.zeros_like(local(p), dtype=work_dtype(p)) for p in self._params]  # the first iterate
        self._shift = [torch.zeros_like(m) for m in self._origin]  # from there to the mean
        self._spread = [torch.zeros_like(m) for m in self._origin]  # sum of squared deviations from the mean
        self._deviations: list[list[Tensor]] = []
        self._noise = NoiseSource("sampling")

    @property
    def _mean(self) -> list[Tensor]:
        return [origin + shift for origin, shift in zip(self._origin, self._shift, strict=True)]

    @torch.no_grad()
    def collect(self) -> None:
        """Take the present weights in: Welford's recursion from the first iterate, in which nothing cancels."""
        self.count += 1
        deviations = []
        for p, origin, shift, spread in zip(self._params, self._origin, self._shift, self._spread, strict=True):
            w = local(p).to(origin.dtype)
            if self.count == 1:
                origin.copy_(w)
            moved = w - origin
            before = moved - shift
            shift.add_(before, alpha=1 / self.count)
            after = moved - shift
            spread.addcmul_(before, after)
            deviations.append(after)
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
        for i, spread in enumerate(self._spread):
            diagonal = spread / self.count
            if rank >= 2:
                low_rank = sum((d[i].square() for d in self._deviations), torch.zeros_like(spread)) / (rank - 1)
                diagonal = (diagonal + low_rank) / 2
            out.append(diagonal * self.scale**2)
        return out

    @torch.no_grad()
    def _sample(self, generator: torch.Generator | None) -> list[Tensor]:
        self._collected()
        rank = len(self._deviations)
        if generator is None:
            if self.draws == 0 and self._shards.sharded(self._params):
                self.seed = same_on_all(self.seed, self._params[0].device)
            self.draws += 1
            self._noise.start(self.seed, self.draws)

        def source(device: torch.device) -> torch.Generator:
            return self._noise.on(device) if generator is None else generator

        first, means = self._origin[0], self._mean
        columns = torch.empty(rank if rank >= 2 else 0, dtype=first.dtype, device=first.device)
        weights = columns.normal_(generator=source(first.device)).tolist()
        values, noise = [], normal_parts(self._params, self._shards, source)
        for i, (z, mean, spread) in enumerate(zip(noise, means, self._spread, strict=True)):
            deviation = (spread / self.count).sqrt_() * z
            if rank >= 2:
                deviation /= math.sqrt(2)
                for d, weight in zip(self._deviations, weights, strict=True):
                    deviation.add_(d[i], alpha=weight / math.sqrt(2 * (rank - 1)))
            values.append(mean + self.scale * deviation)
        return values

    @contextmanager
    def sampled_params(self, generator: torch.Generator | None = None) -> Iterator[None]:
        """Inside, the model holds one sample; afterwards what it held before, bit for bit."""
        with held(self._params, self._sample(generator), self._shards):
            yield

    @contextmanager
    def mean_params(self) -> Iterator[None]:
        """Inside, the model holds the mean of the iterates; afterwards what it held before, bit for bit."""
        self._collected()
        with held(self._params, self._mean, self._shards):
            yield

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only."""
        return {
            **{name: getattr(self, name) for name in ("count", "scale", "max_rank", "seed", "draws")},
            **{name: [t.clone() for t in getattr(self, f"_{name}")] for name in ("origin", "shift", "spread")},
            "deviations": [[t.clone() for t in column] for column in self._deviations],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: it is not one of SWAG, or of other parameters.
        """
        missing = sorted(set(self.state_dict()) - set(state))
        if missing:
            raise ValueError(f"this is not a state of SWAG: it lacks {missing[0]!r}")
        shapes = [tuple(t.shape) for t in self._origin]
        for column in (state["origin"], state["shift"], state["spread"], *state["deviations"]):
            if [tuple(t.shape) for t in column] != shapes:
                raise ValueError(f"the state's tensors have shapes {[tuple(t.shape) for t in column]}, not {shapes}")
        self.count, self.max_rank, self.draws = int(state["count"]), int(state["max_rank"]), int(state["draws"])
        self.scale, self.seed = float(state["scale"]), int(state["seed"])
        for name in ("origin", "shift", "spread"):
            for t, value in zip(getattr(self, f"_{name}"), state[name], strict=True):
                t.copy_(value)
        self._deviations = [
            [value.to(t).clone() for t, value in zip(self._origin, column, strict=True)]
            for column in state["deviations"]
        ]
