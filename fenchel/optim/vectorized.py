"""m-sharpness in one piece: all sub-batches at once through `torch.func.vmap`, instead of one after the other.

Small networks are bound by the number of launches, not by arithmetic; there this is faster by about m. The loss is
a function of parameters and batch, so the model must run under `torch.func.functional_call`: no batch
normalization in training mode, no other state that a forward pass changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


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
        ValueError: n is not a multiple of ``parts``, or as of `as_rows`.
    """
    batch = as_rows(batch)
    rows = batch[0].shape[0]
    if parts < 1 or rows % parts:
        raise ValueError(f"a minibatch of {rows} rows cannot be split in {parts} equal sub-batches")
    return tuple(t.reshape(parts, rows // parts, *t.shape[1:]) for t in batch)


def as_rows(batches: Any) -> tuple[Tensor, ...]:
    """``batches`` as tensors whose leading axes are of one length m >= 1: of sub-batches, or of examples.

    Raises:
        TypeError: not a sequence of tensors. ValueError: no tensors, no rows, or leading axes of different lengths.
    """
    alone = isinstance(batches, Tensor) or not isinstance(batches, Iterable)
    tensors = (batches,) if alone else tuple(batches)
    if alone or not all(isinstance(t, Tensor) for t in tensors):
        raise TypeError("a batch must be a sequence of tensors (for step_vectorized with a first axis, by split_batch)")
    lengths = [int(t.shape[0]) if t.dim() else 0 for t in tensors]
    if not all(lengths) or len(set(lengths)) != 1:
        raise ValueError(f"a batch must have tensors with leading axes of one length m >= 1, got {lengths}")
    return tensors
