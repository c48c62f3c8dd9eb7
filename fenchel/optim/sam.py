"""SAM over any base optimizer, and the Adam with which it is the right-hand column of Algorithm 1."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from fenchel.optim.amp import true_gradient
from fenchel.optim.hyperparameters import check_group, check_group_names
from fenchel.optim.shards import local
from fenchel.optim.stepping import ClosureOptimizer
from fenchel.optim.two_pass import TwoPassOptimizer

OWN = ("rho", "adaptive", "max_grad_norm")
FACTORED = ("Adafactor",)
"""Bases of torch whose state has other shapes than the parameters."""


class SAM(TwoPassOptimizer):
    """Sharpness-aware minimization: the base optimizer is fed gradients taken at omega + rho g / |g|.

    |g| is the Euclidean norm over all parameters of all groups (and processes that share them), without an epsilon;
    where it is zero or not a number the perturbation is zero, so that a stationary point stays one.

    Args:
        params: parameters or group dictionaries; a group may have its own ``rho`` and any hyperparameter of the base.
        base_optimizer: a class, such as `torch.optim.SGD` or `torch.optim.Adam`. torch's Adam corrects for bias,
            which Algorithm 1 does not; `UncorrectedAdam` is Algorithm 1's.
        rho: radius of the perturbation; may be changed between steps in the groups.
        adaptive: ASAM (Kwon et al., 2021): omega + rho T^2 g / |T g| with T = |omega|, elementwise.
        max_grad_norm: clip the averaged gradient to this total norm.
        module, batch_norm, distributed: see `TwoPassOptimizer`.
        kwargs: handed to the base optimizer; with ``maximize=True`` the perturbation descends.

    The groups and the state are the base optimizer's own, so schedulers and checkpoints act on this object.

    Raises:
        ValueError: rho is negative or not finite. TypeError: ``base_optimizer`` is not a class of optimizers, or one
            that evaluates closures itself, or has a hyperparameter of SAM's name.
    """

    def __init__(
        self,
        params: Any,
        base_optimizer: type[torch.optim.Optimizer],
        rho: float,
        *,
        adaptive: bool = False,
        max_grad_norm: float | None = None,
        module: nn.Module | None = None,
        batch_norm: str = "both",
        distributed: Any = False,
        **kwargs: Any,
    ) -> None:
        if not (isinstance(base_optimizer, type) and issubclass(base_optimizer, torch.optim.Optimizer)):
            raise TypeError(f"base_optimizer must be a class of torch optimizers, got {base_optimizer!r}")
        if issubclass(base_optimizer, torch.optim.LBFGS | ClosureOptimizer):
            raise TypeError(
                f"SAM cannot hand its gradient to {base_optimizer.__name__}, which evaluates closures itself"
            )
        own = {"rho": rho, "adaptive": adaptive, "max_grad_norm": max_grad_norm}
        self._moved = False
        super().__init__(params, {**own, **kwargs}, module=module, batch_norm=batch_norm, distributed=distributed)
        self.base_optimizer: torch.optim.Optimizer = base_optimizer(self.param_groups, **kwargs)
        if taken := sorted(set(OWN) & set(self.base_optimizer.defaults)):
            raise TypeError(f"SAM cannot go over {base_optimizer.__name__}, whose {taken[0]!r} has another meaning")
        self.param_groups, self.state = self.base_optimizer.param_groups, self.base_optimizer.state
        self.defaults = {**self.base_optimizer.defaults, **self.defaults}
        self.saved_settings = self.base_optimizer.defaults  # so that a state of the base alone can be loaded
        torchs = base_optimizer.__module__.startswith(("torch.optim", "fenchel."))
        self.elementwise_state = torchs and base_optimizer.__name__ not in FACTORED
        for group in self.param_groups:  # those of the base were not known before
            check_group_names(group, self.defaults)

    def check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for hyperparameters out of range; the base sees to the rest of its own."""
        super().check_group({name: group[name] for name in (*OWN, "lr") if name in group})

    @torch.no_grad()
    def prime(self) -> None:
        """Make the state of all parameters, by a step of the base from zero gradients with lr 0."""
        self.base_optimizer.step()

    def _put_back(self) -> None:
        super()._put_back()
        self._moved = False

    @torch.no_grad()
    def first_point(self) -> None:
        """The first gradient is taken at the mean itself."""
        self._started("first_point")
        if self._moved:
            self._put_back()

    @torch.no_grad()
    def second_point(self) -> None:
        """Move the weights to omega + rho g / |g|."""
        self._started("second_point")
        if self._moved:
            self._put_back()
        rows: list[tuple[dict[str, Any], Tensor, Tensor, Tensor]] = []
        for (p, group), mean in zip(self.with_groups(), self._mean, strict=True):
            g = true_gradient(p, self._shards, self._scale)
            if g is not None:
                size = mean.abs().to(g) if group["adaptive"] else None
                rows.append((group, p, g, g) if size is None else (group, p, size * g, size.square() * g))
        if not rows:
            return
        norm = self._shards.norm([p for _, p, _, _ in rows], [measured for _, _, measured, _ in rows])
        inverse = torch.where((norm > 0) & torch.isfinite(norm), norm.reciprocal(), torch.zeros_like(norm))
        for _, run in groupby(rows, lambda row: id(row[0])):
            (group, *_), params, _, steps = zip(*run, strict=True)
            if self._scale is not None:
                steps = [torch.nan_to_num(d, nan=0.0, posinf=0.0, neginf=0.0) for d in steps]
            factor = (inverse * (-group["rho"] if group.get("maximize") else group["rho"])).to(steps[0])
            torch._foreach_add_([local(p) for p in params], torch._foreach_mul(list(steps), factor))
        self._moved = True
        self._shards.changed(self._params)

    def _move(self, parts: int) -> None:
        """Hand the averaged gradients to the base optimizer."""
        averages = self._averages(parts)
        if averages is None:
            return
        for p in self._params:
            average = averages[p][0] if p in averages else None
            if average is None or (average.dtype == p.dtype and local(p) is p):
                p.grad = average
            else:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                local(p.grad).copy_(average)
        self.base_optimizer.step()
        self._shards.changed(self._params)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # The base shares what was loaded, and sees to its own keys.
        self.base_optimizer.__setstate__({"state": self.state, "param_groups": self.param_groups})


class UncorrectedAdam(torch.optim.Optimizer):
    """Adam without bias correction; with g the gradient plus delta omega (lines 7 to 9 of the right-hand column):

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
        with torch.enable_grad():
            loss = None if closure is None else closure()
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
