"""m-sharpness in one piece: all sub-batches at once through `torch.func.vmap`, instead of one after the other.

Small networks are bound by the number of launches, not by arithmetic; there this is faster by about m. The loss is
a function of parameters and batch, so the model must run under `torch.func.functional_call`: no batch
normalization in training mode, no other state that a forward pass changes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.func import functional_call, grad_and_value, vmap

from fenchel.optim.amp import LossScale, enabled
from fenchel.optim.noise import work_dtype

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
    """The mixin that gives `BSAM` and `SAM` their `step_vectorized`.

    They say where the rows of points lie; a row of a tensor (m, *shape) belongs to one sub-batch.
    """

    _parts: int
    _scale: LossScale | None
    begin: Callable[..., None]
    update: Callable[..., None]
    restore: Callable[..., None]
    trainable: Callable[[], list[Tensor]]

    @abstractmethod
    def first_rows(self, params: list[Tensor], m: int) -> list[Tensor]:
        """The points (m, *shape) of the first gradients, in the precision of the mean."""

    @abstractmethod
    def second_rows(self, params: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Read the first gradients (m, *shape); the adversarial points, in the precision of the mean."""

    @abstractmethod
    def collect_rows(self, params: list[Tensor], gradients: list[Tensor]) -> None:
        """Read the gradients (m, *shape) at the adversarial points."""

    @_disable_dynamo
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
            grad_scaler: a `torch.amp.GradScaler`; the losses are scaled here, and the averaged gradient is left in the
                parameters. Call ``grad_scaler.update()`` afterwards. A step with an infinity in either pass is skipped.

        Every parameter counts as used. The noise is torch's, not that of the fused kernels.

        Returns:
            The mean over the sub-batches of the losses at the adversarial points.
        """
        batches = tuple(batches)
        m = int(batches[0].shape[0])
        scaler = enabled(grad_scaler)
        self.begin(scaler)
        try:
            with torch.no_grad():
                losses = self._both_passes(loss_fn, batches, m, chunk_size, scaler)
        except BaseException:
            self.restore()
            raise
        self.update()
        return losses.mean()

    def _both_passes(
        self, loss_fn: LossFunction, batches: tuple[Tensor, ...], m: int, chunk_size: int | None, scaler: Any
    ) -> Tensor:
        params = self.trainable()
        size = None if scaler is None else scaler.scale(torch.ones((), device=params[0].device))
        scaled = loss_fn if size is None else lambda values, batch: loss_fn(values, batch) * size
        both = vmap(grad_and_value(scaled), in_dims=(0, 0), randomness="different", chunk_size=chunk_size)

        def gradients(points: list[Tensor]) -> tuple[list[Tensor], Tensor]:
            """Of every sub-batch, unscaled, in the precision of the mean."""
            points = [point.to(p.dtype) for p, point in zip(params, points, strict=True)]
            with torch.enable_grad():
                found, losses = both(points, batches)
            found = [g.detach().to(work_dtype(p)) for p, g in zip(params, found, strict=True)]
            if self._scale is not None:
                for p, g in zip(params, found, strict=True):
                    scale = self._scale.on(p.device)
                    torch._amp_foreach_non_finite_check_and_unscale_([g], scale.found_inf, scale.inverse)
            return found, losses.detach() if size is None else losses.detach() / size

        first, _ = gradients(self.first_rows(params, m))
        points = self.second_rows(params, first)
        del first
        second, losses = gradients(points)
        self.collect_rows(params, second)
        if size is not None:
            for p, g in zip(params, second, strict=True):
                p.grad = (g.sum(0) * (size / m)).to(p.dtype)  # still scaled, as a backward pass would leave it
        self._parts = m
        return losses
