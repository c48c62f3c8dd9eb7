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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GraphedStep", "capturing"]


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
        generators: further generators that the step draws from, besides the optimizer's and torch's own.
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
        generators: Iterable[torch.Generator] = (),
        warmup: int = 3,
    ) -> None:
        device = _check(optimizer)
        self._optimizer, self._device = optimizer, device
        self._inputs = [t.clone() for t in inputs]
        before = _Snapshot(optimizer, module)
        self._next_noise = getattr(optimizer, "next_noise", None)
        self._generator: Any = getattr(optimizer, "generator", None)
        drawn_from = [*generators, *([self._generator(device)] if self._generator is not None else [])]
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
        before.put_back()
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
            self._next_noise()
            self._generator(self._device)  # seeds the stream of this step
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


class _Snapshot:
    """Weights, optimizer state and buffers, to be put back into the same memory."""

    def __init__(self, optimizer: torch.optim.Optimizer, module: nn.Module | None) -> None:
        self.optimizer = optimizer
        self.params = [p for group in optimizer.param_groups for p in group["params"]]
        self.counts = [(group.get("step"), group.get("draws")) for group in optimizer.param_groups]
        tensors = [*self.params, *(module.buffers() if module is not None else ())]
        self.weights = [(t, t.detach().clone()) for t in tensors]
        self.state = {
            p: {name: value.clone() for name, value in optimizer.state[p].items() if isinstance(value, Tensor)}
            for p in self.params
            if optimizer.state.get(p)
        }

    @torch.no_grad()
    def put_back(self) -> None:
        """State that did not exist yet becomes what the optimizer begins with: zeros, if it does not say."""
        for tensor, saved in self.weights:
            tensor.copy_(saved)
        for group, (step, draws) in zip(self.optimizer.param_groups, self.counts, strict=True):
            if step is not None:
                group["step"], group["draws"] = step, draws
        initial = getattr(self.optimizer, "initial_state", None)
        group_of = {p: group for group in self.optimizer.param_groups for p in group["params"]}
        for p in self.params:
            begin = self.state.get(p) or (initial(p, group_of[p]) if initial is not None else {})
            for name, value in self.optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor):
                    value.copy_(begin[name]) if name in begin else value.zero_()


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
    counts = ("step", "draws")
    return [
        {k: v for k, v in group.items() if isinstance(v, int | float | tuple) and k not in counts}
        for group in optimizer.param_groups
    ]
