"""The eight methods behind one face: take a step, follow the schedule, show the mean or a sample of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from experiments.deep import distributed
from experiments.deep.config import Config

__all__ = ["Method", "build"]

Piece = tuple[Tensor, Tensor]
LossOf = Callable[[Tensor, Tensor], Tensor]


class Method:
    """A method with its optimizer; this base takes one gradient a step, which is what SGD and Adam need."""

    def __init__(self, config: Config, optimizer: Any) -> None:
        self.config, self.optimizer = config, optimizer
        self.base_lr = config.lr

    def set_lr_factor(self, factor: float) -> None:
        """Set the learning rate of every group to ``factor`` times the configured one."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.base_lr * factor

    def step(self, model: nn.Module, pieces: Sequence[Piece], loss_of: LossOf) -> Tensor:
        """One step on a minibatch cut into sub-batches; returns its mean loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=pieces[0][1].device)
        for x, y in pieces:
            loss = loss_of(x, y) / len(pieces)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        distributed.average_gradients(list(model.parameters()))
        self.optimizer.step()
        return total

    def end_epoch(self, epoch: int) -> None:
        """Called after each epoch."""

    def mean_weights(self, model: nn.Module, images: Tensor) -> AbstractContextManager[None]:
        """Inside, the model holds the weights of the prediction at the mean."""
        return nullcontext()

    def sampled_weights(self, model: nn.Module, images: Tensor) -> AbstractContextManager[None]:
        """Inside, the model holds one sample of the posterior."""
        raise TypeError(f"{self.config.method} has no posterior to sample from")

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue."""
        return self.optimizer.state_dict()  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.optimizer.load_state_dict(state)


class _Closures(Method):
    """Methods whose optimizer evaluates the sub-batches itself, through closures."""

    def step(self, model: nn.Module, pieces: Sequence[Piece], loss_of: LossOf) -> Tensor:
        def closure(x: Tensor, y: Tensor) -> Callable[[], Tensor]:
            def evaluate() -> Tensor:
                self.optimizer.zero_grad()
                loss = loss_of(x, y)
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            return evaluate

        loss: Tensor = self.optimizer.step([closure(x, y) for x, y in pieces])
        return loss.detach()

    def sampled_weights(self, model: nn.Module, images: Tensor) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = self.optimizer.sampled_params()
        return context


def build(config: Config, model: nn.Module, num_data: int) -> Method:
    """The method of ``config`` on the weights of ``model``; ``num_data`` is N without the data factor."""
    return _BUILDERS[config.method](config, model, num_data)


def _sgd(config: Config, model: nn.Module, num_data: int) -> Method:
    settings = {"lr": config.lr, "momentum": config.momentum, "weight_decay": config.weight_decay}
    return Method(config, torch.optim.SGD(model.parameters(), **settings))


def _adam(config: Config, model: nn.Module, num_data: int) -> Method:
    betas = (config.momentum, config.beta2)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, betas=betas, weight_decay=config.weight_decay)
    return Method(config, optimizer)


def _sam(base: type[torch.optim.Optimizer]) -> Callable[[Config, nn.Module, int], Method]:
    def make(config: Config, model: nn.Module, num_data: int) -> Method:
        from fenchel.optim import SAM

        settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
        if base is torch.optim.SGD:
            settings["momentum"] = config.momentum
        else:
            settings["betas"] = (config.momentum, config.beta2)
        return _Closures(config, SAM(model.parameters(), base, config.rho, **_group(model), **settings))

    return make


def _bsam(config: Config, model: nn.Module, num_data: int) -> Method:
    from fenchel.optim import BSAM

    optimizer = BSAM(
        model.parameters(),
        config.lr,
        num_data=num_data,
        rho=config.rho,
        betas=(config.momentum, config.beta2),
        weight_decay=config.weight_decay,
        damping=config.damping,
        s_init=config.s_init,
        noise=config.noise,
        data_factor=config.data_factor,
        sqrt_num_data=config.sqrt_n,
        **_group(model),
    )
    return _Closures(config, optimizer)


def _group(model: nn.Module) -> dict[str, Any]:
    return {"module": model, "distributed": True} if distributed.size() > 1 else {}


_BUILDERS: dict[str, Callable[[Config, nn.Module, int], Method]] = {
    "sgd": _sgd,
    "adam": _adam,
    "sam-sgd": _sam(torch.optim.SGD),
    "sam-adam": _sam(torch.optim.Adam),
    "bsam": _bsam,
}
