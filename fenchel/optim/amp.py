"""Loss scaling for an optimizer that takes two gradients a step.

`GradScaler.unscale_` may run once an update, but bSAM must know the true g in the first pass already: rho g / s and
sqrt(s)|g| scale with the loss (SAM's rho g/|g| does not). So the optimizer divides by the scale itself, inside
factors it multiplies with anyway, and calls the scaler once at the end, to leave unscaled gradients behind and to let
`scaler.update()` know of infinities in either pass:

    loss = optimizer.step(closure, grad_scaler=scaler)       # closure: scaler.scale(loss).backward(); return loss
    scaler.update()
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["LossScaler", "any_non_finite", "record"]


class LossScaler(Protocol):
    """What is used of `torch.amp.GradScaler`."""

    def get_scale(self) -> float: ...

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None: ...


def any_non_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether any entry is infinite or NaN; one host synchronization a device."""
    flags: dict[torch.device, list[Tensor]] = {}
    for t in tensors:
        flags.setdefault(t.device, []).append(torch.isfinite(t).all())
    return any(not bool(torch.stack(same).all()) for same in flags.values())


def record(scaler: Any, optimizer: torch.optim.Optimizer, overflow: bool) -> None:
    """Unscale the gradients left in the parameters through the scaler, which notes whether the step overflowed."""
    if overflow:
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.view(-1)[:1].fill_(math.inf)
    scaler.unscale_(optimizer)
