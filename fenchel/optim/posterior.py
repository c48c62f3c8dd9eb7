"""The posterior an optimizer has learned: variances, and a context in which the model holds one sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from fenchel.optim.noise import normal_parts
from fenchel.optim.shards import Shards, local

_AWAY: dict[int, Tensor] = {}
"""By their identity, what parameters will hold again when the outermost `held` ends."""


class Marginal(NamedTuple):
    """One parameter's posterior N(mean, variance); ``mean`` is the float32 mean of 16-bit weights."""

    param: Tensor
    mean: Tensor
    variance: Tensor


@contextmanager
def held(params: list[Tensor], values: list[Tensor], shards: Shards | None = None) -> Iterator[None]:
    """Inside, the parameters hold ``values``; afterwards, come what may, what they held before, bit for bit.

    Args:
        params: parameters. values: the parts of them at hand. shards: how they are divided over processes.
    """
    shards = Shards() if shards is None else shards
    before = [local(p.detach()).clone() for p in params]
    away = {id(p): value for p, value in zip(params, before, strict=True) if id(p) not in _AWAY}
    _AWAY.update(away)
    try:
        shards.assign(params, values)
        yield
    finally:
        shards.assign(params, before)
        for key in away:
            del _AWAY[key]


def mean_of(param: Tensor) -> Tensor:
    """The weights outside of any `held`."""
    return _AWAY.get(id(param), param.detach())


def check_steppable(params: list[Tensor], name: str) -> None:
    """Raise ValueError if there is no parameter; RuntimeError inside `held`: a step is lost there, an iterate none."""
    if not params:
        raise ValueError(f"{name}.step: no parameter requires a gradient")
    if _AWAY and any(id(p) in _AWAY for p in params):
        raise RuntimeError(
            f"{name} must be used outside of sampled_params() and mean_params(), at whose end the weights return"
        )


class DiagonalPosterior:
    """What `BSAM`, `VOGN` and `IVON` share: a diagonal Gaussian around the weights."""

    _shards: Shards

    @abstractmethod
    def marginals(self) -> list[Marginal]:
        """(param, mean, variance) of every parameter of the posterior, in the order of the groups."""

    def sampling_noise(self, params: list[Tensor], generator: torch.Generator | None) -> list[Tensor]:
        """Standard normals for the parts of ``params`` at hand, in the precision of the mean."""
        return normal_parts(params, self._shards, lambda device: generator)

    @torch.no_grad()
    def posterior_variance(self) -> list[Tensor]:
        """sigma^2 of every parameter of the posterior, in the order of the groups, in the parameter's shape."""
        return [marginal.variance for marginal in self.marginals()]

    def mean_params(self) -> AbstractContextManager[None]:
        """Inside, the model holds the mean; afterwards what it held before, bit for bit."""
        marginals = self.marginals()
        return held([q.param for q in marginals], [local(q.mean) for q in marginals], self._shards)

    @torch.no_grad()
    def sampled_params(self, generator: torch.Generator | None = None) -> AbstractContextManager[None]:
        """Inside, the model holds one sample of the posterior; afterwards the mean again, bit for bit.

        Args:
            generator: where the sample comes from. Without one, a stream of the optimizer's own, apart from the
                stream of the training noise, so that evaluating a model does not change how it trains on.
        """
        marginals = self.marginals()
        if not marginals:
            raise ValueError("there is no posterior to sample: no parameter requires a gradient or was trained")
        params = [marginal.param for marginal in marginals]
        noise = self.sampling_noise(params, generator)
        values = [local(q.mean) + z * local(q.variance).sqrt() for q, z in zip(marginals, noise, strict=True)]
        return held(params, values, self._shards)
