"""The stacked rules with noise against the optimizers of `fenchel.optim`, fed the same normal numbers, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.deep import data, models, stacked_models
from experiments.deep.config import Config
from experiments.deep.stacked_updates import rule_for
from fenchel.optim import BSAM, IVON, SWAG, VOGN
from fenchel.optim.vogn import per_example_loss

STEPS, BATCH, N = 4, 12, 600


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    digits = data.split(data.load("digits"), select=False)
    return [
        (digits.images[i : i + BATCH].double(), digits.labels[i : i + BATCH]) for i in range(0, STEPS * BATCH, BATCH)
    ]


def stacked_path(config: Config, batches: list[tuple[Tensor, Tensor]], noise: list[Tensor]) -> Tensor:
    net = models.build(config.model, (1, 16, 16), 10, 0).double()
    start = torch.nn.utils.parameters_to_vector(net.parameters()).detach()[None, None]
    rule = rule_for(config.method)([config], start, N)
    for (x, y), z in zip(batches, noise, strict=True):
        images = x.view(1, config.parts, -1, 1, 16, 16).transpose(0, 1)
        labels = y.view(1, config.parts, -1).transpose(0, 1)
        points = rule.first_points(z)
        second, squares = None, None
        if rule.squares:
            first, squares, _ = stacked_models.squared_gradients(config.model, points, images, labels, 10)
        else:
            first, _ = stacked_models.gradients(config.model, points, images, labels, 10)
        if rule.passes == 2:
            second = stacked_models.gradients(config.model, rule.second_points(first), images, labels, 10)[0]
        rule.update(first, second, squares, z)
    return rule.mean[0, 0]


def fed(kind: type[Any], noise: list[Tensor]) -> type[Any]:
    stream = torch.cat([z.reshape(-1) for z in noise])

    class Fed(kind):  # type: ignore[misc]
        position = 0

        def standard_normal_like(self, p: Tensor) -> Tensor:
            taken = stream[self.position : self.position + p.numel()].view_as(p)
            self.position += p.numel()
            return taken

    return Fed


@pytest.mark.parametrize("model", ["mlp", "lenet5"])
@pytest.mark.parametrize(("method", "parts"), [("bsam", 3), ("ivon", 3), ("vogn", 1)])
def test_equal_to_the_optimizer(model: str, method: str, parts: int, batches: list[tuple[Tensor, Tensor]]) -> None:
    damping = 0.0 if method == "vogn" else 0.1
    config = Config(
        "digits",
        model,
        method,
        lr=0.05,
        parts=parts,
        rho=0.02,
        damping=damping,
        s_init=0.5,
        beta2=0.9,
        weight_decay=1e-3,
    )
    net = models.build(model, (1, 16, 16), 10, 0).double()
    count = sum(p.numel() for p in net.parameters())
    generator = torch.Generator().manual_seed(1)
    noise = [torch.randn(parts, 1, 1, count, dtype=torch.float64, generator=generator) for _ in batches]
    common = {"num_data": N, "betas": (0.9, 0.9), "weight_decay": 1e-3}
    optimizer: Any
    if method == "bsam":
        optimizer = fed(BSAM, noise)(net.parameters(), 0.05, rho=0.02, s_init=0.5, **common)
    elif method == "ivon":
        optimizer = fed(IVON, noise)(net.parameters(), 0.05, h_init=0.5, rescale_lr=False, **common)
    else:
        optimizer = fed(VOGN, noise)(net.parameters(), 0.05, h_init=0.5, damping=0.0, **common)
    for x, y in batches:

        def closure(x: Tensor, y: Tensor) -> Any:
            def evaluate() -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(net(x), y)
                loss.backward()
                return loss

            return evaluate

        if method == "vogn":
            optimizer.step(per_example_loss(net, F.cross_entropy, optimizer.trainable()), (x, y))
        else:
            optimizer.step(
                [closure(a, b) for a, b in zip(x.split(BATCH // parts), y.split(BATCH // parts), strict=True)]
            )
    reference = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    found = stacked_path(config, batches, noise)
    start = torch.nn.utils.parameters_to_vector(models.build(model, (1, 16, 16), 10, 0).parameters()).detach()
    assert float((found - reference).norm() / (reference - start).norm()) < 1e-12


def test_swag_moments_equal_the_optimizers() -> None:
    generator = torch.Generator().manual_seed(2)
    config = Config("digits", "mlp", "swag", epochs=8, swag_start=0.5, swag_rank=3)
    rule = rule_for("swag")([config], torch.zeros(1, 1, 7, dtype=torch.float64), N)
    weights = torch.nn.Parameter(torch.zeros(7, dtype=torch.float64))
    reference = SWAG([weights], max_rank=3)
    for epoch in range(config.epochs):
        point = torch.randn(7, dtype=torch.float64, generator=generator)
        rule.mean.copy_(point)
        rule.end_epoch(epoch)
        if epoch >= config.swag_epoch:
            with torch.no_grad():
                weights.copy_(point)
            reference.collect()
    samples = torch.stack([rule.sample(generator)[0, 0] for _ in range(20000)])
    (variance,) = reference.posterior_variance()
    with reference.mean_params():
        assert torch.allclose(rule.center()[0, 0], weights, atol=1e-12)
    # 20000 samples: the mean is within 5 standard errors, the variance within 5 times its relative error of 1%.
    assert bool(((samples.mean(0) - rule.center()[0, 0]).abs() < 5 * (variance / 20000).sqrt()).all())
    assert torch.allclose(samples.var(0), variance, rtol=0.05)
