"""Which of a step's forward passes move the running statistics of batch normalization.

Setting `momentum` to zero is used, not `track_running_stats`: the latter, changed after construction, does not stop
the updates, and other modules (synchronized batch norm, data-parallel wrappers) expect the buffers to take part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import update_bn

BatchNormPolicy = Literal["both", "first", "second", "none", "official"]
"""Both passes of every sub-batch; the first or the second pass only; none; or, as the authors' code does it, both
passes of the first sub-batch only."""


def check_policy(policy: str, module: nn.Module | None) -> None:
    """Raise ValueError for an unknown policy, or one that needs the module it is to act on."""
    if policy not in get_args(BatchNormPolicy):
        raise ValueError(f"batch_norm must be one of {get_args(BatchNormPolicy)}, got {policy!r}")
    if policy != "both" and module is None:
        raise ValueError(f"batch_norm={policy!r} needs module=, the network whose statistics it is about")


def pass_statistics(policy: str, module: nn.Module | None, part: int, *, second: bool) -> AbstractContextManager[None]:
    """Around the pass of sub-batch ``part`` (``second``: at the adversarial point): the statistics move or do not."""
    moves = {"both": True, "first": not second, "second": second, "none": False, "official": part == 0}[policy]
    return nullcontext() if module is None or moves else frozen_statistics(module)


def _layers(module: nn.Module) -> list[_NormBase]:
    """The layers that keep statistics, instance normalization among them."""
    return [layer for layer in module.modules() if isinstance(layer, _NormBase) and layer.running_mean is not None]


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, training-mode forward passes leave running means, variances and batch counters as they are."""
    momenta = {layer: layer.momentum for layer in _layers(module)}
    counters = [(c, c.clone()) for layer in momenta if (c := layer.num_batches_tracked) is not None]
    try:
        for layer in momenta:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for counter, value in counters:
            counter.copy_(value)


def reestimate_statistics(module: nn.Module, batches: Iterable[Any], *, max_batches: int | None = None) -> None:
    """Recompute running statistics as plain averages over ``batches`` (inputs, or tuples whose first entry is).

    For a sampled network before it predicts; do it on a copy of the module if training goes on.
    """
    training, momenta = module.training, {layer: layer.momentum for layer in _layers(module)}
    if momenta:
        try:
            update_bn(islice(batches, max_batches), module, next(module.parameters()).device)
        finally:  # which torch leaves out where a batch fails
            module.train(training)
            for layer, momentum in momenta.items():
                layer.momentum = momentum
