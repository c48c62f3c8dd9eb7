"""Two-pass optimizers in the Hugging Face `Trainer`, which calls ``step()`` without a closure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fenchel.optim.stepping import ClosureOptimizer


class ClosureTrainerMixin:
    """Put before `Trainer`: ``class MyTrainer(ClosureTrainerMixin, transformers.Trainer)``.

    The optimizer (`BSAM`, `SAM`, `IVON`) goes in by ``optimizers=(optimizer, None)``, or is made in
    ``create_optimizer``. Every micro-batch of a step becomes a closure, so that gradient accumulation is m-sharpness;
    the step is taken when the last has arrived, and while `train` runs ``optimizer.step()`` does nothing more.
    Clip by the optimizer's ``max_grad_norm``: what the Trainer clips is no longer used, so `max_grad_norm` of its
    arguments must be 0. Use bf16, not fp16.

    Raises (in training):
        ValueError: fp16, or clipping by the Trainer.
        TypeError: the optimizer takes no closures.
    """

    optimizer: Any
    args: Any
    accelerator: Any
    current_gradient_accumulation_steps: int
    _micro_batches: list[Any]
    _taken_over: tuple[Any, Callable[..., Any]] | None = None

    def train(self, *arguments: Any, **options: Any) -> Any:
        """See `Trainer`; afterwards the optimizer takes closures again."""
        self._micro_batches = []
        try:
            return super().train(*arguments, **options)  # type: ignore[misc]
        finally:
            if self._taken_over is not None:
                optimizer, optimizer_step = self._taken_over
                optimizer.step, self._taken_over = optimizer_step, None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Keep the micro-batch; with the last one of a step, take the step and return the loss."""
        step = self._take_over()
        self._micro_batches.append(inputs)
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        waiting, self._micro_batches = self._micro_batches, []
        # The average over micro-batches is the optimizer's to take.
        self.current_gradient_accumulation_steps = 1

        def closure_of(batch: Any) -> Callable[[], Tensor]:
            def closure() -> Tensor:
                model.zero_grad()
                loss: Tensor = super(ClosureTrainerMixin, self).training_step(model, batch)  # type: ignore[misc]
                return loss

            return closure

        loss = step([closure_of(batch) for batch in waiting])
        return torch.as_tensor(loss, device=self.args.device).detach()

    def _take_over(self) -> Callable[..., Any]:
        """The optimizer's own step; from the first call on, ``optimizer.step()`` by the Trainer does nothing."""
        if self._taken_over is None:
            if self.args.fp16:
                raise ValueError("fp16 needs a gradient scaler that sees both passes: train with bf16=True instead")
            if self.args.max_grad_norm:
                raise ValueError(
                    "max_grad_norm of the arguments would clip gradients that are no longer used: set it to 0 and give "
                    "max_grad_norm to the optimizer"
                )
            optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
            if not isinstance(optimizer, ClosureOptimizer):
                raise TypeError(f"{type(optimizer).__name__} takes no closures: use Trainer without this mixin")
            self._taken_over = optimizer, optimizer.step

            def taken(closure: Any = None) -> None:
                return None

            taken._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
            optimizer.step = taken  # type: ignore[assignment, method-assign]
        return self._taken_over[1]
