"""The skeleton shared by bSAM and SAM: two gradients a sub-batch, averages over sub-batches, one update.

A step is a sequence of moves, which are public so that a training loop may make them itself:

    begin()                      remember the mean
    for each sub-batch:
        first_point()            move the weights to where the first gradient is taken
        (zero the gradients, forward, backward)
        second_point()           read that gradient, move the weights to the adversarial point
        (zero the gradients, forward, backward)
        collect()                read the second gradient
    update()                     average over the sub-batches and update the mean; or restore() to give the step up

`step(closure)` and `step([closure_1, ..., closure_m])` make them. Whatever is raised in between, the weights return
to the mean bit for bit, since the mean is kept as a copy and not recomputed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from fenchel.optim import batch_norm as bn
from fenchel.optim.distributed import local_gradients, process_group

__all__ = ["TwoPassOptimizer", "as_closures", "mean_loss", "without_gradients"]

Closure = Callable[[], Any]
P = ParamSpec("P")
R = TypeVar("R")


def without_gradients(move: Callable[P, R]) -> Callable[P, R]:
    """As `torch.no_grad()` for a move; costs nothing within `step`, which has switched gradients off already."""

    @wraps(move)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_grad_enabled():
            return move(*args, **kwargs)
        with torch.no_grad():
            return move(*args, **kwargs)

    return wrapped


class TwoPassOptimizer(torch.optim.Optimizer):
    """Base class: order of the moves, closures, exception safety, batch norm, processes.

    Args:
        params: parameters or group dictionaries.
        defaults: hyperparameters of a group.
        module: the network; needed for ``batch_norm`` other than "both", and for a module with `no_sync`.
        batch_norm: see `fenchel.optim.batch_norm.BatchNormPolicy`.
        distributed: True or a process group: sum what the sub-batches of all ranks contribute.
    """

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        module: nn.Module | None = None,
        batch_norm: str = "both",
        distributed: Any = False,
    ) -> None:
        bn.check_policy(batch_norm, module)
        process_group(distributed)
        self._module = module
        self._batch_norm = batch_norm
        self._distributed = distributed
        self._open = False
        self._scaler: Any = None
        self._overflow = False
        self._parts = 0
        super().__init__(params, defaults)

    @abstractmethod
    def begin(self, grad_scaler: Any = None, parts: int | None = None) -> None:
        """Start a step of ``parts`` sub-batches (None: not known yet), whose losses ``grad_scaler`` scales."""

    @abstractmethod
    def first_point(self) -> None:
        """Move the weights to the point of the first gradient of the next sub-batch."""

    @abstractmethod
    def second_point(self) -> None:
        """Read the first gradient and move the weights to the adversarial point."""

    @abstractmethod
    def collect(self) -> None:
        """Read the gradient at the adversarial point."""

    @abstractmethod
    def update(self) -> None:
        """Average over the sub-batches and update the mean."""

    @abstractmethod
    def restore(self) -> None:
        """Give the step up: put the mean back, forget what was collected."""

    @_disable_dynamo  # called from a compiled function, it runs as it is: closures call backward and may raise
    @without_gradients
    def step(self, closure: Closure | Iterable[Closure] | None = None, *, grad_scaler: Any = None) -> Any:
        """One step from a closure, or from one closure for each sub-batch (m-sharpness).

        A closure zeroes the gradients, evaluates the loss, calls backward and returns the loss; each is called twice.

        Args:
            closure: a callable, or several.
            grad_scaler: a `torch.amp.GradScaler`, if the closures call ``grad_scaler.scale(loss).backward()``. Call
                ``grad_scaler.update()`` afterwards. A step with an infinity in either pass is skipped.

        Returns:
            The mean over the sub-batches of the losses at the adversarial points, None if the closures return None.

        Raises:
            ValueError: no closure was given.
        """
        closures = as_closures(closure, type(self).__name__)
        losses: list[Any] = []
        self.begin(grad_scaler, len(closures))
        try:
            for part, evaluate in enumerate(closures):
                self.first_point()
                with self._evaluation(part, second=False):
                    loss = evaluate()
                self.second_point()
                if self._overflow:
                    losses.append(loss)
                    break
                with self._evaluation(part, second=True):
                    losses.append(evaluate())
                self.collect()
        except BaseException:
            self.restore()
            raise
        self.update()
        return mean_loss(losses)

    def _evaluation(self, part: int, *, second: bool) -> AbstractContextManager[Any]:
        module = self._module
        return torch.enable_grad() if module is None else self._evaluation_of(module, part, second=second)

    @contextmanager
    def _evaluation_of(self, module: nn.Module, part: int, *, second: bool) -> Iterator[None]:
        moves = bn.moves_statistics(self._batch_norm, part, second)
        local = local_gradients(module if self._distributed is not False else None)
        with torch.enable_grad(), nullcontext() if moves else bn.frozen_statistics(module), local:
            yield

    def _started(self, what: str) -> None:
        if not self._open:
            raise RuntimeError(f"{type(self).__name__}.{what} was called outside a step; call begin first")

    def __getstate__(self) -> dict[str, Any]:
        own = ("_module", "_batch_norm", "_distributed", "_open", "_scaler", "_overflow", "_parts")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}


def as_closures(closure: Closure | Iterable[Closure] | None, name: str) -> list[Closure]:
    """The closures of one step as a list.

    Raises:
        ValueError: there is none. TypeError: something in the list cannot be called.
    """
    if closure is None:
        raise ValueError(
            f"{name}.step needs a closure that zeroes the gradients, evaluates the loss, calls backward and returns "
            "the loss, because every step takes two gradients (or make the moves begin, first_point, ... yourself)"
        )
    closures = [closure] if callable(closure) else list(closure)
    if not closures:
        raise ValueError(f"{name}.step got an empty list of closures; it needs one for each sub-batch")
    for part in closures:
        if not callable(part):
            raise TypeError(f"{name}.step needs callables, got {type(part).__name__}")
    return closures


def mean_loss(losses: list[Any]) -> Any:
    """The mean of what the closures returned; None if any returned None."""
    if any(loss is None for loss in losses):
        return None
    if len(losses) == 1:
        return losses[0].detach() if isinstance(losses[0], Tensor) else losses[0]
    if all(isinstance(loss, Tensor) for loss in losses):
        return torch.stack([loss.detach() for loss in losses]).mean()
    return sum(float(loss) for loss in losses) / len(losses)
