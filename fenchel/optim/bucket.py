"""What a bSAM step holds of the parameters of one group on one device and of one precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fenchel.optim.shards import Shards, local

__all__ = ["Bucket"]

Tensors = list[Tensor] | Callable[[], list[Tensor]]


@dataclass
class Bucket:
    """Lists aligned with ``params``.

    ``weights``, ``s``, ``momentum`` and ``master`` (the float32 mean of 16-bit weights, in the state) are the parts at
    hand (`fenchel.optim.shards`); ``numbers`` are the places of the parameters in the optimizer's order; ``fused`` says
    which kernels move it. The rest lives for one step: ``mean`` is a copy of the weights, or the float32 mean of 16-bit
    weights; ``absolute`` and ``gradient`` are the sums over the sub-batches of |g| and g_eps; ``seen`` tells which
    parameters had a gradient in any pass.
    """

    group: dict[str, Any]
    shards: Shards
    params: list[Tensor]
    numbers: list[int]
    s: list[Tensor]
    momentum: list[Tensor]
    master: list[Tensor] | None
    gradient: list[Tensor] | None = None
    seen: list[bool] = field(default_factory=list)
    fused: bool = False

    def __post_init__(self) -> None:
        self.divided = self.shards.sharded(self.params)
        self.clear()

    def clear(self) -> None:
        """Forget what belongs to a step."""
        self._mean: Tensors | None = None
        self._absolute: Tensors | None = None
        self.gradient = None
        self.seen = [False] * len(self.params)

    @property
    def mean(self) -> list[Tensor]:
        """Set to a list, or to a function that makes one when it is asked for; empty before the first point."""
        if callable(self._mean):
            self._mean = self._mean()
        return self._mean or []

    @mean.setter
    def mean(self, value: Tensors) -> None:
        self._mean = value

    @property
    def absolute(self) -> list[Tensor] | None:
        """Set like ``mean``; None before the second point."""
        if callable(self._absolute):
            self._absolute = self._absolute()
        return self._absolute

    @absolute.setter
    def absolute(self, value: Tensors) -> None:
        self._absolute = value

    @property
    def fresh(self) -> bool:
        """Whether the mean has not been kept yet in this step."""
        return self._mean is None

    @property
    def summed(self) -> bool:
        """Whether a |g| has been added in this step."""
        return self._absolute is not None

    @property
    def key(self) -> tuple[torch.device, torch.dtype]:
        """The device and precision that all of it shares."""
        return self.params[0].device, self.params[0].dtype

    @property
    def weights(self) -> list[Tensor]:
        """The parameters themselves, or the parts of them at hand."""
        return [local(p) for p in self.params] if self.divided else self.params

    @property
    def num_data(self) -> float:
        """N times the data factor."""
        return float(self.group["num_data"] * self.group["data_factor"])

    @property
    def sign(self) -> float:
        """-1 where the objective is to be maximized."""
        return -1.0 if self.group["maximize"] else 1.0

    @property
    def factor(self) -> float:
        """sqrt(N), if sqrt(s)|g| is to be multiplied by it (App. E.3), or 1 (Algorithm 1)."""
        return self.num_data**0.5 if self.group["sqrt_num_data"] else 1.0

    def gradients(self) -> list[Tensor | None]:
        """The gradients at hand.

        Raises:
            ValueError: one is sparse.
        """
        found = [self.shards.gradient(p) for p in self.params]
        self.seen = [seen or g is not None for seen, g in zip(self.seen, found, strict=True)]
        return found
