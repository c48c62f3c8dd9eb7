"""What a closure must do, checked while it runs: zero the gradients, evaluate, call backward, return the loss.

None of the checks waits for an accelerator, but for those that a step makes whose number is a power of two.
"""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor

from fenchel.optim.cuda_graph import capturing

__all__ = ["ClosureError", "SettingsWarning", "Watch", "as_closures", "check_loss", "mean_loss"]

Closure = Callable[[], Any]

LARGE_LOSS = 25.0
"""A mean cross entropy over C classes begins near log C: above this a loss is likely a sum over the minibatch."""


class ClosureError(RuntimeError):
    """A closure did not do what a step needs of it; the weights are as before the step."""


class SettingsWarning(UserWarning):
    """Settings or losses that are allowed, and are more likely a mistake."""


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


def check_loss(loss: Any, name: str) -> None:
    """Raise TypeError unless ``loss`` is a number, a tensor or None."""
    if not (loss is None or isinstance(loss, Tensor | int | float) or hasattr(loss, "__float__")):
        raise TypeError(
            f"the closure of {name}.step must return the loss as a tensor or a number, got {type(loss).__name__}; "
            "return the loss alone"
        )


def mean_loss(losses: Sequence[Any]) -> Any:
    """The mean of what the closures returned; None if any returned None."""
    if any(loss is None for loss in losses):
        return None
    if len(losses) == 1:
        return losses[0].detach() if isinstance(losses[0], Tensor) else losses[0]
    if all(isinstance(loss, Tensor) for loss in losses):
        return torch.stack([loss.detach() for loss in losses]).mean()
    return sum(float(loss) for loss in losses) / len(losses)


class Watch:
    """Looks at the gradients before and after a closure, and at the losses it returns.

    Args:
        name: of the optimizer, for the messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps = 0
        self._unused: list[Any] = []
        self._warned: set[str] = set()

    def begin(self, closures: Sequence[Closure], scaler: Any) -> None:
        """Before a step: what can be seen from the closures alone.

        Raises:
            ClosureError: Accelerate accumulates gradients.
        """
        self.steps += 1
        self._unused = []
        if self.steps == 1 and scaler is None:
            scalers = _scalers(closures)
            self._unused = [s for s in scalers if s._scale is None]
            if len(self._unused) < len(scalers):
                self.warn(
                    "scaler",
                    "the closure sees a GradScaler that is in use: if the closure scales its loss by it, call "
                    f"{self.name}.step(closure, grad_scaler=scaler), then scaler.update()",
                )
        accelerate = sys.modules.get("accelerate.state")
        state = None if accelerate is None else accelerate.GradientState
        if state is not None and state._shared_state and state().num_steps > 1:
            raise ClosureError(
                f"Accelerate's accumulate() skips steps and so loses batches that {self.name} never sees: set "
                "gradient_accumulation_steps=1 and pass step one closure for each micro-batch"
            )

    @contextmanager
    def looking(self, params: Sequence[Tensor]) -> Iterator[Callable[[Any], None]]:
        """Around a closure: yields what is to be called with the loss that it returned.

        A gradient that was there before is known by an attribute (identities may be used again). If the first
        backward pass adds to it, as its version tells, nobody has zeroed it, whatever is done to it later. What a
        closure does wrong it does from the beginning: later steps are looked at now and then.

        Raises (when called):
            ClosureError: the gradients did not change, or were added to earlier ones, or the loss was scaled by a
                `GradScaler` that the step does not know. TypeError: not a loss.
        """
        look = self.steps <= 8 or self.steps & (self.steps - 1) == 0
        old = {p: p.grad for p in params if p.grad is not None} if look else {}
        versions = {p: g._version for p, g in old.items()}
        for g in old.values():
            g._watched = True  # type: ignore[attr-defined]
        added: list[bool] = []
        seen: set[Tensor] = set()

        def accumulated(p: Tensor) -> None:
            if p not in seen:
                seen.add(p)
                added.append(getattr(p.grad, "_watched", False) and p.grad._version == versions[p] + 1)  # type: ignore[union-attr]

        def check(loss: Any) -> None:
            check_loss(loss, self.name)
            if not look:
                return
            if any(scaler._scale is not None for scaler in self._unused):
                raise ClosureError(
                    f"the closure scales its loss by a GradScaler that {self.name}.step does not know: call "
                    "step(closure, grad_scaler=scaler), then scaler.update()"
                )
            if loss is not None and not any(
                (p.grad is not None) if p not in old else p.grad is not old[p] or old[p]._version != versions[p]
                for p in params
            ):
                raise ClosureError(
                    f"the closure of {self.name}.step returned a loss but computed no gradient: call loss.backward()"
                )
            if any(added):
                raise ClosureError(
                    f"the closure of {self.name}.step added its gradient to an earlier one: call zero_grad() in it. "
                    "To accumulate over micro-batches pass step one closure for each of them, or one closure that "
                    "zeroes once and evaluates them all (in Lightning: accumulate_grad_batches=1)"
                )

        hooks = [p.register_post_accumulate_grad_hook(accumulated) for p in old]
        try:
            yield check
        finally:
            for hook in hooks:
                hook.remove()

    def finish(self, loss: Any, scaler: Any) -> None:
        """After a step: warn, once, of losses that are not numbers, or look like sums."""
        on_host = not (isinstance(loss, Tensor) and loss.device.type != "cpu")
        if loss is None or not (on_host or self.steps & (self.steps - 1) == 0):
            return
        if isinstance(loss, Tensor) and (loss.is_meta or torch.compiler.is_compiling() or capturing(loss.device)):
            return
        value = float(loss) if not isinstance(loss, Tensor) or loss.numel() == 1 else float(loss.detach().mean())
        if not math.isfinite(value):
            if scaler is None:
                what = "NaN" if math.isnan(value) else "infinite"
                self.warn("nan", f"the loss of {self.name}.step is {what}: lower lr or rho, or look for a bad example")
        elif self.steps == 1 and value > LARGE_LOSS:
            self.warn(
                "large",
                f"the first loss of {self.name}.step is {value:.3g}: it should be the mean over the minibatch, not a "
                "sum nor scaled, since rho, weight_decay and num_data are meant for a mean",
            )

    def warn(self, kind: str, message: str) -> None:
        """Warn once of each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, SettingsWarning, stacklevel=2)


def _scalers(closures: Sequence[Closure]) -> list[Any]:
    """The enabled `GradScaler`s that the closures can reach: as variables, attributes or arguments, or in helpers."""
    found: dict[int, Any] = {}
    seen: set[int] = set()
    at_hand: list[Any] = list(closures)
    for _ in range(4):
        following: list[Any] = []
        for value in at_hand:
            if id(value) in seen or isinstance(value, Tensor | ModuleType | type):
                continue
            seen.add(id(value))
            if isinstance(value, torch.amp.GradScaler):
                if value.is_enabled():
                    found[id(value)] = value
            elif isinstance(value, FunctionType):
                names = inspect.getclosurevars(value)
                following += [*names.nonlocals.values(), *names.globals.values()]
            elif isinstance(value, MethodType):
                following += [value.__func__, value.__self__]
            elif isinstance(value, partial):
                following += [value.func, *value.args, *value.keywords.values()]
            elif isinstance(value, dict | list | tuple):
                following += list(value.values()) if isinstance(value, dict) else list(value)
            else:
                following += list(getattr(value, "__dict__", {}).values())
                following.append(type(value).__dict__.get("__call__"))
        at_hand = following
    return list(found.values())
