"""The skeleton of steps from closures: one gradient a sub-batch (IVON) or two (bSAM, SAM), averages, one update.

A step is a sequence of moves, which are public so that a training loop may make them itself:

    begin()                      remember the mean
    for each sub-batch:
        first_point()            move the weights to where the first gradient is taken
        (zero the gradients, forward, backward)
        second_point()           read that gradient, move the weights to the adversarial point
        (zero the gradients, forward, backward)
        collect()                read the second gradient
    update()                     average over the sub-batches and update the mean; or restore() to give the step up

`step(closure)` and `step([closure_1, ..., closure_m])` make them, and `step_vectorized` for all sub-batches at once.
Whatever is raised in between, the weights return to the mean bit for bit, since the mean is kept as a copy and not
recomputed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.func import grad_and_value, vmap

from fenchel.optim import batch_norm as bn
from fenchel.optim.amp import LossScale, enabled, true_gradient
from fenchel.optim.base import BaseOptimizer
from fenchel.optim.closures import Watch, as_closures, mean_loss
from fenchel.optim.distributed import local_gradients, process_group, sum_across_ranks, sum_counts
from fenchel.optim.hyperparameters import leading_group
from fenchel.optim.noise import work_dtype
from fenchel.optim.shards import local

__all__ = ["ClosureOptimizer", "TwoPassOptimizer"]

Closure = Callable[[], Any]


class ClosureOptimizer(BaseOptimizer):
    """Base class: order of the moves, closures, exception safety, sums over sub-batches and processes.

    A subclass says where the gradients are taken (`first_point`), which `terms` are to be averaged and what `update`
    makes of their `averages`. Arguments: see `BaseOptimizer`.
    """

    def __init__(self, params: Any, defaults: dict[str, Any], **options: Any) -> None:
        self._watch = Watch(type(self).__name__)
        self._open, self._parts = False, 0
        self._scale: LossScale | None = None
        self._params: list[Tensor] = []
        self._mean: list[Tensor] = []
        self._sums: list[list[Tensor] | None] = []
        super().__init__(params, defaults, **options)

    @torch.no_grad()
    def begin(self, grad_scaler: Any = None, parts: int | None = None) -> None:
        """Start a step of ``parts`` sub-batches (None: not known yet), whose losses ``grad_scaler`` scales."""
        if self._open:
            self.restore()
        self._params = self.trainable()
        self._mean = [local(p).clone() for p in self._params]
        self._sums = [None] * len(self._params)
        self._scale = None if grad_scaler is None else LossScale(grad_scaler)
        self._open, self._parts = True, 0

    @abstractmethod
    def first_point(self) -> None:
        """Move the weights to the point of the first gradient of the next sub-batch."""

    @torch.no_grad()
    def collect(self) -> None:
        """Read the last gradient of the sub-batch and add it to the sum."""
        self._started("collect")
        for i, p in enumerate(self._params):
            g = true_gradient(p, self._shards, self._scale)
            if g is not None:
                total, terms = self._sums[i], self.terms(i, g)
                if total is None:
                    self._sums[i] = terms
                else:
                    torch._foreach_add_(total, terms)
        self._parts += 1

    def terms(self, i: int, gradient: Tensor) -> list[Tensor]:
        """What is to be averaged of the gradient of parameter number ``i``, in memory of its own."""
        return [gradient.clone()]

    @abstractmethod
    def update(self) -> None:
        """Average over the sub-batches and update the mean."""

    @torch.no_grad()
    def restore(self) -> None:
        """Give the step up: the weights become the mean again, bit for bit."""
        if self._open:
            self._put_back()
        self._params, self._mean, self._sums, self._open, self._scale = [], [], [], False, None

    def _put_back(self) -> None:
        torch._foreach_copy_([local(p) for p in self._params], self._mean)
        self._shards.changed(self._params)

    def averages(self) -> list[tuple[Tensor, list[Tensor] | None]]:
        """End the step: the parameters, back at the mean, and the averages of their terms, the first ones clipped.

        Over the sub-batches of all processes; empty if a gradient was not finite and the step is to be skipped.
        """
        params, sums, parts, scale = self._params, self._sums, self._parts, self._scale
        ranks = process_group(self._distributed)
        self.restore()
        if scale is not None:
            scale.share(ranks)
            scale.record(self)
            if scale.found():
                return []
        if ranks is not None:
            parts, *users = sum_counts([parts, *(int(t is not None) for t in sums)], params[0].device, ranks)
            for i, (p, used) in enumerate(zip(params, users, strict=True)):
                if used and sums[i] is None:
                    sums[i] = self.terms(i, torch.zeros_like(local(p), dtype=work_dtype(p)))
            sum_across_ranks([t for terms in sums for t in terms or []], ranks)
        used_pairs = [(p, terms) for p, terms in zip(params, sums, strict=True) if terms is not None]
        for _, terms in used_pairs:
            torch._foreach_div_(terms, parts)
        limit = leading_group(self.param_groups)["max_grad_norm"]
        if limit is not None and used_pairs:
            self._shards.clip([p for p, _ in used_pairs], [terms[0] for _, terms in used_pairs], limit)
        return list(zip(params, sums, strict=True))

    @_disable_dynamo  # called from a compiled function, it runs as it is: closures call backward and may raise
    @torch.no_grad()
    def step(self, closure: Closure | Iterable[Closure] | None = None, *, grad_scaler: Any = None) -> Any:
        """One step from a closure, or from one closure for each sub-batch (m-sharpness; for IVON, each sample).

        A closure zeroes the gradients, evaluates the loss, calls backward and returns the loss; each is called once
        for each gradient, so twice by BSAM and SAM. Micro-batches that do not fit in memory together are sub-batches
        too: a closure for each of them.

        Args:
            closure: a callable, or several.
            grad_scaler: a `torch.amp.GradScaler`, if the closures call ``grad_scaler.scale(loss).backward()``. Call
                ``grad_scaler.update()`` afterwards. A step with an infinity in any pass is skipped.

        Returns:
            The mean over the sub-batches of the losses at the last points, None if the closures return None.

        Raises:
            ValueError: no closure was given. TypeError: a closure returned something else than a loss.
            ClosureError: a closure did not zero the gradients, or not call backward. The weights are as before.
        """
        if closure is None and self._is_priming():
            return self.prime()
        closures = as_closures(closure, type(self).__name__)
        scaler = enabled(grad_scaler)
        self._watch.begin(scaler)
        params = self.trainable()
        if not params:
            raise ValueError(f"{type(self).__name__}.step: no parameter requires a gradient")
        if self._watch.steps == 1:
            self.check_settings(params)
        losses: list[Any] = []
        self.begin(scaler, len(closures))
        try:
            for part, evaluate in enumerate(closures):
                losses.append(self._passes(evaluate, params, part))
                self.collect()
        except BaseException:
            self.restore()
            raise
        self.update()
        loss = mean_loss(losses)
        self._watch.finish(loss)
        return loss

    def check_settings(self, params: list[Tensor]) -> None:
        """Warn, before the first step, of settings that are more likely a mistake."""

    def _passes(self, closure: Closure, params: list[Tensor], part: int) -> Any:
        """Evaluate a sub-batch at its points; the loss at the last."""
        self.first_point()
        return self._evaluate(closure, params, part)

    def _evaluate(self, closure: Closure, params: list[Tensor], part: int, *, second: bool = False) -> Any:
        with self._evaluation(part, second=second):
            return self._watch.evaluate(closure, params)

    @contextmanager
    def _evaluation(self, part: int, *, second: bool) -> Iterator[None]:
        ranks = process_group(self._distributed)
        with torch.enable_grad(), local_gradients(None if ranks is None else self._module):
            yield

    def _started(self, what: str) -> None:
        if not self._open:
            raise RuntimeError(f"{type(self).__name__}.{what} was called outside a step; call begin first")


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
        bn.check_policy(batch_norm, module)
        self._batch_norm = batch_norm
        super().__init__(params, defaults, module=module, distributed=distributed)

    @abstractmethod
    def second_point(self) -> None:
        """Read the first gradient and move the weights to the adversarial point."""

    def _passes(self, closure: Closure, params: list[Tensor], part: int) -> Any:
        super()._passes(closure, params, part)
        self.second_point()
        return self._evaluate(closure, params, part, second=True)

    @contextmanager
    def _evaluation(self, part: int, *, second: bool) -> Iterator[None]:
        module = self._module
        moves = bn.moves_statistics(self._batch_norm, part, second)
        frozen = nullcontext() if module is None or moves else bn.frozen_statistics(module)
        with frozen, super()._evaluation(part, second=second):
            yield

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
