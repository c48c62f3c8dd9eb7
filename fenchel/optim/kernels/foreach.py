"""Kernels by torch's foreach functions: few launches, whatever the number of parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from fenchel.optim.kernels.coefficients import Coefficients

__all__ = [
    "accumulate",
    "adversarial_point",
    "compiled_update",
    "copy",
    "held",
    "keeps_memory",
    "noisy_point",
    "readable",
    "update",
]

Tensors = Sequence[Tensor]

keeps_memory: bool = False


def copy(dst: Tensors, src: Tensors) -> None:
    """See `fenchel.optim.kernels.choice.Kernels`; so for all below."""
    torch._foreach_copy_(list(dst), list(src))


def held(tensors: list[Tensor]) -> list[Tensor]:
    return tensors


def readable(tensors: list[Tensor]) -> list[Tensor]:
    return tensors


def addcdiv(dst: Tensors, base: Tensors, numerator: Tensors, denominator: Tensors, value: float | Tensor) -> None:
    """dst <- base + value numerator / denominator; ``value`` may be a 0-d tensor (a learning rate under a graph).

    ``dst`` may be of lower precision than the rest; the result is then computed in the precision of the rest.
    """
    if isinstance(value, Tensor) or dst[0].dtype != base[0].dtype:
        step = torch._foreach_div(list(numerator), list(denominator))
        if isinstance(value, Tensor):
            torch._foreach_mul_(step, value.to(step[0]))
        else:
            torch._foreach_mul_(step, value)
        torch._foreach_add_(step, list(base))
        torch._foreach_copy_(list(dst), step)
        return
    if dst is not base:
        torch._foreach_copy_(list(dst), list(base))
    torch._foreach_addcdiv_(list(dst), list(numerator), list(denominator), value)


def noisy_point(dst: Tensors, mean: Tensors, noise: Tensors, s: Tensors, scale: float) -> None:
    addcdiv(dst, mean, noise, torch._foreach_sqrt(list(s)), scale)


def adversarial_point(
    dst: Tensors,
    mean: Tensors,
    gradient: Tensors,
    s: Tensors,
    rho: float,
    *,
    total: list[Tensor] | None,
    room: list[Tensor] | None,
) -> list[Tensor]:
    absolute = list(torch._foreach_abs(list(gradient)))
    if total is not None:
        torch._foreach_add_(total, absolute)
    addcdiv(dst, mean, gradient, s, rho)
    return absolute if total is None else total


def accumulate(total: Tensors, terms: Tensors) -> None:
    torch._foreach_add_(list(total), list(terms))


def update(
    dst: Tensors,
    mean: Tensors,
    s: Tensors,
    momentum: Tensors,
    gradient: Tensors,
    absolute: Tensors,
    by: Coefficients,
) -> None:
    momentum, gradient, s = list(momentum), list(gradient), list(s)
    if by.gradient_scale == 1.0:
        torch._foreach_lerp_(momentum, gradient, 1 - by.beta1)
    else:
        torch._foreach_mul_(momentum, by.beta1)
        torch._foreach_add_(momentum, gradient, alpha=(1 - by.beta1) * by.gradient_scale)
    if by.weight_decay:
        torch._foreach_add_(momentum, list(mean), alpha=(1 - by.beta1) * by.weight_decay)
    if not by.precision_first:
        addcdiv(dst, mean, momentum, s, -by.lr)
    roots = torch._foreach_sqrt(s)
    torch._foreach_mul_(s, by.beta2)
    torch._foreach_add_(s, (1 - by.beta2) * by.offset)
    torch._foreach_addcmul_(s, roots, list(absolute), (1 - by.beta2) * by.absolute_scale)
    if by.precision_first:
        addcdiv(dst, mean, momentum, s, -by.lr)


@cache
def compiled_update() -> Callable[..., None]:
    """`update` through `torch.compile`: one fused kernel a parameter instead of a dozen passes."""
    return torch.compile(update, dynamic=False)
