"""SAM over any base optimizer: the right-hand column of Algorithm 1 when the base is Adam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fenchel.optim.amp import true_gradient
from fenchel.optim.hyperparameters import check_group_names
from fenchel.optim.loading import load_state
from fenchel.optim.shards import local
from fenchel.optim.two_pass import ClosureOptimizer, TwoPassOptimizer

__all__ = ["SAM"]

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
        if issubclass(base_optimizer, torch.optim.LBFGS | ClosureOptimizer):
            raise TypeError(
                f"SAM cannot hand its gradient to {base_optimizer.__name__}, which evaluates closures itself"
            )
        own = {"rho": rho, "adaptive": adaptive, "max_grad_norm": max_grad_norm}
        self._moved = False
        super().__init__(params, {**own, **kwargs}, module=module, batch_norm=batch_norm, distributed=distributed)
        self.base_optimizer: torch.optim.Optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups, self.state = self.base_optimizer.param_groups, self.base_optimizer.state
        self.defaults = {**self.base_optimizer.defaults, **self.defaults}
        for group in self.param_groups:  # those of the base were not known before
            check_group_names(group, self.defaults)

    def check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for hyperparameters out of range; the base sees to its own."""
        super().check_group({name: group[name] for name in OWN})

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
        means = dict(zip(self._params, self._mean, strict=True))
        used: list[Tensor] = []
        measured: list[Tensor] = []
        moves: list[tuple[dict[str, Any], dict[Tensor, Tensor]]] = []
        for group in self.param_groups:
            found = {p: true_gradient(p, self._shards, self._scale) for p in group["params"] if p in means}
            directions = {p: g for p, g in found.items() if g is not None}
            used += directions
            if group["adaptive"]:
                sizes = {p: means[p].abs().to(g) for p, g in directions.items()}
                measured += [sizes[p] * g for p, g in directions.items()]
                directions = {p: sizes[p].square() * g for p, g in directions.items()}
            else:
                measured += directions.values()
            if directions:
                moves.append((group, directions))
        if not used:
            return
        norm = self._shards.norm(used, measured)
        inverse = torch.where((norm > 0) & torch.isfinite(norm), norm.reciprocal(), torch.zeros_like(norm))
        for group, directions in moves:
            steps = list(directions.values())
            if self._scale is not None:
                steps = [torch.nan_to_num(d, nan=0.0, posinf=0.0, neginf=0.0) for d in steps]
            factor = (inverse * (-group["rho"] if group.get("maximize") else group["rho"])).to(steps[0])
            torch._foreach_add_([local(p) for p in directions], torch._foreach_mul(steps, factor))
        self._moved = True
        self._shards.changed(self._params)

    @torch.no_grad()
    def update(self) -> None:
        """Hand the averaged gradient to the base optimizer."""
        self._started("update")
        pairs = self.averages()
        for p, terms in pairs:
            average = None if terms is None else terms[0]
            if average is None or (average.dtype == p.dtype and local(p) is p):
                p.grad = average
            else:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                local(p.grad).copy_(average)
        if pairs:
            self.base_optimizer.step()
            self._shards.changed([p for p, _ in pairs])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict` of SAM over the same base, or of the base alone.

        Raises:
            ValueError: the state is another optimizer's, or of other parameters; nothing was loaded.
        """
        kind = type(self.base_optimizer)
        elementwise = kind.__module__.startswith(("torch.optim", "fenchel.")) and kind.__name__ not in FACTORED
        load = super().load_state_dict
        load_state(self, state_dict, load, needed=self.base_optimizer.defaults, elementwise=elementwise)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # The base shares what was loaded, and sees to its own keys.
        self.base_optimizer.__setstate__({"state": self.state, "param_groups": self.param_groups})
