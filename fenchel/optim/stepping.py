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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from fenchel.optim.amp import LossScale, enabled, true_gradient
from fenchel.optim.base import BaseOptimizer
from fenchel.optim.closures import Closure, Watch, as_closures, mean_loss
from fenchel.optim.distributed import process_group, sum_across_ranks
from fenchel.optim.hyperparameters import leading_group
from fenchel.optim.noise import work_dtype
from fenchel.optim.posterior import check_steppable
from fenchel.optim.shards import local


class ClosureOptimizer(BaseOptimizer):
    """Base class: order of the moves, closures, exception safety, sums over sub-batches and processes.

    A subclass says where the gradients are taken (`first_point`), which `terms` are to be averaged and what is made of
    the averages (`_move`). Arguments: see `BaseOptimizer`.
    """

    def __init__(self, params: Any, defaults: dict[str, Any], **options: Any) -> None:
        self._watch = Watch(type(self).__name__)
        self._open, self._parts = False, 0
        self._expected: int | None = None
        self._scale: LossScale | None = None
        self._params: list[Tensor] = []
        self._mean: list[Tensor] = []
        self._terms: list[list[Tensor] | None] = []
        super().__init__(params, defaults, **options)

    # ---- moves ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin(self, grad_scaler: Any = None, parts: int | None = None) -> None:
        """Start a step.

        Args:
            grad_scaler: the scaler whose scaled losses are to come.
            parts: how many sub-batches there will be, if known (1 saves bSAM a copy).
        """
        if self._open:
            self.restore()
        check_steppable(self.trainable(), type(self).__name__)
        self._parts, self._expected = 0, parts
        self._scale = None if grad_scaler is None else LossScale(grad_scaler)
        self._keep()
        self._open = True

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
                total, terms = self._terms[i], self.terms(i, g)
                if total is None:
                    self._terms[i] = terms
                else:
                    torch._foreach_add_(total, terms)
        self._parts += 1

    def terms(self, i: int, gradient: Tensor) -> list[Tensor]:
        """What is to be averaged of the gradient of parameter number ``i``, in memory of its own."""
        return [gradient.clone()]

    @torch.no_grad()
    def update(self) -> None:
        """Average over the sub-batches (of all processes) and update the mean; not if a gradient was not finite."""
        self._started("update")
        ranks, limit = process_group(self._distributed), leading_group(self.param_groups)["max_grad_norm"]
        try:
            if not self._parts:
                raise RuntimeError("update was called before any sub-batch was collected")
            if self._scale is not None:
                self._scale.share(ranks)
                self._scale.record(self)
            parts = self._parts if ranks is None else self._reduce(ranks)
            if limit is not None and (sums := self._sums()):
                self._shards.clip([p for p, _ in sums], [terms[0] for _, terms in sums], limit * parts)
            self._move(parts)
        except BaseException:
            self.restore()
            raise
        self._close()

    @torch.no_grad()
    def restore(self) -> None:
        """Give the step up: the weights become the mean again, bit for bit, and the state is untouched."""
        if self._open:
            self._put_back()
        self._close()

    # ---- what a subclass may do otherwise -------------------------------------------------------------------------

    def _keep(self) -> None:
        """Remember the mean."""
        self._params = self.trainable()
        self._mean = [local(p).clone() for p in self._params]
        self._terms = [None] * len(self._params)

    def _put_back(self) -> None:
        """Make the weights the mean."""
        self._shards.assign(self._params, self._mean)

    def _sums(self) -> list[tuple[Tensor, list[Tensor]]]:
        """The parameters that had a gradient, each with its sums of terms, the first one that of gradients."""
        return [(p, terms) for p, terms in zip(self._params, self._terms, strict=True) if terms is not None]

    def _seen(self) -> list[bool]:
        """Which parameters had a gradient."""
        return [terms is not None for terms in self._terms]

    def _see(self, users: list[bool]) -> None:
        """Let those that had one on any process have sums here."""
        for i, (p, used) in enumerate(zip(self._params, users, strict=True)):
            if used and self._terms[i] is None:
                self._terms[i] = self.terms(i, torch.zeros_like(local(p), dtype=work_dtype(p)))

    def _close(self) -> None:
        """Forget what belongs to a step."""
        self._params, self._mean, self._terms, self._open, self._scale = [], [], [], False, None

    @abstractmethod
    def _move(self, parts: int) -> None:
        """Update the mean from the sums over ``parts`` sub-batches, unless a gradient was not finite."""

    def _averages(self, parts: int) -> dict[Tensor, list[Tensor]] | None:
        """Put the mean back; of each parameter that had a gradient the averages. None: one was not finite."""
        self._put_back()
        if self._scale is not None and self._scale.found():
            return None
        averages = dict(self._sums())
        for terms in averages.values():
            torch._foreach_div_(terms, parts)
        return averages

    def _reduce(self, ranks: Any) -> int:
        """Sum over the processes; how many sub-batches they had."""
        counts = torch.tensor([self._parts, *self._seen()], device=self.trainable()[0].device)
        sum_across_ranks([counts], ranks)
        parts, *users = (int(count) for count in counts.tolist())
        self._see([count > 0 for count in users])
        sum_across_ranks([t for _, terms in self._sums() for t in terms], ranks)
        return parts

    # ---- steps ----------------------------------------------------------------------------------------------------

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
        closures, scaler = as_closures(closure, type(self).__name__), enabled(grad_scaler)
        self._watch.begin(scaled=scaler is not None)
        losses: list[Any] = []
        with self._begun(scaler, len(closures)):
            params = self.trainable()
            if self._watch.steps == 1:
                self.check_settings(params)
            for part, evaluate in enumerate(closures):
                losses.append(self._passes(evaluate, params, part))
                self.collect()
            loss = mean_loss(losses)
        self._watch.finish(loss)
        return loss

    @contextmanager
    def _begun(self, scaler: Any, parts: int) -> Iterator[None]:
        """Around the passes of a step: it begins before, and afterwards is taken, or given up."""
        if self._open:
            raise RuntimeError(f"{type(self).__name__}.step was called in the middle of a step; restore() gives it up")
        self.begin(scaler, parts)
        try:
            yield
        except BaseException:
            self.restore()
            raise
        self.update()

    def _passes(self, closure: Closure, params: list[Tensor], part: int) -> Any:
        """Evaluate a sub-batch at its points; the loss at the last."""
        self.first_point()
        return self._evaluate(closure, params)

    def _evaluate(self, closure: Closure, params: list[Tensor]) -> Any:
        alone = None if process_group(self._distributed) is None else getattr(self._module, "no_sync", None)
        with torch.enable_grad(), nullcontext() if alone is None else alone():  # the sums are what processes share
            return self._watch.evaluate(closure, params)

    def _started(self, what: str) -> None:
        if not self._open:
            raise RuntimeError(f"{type(self).__name__}.{what} was called outside a step; call begin first")
