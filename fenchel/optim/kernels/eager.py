"""The moves of Algorithm 1 by torch's own functions over lists: any device, any precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fenchel.optim.amp import LossScale
from fenchel.optim.bucket import Bucket

__all__ = ["EagerMoves", "put_back"]


class EagerMoves:
    """The moves for some buckets.

    Args:
        buckets: what to move, in the order of the parameters.
        draw: gives standard normals for parameters, asked for in their order.
    """

    def __init__(self, buckets: Sequence[Bucket], draw: Callable[[list[Tensor]], list[Tensor]]) -> None:
        self.buckets, self._draw = list(buckets), draw

    def noisy_point(self) -> None:
        """Line 3: keep the mean, and move the weights to theta = omega + e."""
        for b in self.buckets:
            weights, fresh = b.weights, b.fresh
            if fresh:
                _keep_mean(b)
            if b.group["noise"]:
                roots = torch._foreach_sqrt(b.s)
                _add_quotient(weights, b.mean, self._draw(b.params), roots, b.num_data**-0.5, equal=fresh)
            elif b.gradient is not None:
                torch._foreach_copy_(weights, b.mean)
            b.shards.changed(b.params)

    def adversarial_point(self, scale: LossScale | None) -> None:
        """Line 5: move the weights to omega + rho g / s, and add |g| to its sum.

        Under a loss scale an entry that is not finite moves nothing, and is noted.
        """
        for b in self.buckets:
            gradient = _gradients(b, scale)
            absolute = torch._foreach_abs(gradient)
            if b.absolute is None:
                b.absolute = list(absolute)
            else:
                torch._foreach_add_(b.absolute, absolute)
            if scale is not None:
                gradient = [torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0) for g in gradient]
            _add_quotient(b.weights, b.mean, gradient, b.s, b.sign * b.group["rho"])
            b.shards.changed(b.params)

    def collect(self, scale: LossScale | None, *, last: bool) -> None:
        """Line 6: add g_eps to its sum; of a single sub-batch the gradient itself serves."""
        for b in self.buckets:
            gradient = _gradients(b, scale)
            if b.gradient is not None:
                torch._foreach_add_(b.gradient, gradient)
            else:
                b.gradient = gradient if last or scale is not None else [g.clone() for g in gradient]

    def update(self, parts: int, scale: LossScale | None) -> None:
        """Lines 7 to 9, from sums over ``parts`` sub-batches; if a gradient was not finite the mean is put back."""
        if scale is not None and scale.found():
            put_back(self.buckets)
            return
        for b in self.buckets:
            weights = b.weights
            for i, seen in enumerate(b.seen):
                if not seen:
                    weights[i].copy_(b.mean[i])
            keep = [i for i, seen in enumerate(b.seen) if seen]
            if keep and b.gradient is not None and b.absolute is not None:
                lists = (weights, b.mean, b.s, b.momentum, b.gradient, b.absolute)
                _update(b, parts, *([values[i] for i in keep] for values in lists))
            b.shards.changed(b.params)


def _keep_mean(b: Bucket) -> None:
    """Copy the weights; the float32 means of 16-bit weights follow weights that were changed from outside."""
    if b.master is None:
        b.mean = [w.clone() for w in b.weights]
        return
    for master, w in zip(b.master, b.weights, strict=True):
        master.copy_(torch.where(master.to(w.dtype) == w, master, w.to(master.dtype)))
    b.mean = b.master


def put_back(buckets: Sequence[Bucket]) -> None:
    """The weights become the mean, bit for bit."""
    for b in buckets:
        if not b.fresh:
            torch._foreach_copy_(b.weights, b.mean)
            b.shards.changed(b.params)


def _update(
    b: Bucket,
    parts: int,
    weights: list[Tensor],
    mean: list[Tensor],
    s: list[Tensor],
    momentum: list[Tensor],
    gradient: list[Tensor],
    absolute: list[Tensor],
) -> None:
    group, (beta1, beta2) = b.group, b.group["betas"]
    out = weights if b.master is None else mean
    if b.sign == parts == 1:
        torch._foreach_lerp_(momentum, gradient, 1 - beta1)
    else:
        torch._foreach_mul_(momentum, beta1)
        torch._foreach_add_(momentum, gradient, alpha=(1 - beta1) * b.sign / parts)
    if group["weight_decay"]:
        torch._foreach_add_(momentum, mean, alpha=(1 - beta1) * group["weight_decay"])
    if not group["precision_first"]:
        _add_quotient(out, mean, momentum, s, -group["lr"])
    roots = torch._foreach_sqrt(s)
    torch._foreach_mul_(s, beta2)
    torch._foreach_add_(s, (1 - beta2) * (group["weight_decay"] + group["damping"]))
    torch._foreach_addcmul_(s, roots, absolute, (1 - beta2) * b.factor / parts)
    if group["precision_first"]:
        _add_quotient(out, mean, momentum, s, -group["lr"])
    if out is not weights:
        torch._foreach_copy_(weights, mean)


def _add_quotient(
    out: list[Tensor],
    base: list[Tensor],
    numerator: Sequence[Tensor],
    denominator: Sequence[Tensor],
    value: float | Tensor,
    *,
    equal: bool = False,
) -> None:
    """out <- base + value numerator / denominator, in the precision of ``base``; ``equal``: out is base already."""
    if out[0].dtype == base[0].dtype and not isinstance(value, Tensor):
        if not (equal or out is base):
            torch._foreach_copy_(out, base)
        torch._foreach_addcdiv_(out, list(numerator), list(denominator), value)
        return
    step = torch._foreach_div(list(numerator), list(denominator))
    torch._foreach_mul_(step, value.to(step[0]) if isinstance(value, Tensor) else value)
    torch._foreach_add_(step, base)
    torch._foreach_copy_(out, step)


def _gradients(b: Bucket, scale: LossScale | None) -> list[Tensor]:
    """The gradients in the precision of the mean, without the loss scale; zeros where there is none."""
    found = [
        torch.zeros_like(mean) if g is None else g if g.dtype == mean.dtype else g.to(mean.dtype)
        for g, mean in zip(b.gradients(), b.mean, strict=True)
    ]
    if scale is not None:
        found = [g.clone() for g in found]
        scale.unscale(found, b.key[0])
    return found
