"""SWAG (Maddox et al., 2019): a Gaussian, low rank plus diagonal, from the iterates of any optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fenchel.optim.distributed import same_on_all
from fenchel.optim.hyperparameters import check_params, trainable
from fenchel.optim.noise import NoiseSource, new_seed, normal_parts, work_dtype
from fenchel.optim.posterior import check_steppable, held
from fenchel.optim.shards import Shards, local


class SWAG:
    """Moments of the iterates, collected once an epoch or so while another optimizer runs.

    With n iterates, their mean, variance and the last K deviations from the running mean as columns of D, a sample
    is mean + scale (diag^(1/2) z1 / sqrt(2) + D z2 / sqrt(2 (K - 1))); with K < 2 it is mean + scale diag^(1/2) z1.

    Args:
        params: the parameters to follow, or a module; those that require no gradient are left alone.
        max_rank: K at most; 0 is the diagonal variant.
        scale: of the samples' deviations.
        seed: of the samples; None takes one from torch's global generator.
        module: the network; needed under FSDP1.

    Raises:
        ValueError: no parameters, or ``max_rank`` or ``scale`` negative or no numbers.
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        *,
        max_rank: int = 20,
        scale: float = 1.0,
        seed: int | None = None,
        module: nn.Module | None = None,
    ) -> None:
        self._params = trainable(params)
        check_params(self._params)
        if not (hasattr(max_rank, "__index__") and hasattr(scale, "__float__") and max_rank >= 0 <= scale < math.inf):
            raise ValueError(f"max_rank and scale must be numbers, not negative, got {max_rank!r} and {scale!r}")
        self.max_rank, self.scale, self.count, self.draws = int(max_rank), float(scale), 0, 0
        self.seed = new_seed(seed)
        self._shards = Shards(module)
        # the first iterate, from there to the mean, and the sum of squared deviations from the mean
        self._origin, self._shift, self._spread = (
            [torch.zeros_like(local(p), dtype=work_dtype(p)) for p in self._params] for _ in range(3)
        )
        self._deviations: list[list[Tensor]] = []
        self._noise = NoiseSource("sampling")

    @property
    def _mean(self) -> list[Tensor]:
        return [origin + shift for origin, shift in zip(self._origin, self._shift, strict=True)]

    @torch.no_grad()
    def collect(self) -> None:
        """Take the present weights in: Welford's recursion from the first iterate, in which nothing cancels.

        Raises:
            ValueError: a parameter has another shape than at first. RuntimeError: inside `sampled_params`.
        """
        check_steppable(self._params, "SWAG.collect")
        weights = [local(p).to(origin.dtype) for p, origin in zip(self._params, self._origin, strict=True)]
        if [w.shape for w in weights] != [origin.shape for origin in self._origin]:
            raise ValueError("a parameter has changed its shape since SWAG was made; make a new one")
        self.count += 1
        if self.count == 1:
            torch._foreach_copy_(self._origin, weights)
        moved = torch._foreach_sub(weights, self._origin)
        before = torch._foreach_sub(moved, self._shift)
        torch._foreach_add_(self._shift, before, alpha=1 / self.count)
        after = torch._foreach_sub(moved, self._shift)
        torch._foreach_addcmul_(self._spread, before, after)
        if self.max_rank:
            self._deviations = [*self._deviations, list(after)][-self.max_rank :]

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
        diagonal = torch._foreach_div(self._spread, self.count)
        if (rank := len(self._deviations)) >= 2:
            for column in self._deviations:
                torch._foreach_addcmul_(diagonal, column, column, 1 / (rank - 1))
            torch._foreach_div_(diagonal, 2)
        return [variance * self.scale**2 for variance in diagonal]

    @torch.no_grad()
    def _sample(self, generator: torch.Generator | None) -> list[Tensor]:
        self._collected()
        if generator is None:
            if self.draws == 0 and self._shards.sharded(self._params):
                self.seed = same_on_all(self.seed, self._params[0].device)
            self.draws += 1
            self._noise.start(self.seed, self.draws)

        def source(device: torch.device) -> torch.Generator:
            return self._noise.on(device) if generator is None else generator

        first, rank = self._origin[0], len(self._deviations)
        columns = torch.empty(rank if rank >= 2 else 0, dtype=first.dtype, device=first.device)
        weights = columns.normal_(generator=source(first.device)).tolist()
        deviations = torch._foreach_sqrt(torch._foreach_div(self._spread, self.count))
        torch._foreach_mul_(deviations, normal_parts(self._params, self._shards, source))
        if rank >= 2:
            torch._foreach_div_(deviations, math.sqrt(2))
            for column, weight in zip(self._deviations, weights, strict=True):
                torch._foreach_add_(deviations, column, alpha=weight / math.sqrt(2 * (rank - 1)))
        return [mean + self.scale * deviation for mean, deviation in zip(self._mean, deviations, strict=True)]

    def sampled_params(self, generator: torch.Generator | None = None) -> AbstractContextManager[None]:
        """Inside, the model holds one sample; afterwards what it held before, bit for bit."""
        return held(self._params, self._sample(generator), self._shards)

    def mean_params(self) -> AbstractContextManager[None]:
        """Inside, the model holds the mean of the iterates; afterwards what it held before, bit for bit."""
        self._collected()
        return held(self._params, self._mean, self._shards)

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
            torch._foreach_copy_(getattr(self, f"_{name}"), list(state[name]))
        self._deviations = [
            [value.to(t, copy=True) for t, value in zip(self._origin, column, strict=True)]
            for column in state["deviations"]
        ]
