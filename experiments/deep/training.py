"""One run, step by step: the shipped optimizer on a network, captured as a CUDA graph where there is a GPU.

A run can be stopped after any step and continued, on another machine too: what it draws is a function of its seed
and of where it is. On a CPU it continues bit for bit.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.deep import methods, models
from experiments.deep.config import Config
from experiments.deep.data import Split
from experiments.deep.feed import Feed
from experiments.files import written_whole
from experiments.registry import InputError


def allow_precision(precision: str, device: torch.device) -> None:
    """Set how products are rounded on ``device``.

    Raises:
        InputError: ``device`` cannot do what is asked for.
    """
    if precision != "float32" and device.type != "cuda":
        raise InputError(f"runs planned in {precision} need a CUDA device; --precision float32 runs them without one")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.benchmark = device.type == "cuda"


class Training:
    """The state of a run.

    Args:
        config: the run. split: its data, on the device to train on.
        checkpoint: where it is kept between steps (`save`), and continued from if the file is there.

    Attributes:
        epoch, step: how far it is. train_loss: the mean over the last finished epoch of the losses whose gradients
        made the steps (of two-pass methods those at the perturbed weights). seconds: what it has taken; on a
        GPU its part of the time, in equal parts for the runs that share it (too little once some of them have ended).
    """

    def __init__(self, config: Config, split: Split, *, checkpoint: Path | None = None) -> None:
        self.config, self.split, self.checkpoint = config, split, checkpoint
        device = split.images.device
        allow_precision(config.precision, device)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        with self.on_stream():
            channels, height, width = split.images.shape[1:]
            self.model = models.build(config.model, (channels, height, width), split.classes, config.seed)
            self._layout = torch.channels_last if config.precision == "bf16" else torch.contiguous_format
            self.model.to(device=device, dtype=split.images.dtype).to(memory_format=self._layout)
            self.method = methods.build(config, self.model, len(split.labels))
            self._feed = Feed(config, split)
            self._total = torch.zeros((), device=device, dtype=split.images.dtype)
            self.epoch, self.step, self.train_loss, self.seconds = 0, 0, math.nan, 0.0
            begun = checkpoint is not None and checkpoint.exists()
            if begun:
                self._resume()
            self._take = self._step if self._stream is None else self._captured()
            self._begin_epoch()

    def on_stream(self) -> AbstractContextManager[Any]:
        """On a GPU every run has a stream of its own."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self._feed.steps

    @property
    def finished(self) -> bool:
        """Whether it is at its end, or diverged."""
        return self.epoch >= self.config.epochs or self.diverged

    @property
    def diverged(self) -> bool:
        """Whether the loss of the last epoch is not a number."""
        return self.epoch > 0 and not math.isfinite(self.train_loss)

    def advance(self) -> None:
        """One step; on a GPU it is only begun."""
        with self.on_stream():
            self._take()
            self.step += 1
            if self.step == self._feed.steps:
                self.method.end_epoch(self.epoch)
                self.train_loss = float(self._total) / self._feed.steps
                self.epoch, self.step = self.epoch + 1, 0
                self._total.zero_()
                if not self.finished:
                    self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._feed.begin(self.epoch, self.step)
        self.method.set_lr_factor(self.config.lr_factor(self.epoch))

    def _step(self) -> Tensor:
        images, labels = self._feed.batch()
        loss = self.method.step(images.to(memory_format=self._layout), labels)
        self._total += loss
        return loss

    def _captured(self) -> Any:
        from fenchel.optim.cuda_graph import GraphedStep

        if self.config.precision == "bf16" and self.config.method != "vogn":
            self.method.forward = torch.compile(self.model, dynamic=False)
        self._feed.begin(self.epoch, 0)
        total = self._total.clone()
        step = GraphedStep(self.method.optimizer, self._step, module=self.model)
        self._total.copy_(total)
        return step

    def save(self) -> None:
        """Write the checkpoint: a whole one or none."""
        if self.checkpoint is None:
            return
        with self.on_stream():
            record = {
                "model": self.model.state_dict(),
                "method": self.method.state_dict(),
                "total": self._total,
                **{name: getattr(self, name) for name in ("epoch", "step", "train_loss", "seconds")},
            }
            with written_whole(self.checkpoint) as temporary:
                torch.save(record, temporary)

    def _resume(self) -> None:
        assert self.checkpoint is not None
        try:
            # Learning rates are tensors: on the device, or a captured step would take them for constants.
            record = torch.load(self.checkpoint, map_location=self._total.device, weights_only=True)
            self.model.load_state_dict(record["model"])
            self.method.load_state_dict(record["method"])
            self._total.copy_(record["total"])
            self.epoch, self.step = int(record["epoch"]), int(record["step"])
            self.train_loss, self.seconds = float(record["train_loss"]), float(record["seconds"])
        except Exception as error:
            raise InputError(f"{self.checkpoint} cannot be read as a checkpoint of this run; delete it") from error


def train(config: Config, split: Split, *, max_steps: int | None = None) -> Training:
    """Train to the end, or for ``max_steps``."""
    training = Training(config, split)
    while not training.finished and max_steps != 0:
        training.advance()
        max_steps = None if max_steps is None else max_steps - 1
    return training
