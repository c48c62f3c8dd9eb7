"""SAM over any base optimizer: the right-hand column of Algorithm 1 when the base is Adam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fenchel.optim.amp import any_non_finite, record
from fenchel.optim.distributed import process_group, sum_across_ranks, sum_counts
from fenchel.optim.hyperparameters import check_non_negative, check_params
from fenchel.optim.two_pass import TwoPassOptimizer, without_gradients

__all__ = ["SAM"]


class SAM(TwoPassOptimizer):
    """Sharpness-aware minimization: the base optimizer is fed gradients taken at omega + rho g / |g|.

    |g| is the Euclidean norm over all parameters of all groups, without an epsilon; where it is zero (or not a
    number, which a loss scaler then finds) the perturbation is zero, so that a stationary point stays one.

    Args:
        params: parameters or group dictionaries; a group may have its own ``rho`` and any hyperparameter of the base.
        base_optimizer: a class, such as `torch.optim.SGD` or `torch.optim.Adam`. torch's Adam corrects for bias,
            which Algorithm 1 does not; `UncorrectedAdam` is Algorithm 1's.
        rho: radius of the perturbation.
        module, batch_norm, distributed: see `TwoPassOptimizer`.
        kwargs: handed to the base optimizer.

    The groups and the state are the base optimizer's own, so schedulers and checkpoints act on this object.

    Raises:
        ValueError: rho is negative or not finite. TypeError: ``base_optimizer`` is not a class of optimizers.
    """

    def __init__(
        self,
        params: Any,
        base_optimizer: type[torch.optim.Optimizer],
        rho: float,
        *,
        module: nn.Module | None = None,
        batch_norm: str = "both",
        distributed: Any = False,
        **kwargs: Any,
    ) -> None:
        if not (isinstance(base_optimizer, type) and issubclass(base_optimizer, torch.optim.Optimizer)):
            raise TypeError(f"base_optimizer must be a class of torch optimizers, got {base_optimizer!r}")
        check_non_negative("rho", rho)
        self.base_optimizer: torch.optim.Optimizer | None = None
        super().__init__(params, {"rho": rho, **kwargs}, module=module, batch_norm=batch_norm, distributed=distributed)
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.defaults = {**self.base_optimizer.defaults, **self.defaults}
        self._params: list[Tensor] = []
        self._mean: list[Tensor] = []
        self._sum: list[Tensor | None] = []
        self._share()

    def _share(self) -> None:
        if self.base_optimizer is not None:
            self.param_groups = self.base_optimizer.param_groups
            self.state = self.base_optimizer.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with its own hyperparameters; those it does not name take the optimizer's."""
        super().add_param_group(param_group)
        try:
            check_non_negative("rho", self.param_groups[-1]["rho"])
            check_params(self.param_groups[-1]["params"])
        except ValueError:
            self.param_groups.pop()
            raise

    @without_gradients
    def begin(self, grad_scaler: Any = None, parts: int | None = None) -> None:
        """Start a step: remember the weights."""
        if self._open:
            self.restore()
        self._params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        self._mean = [p.clone() for p in self._params]
        self._sum = [None] * len(self._params)
        self._open, self._parts, self._overflow, self._scaler = True, 0, False, grad_scaler

    @without_gradients
    def first_point(self) -> None:
        """The first gradient is taken at the mean itself."""
        self._started("first_point")
        if self._parts:
            torch._foreach_copy_(self._params, self._mean)

    @without_gradients
    def second_point(self) -> None:
        """Move the weights to omega + rho g / |g|."""
        self._started("second_point")
        used = [(p, group["rho"]) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not used:
            return
        norms = torch._foreach_norm([p.grad for p, _ in used])
        total = torch.linalg.vector_norm(torch.stack([norm.to(norms[0]) for norm in norms]))
        inverse = torch.where(total > 0, total.reciprocal(), torch.zeros_like(total))
        for p, rho in used:
            p.add_(p.grad * (rho * inverse).to(p))
        if self._scaler is not None:
            self._overflow |= any_non_finite(norms)

    @without_gradients
    def collect(self) -> None:
        """Add the gradient at the adversarial point to the sum."""
        self._started("collect")
        for i, p in enumerate(self._params):
            if p.grad is not None:
                total = self._sum[i]
                self._sum[i] = p.grad.clone() if total is None else total.add_(p.grad)
        self._parts += 1

    @without_gradients
    def restore(self) -> None:
        """Give the step up: the weights become the mean again, bit for bit."""
        if self._open:
            torch._foreach_copy_(self._params, self._mean)
        self._params, self._mean, self._sum, self._open = [], [], [], False

    @without_gradients
    def update(self) -> None:
        """Hand the averaged gradient to the base optimizer."""
        self._started("update")
        params, total, parts, scaler = self._params, self._sum, self._parts, self._scaler
        ranks = process_group(self._distributed)
        overflow = self._overflow
        if scaler is not None:
            overflow = overflow or any_non_finite(t for t in total if t is not None)
            if ranks is not None:
                overflow = sum_counts([int(overflow)], params[0].device, ranks)[0] > 0
        self.restore()
        if overflow:
            record(scaler, self, overflow=True)
            return
        if ranks is not None:
            counts = sum_counts([parts, *(int(t is not None) for t in total)], params[0].device, ranks)
            parts = counts[0]
            for i, (p, users) in enumerate(zip(params, counts[1:], strict=True)):
                if users and total[i] is None:
                    total[i] = torch.zeros_like(p)
            sum_across_ranks([t for t in total if t is not None], ranks)
        for p, t in zip(params, total, strict=True):
            p.grad = None if t is None else t.div_(parts)
        if scaler is not None:
            record(scaler, self, overflow=False)
        if self.base_optimizer is not None:
            self.base_optimizer.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load through the base optimizer, and share its groups and state again."""
        if self.base_optimizer is not None:
            self.base_optimizer.load_state_dict(state_dict)
            self._share()

    def __getstate__(self) -> dict[str, Any]:
        own = ("base_optimizer", "_params", "_mean", "_sum")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()
