"""A whole training step as one CUDA graph: noise, both passes and the update replay without the host.

    optimizer = BSAM(model.parameters(), lr, ..., capturable=True)
    step = GraphedStep(optimizer, lambda x, y: optimizer.step(closures(x, y)), (x, y), module=model)
    for x, y in loader:
        value = step(x, y)                  # a tensor that the next replay overwrites
        scheduler.step()                    # the learning rate is a tensor, changed in place

The generators of the noise are registered with the graph, so every replay draws afresh and a checkpoint continues.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

COUNTS = ("step", "draws")
"""Entries of a group that are no hyperparameters: they count steps and posterior samples."""


def capturing(device: torch.device) -> bool:
    """Whether the work on a device is being captured, so that the host cannot wait for it."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class GraphedStep:
    """Captures ``step(*inputs) -> loss`` once, then replays it; for the optimizers here and torch's own.

    Capturing leaves weights, state, buffers and generators as they were: the warm-up steps are undone. It is done on
    the current stream, unless that is the default one, and graphs of different streams may be replayed at once.

    Args:
        optimizer: all its parameters on one CUDA device and its learning rates tensors there (``capturable=True``
            where the optimizer has it).
        step: makes one optimizer step from the inputs and returns the loss; closures are fine.
        inputs: example tensors on the device; later inputs must have their shapes.
        module: the network, if it has buffers that a step changes (batch normalization).
        warmup: steps before capturing (torch asks for a few, on a side stream).

    Raises:
        ValueError: the optimizer cannot be captured, and why.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        step: Callable[..., Any],
        inputs: Sequence[Tensor] = (),
        *,
        module: nn.Module | None = None,
        warmup: int = 3,
    ) -> None:
        device = _check(optimizer)
        self._optimizer = optimizer
        self._inputs = [t.clone() for t in inputs]
        put_back = _snapshot(optimizer, module)
        self._next_noise = getattr(optimizer, "next_noise", None)
        drawn_from = [optimizer.generator(device)] if hasattr(optimizer, "generator") else []
        all_generators = [*drawn_from, torch.cuda.default_generators[device.index or 0]]
        drawn = [generator.get_state() for generator in all_generators]
        # The libraries' workspaces belong to a stream, so graphs that are to be replayed at once need one each.
        current = torch.cuda.current_stream(device)
        stream = torch.cuda.Stream(device) if current == torch.cuda.default_stream(device) else current
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(warmup):
                step(*self._inputs)
        current.wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        for generator in drawn_from:
            self.graph.register_generator_state(generator)
        for group in optimizer.param_groups:  # gradients of the warm-up would otherwise be read by the capture
            for p in group["params"]:
                p.grad = None
        with _no_collection(), torch.cuda.graph(self.graph, stream=stream):
            self.loss = step(*self._inputs)
        put_back()
        for generator, state in zip(all_generators, drawn, strict=True):
            generator.set_state(state)
        self._numbers = _numbers(optimizer)

    def __call__(self, *inputs: Tensor) -> Any:
        """Copy the inputs in and replay; the returned loss is overwritten by the next call.

        Raises:
            RuntimeError: a hyperparameter other than the learning rate was changed after the capture.
        """
        if _numbers(self._optimizer) != self._numbers:
            raise RuntimeError("a hyperparameter was changed after the step was captured; make a new GraphedStep")
        for mine, given in zip(self._inputs, inputs, strict=True):
            if mine is not given:
                mine.copy_(given)
        if self._next_noise is not None:
            self._next_noise()  # seeds the stream of this step
        self.graph.replay()
        return self.loss


@contextmanager
def _no_collection() -> Iterator[None]:
    """Another graph that the garbage collector destroys during a capture would break it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _snapshot(optimizer: Any, module: nn.Module | None) -> Callable[[], None]:
    """What puts weights, optimizer state and buffers back as they are now, into the same memory.

    State that does not exist yet becomes zeros, with which torch's optimizers begin; the optimizers here make theirs.
    """
    if hasattr(optimizer, "initial_state"):
        optimizer.prime()
    counts = [(group, {k: group[k] for k in COUNTS if k in group}) for group in optimizer.param_groups]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    weights = [(t, t.detach().clone()) for t in [*params, *(module.buffers() if module is not None else ())]]

    def state() -> dict[tuple[int, str], Tensor]:
        entries = [(id(p), name, value) for p, entry in optimizer.state.items() for name, value in entry.items()]
        return {(key, name): value for key, name, value in entries if isinstance(value, Tensor)}

    before = {key: value.clone() for key, value in state().items()}

    @torch.no_grad()
    def put_back() -> None:
        for tensor, saved in weights:
            tensor.copy_(saved)
        for group, numbers in counts:
            group.update(numbers)
        for key, value in state().items():
            value.copy_(before[key]) if key in before else value.zero_()

    return put_back


def _check(optimizer: torch.optim.Optimizer) -> torch.device:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    device: torch.device = params[0].device
    if device.type != "cuda" or any(p.device != device for p in params):
        raise ValueError("a CUDA graph needs all parameters on one CUDA device")
    for group in optimizer.param_groups:
        if not group.get("capturable", True):
            raise ValueError("a CUDA graph needs an optimizer made with capturable=True")
        if not isinstance(group["lr"], Tensor) or group["lr"].device != device:
            raise ValueError("a CUDA graph needs lr as a tensor on the device, so that a schedule can change it")
        if "dampening" in group and (group["dampening"] or not group.get("fused")):
            raise ValueError("a CUDA graph needs SGD with fused=True and without dampening")
    return device


def _numbers(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The hyperparameters that a capture fixes."""
    return [
        {k: v for k, v in group.items() if isinstance(v, int | float | tuple) and k not in COUNTS}
        for group in optimizer.param_groups
    ]
