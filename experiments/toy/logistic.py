"""The logistic regression of Figs. 3 and 5: exact Bayes, SAM, SAM + Laplace and bSAM on the same data and prior.

Every approximation is a diagonal Gaussian (SAM's a point), so its predictive probability is a one-dimensional
integral, E sigmoid(a) with a ~ N(m.x, sum_j v_j x_j^2), done by Gauss-Hermite quadrature; the exact posterior's comes
from the nodes of its two-dimensional quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.utils.data import DataLoader, TensorDataset

from fenchel import Gaussian
from fenchel.bayes.exact import ExactPosterior, exact_posterior
from fenchel.losses import LogisticRegression
from fenchel.optim import BSAM, SAM
from fenchel.predict import fit_laplace
from fenchel.problems import murphy

__all__ = [
    "Bsam",
    "Data",
    "box",
    "data_set",
    "exact",
    "exact_predictive",
    "gaussian_predictive",
    "linear_model",
    "run_bsam",
    "sam_laplace",
    "sam_residual",
    "train_sam",
]

Array = NDArray[np.float64]

NUM_DATA = 60
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(100)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Data:
    """``inputs`` (60, 2) and ``labels`` (60,) in {-1, +1}; fresh points of the same law to test on."""

    inputs: Array
    labels: Array
    test_inputs: Array
    test_labels: Array

    @property
    def loss(self) -> LogisticRegression:
        """The total loss."""
        return LogisticRegression(self.inputs, self.labels)


@dataclass(frozen=True)
class Bsam:
    """Settings of bSAM that are varied; the prior precision delta0 enters as weight decay delta0/N."""

    rho: float = 0.05
    damping: float = 0.1
    data_factor: float = 1.0
    sqrt_num_data: bool = False


def data_set(index: int, num_test: int = 1000) -> Data:
    """Data set 0 is the paper's; the others are drawn anew from the same two Gaussian classes."""
    problem = murphy(num_test)
    if index == 0:
        return Data(problem.inputs, problem.labels, problem.test_inputs, problem.test_labels)
    rng = np.random.default_rng(index)
    ones, others = rng.standard_normal((30, 2)), rng.standard_normal((30, 2))
    inputs = np.vstack([ones + np.array([1.0, 5.0]), 2.2 * others + np.array([-5.0, 1.0])])
    return Data(inputs, np.r_[np.ones(30), -np.ones(30)], problem.test_inputs, problem.test_labels)


def box(columns: int, rows: int) -> tuple[Array, Array, Array]:
    """The plotted box around the data: its two axes and its points (rows * columns, 2), the first input fastest."""
    first, second = np.linspace(-13.0, 9.0, columns), np.linspace(-7.0, 11.0, rows)
    grid = np.meshgrid(first, second)
    return first, second, np.column_stack([g.ravel() for g in grid])


def exact(data: Data, prior_precision: float) -> ExactPosterior:
    """The exact posterior by adaptive quadrature."""
    return exact_posterior(data.loss, Gaussian(np.zeros(2), np.full(2, 1.0 / prior_precision)))


def exact_predictive(posterior: ExactPosterior, inputs: Array) -> Array:
    """P(class 1) at ``inputs`` (n, 2) under the exact posterior; nodes of total mass below 1e-12 are left out."""
    order = np.argsort(posterior.node_weights)
    light = np.cumsum(posterior.node_weights[order]) < 1e-12
    keep = order[~light]
    nodes, weights = posterior.nodes[keep], posterior.node_weights[keep] / posterior.node_weights[keep].sum()
    out = np.empty(len(inputs))
    chunk = max(1, 4_000_000 // len(nodes))
    for start in range(0, len(inputs), chunk):
        out[start : start + chunk] = expit(inputs[start : start + chunk] @ nodes.T) @ weights
    return out


def gaussian_predictive(mean: Array, variance: Array, inputs: Array) -> Array:
    """P(class 1) at ``inputs`` (n, 2) under N(mean, diag(variance))."""
    spread = np.sqrt(inputs**2 @ variance)
    return np.asarray(expit((inputs @ mean)[:, None] + spread[:, None] * _NODES) @ _WEIGHTS)


def linear_model(weights: Array | None = None) -> nn.Linear:
    """x -> theta.x in float64, without bias."""
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.zeros(1, 2) if weights is None else torch.from_numpy(weights)[None])
    return model


