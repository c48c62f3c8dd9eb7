"""The frozen description of one training run, and the name under which its row is stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

METHODS = ("sgd", "sam-sgd", "swag", "vogn", "adam", "sam-adam", "bsam", "ivon")
BAYESIAN = ("swag", "vogn", "bsam", "ivon")


@dataclass(frozen=True)
class Config:
    """One run: everything that decides its row, and nothing that does not (device, folders, progress).

    ``weight_decay`` is delta = delta0 / N of Algorithm 1 (prior precision over the number of data); for the methods
    without a posterior it is the usual L2 coefficient of the mean loss. ``parts`` is m of m-sharpness, and the number
    of independent weight samples a step for VOGN and IVON. ``select`` trains without the validation split and
    evaluates on it; otherwise the whole training set is used and the test set is evaluated. ``precision`` is that of
    the passes: "float32", "tf32" (its products' mantissas have 10 bits) or "bf16" (autocast); the last two need a GPU.
    """

    dataset: str
    model: str
    method: str
    seed: int = 0
    epochs: int = 120
    batch_size: int = 200
    lr: float = 0.1
    momentum: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 1e-4
    rho: float = 0.0
    parts: int = 1
    damping: float = 0.1
    s_init: float = 1.0
    noise: bool = True
    sqrt_n: bool = False
    data_factor: float = 1.0
    schedule: str = "cosine"
    warmup: int = 0
    milestones: tuple[int, ...] = ()
    swag_start: float = 0.75
    swag_lr: float = 0.5
    swag_rank: int = 20
    augment: bool = False
    select: bool = False
    limit: int = 0
    samples: tuple[int, ...] = (32,)
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {self.method!r}")

    @property
    def passes(self) -> int:
        """Forward and backward passes over the training set in an epoch."""
        return 2 if self.method in ("sam-sgd", "sam-adam", "bsam") else 1

    @property
    def bayesian(self) -> bool:
        """Whether the method leaves a distribution over weights that predictions average over."""
        return self.method in BAYESIAN

    def settings(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Config:
        """The inverse of `settings`; unknown fields are refused."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ValueError(f"settings hold unknown fields {unknown}")
        values = dict(settings)
        for name in ("milestones", "samples"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(**values)

    def key(self) -> str:
        """A short name that is the same for equal settings on every machine."""
        text = json.dumps(self.settings(), sort_keys=True)
        return f"{self.dataset}-{self.model}-{self.method}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def lr_factor(self, epoch: int) -> float:
        """The factor on the learning rate in ``epoch`` (from 0); constant within an epoch, as in the authors' code.

        SWAG anneals to ``swag_lr`` times its rate over the first ``swag_start`` of the epochs and stays there.
        """
        if epoch < self.warmup:
            return (epoch + 1) / self.warmup
        if self.schedule == "step":
            factor = 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        elif self.method == "swag":
            factor = max(self.swag_lr, _cosine(epoch - self.warmup, self.swag_epoch - self.warmup))
        else:
            factor = _cosine(epoch - self.warmup, self.epochs - self.warmup)
        return max(factor, self.swag_lr) if self.method == "swag" else factor

    @property
    def swag_epoch(self) -> int:
        """The first epoch whose end point SWAG collects."""
        return min(self.epochs - 1, int(self.swag_start * self.epochs))


def _cosine(epoch: int, epochs: int) -> float:
    from math import cos, pi

    return 0.5 * (1 + cos(pi * min(max(epoch, 0), epochs) / max(epochs, 1)))
