"""The moves of Algorithm 1 by torch's own functions over lists of tensors, and where the fused kernels take over."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fenchel.optim.amp import LossScale
from fenchel.optim.noise import follow
from fenchel.optim.shards import Shards, local

if TYPE_CHECKING:
    from fenchel.optim.kernels.fused import TritonKernels


class Bucket:
    """The parameters of one group on one device and of one precision; all lists are aligned with ``params``.

    ``weights``, ``s``, ``momentum`` and ``master`` (the float32 mean of 16-bit weights, in the state) are the parts at
    hand (`fenchel.optim.shards`). The rest lives for one step: ``mean`` is a copy of the weights, or the float32 mean;
    ``absolute`` and ``gradient`` are the sums over the sub-batches of |g| and g_eps; ``seen`` tells which parameters
    had a gradient in any pass.

    Args:
        group: their hyperparameters. shards: how they are divided over processes. params, states: with their state.
        number: the place of the first one in the optimizer's order.
        draw: gives standard normals for parameters.
    """

    def __init__(
        self,
        group: dict[str, Any],
        shards: Shards,
        params: list[Tensor],
        states: list[dict[str, Tensor]],
        number: int,
        draw: Callable[[list[Tensor]], list[Tensor]],
    ) -> None:
        self.group, self.shards, self.params, self._draw = group, shards, params, draw
        self.numbers = range(number, number + len(params))
        self.s, self.momentum, self.master = (
            [local(state[name]) for state in states if name in state] for name in ("s", "momentum", "mean")
        )
        self.device, self.dtype = params[0].device, params[0].dtype
        self.clear()

    def clear(self) -> None:
        """Forget what belongs to a step."""
        self.mean: list[Tensor] = []
        self.absolute: list[Tensor] = []
        self.gradient: list[Tensor] = []
        self.seen = [False] * len(self.params)

    @property
    def weights(self) -> list[Tensor]:
        """The parts of the parameters at hand."""
        return [local(p) for p in self.params]

    @property
    def num_data(self) -> float:
        """N times the data factor."""
        return float(self.group["num_data"] * self.group["data_factor"])

    @property
    def sign(self) -> float:
        """-1 where the objective is to be maximized."""
        return -1.0 if self.group["maximize"] else 1.0

    @property
    def factor(self) -> float:
        """sqrt(N), if sqrt(s)|g| is to be multiplied by it (App. E.3), or 1 (Algorithm 1)."""
        return self.num_data**0.5 if self.group["sqrt_num_data"] else 1.0

    def found(self) -> list[Tensor | None]:
        """The gradients at hand."""
        gradients = [self.shards.gradient(p) for p in self.params]
        self.seen = [seen or g is not None for seen, g in zip(self.seen, gradients, strict=True)]
        return gradients

    def sums(self) -> list[tuple[Tensor, list[Tensor]]]:
        """The parameters, each with its sums of g_eps and |g|."""
        return [(p, [g, a]) for p, g, a in zip(self.params, self.gradient, self.absolute, strict=True)]

    def put_back(self) -> None:
        """The weights become the mean, bit for bit."""
        if self.mean:
            self.shards.assign(self.params, self.mean)

    def noisy_point(self) -> None:
        """Line 3: keep the mean, and move the weights to theta = omega + e."""
        weights, fresh = self.weights, not self.mean
        if fresh:
            for master, w in zip(self.master, weights, strict=False):
                follow(master, w)
            self.mean = self.master or [w.clone() for w in weights]
        if self.group["noise"]:
            roots = torch._foreach_sqrt(self.s)
            _add_quotient(weights, self.mean, self._draw(self.params), roots, self.num_data**-0.5, equal=fresh)
        elif not fresh:
            torch._foreach_copy_(weights, self.mean)
        self.shards.changed(self.params)

    def adversarial_point(self, scale: LossScale | None) -> None:
        """Line 5: move the weights to omega + rho g / s, and add |g| to its sum.

        Under a loss scale an entry that is not finite moves nothing, and is noted.
        """
        gradient = self._gradients(scale)
        absolute = torch._foreach_abs(gradient)
        if self.absolute:
            torch._foreach_add_(self.absolute, absolute)
        else:
            self.absolute = list(absolute)
        if scale is not None:
            gradient = [torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0) for g in gradient]
        _add_quotient(self.weights, self.mean, gradient, self.s, self.sign * self.group["rho"])
        self.shards.changed(self.params)

    def collect(self, scale: LossScale | None, *, last: bool) -> None:
        """Line 6: add g_eps to its sum; ``last``: nothing is added or written to it, so the gradient itself serves."""
        gradient = self._gradients(scale)
        if self.gradient:
            torch._foreach_add_(self.gradient, gradient)
        else:
            self.gradient = gradient if last or scale is not None else [g.clone() for g in gradient]

    def update(self, parts: int, scale: LossScale | None) -> None:
        """Lines 7 to 9, from sums over ``parts`` sub-batches; if a gradient was not finite the mean is put back."""
        if scale is not None and scale.found():
            self.put_back()
            return
        rows = zip(self.weights, self.mean, self.s, self.momentum, self.gradient, self.absolute, strict=True)
        moved = [row for row, seen in zip(rows, self.seen, strict=True) if seen]
        if not all(self.seen):
            self.put_back()
        if not moved:
            return
        weights, mean, s, momentum, gradient, absolute = (list(column) for column in zip(*moved, strict=True))
        group, (beta1, beta2) = self.group, map(float, self.group["betas"])
        out = mean if self.master else weights
        if self.sign == parts == 1:
            torch._foreach_lerp_(momentum, gradient, 1 - beta1)
        else:
            torch._foreach_mul_(momentum, beta1)
            torch._foreach_add_(momentum, gradient, alpha=(1 - beta1) * self.sign / parts)
        if group["weight_decay"]:
            torch._foreach_add_(momentum, mean, alpha=(1 - beta1) * group["weight_decay"])
        if not group["precision_first"]:
            _add_quotient(out, mean, momentum, s, -group["lr"])
        roots = torch._foreach_sqrt(s)
        torch._foreach_mul_(s, beta2)
        torch._foreach_add_(s, (1 - beta2) * (group["weight_decay"] + group["damping"]))
        torch._foreach_addcmul_(s, roots, absolute, (1 - beta2) * self.factor / parts)
        if group["precision_first"]:
            _add_quotient(out, mean, momentum, s, -group["lr"])
        if self.master:
            torch._foreach_copy_(weights, mean)
        self.shards.changed(self.params)

    def _gradients(self, scale: LossScale | None) -> list[Tensor]:
        """The gradients in the precision of the mean, without the loss scale; zeros where there is none."""
        pairs = zip(self.found(), self.mean, strict=True)
        gradients = [torch.zeros_like(mean) if g is None else g.to(mean.dtype) for g, mean in pairs]
        return gradients if scale is None else scale.unscaled(gradients, self.device)


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
    torch._foreach_mul_(step, value.reshape(()).to(step[0]) if isinstance(value, Tensor) else value)
    torch._foreach_add_(step, base)
    torch._foreach_copy_(out, step)


def reason_against(bucket: Bucket, *, own_noise: bool) -> str | None:
    """Why the fused kernels cannot move a bucket, or None."""
    if not own_noise:
        return "standard_normal_like is overridden"
    if bucket.device.type != "cuda":
        return f"they need a CUDA device, and the parameters are on {bucket.device}"
    if bucket.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"they compute in float32, and the parameters are {bucket.dtype}"
    if any(bucket.shards.position(p) is None for p in bucket.params):
        return "a parameter is sharded in pieces that are not contiguous"
    # memory that torch would lay out so again has neither gaps nor overlaps
    if any(torch.empty_like(w, device="meta").stride() != w.stride() for w in bucket.weights):
        return "a parameter is not dense in memory"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    return None


def moves_of(
    buckets: Sequence[Bucket], *, own_noise: bool, generator: Callable[[torch.device], torch.Generator]
) -> list[Bucket | TritonKernels]:
    """What moves the buckets: fused kernels, one for each device and precision, and the rest themselves.

    Raises:
        ValueError: a group was made with ``fused=True`` and cannot be moved by fused kernels.
    """
    moves: list[Bucket | TritonKernels] = []
    together: dict[tuple[torch.device, torch.dtype], list[Bucket]] = {}
    for bucket in buckets:
        wanted = bucket.group["fused"]
        reason = "fused=False" if wanted is False else reason_against(bucket, own_noise=own_noise)
        if wanted and reason:
            raise ValueError(f"fused=True cannot be: {reason}")
        if reason is None:
            together.setdefault((bucket.device, bucket.dtype), []).append(bucket)
        else:
            moves.append(bucket)
    if together:
        from fenchel.optim.kernels.fused import TritonKernels

        moves += [TritonKernels(same, generator) for same in together.values()]
    return moves
