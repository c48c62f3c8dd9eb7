"""BSAM: the optimizer of Algorithm 1."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fenchel.optim.two_pass import TwoPassOptimizer

__all__ = ["BSAM"]


class BSAM(TwoPassOptimizer):
    """Bayesian SAM (Algorithm 1): learns a mean and a diagonal Gaussian posterior N(omega, 1/(N s))."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        num_data: float,
        rho: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 1e-4,
        damping: float = 0.1,
        s_init: float = 1.0,
        noise: bool = True,
        precision_first: bool = True,
        data_factor: float = 1.0,
        sqrt_num_data: bool = False,
    ) -> None:
        defaults = dict(
            lr=lr,
            num_data=num_data,
            rho=rho,
            betas=betas,
            weight_decay=weight_decay,
            damping=damping,
            s_init=s_init,
            noise=noise,
            precision_first=precision_first,
            data_factor=data_factor,
            sqrt_num_data=sqrt_num_data,
        )
        super().__init__(params, defaults)

    def standard_normal_like(self, param: Tensor) -> Tensor:
        """Standard normal noise of the shape of ``param``; called once per parameter in parameter order per sub-batch."""
        return torch.randn_like(param)

    @torch.no_grad()
    def begin(self) -> None:
        self._work: list[dict[str, Any]] = []
        for group in self.param_groups:
            params = [p for p in group["params"] if p.requires_grad]
            if not params:
                continue
            for p in params:
                state = self.state[p]
                if not state:
                    state["s"] = torch.full_like(p, group["s_init"])
                    state["momentum"] = torch.zeros_like(p)
            self._work.append(
                dict(
                    group=group,
                    params=params,
                    mean=[p.detach().clone() for p in params],
                    s=[self.state[p]["s"] for p in params],
                    momentum=[self.state[p]["momentum"] for p in params],
                    curvature=None,
                    gradient=None,
                    used=[False] * len(params),
                )
            )
        self._parts = 0

    @torch.no_grad()
    def first_point(self) -> None:
        for w in self._work:
            g = w["group"]
            if not g["noise"]:
                continue
            z = [self.standard_normal_like(p) for p in w["params"]]
            torch._foreach_div_(z, torch._foreach_sqrt(w["s"]))
            torch._foreach_add_(w["params"], z, alpha=1 / math.sqrt(g["num_data"] * g["data_factor"]))

    def _gradients(self, w: dict[str, Any]) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in w["params"]]

    @torch.no_grad()
    def second_point(self) -> None:
        for w in self._work:
            gradient = self._gradients(w)
            curvature = torch._foreach_sqrt(w["s"])
            torch._foreach_mul_(curvature, gradient)
            torch._foreach_abs_(curvature)
            if w["curvature"] is None:
                w["curvature"] = curvature
            else:
                torch._foreach_add_(w["curvature"], curvature)
            torch._foreach_copy_(w["params"], w["mean"])
            torch._foreach_addcdiv_(w["params"], gradient, w["s"], w["group"]["rho"])

    @torch.no_grad()
    def collect(self) -> None:
        for w in self._work:
            torch._foreach_copy_(w["params"], w["mean"])
            gradient = self._gradients(w)
            w["used"] = [u or p.grad is not None for u, p in zip(w["used"], w["params"], strict=True)]
            if w["gradient"] is None:
                w["gradient"] = [g.clone() for g in gradient]
            else:
                torch._foreach_add_(w["gradient"], gradient)
        self._parts += 1

    @torch.no_grad()
    def restore(self) -> None:
        for w in self._work:
            torch._foreach_copy_(w["params"], w["mean"])
        self._work = []

    @torch.no_grad()
    def update(self) -> None:
        for w in self._work:
            g = w["group"]
            keep = [i for i, u in enumerate(w["used"]) if u]
            if not keep:
                continue
            params, s, momentum, curvature, gradient = (
                [w[name][i] for i in keep] for name in ("params", "s", "momentum", "curvature", "gradient")
            )
            (beta1, beta2), lr, delta = g["betas"], g["lr"], g["weight_decay"]
            factor = math.sqrt(g["num_data"] * g["data_factor"]) if g["sqrt_num_data"] else 1.0
            torch._foreach_mul_(momentum, beta1)
            torch._foreach_add_(momentum, gradient, alpha=(1 - beta1) / self._parts)
            torch._foreach_add_(momentum, params, alpha=(1 - beta1) * delta)
            if not g["precision_first"]:
                self._move(params, momentum, s, lr)
            torch._foreach_mul_(s, beta2)
            torch._foreach_add_(s, curvature, alpha=(1 - beta2) * factor / self._parts)
            torch._foreach_add_(s, (1 - beta2) * (delta + g["damping"]))
            if g["precision_first"]:
                self._move(params, momentum, s, lr)
        self._work = []

    @staticmethod
    def _move(params: list[Tensor], momentum: list[Tensor], s: list[Tensor], lr: float | Tensor) -> None:
        if isinstance(lr, Tensor):
            move = torch._foreach_div(momentum, s)
            torch._foreach_mul_(move, lr)
            torch._foreach_sub_(params, move)
        else:
            torch._foreach_addcdiv_(params, momentum, s, -lr)
