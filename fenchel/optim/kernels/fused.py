"""Kernels as compiled passes, one for all parameters at once; for what satisfies `fenchel.optim.native.fits`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fenchel.optim import native
from fenchel.optim.kernels.coefficients import Coefficients
from fenchel.optim.kernels.loop import copy

__all__ = ["accumulate", "adversarial_point", "copy", "held", "keeps_memory", "noisy_point", "readable", "update"]

Tensors = Sequence[Tensor]

keeps_memory: bool = True


def held(tensors: list[Tensor]) -> list[Tensor]:
    """See `fenchel.optim.kernels.choice.Kernels`; so for all below."""
    return native.Column(tensors, held=True)


def readable(tensors: list[Tensor]) -> list[Tensor]:
    return native.Column([native.laid_out(t) for t in tensors])


def noisy_point(dst: Tensors, mean: Tensors, noise: Tensors, s: Tensors, scale: float) -> None:
    native.run("noisy_point", (dst, mean, noise, s), (scale,))


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
    out = total or room or [torch.empty_like(g) for g in gradient]
    out = out if isinstance(out, native.Column) else native.Column(out, held=True)
    native.run("adversarial_point", (dst, mean, gradient, s, out), (rho, total is not None))
    return out


def accumulate(total: Tensors, terms: Tensors) -> None:
    native.run("accumulate", (total, terms))


def update(
    dst: Tensors,
    mean: Tensors,
    s: Tensors,
    momentum: Tensors,
    gradient: Tensors,
    absolute: Tensors,
    by: Coefficients,
) -> None:
    new, grown = 1 - by.beta1, 1 - by.beta2
    momentum_terms = (by.beta1, new * by.gradient_scale, new * by.weight_decay)
    precision_terms = (by.beta2, grown * by.absolute_scale, grown * by.offset)
    columns = (dst, mean, s, momentum, gradient, absolute)
    native.run("update", columns, (-float(by.lr), *momentum_terms, *precision_terms, by.precision_first))
