"""Steps that take two gradients a sub-batch: from closures, or for all sub-batches at once through `torch.func`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.func import grad_and_value, vmap

from fenchel.optim.amp import enabled
from fenchel.optim.batch_norm import check_policy, pass_statistics
from fenchel.optim.closures import Closure
from fenchel.optim.stepping import ClosureOptimizer
from fenchel.optim.vectorized import as_rows


class TwoPassOptimizer(ClosureOptimizer):
    """Base class of methods that take a second gradient, at a point that depends on the first.

    Args:
        params, defaults, distributed: see `BaseOptimizer`.
        module: the network; needed for ``batch_norm`` other than "both", and for a module with `no_sync`.
        batch_norm: see `fenchel.optim.batch_norm.BatchNormPolicy`.
    """

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        module: nn.Module | None = None,
        batch_norm: str = "both",
        distributed: Any = False,
    ) -> None:
        check_policy(batch_norm, module)
        self._batch_norm = batch_norm
        super().__init__(params, defaults, module=module, distributed=distributed)

    @abstractmethod
    def second_point(self) -> None:
        """Read the first gradient and move the weights to the adversarial point."""

    def _passes(self, closure: Closure, params: list[Tensor], part: int) -> Any:
        with pass_statistics(self._batch_norm, self._module, part, second=False):
            super()._passes(closure, params, part)
        self.second_point()
        with pass_statistics(self._batch_norm, self._module, part, second=True):
            return self._evaluate(closure, params)

    @_disable_dynamo
    @torch.no_grad()
    def step_vectorized(
        self,
        loss_fn: Callable[..., Tensor],
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

        Raises:
            TypeError, ValueError: ``batches`` is not such a sequence of tensors.
        """
        batches, params, scaler = as_rows(batches), self.trainable(), enabled(grad_scaler)
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

        with self._begun(scaler, m):
            first, _ = evaluated(self.first_point, None)
            second, losses = evaluated(self.second_point, first)
            for row in range(m):
                self._take(second, row)
                self.collect()
            for p, rows in zip(params, second, strict=True):
                p.grad = rows.mean(0)
        return losses.mean() if scale is None else losses.mean() / scale

    def _take(self, gradients: list[Tensor] | None, row: int) -> None:
        """Leave the gradients of one sub-batch in the parameters, as its backward pass would."""
        for p, rows in zip(self.trainable(), gradients or [], strict=False):
            p.grad = rows[row]
