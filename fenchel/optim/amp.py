"""Loss scaling for an optimizer that takes two gradients a step.

`GradScaler.unscale_` may run once an update, but bSAM must know the true g in the first pass already: rho g / s and
sqrt(s)|g| scale with the loss (SAM's rho g/|g| does not). So the optimizer divides by the scale itself, notes on the
device whether a gradient was finite, and calls the scaler once at the end, to leave unscaled gradients behind and to
let `scaler.update()` know of infinities in either pass:

    loss = optimizer.step(closure, grad_scaler=scaler)       # closure: scaler.scale(loss).backward(); return loss
    scaler.update()
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fenchel.optim.noise import work_dtype
from fenchel.optim.shards import Shards


def enabled(scaler: Any) -> Any:
    """The scaler, or None for one that does nothing."""
    return scaler if scaler is not None and scaler.is_enabled() else None


class LossScale:
    """The scale of one step, on each device that holds parameters."""

    def __init__(self, scaler: Any) -> None:
        self.scaler = scaler
        self._scales: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Two 0-d tensors: what undoes the scale, and what becomes 1 where a gradient was not finite.

        Raises:
            ValueError: no loss of the step was scaled.
        """
        if device not in self._scales:
            value = self.scaler._get_scale_async()
            if value is None:
                raise ValueError("the closure did not call grad_scaler.scale(loss).backward()")
            inverse = value.to(device=device, dtype=torch.float64).reciprocal().to(torch.float32)
            self._scales[device] = inverse, torch.zeros((), dtype=torch.float32, device=device)
        return self._scales[device]

    def unscaled(self, gradients: list[Tensor], device: torch.device) -> list[Tensor]:
        """Copies of gradients on a device, in float32 for 16-bit ones, divided; notes whether any was not finite."""
        copies = [g.to(work_dtype(g), copy=True) for g in gradients]
        inverse, found_inf = self.on(device)
        torch._amp_foreach_non_finite_check_and_unscale_(copies, found_inf, inverse)
        return copies

    def share(self, group: Any | None) -> None:
        """Make an infinity on one device or process known to all."""
        flags = [found_inf for _, found_inf in self._scales.values()]
        worst = torch.stack([flag.to(flags[0].device) for flag in flags]).max()
        if group is not None:
            dist.all_reduce(worst, op=dist.ReduceOp.MAX, group=group)
        for flag in flags:
            flag.copy_(worst)

    def record(self, optimizer: torch.optim.Optimizer) -> None:
        """Unscale the gradients left in the parameters through the scaler, and tell it what was found in the step."""
        self.scaler.unscale_(optimizer)
        found: dict[torch.device, Tensor] = self.scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"]
        for device, (_, found_inf) in self._scales.items():
            found[device] = found.get(device, 0.0) + found_inf

    def found(self) -> bool:
        """Whether any gradient was not finite; waits for the device."""
        return any(bool(found_inf) for _, found_inf in self._scales.values())


def true_gradient(p: Tensor, shards: Shards, scale: LossScale | None) -> Tensor | None:
    """The part of the gradient at hand, in float32 for 16-bit weights, without the loss scale; None if there is none.

    Raises:
        ValueError: it is sparse.
    """
    g = shards.gradient(p)
    if g is None:
        return None
    return g.to(work_dtype(p)) if scale is None else scale.unscaled([g.to(work_dtype(p))], p.device)[0]
