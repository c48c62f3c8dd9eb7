"""The learning rules on stacked weights: (seeds, configs, P) states, (parts, seeds, configs, P) gradients.

bSAM's lines are `fenchel.optim.functional` itself; the other rules are written out and tested against the optimizers
of `fenchel.optim` and `torch.optim`. Everything is updated in place, so that a step can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from experiments.deep.config import Config
from fenchel.optim import functional

__all__ = ["Rule", "rule_for"]


@dataclass(frozen=True)
class Hyper:
    """Settings of the configurations as (configs, 1) columns; ``lr`` is overwritten when the schedule moves."""

    lr: Tensor
    rho: Tensor
    decay: Tensor
    beta1: Tensor
    beta2: Tensor
    damping: Tensor
    num_data: Tensor
    noise: Tensor
    factor: Tensor
    base_lr: Tensor

    @classmethod
    def of(cls, configs: Sequence[Config], num_data: int, like: Tensor) -> Hyper:
        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]

        total = [num_data * c.data_factor for c in configs]
        return cls(
            lr=column([c.lr for c in configs]),
            base_lr=column([c.lr for c in configs]),
            rho=column([c.rho for c in configs]),
            decay=column([c.weight_decay for c in configs]),
            beta1=column([c.momentum for c in configs]),
            beta2=column([c.beta2 for c in configs]),
            damping=column([c.damping for c in configs]),
            num_data=column(total),
            noise=column([float(c.noise) for c in configs]),
            factor=column([sqrt(n) if c.sqrt_n else 1.0 for c, n in zip(configs, total, strict=True)]),
        )


class Rule:
    """One method on a block of configurations (of equal ``parts``): where to evaluate, what to do with the gradients.

    ``passes`` gradients are asked for in each step; ``squares`` asks for mean squared per-example gradients too.
    """

    passes = 1
    squares = False
    uses_noise = False

    def __init__(self, configs: Sequence[Config], mean: Tensor, num_data: int) -> None:
        self.configs = list(configs)
        self.parts = configs[0].parts
        self.mean = mean.clone()
        self.hyper = Hyper.of(configs, num_data, mean)
        self.momentum = torch.zeros_like(mean)

    def state(self) -> list[Tensor]:
        """Every tensor a step changes."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    def noise(self) -> Tensor | None:
        """Standard normal numbers of one step (parts, seeds, configs, P)."""
        if not self.uses_noise:
            return None
        return torch.randn(self.parts, *self.mean.shape, dtype=self.mean.dtype, device=self.mean.device)

    def first_points(self, noise: Tensor | None) -> Tensor:
        """Weights of the first evaluation (parts, seeds, configs, P)."""
        return self.mean.expand(self.parts, *self.mean.shape)

    def second_points(self, gradient: Tensor) -> Tensor:
        """Weights of the second evaluation, from the gradient of the first."""
        raise TypeError(f"{type(self).__name__} evaluates once a step")

    def update(self, first: Tensor, second: Tensor | None, squares: Tensor | None, noise: Tensor | None) -> None:
        """Move the state by one step."""
        raise TypeError(f"{type(self).__name__} has no update")

    def center(self) -> Tensor:
        """The weights of the prediction at the mean (seeds, configs, P)."""
        return self.mean

    def sample(self, generator: torch.Generator) -> Tensor:
        """One weight vector a configuration, drawn from its posterior (seeds, configs, P)."""
        raise TypeError(f"{type(self).__name__} has no posterior")

    def end_epoch(self, epoch: int) -> None:
        """Called after the last step of each epoch, outside any captured graph."""

    def _normal(self, generator: torch.Generator, *extra: int) -> Tensor:
        shape = (*extra, *self.mean.shape)
        return torch.randn(shape, dtype=self.mean.dtype, device=self.mean.device, generator=generator)


class SGD(Rule):
    """Heavy-ball SGD with L2 regularization, as torch.optim.SGD."""

    def update(self, first: Tensor, second: Tensor | None, squares: Tensor | None, noise: Tensor | None) -> None:
        gradient = (first if second is None else second).mean(0)
        self.momentum.mul_(self.hyper.beta1).add_(gradient).addcmul_(self.hyper.decay, self.mean)
        self.mean.sub_(self.hyper.lr * self.momentum)


class SamSGD(SGD):
    """SAM over SGD: each sub-batch moves rho along its own normalized gradient."""

    passes = 2

    def second_points(self, gradient: Tensor) -> Tensor:
        return _along_gradient(self.mean, gradient, self.hyper.rho)