def train_sam(data: Data, prior_precision: float, rho: float, steps: int) -> Array:
    """SAM over SGD with momentum 0.9 on the mean loss, full batch, cosine learning rate from 0.2: the point (2,)."""
    model = linear_model()
    rows = torch.from_numpy(data.inputs * data.labels[:, None])
    decay = prior_precision / NUM_DATA
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho, lr=0.2, momentum=0.9, weight_decay=decay)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = softplus(-model(rows)).mean()
        loss.backward()
        return loss

    for rate in _cosine(0.2, steps):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step(closure)
    return model.weight.detach()[0].numpy().copy()


def sam_residual(data: Data, prior_precision: float, rho: float, point: Array) -> float:
    """|grad l(theta + rho g/|g|) + delta0 theta| / N, zero at a stationary point of SAM: the mean loss's gradient."""
    gradient = np.asarray(data.loss.gradient(point))
    worst = np.asarray(data.loss.gradient(point + rho * gradient / np.linalg.norm(gradient)))
    return float(np.linalg.norm(worst + prior_precision * point) / NUM_DATA)


def sam_laplace(data: Data, prior_precision: float, point: Array) -> Array:
    """Variances (2,) of the diagonal GGN Laplace approximation at ``point``, by laplace-torch."""
    labels = torch.from_numpy((data.labels > 0).astype(np.int64))
    loader = DataLoader(TensorDataset(torch.from_numpy(data.inputs), labels), batch_size=NUM_DATA)
    posterior = fit_laplace(linear_model(point), loader, prior_precision=prior_precision)
    return np.asarray(1.0 / posterior.laplace.posterior_precision.detach().numpy(), dtype=float)


def run_bsam(
    data: Sequence[Data], prior_precision: float, settings: Sequence[Bsam], seeds: int, steps: int, seed: int
) -> tuple[Array, Array]:
    """Means and variances, each (settings, data sets, seeds, 2), of bSAM runs made side by side.

    Algorithm 1 acts on every parameter alone, so that independent runs can be rows of one parameter: full batches, one
    noise a row, beta = (0.9, 0.99), learning rate 0.1 with a cosine. The last tenth of the variances is averaged.
    """
    rows = torch.stack([torch.from_numpy(d.inputs * d.labels[:, None]) for d in data])  # (sets, 60, 2)
    shape = (len(data), seeds, 2)
    params = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for _ in settings]
    groups = [
        {
            "params": [p],
            "rho": s.rho,
            "damping": s.damping,
            "data_factor": s.data_factor,
            "sqrt_num_data": s.sqrt_num_data,
        }
        for p, s in zip(params, settings, strict=True)
    ]
    optimizer = BSAM(
        groups,
        lr=0.1,
        num_data=NUM_DATA,
        rho=0.05,
        weight_decay=prior_precision / NUM_DATA,
        betas=(0.9, 0.99),
        seed=seed,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        theta = torch.stack([*params])  # (settings, sets, seeds, 2)
        loss = softplus(-torch.einsum("kdsj,dij->kdsi", theta, rows)).mean(-1).sum()
        loss.backward()
        return loss

    kept = [torch.zeros(shape, dtype=torch.float64) for _ in settings]
    tail = max(1, steps // 10)
    for step, rate in enumerate(_cosine(0.1, steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step(closure)
        if step >= steps - tail:
            for total, variance in zip(kept, optimizer.posterior_variance(), strict=True):
                total += variance / tail
    return torch.stack([p.detach() for p in params]).numpy(), torch.stack(kept).numpy()


def _cosine(rate: float, steps: int) -> Iterator[float]:
    for step in range(steps):
        yield rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))
