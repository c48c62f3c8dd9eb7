"""In-place kernels over lists of tensors: one loop with `out=` (least memory traffic) and one of foreach launches.

The loop is for large tensors on CPUs, where every pass over memory counts; foreach is for accelerators and for small
tensors, where every call counts. Both compute the same elementwise expressions as `functional`. ``dst`` may be of
lower precision than the rest (bfloat16 weights with a float32 mean); the result is then computed in the precision of
the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

__all__ = ["accumulate", "addcdiv", "copy", "magnitude", "prefers_foreach", "square_root", "update", "update_kernel"]

Tensors = Sequence[Tensor]


SMALL = 1 << 14
"""Tensors smaller than this on average are bound by the number of calls, even on a CPU."""


def prefers_foreach(params: Tensors) -> bool:
    """Whether foreach is likely to be the faster of the two for these parameters."""
    return params[0].device.type != "cpu" or sum(p.numel() for p in params) < SMALL * len(params)


def copy(dst: Tensors, src: Tensors, *, foreach: bool) -> None:
    """dst <- src, with a cast where the precisions differ."""
    if foreach:
        torch._foreach_copy_(list(dst), list(src))
        return
    for d, t in zip(dst, src, strict=True):
        d.copy_(t)


def addcdiv(
    dst: Tensors, base: Tensors, numerator: Tensors, denominator: Tensors, value: float | Tensor, *, foreach: bool
) -> None:
    """dst <- base + value numerator / denominator; ``value`` may be a 0-d tensor (a learning rate under a graph)."""
    if isinstance(value, Tensor) or dst[0].dtype != base[0].dtype:
        step = torch._foreach_div(list(numerator), list(denominator))
        if isinstance(value, Tensor):
            torch._foreach_mul_(step, value.to(step[0]))
        else:
            torch._foreach_mul_(step, value)
        torch._foreach_add_(step, list(base))
        torch._foreach_copy_(list(dst), step)
    elif foreach:
        if dst is not base:
            torch._foreach_copy_(list(dst), list(base))
        torch._foreach_addcdiv_(list(dst), list(numerator), list(denominator), value)
    else:
        for d, b, n, m in zip(dst, base, numerator, denominator, strict=True):
            torch.addcdiv(b, n, m, value=value, out=d)


def square_root(s: Tensors, *, foreach: bool) -> list[Tensor]:
    """sqrt(s), freshly allocated."""
    return list(torch._foreach_sqrt(list(s))) if foreach else [t.sqrt() for t in s]


def magnitude(total: list[Tensor] | None, gradient: Tensors, *, foreach: bool) -> list[Tensor]:
    """total + |gradient|, in place once there is a total; the sum of |g| over sub-batches, in float32 or better."""
    absolute = list(torch._foreach_abs(list(gradient))) if foreach else [g.abs() for g in gradient]
    if total is None:
        return absolute
    return accumulate(total, absolute, foreach=foreach)


def accumulate(total: list[Tensor], terms: Tensors, *, foreach: bool) -> list[Tensor]:
    """total + terms, in place."""
    if foreach:
        torch._foreach_add_(total, list(terms))
    else:
        for t, term in zip(total, terms, strict=True):
            t.add_(term)
    return total


def update(
    dst: list[Tensor],
    mean: list[Tensor],
    s: list[Tensor],
    momentum: list[Tensor],
    root: list[Tensor],
    gradient: list[Tensor],
    absolute: list[Tensor],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    offset: float,
    gradient_scale: float,
    absolute_scale: float,
    precision_first: bool,
    foreach: bool,
) -> None:
    """Lines 7 to 9 of Algorithm 1 in place, for parameters that share their hyperparameters.

    Args:
        dst: where omega goes: the weights, or ``mean`` itself (then the caller copies to low-precision weights).
        mean, s, momentum, root: omega, s, g_m and sqrt(s) before the step.
        gradient, absolute: sums over the sub-batches of g_eps and of |g|; ``gradient_scale`` and ``absolute_scale``
            make averages of them (and undo a loss scale), ``absolute_scale`` also carries the optional factor sqrt(N).
        offset: delta + gamma.
    """
    if foreach:
        if gradient_scale == 1.0:
            torch._foreach_lerp_(momentum, gradient, 1 - beta1)
        else:
            torch._foreach_mul_(momentum, beta1)
            torch._foreach_add_(momentum, gradient, alpha=(1 - beta1) * gradient_scale)
        if weight_decay:
            torch._foreach_add_(momentum, mean, alpha=(1 - beta1) * weight_decay)
    else:
        for m, g, w in zip(momentum, gradient, mean, strict=True):
            if gradient_scale == 1.0:
                m.lerp_(g, 1 - beta1)
            else:
                m.mul_(beta1).add_(g, alpha=(1 - beta1) * gradient_scale)
            if weight_decay:
                m.add_(w, alpha=(1 - beta1) * weight_decay)
    if not precision_first:
        addcdiv(dst, mean, momentum, s, -lr, foreach=foreach)
    scale = (1 - beta2) * absolute_scale
    if foreach:
        torch._foreach_mul_(s, beta2)
        torch._foreach_add_(s, (1 - beta2) * offset)
        torch._foreach_addcmul_(s, root, absolute, scale)
    else:
        constant = torch.full((), (1 - beta2) * offset, dtype=s[0].dtype)
        for t, r, a in zip(s, root, absolute, strict=True):
            torch.add(constant if t.device.type == "cpu" else constant.to(t.device), t, alpha=beta2, out=t)
            t.addcmul_(r, a, value=scale)
    if precision_first:
        addcdiv(dst, mean, momentum, s, -lr, foreach=foreach)


@cache
def update_kernel(compiled: bool) -> Callable[..., None]:
    """`update`, as it is or through `torch.compile`: one fused kernel a parameter instead of a dozen passes."""
    return torch.compile(update, dynamic=False) if compiled else update
