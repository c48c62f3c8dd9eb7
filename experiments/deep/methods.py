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
            loss.backward()
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
                loss.backward()
                return loss

            return evaluate

        loss: Tensor = self.optimizer.step([closure(x, y) for x, y in pieces])
        return loss.detach()

    def sampled_weights(self, model: nn.Module, images: Tensor) -> AbstractContextManager[None]:
        return _refreshed(self.optimizer.sampled_params(), model, images)


def build(config: Config, model: nn.Module, num_data: int) -> Method:
    """The method of ``config`` on the weights of ``model``; ``num_data`` is N without the data factor."""
    return _BUILDERS[config.method](config, model, num_data)


def _sgd(config: Config, model: nn.Module, num_data: int) -> Method:
    settings: dict[str, Any] = {"lr": config.lr, "momentum": config.momentum, "weight_decay": config.weight_decay}
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


class _Swag(Method):
    """SGD, then one iterate an epoch into SWAG's moments."""

    def __init__(self, config: Config, optimizer: Any, swag: Any) -> None:
        super().__init__(config, optimizer)
        self.swag = swag

    def end_epoch(self, epoch: int) -> None:
        if epoch >= self.config.swag_epoch:
            self.swag.collect()

    def mean_weights(self, model: nn.Module, images: Tensor) -> AbstractContextManager[None]:
        return _refreshed(self.swag.mean_params(), model, images)

    def sampled_weights(self, model: nn.Module, images: Tensor) -> AbstractContextManager[None]:
        return _refreshed(self.swag.sampled_params(), model, images)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "swag": self.swag.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.swag.load_state_dict(state["swag"])


def _swag(config: Config, model: nn.Module, num_data: int) -> Method:
    from fenchel.optim import SWAG

    return _Swag(config, _sgd(config, model, num_data).optimizer, SWAG(model.parameters(), max_rank=config.swag_rank))


def _ivon(config: Config, model: nn.Module, num_data: int) -> Method:
    from fenchel.optim import IVON

    optimizer = IVON(
        model.parameters(),
        config.lr,
        num_data=num_data,
        betas=(config.momentum, config.beta2),
        weight_decay=config.weight_decay,
        h_init=config.s_init,
        rescale_lr=False,
        data_factor=config.data_factor,
    )
    return _Closures(config, optimizer)


def _vogn(config: Config, model: nn.Module, num_data: int) -> Method:
    from experiments.deep.split_vogn import SplitVOGN

    optimizer = SplitVOGN(
        model.parameters(),
        config.lr,
        num_data=num_data,
        betas=(config.momentum, config.beta2),
        weight_decay=config.weight_decay,
        damping=config.damping,
        h_init=config.s_init,
        data_factor=config.data_factor,
    )
    return _Vogn(config, optimizer)


class _Vogn(_Closures):
    """VOGN needs the loss of each example as a function of the weights."""

    def step(self, model: nn.Module, pieces: Sequence[Piece], loss_of: LossOf) -> Tensor:
        from fenchel.optim import per_example_loss

        loss = per_example_loss(model, torch.nn.functional.cross_entropy, self.optimizer.trainable())
        total: Tensor = self.optimizer.step_parts(loss, pieces)
        return total


@contextmanager
def _refreshed(weights: AbstractContextManager[None], model: nn.Module, images: Tensor) -> Iterator[None]:
    """Batch normalization statistics belong to the weights: recomputed for these, restored afterwards."""
    from fenchel.optim import reestimate_statistics

    with weights:
        if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            yield
            return
        buffers = [(b, b.clone()) for b in model.buffers()]
        try:
            reestimate_statistics(model, images.split(200), max_batches=50)
            yield
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)


_BUILDERS: dict[str, Callable[[Config, nn.Module, int], Method]] = {
    "sgd": _sgd,
    "adam": _adam,
    "sam-sgd": _sam(torch.optim.SGD),
    "sam-adam": _sam(torch.optim.Adam),
    "bsam": _bsam,
    "swag": _swag,
    "vogn": _vogn,
    "ivon": _ivon,
}
