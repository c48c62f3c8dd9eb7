"""What else must happen where weights are changed in place; for weights in parts see `Shards.changed`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["changed", "raw_changed"]


def changed() -> None:
    """To be called after weights were changed in place by torch's own functions.

    Autocast keeps 16-bit copies of the weights for the rest of its region, and would go on using the old ones.
    """
    torch.clear_autocast_cache()


def raw_changed(params: Sequence[Tensor]) -> None:
    """The same where memory was written past autograd, which must be told that graphs of the old weights are void."""
    torch.autograd.graph.increment_version(list(params))
    torch.clear_autocast_cache()
