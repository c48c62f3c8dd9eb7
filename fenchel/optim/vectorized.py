"""m-sharpness in one piece: all sub-batches at once through `torch.func.vmap`, instead of one after the other.

Small networks are bound by the number of launches, not by arithmetic; there this is faster by about m. The loss is
a function of parameters and batch, so the model must run under `torch.func.functional_call`: no batch
normalization in training mode, no other state that a forward pass changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.func import functional_call, grad_and_value, vmap

from fenchel.optim.amp import enabled

__all__ = ["VectorizedStep", "functional_loss", "split_batch"]

LossFunction = Callable[..., Tensor]


def functional_loss(
    module: nn.Module, criterion: Callable[..., Tensor], params: Sequence[Tensor]
) -> Callable[[Sequence[Tensor], Any], Tensor]:
    """A loss for `step_vectorized`: criterion(module(inputs), targets) as a function of parameters and batch.

    Args:
        module: the network.
        criterion: takes (outputs, *rest of the batch), returns a scalar.
        params: the module's parameters that are to vary, in the optimizer's order (`optimizer.trainable()`).

    Raises:
        ValueError: one of ``params`` is not the module's.
    """
    names = {id(p): name for name, p in module.named_parameters()}
    missing = [i for i, p in enumerate(params) if id(p) not in names]
    if missing:
        raise ValueError(f"parameters number {missing} of the optimizer are not among the module's")
    keys = [names[id(p)] for p in params]

    def loss(values: Sequence[Tensor], batch: Any) -> Tensor:
        inputs, *rest = batch
        return criterion(functional_call(module, dict(zip(keys, values, strict=True)), (inputs,)), *rest)

    return loss


def split_batch(batch: Sequence[Tensor], parts: int) -> tuple[Tensor, ...]:
    """Split a minibatch of n rows in ``parts`` equal sub-batches: each tensor (n, ...) becomes (parts, n/parts, ...).

    Raises:
        ValueError: n is not a multiple of ``parts``.
    """
    rows = batch[0].shape[0]
    if parts < 1 or rows % parts:
        raise ValueError(f"a minibatch of {rows} rows cannot be split in {parts} equal sub-batches")
    return tuple(t.reshape(parts, rows // parts, *t.shape[1:]) for t in batch)


class VectorizedStep:
    """The mixin that gives `BSAM` and `SAM` their `step_vectorized`: the moves of `step`, but evaluated all at once."""

    begin: Callable[..., None]
    first_point: Callable[[], None]
    second_point: Callable[[], None]
    collect: Callable[[], None]
    update: Callable[[], None]
    restore: Callable[[], None]
    trainable: Callable[[], list[Tensor]]

    @_disable_dynamo
    @torch.no_grad()
    def step_vectorized(
        self,
        loss_fn: LossFunction,
        batches: Sequence[Tensor],
        *,
        chunk_size: int | None = None,
        grad_scaler: Any = None,
    ) -> Tensor:
        """One step on m sub-batches at once, equal to `step` with m closures.

        Args:
            loss_fn: ``loss_fn(params, batch) -> scalar``, differentiable by `torch.func`; ``params`` in the order of
                `trainable()`, ``batch`` one sub-batch; see `functional_loss`.
            batches: tensors with a leading axis of m sub-batches (`split_batch`).
            chunk_size: sub-batches at a time, to bound memory.
            grad_scaler: a `torch.amp.GradScaler`; the losses are scaled here. Call ``grad_scaler.update()`` afterwards.
                A step with an infinity in either pass is skipped.

        Every parameter counts as used; the averaged gradient is left in it.

        Returns:
            The mean over the sub-batches of the losses at the adversarial points.
        """
        batches, params, scaler = tuple(batches), self.trainable(), enabled(grad_scaler)
        m = int(batches[0].shape[0])
        scale = None if scaler is None else scaler.scale(torch.ones((), device=params[0].device))
        scaled = loss_fn if scale is None else lambda values, batch: loss_fn(values, batch) * scale
        both = vmap(grad_and_value(scaled), in_dims=(0, 0), randomness="different", chunk_size=chunk_size)

        def evaluated(move: Callable[[], None], before: list[Tensor] | None) -> tuple[list[Tensor], Tensor]:
            """Gradients and losses of all sub-batches where ``move`` leads each, from its row of ``before``."""
            points = [p.new_empty((m, *p.shape)) for p in params]
            for row in range(m):
                self._take(before, row)
                move()
                torch._foreach_copy_([rows[row] for rows in points], params)
            with torch.enable_grad():
                found, losses = both(points, batches)
            return [g.detach() for g in found], losses.detach()

        self.begin(scaler, m)
        try:
            first, _ = evaluated(self.first_point, None)
            second, losses = evaluated(self.second_point, first)
            for row in range(m):
                self._take(second, row)
                self.collect()
            for p, rows in zip(params, second, strict=True):
                p.grad = rows.mean(0)
        except BaseException:
            self.restore()
            raise
        self.update()
        return losses.mean() if scale is None else losses.mean() / scale

    def _take(self, gradients: list[Tensor] | None, row: int) -> None:
        """Leave the gradients of one sub-batch in the parameters, as its backward pass would."""
        for p, rows in zip(self.trainable(), gradients or [], strict=False):
            p.grad = rows[row]