class Adam(Rule):
    """Adam with L2 regularization in the gradient, as torch.optim.Adam."""

    def __init__(self, configs: Sequence[Config], mean: Tensor, num_data: int) -> None:
        super().__init__(configs, mean, num_data)
        self.second_moment = torch.zeros_like(mean)
        self.steps = torch.zeros(1, dtype=torch.float64, device=mean.device)

    def update(self, first: Tensor, second: Tensor | None, squares: Tensor | None, noise: Tensor | None) -> None:
        h = self.hyper
        gradient = torch.addcmul((first if second is None else second).mean(0), h.decay, self.mean)
        self.steps.add_(1)
        self.momentum.lerp_(gradient, 1 - h.beta1.expand_as(gradient))
        self.second_moment.mul_(h.beta2).addcmul_(gradient, gradient * (1 - h.beta2))
        first_bias = (1 - h.beta1.double() ** self.steps).to(gradient.dtype)
        second_bias = (1 - h.beta2.double() ** self.steps).to(gradient.dtype)
        denominator = self.second_moment.sqrt().div_(second_bias.sqrt()).add_(1e-8)
        self.mean.sub_(h.lr / first_bias * self.momentum / denominator)


class SamAdam(Adam):
    """SAM over Adam."""

    passes = 2

    def second_points(self, gradient: Tensor) -> Tensor:
        return _along_gradient(self.mean, gradient, self.hyper.rho)


class BSAM(Rule):
    """Algorithm 1."""

    passes = 2
    uses_noise = True

    def __init__(self, configs: Sequence[Config], mean: Tensor, num_data: int) -> None:
        super().__init__(configs, mean, num_data)
        s_init = torch.tensor([c.s_init for c in configs], dtype=mean.dtype, device=mean.device)[:, None]
        self.s = torch.ones_like(mean) * s_init

    def first_points(self, noise: Tensor | None) -> Tensor:
        if noise is None:
            return super().first_points(noise)
        return _moved(self.mean, noise, self.hyper.noise / (self.s * self.hyper.num_data).sqrt())

    def second_points(self, gradient: Tensor) -> Tensor:
        return _moved(self.mean, gradient, self.hyper.rho / self.s)

    def update(self, first: Tensor, second: Tensor | None, squares: Tensor | None, noise: Tensor | None) -> None:
        if second is None:
            raise ValueError("bSAM needs the gradients at both points")
        h = self.hyper
        mean, s, momentum = functional.bsam_update(
            self.mean,
            self.s,
            self.momentum,
            second.mean(0),
            # The mean of sqrt(s)|g| over the sub-batches: s is theirs in common, one reduction serves them all.
            self.s.sqrt() * (torch.linalg.vector_norm(first, 1, dim=0) / len(first)),
            lr=h.lr,
            beta1=h.beta1,
            beta2=h.beta2,
            weight_decay=h.decay,
            damping=h.damping,
            factor=h.factor,
        )
        self.mean.copy_(mean)
        self.s.copy_(s)
        self.momentum.copy_(momentum)

    def sample(self, generator: torch.Generator) -> Tensor:
        return functional.noisy_point(self.mean, self._normal(generator), self.s, self.hyper.num_data)


class VOGN(Rule):
    """Variational online Gauss-Newton: one weight sample a sub-batch, squared per-example gradients as curvature."""

    squares = True
    uses_noise = True

    def __init__(self, configs: Sequence[Config], mean: Tensor, num_data: int) -> None:
        super().__init__(configs, mean, num_data)
        s_init = torch.tensor([c.s_init for c in configs], dtype=mean.dtype, device=mean.device)[:, None]
        self.s = torch.ones_like(mean) * s_init

    def first_points(self, noise: Tensor | None) -> Tensor:
        if noise is None:
            return super().first_points(noise)
        return _moved(self.mean, noise, (self._precision() * self.hyper.num_data).rsqrt())

    def update(self, first: Tensor, second: Tensor | None, squares: Tensor | None, noise: Tensor | None) -> None:
        if squares is None:
            raise ValueError("VOGN needs squared per-example gradients")
        h = self.hyper
        self.momentum.copy_(functional.update_momentum(self.momentum, first.mean(0), self.mean, h.beta1, h.decay))
        self.s.mul_(h.beta2).add_(squares.mean(0) * (1 - h.beta2))
        self.mean.sub_(h.lr * self.momentum / self._precision())

    def sample(self, generator: torch.Generator) -> Tensor:
        return functional.noisy_point(self.mean, self._normal(generator), self._precision(), self.hyper.num_data)

    def _precision(self) -> Tensor:
        return self.s + self.hyper.decay + self.hyper.damping


