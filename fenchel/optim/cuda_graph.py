"""A whole training step as one CUDA graph: noise, both passes and the update replay without the host.

    optimizer = BSAM(model.parameters(), lr, ..., capturable=True)
    loss = functional_loss(model, criterion, optimizer.trainable())
    step = GraphedStep(optimizer, lambda x, y: optimizer.step_vectorized(loss, split_batch((x, y), m)), (x, y))
    for x, y in loader:
        value = step(x, y)                  # a tensor that the next replay overwrites
        scheduler.step()                    # the learning rate is a tensor, changed in place

The generator of the noise is registered with the graph, so every replay draws afresh and a checkpoint continues.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fenchel.optim.bsam import BSAM

__all__ = ["GraphedStep"]


class GraphedStep:
    """Captures ``step(*inputs) -> loss`` once, then replays it.

    Capturing leaves weights, state and generators as they were: the warm-up steps are undone.

    Args:
        optimizer: made with ``capturable=True``, all its parameters on one CUDA device.
        step: makes one optimizer step from the inputs and returns the loss; closures are fine.
        inputs: example tensors on the device; later inputs must have their shapes.
        warmup: steps before capturing (torch asks for a few, on a side stream).

    Raises:
        ValueError: the optimizer cannot be captured, and why.
    """

    def __init__(self, optimizer: BSAM, step: Callable[..., Any], inputs: Sequence[Tensor], *, warmup: int = 3) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        device = params[0].device
        if device.type != "cuda" or any(p.device != device for p in params):
            raise ValueError("a CUDA graph needs all parameters on one CUDA device")
        if not all(group["capturable"] for group in optimizer.param_groups):
            raise ValueError("a CUDA graph needs an optimizer made with capturable=True")
        self._inputs = [t.clone() for t in inputs]
        weights = [p.detach().clone() for p in params]
        had_state = {p for p in params if optimizer.state.get(p)}
        saved = {p: {k: v.clone() for k, v in optimizer.state[p].items()} for p in had_state}
        noise = optimizer.noise_state()
        cuda: Any = torch.cuda  # partly untyped
        stream = cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(warmup):
                step(*self._inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(optimizer.generator(device))
        for p in params:  # gradients of the warm-up would otherwise be read by the capture
            p.grad = None
        with torch.cuda.graph(self.graph):
            self.loss = step(*self._inputs)
        with torch.no_grad():
            for p, weight in zip(params, weights, strict=True):
                p.copy_(weight)
                for name, value in optimizer.state[p].items():
                    if p in saved:
                        value.copy_(saved[p][name])
                    elif name == "s":
                        value.fill_(
                            next(g["s_init"] for g in optimizer.param_groups if any(q is p for q in g["params"]))
                        )
                    elif name == "mean":
                        value.copy_(weight)
                    else:
                        value.zero_()
        optimizer.load_noise_state(noise)

    def __call__(self, *inputs: Tensor) -> Any:
        """Copy the inputs in and replay; the returned loss is overwritten by the next call."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            if mine is not given:
                mine.copy_(given)
        self.graph.replay()
        return self.loss
