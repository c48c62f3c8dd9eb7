"""The skeleton shared by bSAM and SAM: two gradients a sub-batch, averages over sub-batches, one update.

A step is a sequence of four moves, which are public so that a training loop may call them itself:

    begin()                      forget what was collected, remember the mean
    for each sub-batch:
        first_point()            move the weights to where the first gradient is taken
        (forward, backward)
        second_point()           read that gradient, move the weights to the adversarial point
        (forward, backward)
        collect()                read the second gradient, put the mean back
    update()                     average over the sub-batches and update

`step(closure)` and `step([closure_1, ..., closure_m])` run them. Whatever is raised in between, the weights return to
the mean bit for bit, since the mean is kept as a copy and not recomputed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["TwoPassOptimizer"]

Closure = Callable[[], Any]


class TwoPassOptimizer(torch.optim.Optimizer):
    """Base class: the order of the moves, closures, exception safety, averaging of the loss."""

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self._open = False
        super().__init__(params, defaults)

    @abstractmethod
    def begin(self) -> None: ...

    @abstractmethod
    def first_point(self) -> None: ...

    @abstractmethod
    def second_point(self) -> None: ...

    @abstractmethod
    def collect(self) -> None: ...

    @abstractmethod
    def update(self) -> None: ...

    @abstractmethod
    def restore(self) -> None: ...

    def step(self, closure: Closure | Sequence[Closure] | None = None) -> Any:  # type: ignore[override]
        """One step; see the class. Returns the mean over sub-batches of the loss at the adversarial point."""
        closures = as_closures(closure, type(self).__name__)
        losses: list[Any] = []
        self.begin()
        try:
            for part in closures:
                self.first_point()
                with torch.enable_grad():
                    part()
                self.second_point()
                with torch.enable_grad():
                    losses.append(part())
                self.collect()
        except BaseException:
            self.restore()
            raise
        self.update()
        return mean_loss(losses)


def as_closures(closure: Closure | Iterable[Closure] | None, name: str) -> list[Closure]:
    """The closures of one step as a list.

    Raises:
        ValueError: there is none. TypeError: something in the list cannot be called.
    """
    if closure is None:
        raise ValueError(
            f"{name}.step needs a closure that zeroes the gradients, evaluates the loss, calls backward and returns the "
            "loss, because every step takes two gradients (or call begin, first_point, second_point, collect, update)"
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
        return losses[0]
    if all(isinstance(loss, Tensor) for loss in losses):
        return torch.stack([loss.detach() for loss in losses]).mean()
    return sum(float(loss) for loss in losses) / len(losses)
