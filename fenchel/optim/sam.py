"""SAM over any base optimizer: the right-hand column of Algorithm 1 when the base is Adam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fenchel.optim.two_pass import TwoPassOptimizer

__all__ = ["SAM"]


class SAM(TwoPassOptimizer):
    """Sharpness-aware minimization: the base optimizer is fed gradients taken at omega + rho g/|g|."""

    def __init__(self, params: Any, base_optimizer: type[torch.optim.Optimizer], rho: float, **kwargs: Any) -> None:
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        for key, value in self.base_optimizer.defaults.items():
            self.defaults.setdefault(key, value)

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @torch.no_grad()
    def begin(self) -> None:
        self._mean = [p.detach().clone() for p in self._params()]
        self._sum: list[Tensor | None] = [None] * len(self._mean)
        self._parts = 0

    def first_point(self) -> None:
        """The first gradient is taken at the mean itself."""

    @torch.no_grad()
    def second_point(self) -> None:
        params = [(p, g["rho"]) for g in self.param_groups for p in g["params"] if p.grad is not None]
        if not params:
            return
        norms = torch._foreach_norm([p.grad for p, _ in params])
        device = norms[0].device
        norm = torch.linalg.vector_norm(torch.stack([n.to(device) for n in norms]))
        scale = torch.where(norm > 0, norm.reciprocal(), torch.zeros_like(norm))
        for p, rho in params:
            p.add_(p.grad * (rho * scale).to(device=p.device, dtype=p.dtype))

    @torch.no_grad()
    def collect(self) -> None:
        for i, (p, mean) in enumerate(zip(self._params(), self._mean, strict=True)):
            p.copy_(mean)
            if p.grad is not None:
                total = self._sum[i]
                self._sum[i] = p.grad.clone() if total is None else total.add_(p.grad)
        self._parts += 1

    @torch.no_grad()
    def restore(self) -> None:
        for p, mean in zip(self._params(), self._mean, strict=True):
            p.copy_(mean)

    @torch.no_grad()
    def update(self) -> None:
        for p, total in zip(self._params(), self._sum, strict=True):
            p.grad = None if total is None else total.div_(self._parts)
        self._mean, self._sum = [], []
        self.base_optimizer.step()
