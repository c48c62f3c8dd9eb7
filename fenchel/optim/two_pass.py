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
from fenchel.optim.amp import LossScale, enabled
from fenchel.optim.closures import Watch, as_closures, mean_loss
from fenchel.optim.distributed import local_gradients, process_group, refuse_inside_zero
from fenchel.optim.hyperparameters import check_group_names, check_params
from fenchel.optim.shards import Shards

__all__ = ["TwoPassOptimizer", "without_gradients"]

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
        refuse_inside_zero(type(self).__name__)
        self._module = module
        self._batch_norm = batch_norm
        self._distributed = distributed
        self._shards = Shards(module)
        self._watch = Watch(type(self).__name__)
        self._open = False
        self._scale: LossScale | None = None
        self._parts = 0
        super().__init__(params, defaults)

    @abstractmethod
    def check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for hyperparameters out of range."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with its own hyperparameters; those it does not name take the optimizer's.

        Raises:
            ValueError: a hyperparameter out of range or misspelt, or parameters that no optimizer here can handle.
        """
        check_group_names(param_group, self.defaults)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self.check_group(group)
            check_params(group["params"])
        except ValueError:
            self.param_groups.pop()
            raise

    def trainable(self) -> list[Tensor]:
        """The parameters that require a gradient, in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

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
        Micro-batches that do not fit in memory together are sub-batches too: a closure for each of them.

        Args:
            closure: a callable, or several.
            grad_scaler: a `torch.amp.GradScaler`, if the closures call ``grad_scaler.scale(loss).backward()``. Call
                ``grad_scaler.update()`` afterwards. A step with an infinity in either pass is skipped.

        Returns:
            The mean over the sub-batches of the losses at the adversarial points, None if the closures return None.

        Raises:
            ValueError: no closure was given. TypeError: a closure returned something else than a loss.
            ClosureError: a closure did not zero the gradients, or not call backward. The weights are as before.
        """
        if closure is None and self._is_priming():
            return self.prime()
        closures = as_closures(closure, type(self).__name__)
        scaler = enabled(grad_scaler)
        self._watch.begin(closures, scaler)
        params = self.trainable()
        if not params:
            raise ValueError(f"{type(self).__name__}.step: no parameter requires a gradient")
        if self._watch.steps == 1:
            self.check_settings(params)
        losses: list[Any] = []
        self.begin(scaler, len(closures))
        try:
            for part, evaluate in enumerate(closures):
                self.first_point()
                self._evaluate(evaluate, params, part, second=False)
                self.second_point()
                losses.append(self._evaluate(evaluate, params, part, second=True))
                self.collect()
        except BaseException:
            self.restore()
            raise
        self.update()
        loss = mean_loss(losses)
        self._watch.finish(loss, scaler)
        return loss

    def check_settings(self, params: list[Tensor]) -> None:
        """Warn, before the first step, of settings that are more likely a mistake."""

    def _is_priming(self) -> bool:
        """Whether torch.distributed.checkpoint asks, by a bare step with lr 0, for the state to be made."""
        return not self.state and all(float(group["lr"]) == 0 for group in self.param_groups)

    @abstractmethod
    def prime(self) -> None:
        """Make the state of a step, and move nothing."""

    def _evaluate(self, closure: Closure, params: list[Tensor], part: int, *, second: bool) -> Any:
        with self._watch.looking(params) as check:
            with self._evaluation(part, second=second):
                loss = closure()
            check(loss)
        return loss

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
        own = ("_module", "_batch_norm", "_distributed", "_shards", "_watch", "_open", "_scale", "_parts")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}
