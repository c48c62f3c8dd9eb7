"""SAM over any base optimizer: the right-hand column of Algorithm 1 when the base is Adam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fenchel.optim.amp import LossScale, true_gradient
from fenchel.optim.distributed import process_group, sum_across_ranks, sum_counts
from fenchel.optim.hyperparameters import check_group_names, check_non_negative, check_positive, leading_group
from fenchel.optim.loading import load_state
from fenchel.optim.noise import work_dtype
from fenchel.optim.shards import local
from fenchel.optim.two_pass import TwoPassOptimizer, without_gradients
from fenchel.optim.vectorized import VectorizedStep

__all__ = ["SAM"]

OWN = ("rho", "adaptive", "max_grad_norm")
FACTORED = ("Adafactor",)
"""Bases of torch whose state has other shapes than the parameters."""


class SAM(VectorizedStep, TwoPassOptimizer):
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
            that evaluates closures itself.
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
        if issubclass(base_optimizer, torch.optim.LBFGS | TwoPassOptimizer):
            raise TypeError(
                f"SAM cannot hand its gradient to {base_optimizer.__name__}, which evaluates closures itself"
            )
        own = {"rho": rho, "adaptive": adaptive, "max_grad_norm": max_grad_norm}
        self.check_group(own)
        self.base_optimizer: torch.optim.Optimizer | None = None
        super().__init__(params, {**own, **kwargs}, module=module, batch_norm=batch_norm, distributed=distributed)
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups, self.state = self.base_optimizer.param_groups, self.base_optimizer.state
        self.defaults = {**self.base_optimizer.defaults, **self.defaults}
        for group in self.param_groups:  # those of the base were not known before
            check_group_names(group, self.defaults)
        self._params: list[Tensor] = []
        self._mean: list[Tensor] = []
        self._moved = False
        self._sum: list[Tensor | None] = []

    def check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for hyperparameters out of range."""
        check_non_negative("rho", group["rho"])
        if group["max_grad_norm"] is not None:
            check_positive("max_grad_norm", group["max_grad_norm"])

    @without_gradients
    def prime(self) -> None:
        """Make the state of all parameters, by a step of the base from zero gradients with lr 0."""
        if self.base_optimizer is not None:
            self.base_optimizer.step()

    @without_gradients
    def begin(self, grad_scaler: Any = None, parts: int | None = None) -> None:
        """Start a step: remember the weights."""
        if self._open:
            self.restore()
        self._params = self.trainable()
        self._mean = [local(p).clone() for p in self._params]
        self._sum = [None] * len(self._params)
        self._scale = None if grad_scaler is None else LossScale(grad_scaler)
        self._open, self._parts = True, 0

    def _put_back(self) -> None:
        torch._foreach_copy_([local(p) for p in self._params], self._mean)
        self._moved = False
        self._shards.changed(self._params)

    @without_gradients
    def first_point(self) -> None:
        """The first gradient is taken at the mean itself."""
        self._started("first_point")
        if self._moved:
            self._put_back()

    @without_gradients
    def second_point(self) -> None:
        """Move the weights to omega + rho g / |g|."""
        self._started("second_point")
        if self._moved:
            self._put_back()
        groups: list[tuple[dict[str, Any], list[Tensor], list[Tensor]]] = []
        used: list[Tensor] = []
        measured: list[Tensor] = []
        means = dict(zip(self._params, self._mean, strict=True))
        for group in self.param_groups:
            pairs = [
                (p, g)
                for p in group["params"]
                if p in means and (g := true_gradient(p, self._shards, self._scale)) is not None
            ]
            params, gradients = [p for p, _ in pairs], [g for _, g in pairs]
            sizes = [means[p].abs().to(g) for p, g in pairs] if group["adaptive"] else []
            measured += [t * g for t, g in zip(sizes, gradients, strict=True)] if sizes else gradients
            used += params
            if sizes:
                gradients = [t * t * g for t, g in zip(sizes, gradients, strict=True)]
            groups.append((group, params, gradients))
        if not used:
            return
        norm = self._shards.norm(used, measured)
        inverse = torch.where((norm > 0) & torch.isfinite(norm), norm.reciprocal(), torch.zeros_like(norm))
        for group, params, directions in groups:
            if params:
                if self._scale is not None:
                    directions = [torch.nan_to_num(d, nan=0.0, posinf=0.0, neginf=0.0) for d in directions]
                radius = group["rho"] * (-1.0 if group.get("maximize") else 1.0)
                factor = (radius * inverse).to(directions[0])
                torch._foreach_add_([local(p) for p in params], torch._foreach_mul(directions, factor))
        self._moved = True
        self._shards.changed(self._params)

    @without_gradients
    def collect(self) -> None:
        """Add the gradient at the adversarial point to the sum."""
        self._started("collect")
        for i, p in enumerate(self._params):
            g = true_gradient(p, self._shards, self._scale)
            if g is not None:
                total = self._sum[i]
                own = g if self._scale is not None or g.dtype != p.dtype else g.clone()
                self._sum[i] = own if total is None else total.add_(g)
        self._parts += 1

    @without_gradients
    def restore(self) -> None:
        """Give the step up: the weights become the mean again, bit for bit."""
        if self._open:
            self._put_back()
        self._params, self._mean, self._sum, self._open, self._scale = [], [], [], False, None

    @without_gradients
    def update(self) -> None:
        """Hand the averaged gradient to the base optimizer."""
        self._started("update")
        params, total, parts, scale = self._params, self._sum, self._parts, self._scale
        ranks = process_group(self._distributed)
        self.restore()
        if scale is not None:
            scale.share(ranks)
            scale.record(self)
            if scale.found():
                return
        if ranks is not None:
            counts = sum_counts([parts, *(int(t is not None) for t in total)], params[0].device, ranks)
            parts = counts[0]
            for i, (p, users) in enumerate(zip(params, counts[1:], strict=True)):
                if users and total[i] is None:
                    total[i] = torch.zeros_like(p, dtype=work_dtype(p))
            sum_across_ranks([t for t in total if t is not None], ranks)
        averages = [None if t is None else t.div_(parts) for t in total]
        limit = leading_group(self.param_groups)["max_grad_norm"]
        pairs = [(p, g) for p, g in zip(params, averages, strict=True) if g is not None]
        if limit is not None and pairs:
            norm = self._shards.norm([p for p, _ in pairs], [g for _, g in pairs])
            for _, g in pairs:
                g.mul_((limit / (norm + 1e-6)).clamp(max=1.0).to(g))
        for p, average in zip(params, averages, strict=True):
            if average is None or (average.dtype == p.dtype and local(p) is p):
                p.grad = average
            else:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                local(p.grad).copy_(average)
        if self.base_optimizer is not None:
            self.base_optimizer.step()
        self._shards.changed(params)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict` of SAM over the same base, or of the base alone.

        Raises:
            ValueError: the state is another optimizer's, or of other parameters; nothing was loaded.
        """
        kind = type(self.base_optimizer)
        elementwise = kind.__module__.startswith(("torch.optim", "fenchel.")) and kind.__name__ not in FACTORED
        needed = {} if self.base_optimizer is None else self.base_optimizer.defaults
        load_state(self, state_dict, super().load_state_dict, needed=needed, elementwise=elementwise)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name in OWN:
                group.setdefault(name, self.defaults[name])
        if self.base_optimizer is not None:  # the base shares what was loaded, and sees to its own keys
            self.base_optimizer.__setstate__({"state": self.state, "param_groups": self.param_groups})

    def __getstate__(self) -> dict[str, Any]:
        own = ("base_optimizer", "_params", "_mean", "_sum")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}
