"""What kernels have in common, and which of them a group of parameters gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from fenchel.optim import native
from fenchel.optim.kernels import foreach, fused, loop
from fenchel.optim.kernels.coefficients import Coefficients

__all__ = ["Kernels", "choose"]

Tensors = Sequence[Tensor]


class Kernels(Protocol):
    """What a step is made of. Lists are aligned; what comes first is written."""

    keeps_memory: bool
    """Whether |g| may be written to the memory of the noise, and sums to memory kept between steps."""

    def copy(self, dst: Tensors, src: Tensors) -> None:
        """dst <- src, with a cast where the precisions differ."""

    def held(self, tensors: list[Tensor]) -> list[Tensor]:
        """The tensors, prepared once for all uses in a step; not for weights, which a closure may replace."""

    def readable(self, tensors: list[Tensor]) -> list[Tensor]:
        """The tensors, or copies in the layout these kernels need."""

    def noisy_point(self, dst: Tensors, mean: Tensors, noise: Tensors, s: Tensors, scale: float) -> None:
        """dst <- mean + scale noise / sqrt(s): line 3 of Algorithm 1, with scale = 1/sqrt(N)."""

    def adversarial_point(
        self,
        dst: Tensors,
        mean: Tensors,
        gradient: Tensors,
        s: Tensors,
        rho: float,
        *,
        total: list[Tensor] | None,
        room: list[Tensor] | None,
    ) -> list[Tensor]:
        """dst <- mean + rho gradient / s (line 5), and |gradient| is added to ``total`` (for line 8).

        Returns:
            ``total``; if that is None, |gradient|. ``room`` is memory for |gradient|, if there is some.
        """

    def accumulate(self, total: Tensors, terms: Tensors) -> None:
        """total <- total + terms: the sum over the sub-batches of g_eps, line 6."""

    def update(
        self,
        dst: Tensors,
        mean: Tensors,
        s: Tensors,
        momentum: Tensors,
        gradient: Tensors,
        absolute: Tensors,
        by: Coefficients,
    ) -> None:
        """Lines 7 to 9 of Algorithm 1 for parameters that share their hyperparameters.

        Args:
            dst: where omega goes: the weights, or ``mean`` itself (then the caller copies to low-precision weights).
            mean, s, momentum: omega, s and g_m before the step; ``mean`` may serve as scratch memory.
            gradient, absolute: sums over the sub-batches of g_eps and of |g|.
            by: their numbers.
        """


def choose(group: dict[str, Any], params: Tensors, kept: Tensors) -> Kernels:
    """The kernels for parameters on one device, by a group's ``fused`` and ``foreach``.

    Args:
        group: hyperparameters; None for ``fused`` and ``foreach`` leaves the choice to the device.
        params: the parameters.
        kept: their state, in the precision it is kept in.

    Raises:
        ValueError: fused kernels were asked for, and cannot work on these parameters.
    """
    if group["foreach"]:
        return foreach
    wanted = group["fused"]
    if wanted or (wanted is None and group["foreach"] is None and not group["compiled"]):
        if all(map(native.fits, params)) and all(map(native.fits, kept)) and native.available():
            return fused
        if wanted:
            raise ValueError(
                "fused=True needs numba, an OpenMP runtime of torch that can be found (or one thread), and contiguous "
                "float32 parameters on the CPU; None uses it where it can be used"
            )
    if group["foreach"] is False or params[0].device.type == "cpu":
        return loop
    return foreach
