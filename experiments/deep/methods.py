"""The eight methods behind one face: take a step, follow the schedule, show the mean or a sample of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.deep.config import Config

VECTORIZED = ("mlp", "lenet5")
"""Networks bound by the number of launches on a GPU: their sub-batches are taken at once, for the same step."""


class Method:
    """A method with its optimizer; this base takes one gradient a step, which is what SGD and Adam need."""

    def __init__(self, config: Config, model: nn.Module, optimizer: Any) -> None:
        self.config, self.model, self.optimizer = config, model, optimizer
        self.forward: Callable[[Tensor], Tensor] = model
        """What evaluates the network: the model, or a compiled version of it."""

    def set_lr_factor(self, factor: float) -> None:
        """Set the learning rate of every group to ``factor`` times the configured one."""
        for group in self.optimizer.param_groups:
            lr = self.config.lr * factor
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean cross-entropy, in the precision of the configuration."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            scores = self.forward(x)
        return F.cross_entropy(scores.float() if scores.dtype == torch.bfloat16 else scores, y)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on a minibatch; returns the mean of the losses whose gradients made it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def end_epoch(self, epoch: int) -> None:
        """Called after each epoch."""

    def mean_weights(self, images: Tensor) -> AbstractContextManager[None]:
        """Inside, the model holds the weights of the prediction at the mean."""
        return nullcontext()

    def sampled_weights(self, images: Tensor) -> AbstractContextManager[None]:
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

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        parts = self.config.parts
        pieces = zip(x.tensor_split(parts), y.tensor_split(parts), strict=True)
        loss: Tensor = self.optimizer.step([self._closure(a, b) for a, b in pieces])
        return loss.detach()

    def _closure(self, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
        def evaluate() -> Tensor:
            self.optimizer.zero_grad()
            loss = self.loss(x, y)
            loss.backward()
            return loss

        return evaluate

    def sampled_weights(self, images: Tensor) -> AbstractContextManager[None]:
        return _refreshed(self.optimizer.sampled_params(), self.model, images)


class _TwoPasses(_Closures):
    """bSAM and SAM, which can take all sub-batches at once."""

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        config = self.config
        at_once = x.device.type == "cuda" and config.model in VECTORIZED and len(x) % config.parts == 0
        if config.parts == 1 or not at_once:
            return super().step(x, y)
        from fenchel.optim import functional_loss, split_batch

        loss = functional_loss(self.model, F.cross_entropy, self.optimizer.trainable())
        value: Tensor = self.optimizer.step_vectorized(loss, split_batch((x, y), config.parts))
        return value


class _Vogn(_Closures):
    """VOGN needs the loss of each example as a function of the weights."""

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        from fenchel.optim import per_example_loss

        loss = per_example_loss(self.model, F.cross_entropy, self.optimizer.trainable())
        value: Tensor = self.optimizer.step(loss, (x, y))
        return value


class _Swag(Method):
    """SGD, then one iterate an epoch into SWAG's moments."""

    def __init__(self, config: Config, model: nn.Module, optimizer: Any, swag: Any) -> None:
        super().__init__(config, model, optimizer)
        self.swag = swag

    def end_epoch(self, epoch: int) -> None:
        if epoch >= self.config.swag_epoch:
            self.swag.collect()

    def mean_weights(self, images: Tensor) -> AbstractContextManager[None]:
        return _refreshed(self.swag.mean_params(), self.model, images)

    def sampled_weights(self, images: Tensor) -> AbstractContextManager[None]:
        return _refreshed(self.swag.sampled_params(), self.model, images)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "swag": self.swag.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.swag.load_state_dict(state["swag"])


def build(config: Config, model: nn.Module, num_data: int) -> Method:
    """The method of ``config`` on the weights of ``model``; ``num_data`` is N without the data factor.

    On a GPU learning rates are tensors, so that a captured step follows the schedule.
    """
    return _BUILDERS[config.method](config, model, num_data)


def _lr(config: Config, model: nn.Module) -> float | Tensor:
    device = next(model.parameters()).device
    return torch.tensor(config.lr, device=device) if device.type == "cuda" else config.lr


def _base(config: Config, model: nn.Module, kind: type[torch.optim.Optimizer]) -> dict[str, Any]:
    """The settings of torch's optimizers."""
    settings: dict[str, Any] = {"lr": _lr(config, model), "weight_decay": config.weight_decay}
    captured = isinstance(settings["lr"], Tensor)
    if kind is torch.optim.SGD:
        return {**settings, "momentum": config.momentum, **({"fused": True} if captured else {})}
    more = {"fused": True, "capturable": True} if captured else {}
    return {**settings, "betas": (config.momentum, config.beta2), **more}


def _plain(kind: type[torch.optim.Optimizer]) -> Callable[[Config, nn.Module, int], Method]:
    def make(config: Config, model: nn.Module, num_data: int) -> Method:
        return Method(config, model, kind(model.parameters(), **_base(config, model, kind)))

    return make


def _sam(kind: type[torch.optim.Optimizer]) -> Callable[[Config, nn.Module, int], Method]:
    def make(config: Config, model: nn.Module, num_data: int) -> Method:
        from fenchel.optim import SAM

        settings = _base(config, model, kind)
        return _TwoPasses(config, model, SAM(model.parameters(), kind, config.rho, **settings))

    return make


def _swag(config: Config, model: nn.Module, num_data: int) -> Method:
    from fenchel.optim import SWAG

    optimizer = torch.optim.SGD(model.parameters(), **_base(config, model, torch.optim.SGD))
    return _Swag(config, model, optimizer, SWAG(model.parameters(), max_rank=config.swag_rank, seed=config.seed))


def _bsam(config: Config, model: nn.Module, num_data: int) -> Method:
    from fenchel.optim import BSAM

    optimizer = BSAM(
        model.parameters(),
        rho=config.rho,
        damping=config.damping,
        s_init=config.s_init,
        noise=config.noise,
        sqrt_num_data=config.sqrt_n,
        capturable=next(model.parameters()).is_cuda,
        **_variational(config, model, num_data),
    )
    return _TwoPasses(config, model, optimizer)


def _ivon(config: Config, model: nn.Module, num_data: int) -> Method:
    from fenchel.optim import IVON

    settings = _variational(config, model, num_data)
    optimizer = IVON(model.parameters(), h_init=config.s_init, rescale_lr=False, **settings)
    return _Closures(config, model, optimizer)


def _vogn(config: Config, model: nn.Module, num_data: int) -> Method:
    from fenchel.optim import VOGN

    optimizer = VOGN(
        model.parameters(),
        damping=config.damping,
        h_init=config.s_init,
        samples=config.parts,
        split=True,
        damped_variance=True,
        **_variational(config, model, num_data),
    )
    return _Vogn(config, model, optimizer)


def _variational(config: Config, model: nn.Module, num_data: int) -> dict[str, Any]:
    return {
        "lr": _lr(config, model),
        "num_data": num_data,
        "betas": (config.momentum, config.beta2),
        "weight_decay": config.weight_decay,
        "data_factor": config.data_factor,
        "seed": config.seed,
    }


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
    "sgd": _plain(torch.optim.SGD),
    "adam": _plain(torch.optim.Adam),
    "sam-sgd": _sam(torch.optim.SGD),
    "sam-adam": _sam(torch.optim.Adam),
    "bsam": _bsam,
    "swag": _swag,
    "vogn": _vogn,
    "ivon": _ivon,
}
