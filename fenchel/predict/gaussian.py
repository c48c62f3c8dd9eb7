"""A diagonal Gaussian over a network's weights that belongs to no optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fenchel.metrics import as_numbers
from fenchel.optim.hyperparameters import trainable
from fenchel.optim.noise import work_dtype
from fenchel.optim.posterior import DiagonalPosterior, Marginal
from fenchel.optim.shards import Shards


class DiagonalGaussian(DiagonalPosterior):
    """N(mean, diag(variance)) over parameters.

    Args:
        params: a module (its parameters that require a gradient) or parameters.
        mean: flat (P,), in the order of the parameters, or a tensor for each; None takes the present weights.
        variance: flat (P,), a tensor for each, or one number.

    Raises:
        ValueError: sizes do not fit, or a variance is negative or not finite.
    """

    def __init__(self, params: nn.Module | Iterable[Tensor], mean: Any = None, variance: Any = 0.0) -> None:
        self._params = trainable(params)
        self._shards = Shards()
        self._mean = (
            [p.detach().clone() for p in self._params] if mean is None else split_like(mean, self._params, "mean")
        )
        self._variance = split_like(variance, self._params, "variance")
        for tensors, name in ((self._mean, "mean"), (self._variance, "variance")):
            if not all(bool(torch.isfinite(t).all()) for t in tensors):
                raise ValueError(f"{name} must be finite")
        if not all(bool((v >= 0).all()) for v in self._variance):
            raise ValueError("variance must not be negative")

    def trainable(self) -> list[Tensor]:
        """The parameters the Gaussian is over."""
        return list(self._params)

    def marginals(self) -> list[Marginal]:
        """(param, mean, variance) of every parameter."""
        return [Marginal(*each) for each in zip(self._params, self._mean, self._variance, strict=True)]


def split_like(values: Any, params: Sequence[Tensor], name: str) -> list[Tensor]:
    """``values``, one number, flat or one for each parameter, as copies shaped like ``params``, in at least float32.

    Raises:
        ValueError: they do not fit, or are no numbers.
    """
    if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
        pieces = list(values)
        if [tuple(v.shape) for v in pieces] != [tuple(p.shape) for p in params]:
            raise ValueError(f"{name} must have one tensor shaped like each parameter")
    else:
        flat, total = as_numbers(values, name), sum(p.numel() for p in params)
        if flat.dim() == 0:
            flat = flat.expand(total)
        if flat.shape != (total,):
            raise ValueError(f"{name} must have shape ({total},), one entry a parameter, got {tuple(flat.shape)}")
        pieces = [v.view_as(p) for v, p in zip(torch.split(flat, [p.numel() for p in params]), params, strict=True)]
    pairs = zip(pieces, params, strict=True)
    return [v.detach().to(device=p.device, dtype=work_dtype(p), copy=True) for v, p in pairs]
