"""What a closure must do, checked while it runs: zero the gradients, evaluate, call backward, return the loss.

None of the checks waits for an accelerator, but for those that a step makes whose number is a power of two.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler

from fenchel.optim.cuda_graph import capturing
from fenchel.optim.distributed import called_within
from fenchel.optim.shards import local

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
    alone = callable(closure) or isinstance(closure, Tensor) or not isinstance(closure, Iterable)
    closures: list[Any] = [closure] if alone else list(closure)  # type: ignore[arg-type]
    if not closures:
        raise ValueError(f"{name}.step got an empty list of closures; it needs one for each sub-batch")
    for part in closures:
        if not callable(part):
            raise TypeError(f"{name}.step needs closures, that is callables, got {type(part).__name__}")
    return closures


def mean_loss(losses: Sequence[Any]) -> Any:
    """The mean of what the closures returned; None if any returned None."""
    if any(loss is None for loss in losses):
        return None
    values = [loss.detach() if isinstance(loss, Tensor) else loss for loss in losses]
    if len(values) == 1:
        return values[0]
    mean = sum(value if isinstance(value, Tensor) else float(value) for value in values) / len(values)
    return mean.mean() if isinstance(mean, Tensor) else mean


class Watch:
    """Looks at the gradients before and after a closure, and at the losses it returns.

    Args:
        name: of the optimizer, for the messages.
    """

    def __init__(self, name: str) -> None:
        self.name, self.steps = name, 0
        self._scaled = False
        self._warned: set[str] = set()

    def begin(self, *, scaled: bool) -> None:
        """Before a step, which knows that its losses are ``scaled`` or takes them not to be.

        Raises:
            ClosureError: Accelerate accumulates gradients.
        """
        self.steps, self._scaled = self.steps + 1, scaled
        accelerate = sys.modules.get("accelerate.state")
        state = None if accelerate is None else accelerate.GradientState
        several = state is not None and state._shared_state and state().num_steps > 1  # for whatever is prepared by it
        if several and called_within("accelerate.optimizer", "AcceleratedOptimizer"):
            raise ClosureError(
                f"Accelerate's accumulate() skips steps and so loses batches that {self.name} never sees: set "
                "gradient_accumulation_steps=1 and pass step one closure for each micro-batch"
            )

    def evaluate(self, closure: Closure, params: Sequence[Tensor]) -> Any:
        """Call a closure and return its loss.

        If the first backward pass adds to the gradient that was there before, nobody has zeroed it, whatever is done
        to it later. What a closure does wrong it does from the beginning: later steps are looked at now and then.

        Raises:
            ClosureError: the gradients did not change, or were added to earlier ones, or the loss was scaled by a
                `GradScaler` that the step does not know. TypeError: not a loss.
        """
        if not (self.steps <= 8 or self.steps & (self.steps - 1) == 0):
            return self._checked(closure())
        kept = {p: p.grad for p in params if p.grad is not None}  # alive, so that no other gets the identity of one
        before = {p: _seen(p) for p in params}
        versions = [p._version for p in params]
        added: dict[Tensor, bool] = {}
        zeros: list[Tensor] = []  # written past the version, by grad.data.zero_(), or the closure's last word before

        def note(p: Tensor, writes: int) -> None:
            """Whether the first backward pass finds an earlier gradient, to which it alone has written."""
            if p not in added:
                grad = p.grad if _seen(p) == (before[p][0], before[p][1] + writes) else None
                added[p] = grad is not None and (writes > 0 or bool(grad.any()))
                if grad is not None and not added[p]:
                    zeros.append(grad)

        scalers: list[GradScaler] = []
        _note_scalers()
        with ExitStack() as hooks:
            hooks.callback(_SCALERS.reset, _SCALERS.set(scalers))
            nodes = {p: torch.autograd.graph.get_gradient_edge(p).node for p in kept}  # which hooks do not keep alive
            for p, node in nodes.items():
                hooks.callback(node.register_prehook(lambda _, p=p: note(p, 0)).remove)
                # FSDP2 calls nothing before it adds
                hooks.callback(p.register_post_accumulate_grad_hook(lambda p: note(p, 1)).remove)
            loss = self._checked(closure())
        if versions != [p._version for p in params]:
            self.warn("written", f"the closure of {self.name}.step changed weights, which the step undoes at its end")
        if scalers and not self._scaled:
            raise ClosureError(
                f"the closure scales its loss by a GradScaler that {self.name}.step does not know: call "
                "step(closure, grad_scaler=scaler), then scaler.update()"
            )
        if all(_seen(p) == before[p] for p in params) or (zeros and not any(grad.any() for grad in zeros)):
            what = f"the closure of {self.name}.step computed no gradient: call loss.backward(), after zero_grad()"
            if loss is not None:
                raise ClosureError(what)
            self.warn("gradient", what)  # Lightning skips a batch so
        if any(added.values()):
            raise ClosureError(
                f"the closure of {self.name}.step added its gradient to an earlier one: call zero_grad() in it. "
                "To accumulate over micro-batches pass step one closure for each of them, or one closure that "
                "zeroes once and evaluates them all (in Lightning: accumulate_grad_batches=1)"
            )
        return loss

    def _checked(self, loss: Any) -> Any:
        try:
            if not (loss is None or isinstance(loss, Tensor)):
                math.isnan(loss)
        except TypeError:
            raise TypeError(
                f"the closure of {self.name}.step must return the loss as a tensor or a number, got "
                f"{type(loss).__name__}; return the loss alone"
            ) from None
        return loss

    def finish(self, loss: Any) -> None:
        """After a step: warn, once, of losses that are not numbers, or look like sums."""
        on_host = not (isinstance(loss, Tensor) and loss.device.type != "cpu")
        if loss is None or not (on_host or self.steps & (self.steps - 1) == 0):
            return
        if isinstance(loss, Tensor) and (loss.is_meta or torch.compiler.is_compiling() or capturing(loss.device)):
            return
        value = float(loss.detach().float().mean() if isinstance(loss, Tensor) and loss.numel() != 1 else loss)
        if not math.isfinite(value) and not self._scaled:
            what = "NaN" if math.isnan(value) else "infinite"
            self.warn("nan", f"the loss of {self.name}.step is {what}: lower lr or rho, or look for a bad example")
        elif self.steps == 1 and LARGE_LOSS < value < math.inf:
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


def _seen(p: Tensor) -> tuple[int, int]:
    """Which gradient a parameter has, and how often it, or the part of it at hand, was written to."""
    return id(p.grad), 0 if p.grad is None else sum(t._version for t in {p.grad, local(p.grad)})


_SCALERS: ContextVar[list[GradScaler] | None] = ContextVar("scalers", default=None)
"""The enabled scalers that the closure has called, while one is evaluated on this thread."""


def _note_scalers() -> None:
    """Have the `scale` of all scalers noted, for good: what a thread takes off again, another may have put on."""
    kinds: list[Any] = [GradScaler, *GradScaler.__subclasses__()]
    for kind in kinds:
        scale = vars(kind).get("scale")
        if scale is not None and not hasattr(scale, "__wrapped__"):

            @wraps(scale)
            def noted(scaler: GradScaler, outputs: Any, scale: Any = scale) -> Any:
                found = _SCALERS.get()
                if found is not None and scaler.is_enabled():
                    found.append(scaler)
                return scale(scaler, outputs)

            kind.scale = noted
