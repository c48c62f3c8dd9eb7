"""Many small networks trained side by side, one a row: SAM, bSAM and the exact diagonal optimum on two moons.

A network is a list of tensors, weights (rows, out, in) and biases (rows, out) of every layer, with tanh between them;
data are (rows, n, 2) and signs (rows, n). Runs share no number, so that a row is what it would be alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fenchel.arrays import Array
from fenchel.optim import BSAM

Rows = list[Tensor]


@dataclass(frozen=True)
class Bsam:
    """A setting of bSAM, with the prior as weight decay delta0/N; ``sqrt_num_data``: the s-update of App. E.3."""

    rho: float
    damping: float
    sqrt_num_data: bool = False


@dataclass(frozen=True)
class Fit:
    """Diagonal Gaussians, one a row, and by row how far log s still moved on average (bSAM)."""

    mean: Rows
    variance: Rows
    moved: Array


def logits(network: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """(..., n) at ``inputs`` (..., n, 2)."""
    hidden, last = inputs, len(network) // 2 - 1
    for layer in range(last + 1):
        weights, bias = network[2 * layer], network[2 * layer + 1]
        hidden = hidden @ weights.transpose(-1, -2) + bias.unsqueeze(-2)
        hidden = torch.tanh(hidden) if layer < last else hidden
    return hidden[..., 0]


def start_rows(widths: Sequence[int], seeds: Sequence[int]) -> Rows:
    """A row for every seed: weights N(0, 1/fan_in), biases N(0, 1/4)."""
    networks = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        network = []
        for fan_in, fan_out in pairwise(widths):
            network.append(fan_in**-0.5 * torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64))
            network.append(0.5 * torch.randn(fan_out, generator=generator, dtype=torch.float64))
        networks.append(network)
    return [torch.stack(same) for same in zip(*networks, strict=True)]


def module_of(network: Sequence[Tensor]) -> nn.Sequential:
    """One row as a module."""
    layers: list[nn.Module] = []
    for weights, bias in zip(network[::2], network[1::2], strict=True):
        layer = nn.Linear(weights.shape[1], weights.shape[0], dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(weights)
            layer.bias.copy_(bias)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def sam_rows(start: Rows, inputs: Tensor, signs: Tensor, delta0: float, rho: float, steps: int) -> Rows:
    """SAM over Adam, full batch; rho = 0 is the maximum a posteriori. The perturbation's norm is a row's own."""
    params = [nn.Parameter(t.clone()) for t in start]
    optimizer = torch.optim.Adam(params, lr=0.02)
    for rate in cosine(0.02, steps):
        optimizer.param_groups[0]["lr"] = rate
        gradient = torch.autograd.grad(_loss(params, inputs, signs), params)
        norm = torch.cat([g.flatten(1) for g in gradient], dim=1).norm(dim=1) + 1e-150
        eps = [rho * g / norm.view(-1, *[1] * (g.ndim - 1)) for g in gradient]
        moved = [(p + e).detach().requires_grad_() for p, e in zip(params, eps, strict=True)]
        for p, g in zip(params, torch.autograd.grad(_loss(moved, inputs, signs), moved), strict=True):
            p.grad = g + delta0 * p.detach()
        optimizer.step()
    return [p.detach() for p in params]


def ceiling_rows(
    start: Rows, inputs: Tensor, signs: Tensor, delta0: float, steps: int, seed: int, *, samples: int = 8
) -> Fit:
    """The best diagonal Gaussian: E_q[-l] - KL(q || prior) maximized over means and log standard deviations by Adam."""
    mean = [nn.Parameter(t.clone()) for t in start]
    log_sd = [nn.Parameter(torch.full_like(t, math.log(0.1))) for t in start]
    optimizer = torch.optim.Adam([*mean, *log_sd], lr=0.01)
    generator = torch.Generator().manual_seed(seed)
    for rate in cosine(0.01, steps):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        theta = []
        for m, r in zip(mean, log_sd, strict=True):
            z = torch.randn(samples // 2, *m.shape, generator=generator, dtype=m.dtype)
            theta.append(m + r.exp() * torch.cat([z, -z]))
        loss = _loss(theta, inputs, signs) / samples
        for m, r in zip(mean, log_sd, strict=True):
            loss = loss + (0.5 * delta0 * (m * m + torch.exp(2 * r)) - r).sum()
        loss.backward()
        optimizer.step()
    variance = [torch.exp(2 * r.detach()) for r in log_sd]
    return Fit([m.detach() for m in mean], variance, np.zeros(len(start[0])))


def run_bsam(
    start: Rows,
    inputs: Tensor,
    signs: Tensor,
    delta0: float,
    settings: Sequence[Bsam],
    steps: int,
    seed: int,
    *,
    parts: int = 10,
    s_init: float = 1.0,
) -> list[Fit]:
    """The shipped `BSAM`, all data in a step, split in ``parts`` sub-batches anew every step; a fit for each setting.

    Learning rate 0.1 with a cosine, beta = (0.9, 0.99): s forgets its start within a few hundred steps. The last tenth
    of the variances is averaged; ``moved`` compares the mean log s of that tenth with the one before.
    """
    count, tensors = inputs.shape[-2], len(start)
    networks = [[nn.Parameter(t.clone()) for t in start] for _ in settings]
    groups = [
        {"params": network, "rho": s.rho, "damping": s.damping, "sqrt_num_data": s.sqrt_num_data}
        for network, s in zip(networks, settings, strict=True)
    ]
    optimizer = BSAM(
        groups,
        lr=0.1,
        num_data=count,
        rho=0.05,
        betas=(0.9, 0.99),
        weight_decay=delta0 / count,
        s_init=s_init,
        seed=seed,
    )

    def loss(values: Sequence[Tensor], batch: Sequence[Tensor]) -> Tensor:
        theta = [torch.stack(list(values[i::tensors])) for i in range(tensors)]
        return _loss(theta, *batch) / batch[0].shape[-2]

    shuffle, tail = torch.Generator().manual_seed(seed), max(1, steps // 10)
    kept = [[torch.zeros_like(p) for p in optimizer.trainable()] for _ in range(2)]
    for step, rate in enumerate(cosine(0.1, steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        order = torch.randperm(count, generator=shuffle)
        x = inputs[..., order, :].unflatten(-2, (parts, -1)).movedim(-3, 0)
        y = signs[..., order].unflatten(-1, (parts, -1)).movedim(-2, 0)
        optimizer.step_vectorized(loss, (x, y))
        if step >= steps - 2 * tail:
            for total, v in zip(kept[int(step >= steps - tail)], optimizer.posterior_variance(), strict=True):
                total += v.detach() / tail
    fits = []
    for k, network in enumerate(networks):
        before, last = (half[k * tensors : (k + 1) * tensors] for half in kept)
        logs = torch.cat([(a / b).log().flatten(1) for a, b in zip(before, last, strict=True)], dim=1)
        fits.append(Fit([p.detach() for p in network], last, logs.mean(1).abs().numpy()))
    return fits


def predict(mean: Rows, variance: Rows | None, points: Tensor, samples: int, seed: int) -> Array:
    """P(class 1) (rows, k) at ``points`` (k, 2) or (rows, k, 2), averaged over weights drawn from the Gaussians."""
    if variance is None:
        return np.asarray(torch.sigmoid(logits(mean, points)).numpy())
    generator = torch.Generator().manual_seed(seed)
    spread, total = [v.sqrt() for v in variance], torch.zeros(())
    for _ in range(samples):
        z = [torch.randn(m.shape, generator=generator, dtype=m.dtype) for m in mean]
        theta = [m + s * e for m, s, e in zip(mean, spread, z, strict=True)]
        total = total + torch.sigmoid(logits(theta, points))
    return np.asarray((total / samples).numpy())


def elbo(fit: Fit, inputs: Tensor, signs: Tensor, delta0: float, samples: int, seed: int) -> Array:
    """The Bayes objective E_q[-l] - KL(q || prior) by row, by sampling; -inf for a run that diverged."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(fit.mean[0]), dtype=torch.float64)
    for _ in range(samples):
        theta = [
            m + v.sqrt() * torch.randn(m.shape, generator=generator, dtype=m.dtype)
            for m, v in zip(fit.mean, fit.variance, strict=True)
        ]
        total -= softplus(-signs * logits(theta, inputs)).sum(-1) / samples
    for m, v in zip(fit.mean, fit.variance, strict=True):
        kl = 0.5 * (delta0 * (m * m + v) - 1 - torch.log(delta0 * v))
        total -= kl.flatten(1).sum(1)
    return np.asarray(torch.nan_to_num(total, nan=-math.inf).numpy())


def cosine(rate: float, steps: int) -> Iterator[float]:
    """Learning rates from ``rate`` towards zero."""
    for step in range(steps):
        yield rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _loss(network: Sequence[Tensor], inputs: Tensor, signs: Tensor) -> Tensor:
    """The total loss, summed over rows."""
    return softplus(-signs * logits(network, inputs)).sum()
