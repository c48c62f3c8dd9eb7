"""The authors' demo of two moons: SAM, SAM + Laplace and bSAM with its settings, and what they predict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from experiments.toy.moons import Moons
from fenchel.arrays import Array
from fenchel.optim import BSAM, SAM, functional_loss, split_batch
from fenchel.predict import fit_laplace, predict_bma
from fenchel.predict.laplace import LaplacePosterior

WIDTHS = (2, 32, 32, 32, 32, 1)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(100)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Settings:
    """The demo's hyperparameters; ``sam_lr`` is ours, the demo trains bSAM only."""

    weight_decay: float = 1e-4
    damping: float = 0.1
    rho: float = 0.05
    lr: float = 0.5
    sam_lr: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    batch: int = 30
    parts: int = 5
    epochs: int = 250


def network(seed: int) -> nn.Sequential:
    """2-32-32-32-32-1, ELU, biases 0.05, weights N(0, 1/fan_in) cut off at two standard deviations, float64."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(WIDTHS):
        layer = nn.Linear(fan_in, fan_out, dtype=torch.float64)
        with torch.no_grad():
            nn.init.trunc_normal_(
                layer.weight, std=fan_in**-0.5, a=-2 * fan_in**-0.5, b=2 * fan_in**-0.5, generator=generator
            )
            layer.bias.fill_(0.05)
        layers += [layer, nn.ELU()]
    return nn.Sequential(*layers[:-1])


def train_bsam(
    data: Moons, settings: Settings, seed: int, watch: Callable[[int, nn.Module, BSAM], None] | None = None
) -> tuple[nn.Module, BSAM]:
    """Algorithm 1 with m-sharpness; ``watch(epoch, model, optimizer)`` is called after every epoch."""
    model = network(seed)
    optimizer = BSAM(
        model.parameters(),
        lr=settings.lr,
        num_data=len(data.inputs),
        rho=settings.rho,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        damping=settings.damping,
        seed=seed,
    )
    loss = functional_loss(model, lambda out, y: binary_cross_entropy_with_logits(out[:, 0], y), optimizer.trainable())
    inputs, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    for epoch, minibatches in _schedule(len(inputs), settings, seed, optimizer, settings.lr):
        for rows in minibatches:
            optimizer.step_vectorized(loss, split_batch((inputs[rows], labels[rows]), settings.parts))
        if watch is not None:
            watch(epoch, model, optimizer)
    return model, optimizer


def train_sam(data: Moons, settings: Settings, seed: int) -> nn.Module:
    """SAM over SGD with momentum 0.9, the same batches, sub-batches and schedule."""
    model = network(seed)
    optimizer = SAM(
        model.parameters(),
        torch.optim.SGD,
        settings.rho,
        lr=settings.sam_lr,
        momentum=0.9,
        weight_decay=settings.weight_decay,
    )
    inputs, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)

    def closure_of(rows: Tensor) -> Callable[[], Tensor]:
        x, y = inputs[rows], labels[rows]

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = binary_cross_entropy_with_logits(model(x)[:, 0], y)
            loss.backward()
            return loss

        return closure

    for _, minibatches in _schedule(len(inputs), settings, seed, optimizer, settings.sam_lr):
        for rows in minibatches:
            optimizer.step([closure_of(part) for part in rows.chunk(settings.parts)])
    return model


def _schedule(
    count: int, settings: Settings, seed: int, optimizer: torch.optim.Optimizer, rate: float
) -> Iterator[tuple[int, list[Tensor]]]:
    """Epochs with their shuffled minibatches; the learning rate follows a cosine, constant within an epoch.

    As in the demo, what does not fill a minibatch waits for another epoch.
    """
    shuffle = torch.Generator().manual_seed(seed)
    for epoch in range(settings.epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * epoch / settings.epochs))
        order = torch.randperm(count, generator=shuffle)
        yield epoch, [rows for rows in order.split(settings.batch) if len(rows) == settings.batch]


def laplace_fit(data: Moons, model: nn.Module, prior_precision: float, *, tune: bool = False) -> LaplacePosterior:
    """The diagonal GGN Laplace approximation at the model's weights; its predictive is linearized."""
    labels = torch.from_numpy(data.labels.astype(np.int64))
    loader = DataLoader(TensorDataset(torch.from_numpy(data.inputs), labels), batch_size=len(labels))
    return fit_laplace(model, loader, prior_precision=prior_precision, tune=tune)


def laplace_integral(posterior: LaplacePosterior, points: Array) -> Array:
    """P(class 1) at ``points`` (k, 2): the linearized logit is Gaussian, its average a one-dimensional integral."""
    found = [posterior.logit_moments(some) for some in torch.from_numpy(points).split(200)]  # Jacobians are large
    center = torch.cat([mean[:, 1] for mean, _ in found]).numpy()
    spread = torch.cat([cov[:, 1, 1] for _, cov in found]).clamp(min=0).sqrt().numpy()
    return np.asarray(expit(center[:, None] + spread[:, None] * _NODES) @ _WEIGHTS)


def average(model: nn.Module, posterior: object, points: Array, samples: int, seed: int) -> Array:
    """P(class 1) at ``points`` (k, 2) by `predict_bma`."""
    return np.asarray(predict_bma(model, posterior, torch.from_numpy(points), samples, seed=seed)[:, 1].numpy())
