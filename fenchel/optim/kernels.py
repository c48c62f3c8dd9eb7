"""In-place kernels over lists of tensors: one loop with `out=` (least memory traffic) and one of foreach launches.

The loop is for CPUs, where every pass over memory counts; foreach is for accelerators, where every launch counts. Both
compute the same elementwise expressions as `functional`. ``dst`` may be of
lower precision than the rest (bfloat16 weights with a float32 mean); the result is then computed in the precision of
the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

__all__ = ["accumulate", "addcdiv", "copy", "magnitude", "noisy_point", "prefers_foreach", "update", "update_kernel"]

Tensors = Sequence[Tensor]


def prefers_foreach(params: Tensors) -> bool:
    """Whether foreach is likely to be the faster of the two for these parameters, all on one device."""
    return params[0].device.type != "cpu"


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


def noisy_point(dst: Tensors, mean: Tensors, noise: Tensors, s: Tensors, value: float, *, foreach: bool) -> None:
    """dst <- mean + value noise / sqrt(s)."""
    if foreach or dst[0].dtype != mean[0].dtype:
        addcdiv(dst, mean, noise, torch._foreach_sqrt(list(s)), value, foreach=foreach)
        return
    for d, w, z, t in zip(dst, mean, noise, s, strict=True):
        torch.addcmul(w, z, torch.rsqrt(t, out=d), value=value, out=d)


def magnitude(gradient: Tensors, out: list[Tensor] | None = None) -> list[Tensor]:
    """|gradient|, in ``out`` if that is given."""
    if out is None:
        return list(torch._foreach_abs(list(gradient)))
    for a, g in zip(out, gradient, strict=True):
        torch.abs(g, out=a)
    return out


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
        mean, s, momentum: omega, s and g_m before the step; ``mean`` may serve as scratch memory.
        gradient, absolute: sums over the sub-batches of g_eps and of |g|; ``gradient_scale`` and ``absolute_scale``
            make averages of them (and undo a loss scale), ``absolute_scale`` also carries the optional factor sqrt(N).
        offset: delta + gamma.
    """
    scale, constant = (1 - beta2) * absolute_scale, (1 - beta2) * offset
    if foreach:
        if gradient_scale == 1.0:
            torch._foreach_lerp_(momentum, gradient, 1 - beta1)
        else:
            torch._foreach_mul_(momentum, beta1)
            torch._foreach_add_(momentum, gradient, alpha=(1 - beta1) * gradient_scale)
        if weight_decay:
            torch._foreach_add_(momentum, mean, alpha=(1 - beta1) * weight_decay)
        if not precision_first:
            addcdiv(dst, mean, momentum, s, -lr, foreach=True)
        roots = torch._foreach_sqrt(s)
        torch._foreach_mul_(s, beta2)
        torch._foreach_add_(s, constant)
        torch._foreach_addcmul_(s, roots, absolute, scale)
        if precision_first:
            addcdiv(dst, mean, momentum, s, -lr, foreach=True)
        return
    addend = torch.full((), constant, dtype=s[0].dtype, device=s[0].device)

    def move(d: Tensor, w: Tensor, m: Tensor, t: Tensor) -> None:
        if isinstance(lr, Tensor) or d.dtype != w.dtype:
            addcdiv([d], [w], [m], [t], -lr, foreach=False)
        else:
            torch.addcdiv(w, m, t, value=-lr, out=d)

    for d, w, t, m, g, a in zip(dst, mean, s, momentum, gradient, absolute, strict=True):
        if gradient_scale == 1.0:
            m.lerp_(g, 1 - beta1)
        else:
            m.mul_(beta1).add_(g, alpha=(1 - beta1) * gradient_scale)
        if weight_decay:
            m.add_(w, alpha=(1 - beta1) * weight_decay)
        if not precision_first:
            move(d, w, m, t)
        spare = d if precision_first else w  # the one of the two that is not needed yet, or not any more
        inverse_root = t.rsqrt() if d is w else torch.rsqrt(t, out=spare)
        root = inverse_root.mul_(t)  # with the product, half the time of sqrt
        torch.add(addend, t, alpha=beta2, out=t)
        t.addcmul_(root, a, value=scale)
        if precision_first:
            move(d, w, m, t)


@cache
def update_kernel(compiled: bool) -> Callable[..., None]:
    """`update`, as it is or through `torch.compile`: one fused kernel a parameter instead of a dozen passes."""
    return torch.compile(update, dynamic=False) if compiled else update
