"""What a bSAM step holds of the parameters of one group on one device and of one precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fenchel.optim.kernels import foreach
from fenchel.optim.kernels.choice import Kernels
from fenchel.optim.kernels.coefficients import Coefficients

__all__ = ["Bucket"]


@dataclass
class Bucket:
    """Lists aligned with ``params``; nothing of it outlives the step but state tensors it refers to.

    ``mean`` is a copy for the time of the step, or the float32 mean of 16-bit weights; ``absolute`` and ``gradient``
    are the sums over the sub-batches of |g| and g_eps; ``noise`` makes the noisy point, ``spare`` is memory for |g|:
    that of the noise, once it is used; ``seen`` tells which parameters had a gradient in any pass.
    """

    group: dict[str, Any]
    kernels: Kernels
    params: list[Tensor]
    mean: list[Tensor]
    s: list[Tensor]
    momentum: list[Tensor]
    absolute: list[Tensor] | None = None
    gradient: list[Tensor] | None = None
    noise: list[Tensor] | None = None
    spare: list[Tensor] | None = None
    seen: list[bool] = field(default_factory=list)

    @property
    def num_data(self) -> float:
        """N times the data factor."""
        return float(self.group["num_data"] * self.group["data_factor"])

    @property
    def sign(self) -> float:
        """-1 where the objective is to be maximized."""
        return -1.0 if self.group["maximize"] else 1.0

    def gradients(self) -> list[Tensor]:
        """The gradients in the precision of the mean; zeros where there is none."""
        out = []
        for i, (p, mean) in enumerate(zip(self.params, self.mean, strict=True)):
            g = p.grad
            if g is None:
                out.append(torch.zeros_like(mean))
                continue
            if g.is_sparse:
                raise ValueError("sparse gradients are not supported; use sparse=False in the embedding")
            self.seen[i] = True
            out.append(g if g.dtype == mean.dtype else g.to(mean.dtype))
        return self.kernels.readable(out)

    def put_back(self) -> None:
        """The weights become the mean, bit for bit."""
        self.kernels.copy(self.params, self.mean)

    def finish(self, parts: int, scale: float) -> None:
        """Lines 7 to 9 from the sums over ``parts`` sub-batches; ``scale`` undoes a loss scale."""
        if self.absolute is None or self.gradient is None:
            raise RuntimeError("update was called before any sub-batch was collected")
        group, (beta1, beta2) = self.group, self.group["betas"]
        keep = [i for i, seen in enumerate(self.seen) if seen]
        for i, seen in enumerate(self.seen):
            if not seen:
                self.params[i].copy_(self.mean[i])
        if not keep:
            return
        lists: tuple[list[Tensor], ...] = (self.params, self.mean, self.s, self.momentum, self.gradient, self.absolute)
        if len(keep) < len(lists[0]):
            lists = tuple([values[i] for i in keep] for values in lists)
        params, mean, s, momentum, gradient, absolute = lists
        master = params[0].dtype != mean[0].dtype
        lr = group["lr"]
        if group["compiled"] and not isinstance(lr, Tensor):
            lr = torch.tensor(float(lr), dtype=torch.float64)  # a number would compile anew at every schedule step
        factor = self.num_data**0.5 if group["sqrt_num_data"] else 1.0
        by = Coefficients(
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            offset=group["weight_decay"] + group["damping"],
            gradient_scale=self.sign * scale / parts,
            absolute_scale=factor * scale / parts,
            precision_first=group["precision_first"],
        )
        update = foreach.compiled_update() if group["compiled"] else self.kernels.update
        update(mean if master else params, mean, s, momentum, gradient, absolute, by)
        if master:
            self.kernels.copy(params, mean)
