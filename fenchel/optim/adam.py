"""Adam as the right-hand column of Algorithm 1 writes it: without bias correction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fenchel.optim.hyperparameters import check_group

__all__ = ["UncorrectedAdam"]


class UncorrectedAdam(torch.optim.Optimizer):
    """With g the gradient plus delta omega (line 7 to 9 of Algorithm 1, right-hand column):

        g_m <- beta1 g_m + (1 - beta1) g;  s <- beta2 s + (1 - beta2) g^2
        omega <- omega - alpha g_m / (sqrt(s) + gamma)

    `SAM(params, UncorrectedAdam, rho, ...)` is the column as a whole.

    Args:
        lr: alpha. betas: (beta1, beta2). weight_decay: delta. eps: gamma.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps}
        check_group(defaults)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from the gradients at hand; returns what ``closure``, if any, returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"], state["s"] = torch.zeros_like(p), torch.zeros_like(p)
                gradient = p.grad.add(p, alpha=group["weight_decay"])
                state["momentum"].lerp_(gradient, 1 - beta1)
                state["s"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                p.sub_(group["lr"] * state["momentum"] / (state["s"].sqrt() + group["eps"]))
        return loss
