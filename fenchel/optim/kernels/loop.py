"""Kernels tensor by tensor, with `out=`: the fewest passes over memory that torch's own functions allow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import fenchel.optim.kernels.foreach as foreach
from fenchel.optim.kernels.coefficients import Coefficients
from fenchel.optim.kernels.foreach import held, readable

__all__ = ["accumulate", "adversarial_point", "copy", "held", "keeps_memory", "noisy_point", "readable", "update"]

Tensors = Sequence[Tensor]

keeps_memory: bool = True


def copy(dst: Tensors, src: Tensors) -> None:
    """See `fenchel.optim.kernels.choice.Kernels`; so for all below."""
    for d, t in zip(dst, src, strict=True):
        d.copy_(t)


def noisy_point(dst: Tensors, mean: Tensors, noise: Tensors, s: Tensors, scale: float) -> None:
    if dst[0].dtype != mean[0].dtype:
        foreach.noisy_point(dst, mean, noise, s, scale)
        return
    for d, w, z, t in zip(dst, mean, noise, s, strict=True):
        torch.addcmul(w, z, torch.rsqrt(t, out=d), value=scale, out=d)


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
    absolute = room or [torch.empty_like(g) for g in gradient]
    for a, g in zip(absolute, gradient, strict=True):
        torch.abs(g, out=a)
    if total is not None:
        accumulate(total, absolute)
    _addcdiv(dst, mean, gradient, s, rho)
    return absolute if total is None else total


def _addcdiv(dst: Tensors, base: Tensors, numerator: Tensors, denominator: Tensors, value: float | Tensor) -> None:
    if isinstance(value, Tensor) or dst[0].dtype != base[0].dtype:
        foreach.addcdiv(dst, base, numerator, denominator, value)
        return
    for d, b, n, m in zip(dst, base, numerator, denominator, strict=True):
        torch.addcdiv(b, n, m, value=value, out=d)


def accumulate(total: Tensors, terms: Tensors) -> None:
    for t, term in zip(total, terms, strict=True):
        t.add_(term)


def update(
    dst: Tensors,
    mean: Tensors,
    s: Tensors,
    momentum: Tensors,
    gradient: Tensors,
    absolute: Tensors,
    by: Coefficients,
) -> None:
    scale = (1 - by.beta2) * by.absolute_scale
    addend = torch.full((), (1 - by.beta2) * by.offset, dtype=s[0].dtype, device=s[0].device)
    for d, w, t, m, g, a in zip(dst, mean, s, momentum, gradient, absolute, strict=True):
        if by.gradient_scale == 1.0:
            m.lerp_(g, 1 - by.beta1)
        else:
            m.mul_(by.beta1).add_(g, alpha=(1 - by.beta1) * by.gradient_scale)
        if by.weight_decay:
            m.add_(w, alpha=(1 - by.beta1) * by.weight_decay)
        if not by.precision_first:
            _addcdiv([d], [w], [m], [t], -by.lr)
        spare = d if by.precision_first else w  # the one of the two that is not needed yet, or not any more
        inverse_root = t.rsqrt() if d is w else torch.rsqrt(t, out=spare)
        root = inverse_root.mul_(t)  # with the product, half the time of sqrt
        torch.add(addend, t, alpha=by.beta2, out=t)
        t.addcmul_(root, a, value=scale)
        if by.precision_first:
            _addcdiv([d], [w], [m], [t], -by.lr)