class IVON(Rule):
    """Improved variational online Newton (Shen et al., 2024): the Hessian from noise times gradient."""

    uses_noise = True

    def __init__(self, configs: Sequence[Config], mean: Tensor, num_data: int) -> None:
        super().__init__(configs, mean, num_data)
        s_init = torch.tensor([c.s_init for c in configs], dtype=mean.dtype, device=mean.device)[:, None]
        self.s = torch.ones_like(mean) * s_init
        self.steps = torch.zeros(1, dtype=torch.float64, device=mean.device)

    def first_points(self, noise: Tensor | None) -> Tensor:
        if noise is None:
            return super().first_points(noise)
        return _moved(self.mean, noise, (self._precision() * self.hyper.num_data).rsqrt())

    def update(self, first: Tensor, second: Tensor | None, squares: Tensor | None, noise: Tensor | None) -> None:
        if noise is None:
            raise ValueError("IVON needs the noise of the step")
        h = self.hyper
        precision = self._precision()
        self.steps.add_(1)
        estimate = (first * noise).mean(0) * (precision * h.num_data).sqrt()
        correction = 0.5 * (1 - h.beta2).square() * (self.s - estimate).square() / precision
        self.momentum.mul_(h.beta1).add_(first.mean(0) * (1 - h.beta1))
        self.s.mul_(h.beta2).add_(estimate * (1 - h.beta2)).add_(correction)
        bias = (1 - h.beta1.double() ** self.steps).to(first.dtype)
        self.mean.sub_(h.lr * (self.momentum / bias + h.decay * self.mean) / self._precision())

    def sample(self, generator: torch.Generator) -> Tensor:
        return functional.noisy_point(self.mean, self._normal(generator), self._precision(), self.hyper.num_data)

    def _precision(self) -> Tensor:
        return self.s + self.hyper.decay


class SWAG(SGD):
    """SGD, then one point an epoch at a constant rate: their mean, variances and deviations (Maddox et al., 2019)."""

    def __init__(self, configs: Sequence[Config], mean: Tensor, num_data: int) -> None:
        super().__init__(configs, mean, num_data)
        if len({(c.swag_epoch, c.swag_rank) for c in configs}) != 1:
            raise ValueError("SWAG configurations of one stack must agree on when they collect and on the rank")
        self.points: list[Tensor] = []

    def end_epoch(self, epoch: int) -> None:
        if epoch >= self.configs[0].swag_epoch:
            self.points.append(self.mean.clone())

    def center(self) -> Tensor:
        return torch.stack(self.points).mean(0)

    def sample(self, generator: torch.Generator) -> Tensor:
        rank = min(self.configs[0].swag_rank, len(self.points))
        points = torch.stack(self.points)
        running = points.cumsum(0) / torch.arange(1, len(points) + 1, device=points.device)[:, None, None, None]
        deviations = (points - running)[-rank:]
        variance = (points.square().mean(0) - points.mean(0).square()).clamp_min(1e-30)
        diagonal = variance.sqrt() * self._normal(generator)
        weights = torch.randn(
            rank, *self.mean.shape[:2], 1, dtype=points.dtype, device=points.device, generator=generator
        )
        low_rank = (deviations * weights).sum(0) / sqrt(max(rank - 1, 1))
        return points.mean(0) + (diagonal + low_rank) / sqrt(2)


def _moved(mean: Tensor, direction: Tensor, scale: Tensor) -> Tensor:
    """``mean + direction * scale`` for every sub-batch; a loop, since contiguous kernels beat broadcasting ones."""
    points = torch.empty_like(direction)
    for point, along in zip(points, direction, strict=True):
        torch.addcmul(mean, along, scale, out=point)
    return points


def _along_gradient(mean: Tensor, gradient: Tensor, rho: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    return mean + gradient * torch.where(norm > 0, rho / norm, torch.zeros_like(norm))


_RULES: dict[str, type[Rule]] = {
    "sgd": SGD,
    "swag": SWAG,
    "sam-sgd": SamSGD,
    "adam": Adam,
    "sam-adam": SamAdam,
    "bsam": BSAM,
    "vogn": VOGN,
    "ivon": IVON,
}


def rule_for(method: str) -> type[Rule]:
    """The stacked rule of ``method``."""
    return _RULES[method]
