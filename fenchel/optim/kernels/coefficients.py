"""The numbers of lines 7 to 9 of Algorithm 1, the same for all parameters of a group."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Coefficients"]


class Coefficients(NamedTuple):
    """What `Kernels.update` multiplies with and adds.

    Args:
        lr, beta1, beta2, weight_decay: alpha, beta1, beta2, delta.
        offset: delta + gamma.
        gradient_scale, absolute_scale: make averages of the sums over the sub-batches of g_eps and of |g| (and undo a
            loss scale); ``absolute_scale`` also carries the factor sqrt(N).
        precision_first: line 8 before line 9, as in the paper.
    """

    lr: float | Tensor
    beta1: float
    beta2: float
    weight_decay: float
    offset: float
    gradient_scale: float
    absolute_scale: float
    precision_first: bool
