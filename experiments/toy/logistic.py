"""The logistic regression of Figs. 3 and 5: exact Bayes, SAM, SAM + Laplace and bSAM on the same data and prior.

Every approximation is a diagonal Gaussian (SAM's a point), so its predictive probability is a one-dimensional
integral, E sigmoid(a) with a ~ N(m.x, sum_j v_j x_j^2), done by Gauss-Hermite quadrature; the exact posterior's comes
from the nodes of its two-dimensional quadrature.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import root
from scipy.special import expit
from torch import Tensor, nn
from torch.nn.functional import softplus

from experiments.toy.moons_rows import Bsam, cosine
from fenchel import Gaussian
from fenchel.arrays import Array
from fenchel.bayes.laplace import map_estimate
from fenchel.bayes.posterior import ExactPosterior
from fenchel.losses import LogisticRegression
from fenchel.optim import BSAM, SAM
from fenchel.problems import ClassificationProblem, murphy_draw, separation_margin

NUM_DATA = 60
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def draws(count: int, *, separable: bool) -> list[tuple[int, ClassificationProblem]]:
    """The first ``count`` draws of the paper's recipe that are (or are not) separable through the origin, by seed."""
    found: list[tuple[int, ClassificationProblem]] = []
    seed = 0
    while len(found) < count:
        problem = murphy_draw(seed)
        if (separation_margin(problem.inputs, problem.labels) > 0) == separable:
            found.append((seed, problem))
        seed += 1
    return found


def prior_of(precision: float) -> Gaussian:
    """N(0, I / precision) in the plane."""
    return Gaussian(np.zeros(2), np.full(2, 1.0 / precision))


def box(columns: int, rows: int) -> tuple[Array, Array, Array]:
    """The plotted box around the data: its two axes and its points (rows * columns, 2), the first input fastest."""
    first, second = np.linspace(-13.0, 9.0, columns), np.linspace(-7.0, 11.0, rows)
    grid = np.meshgrid(first, second)
    return first, second, np.column_stack([g.ravel() for g in grid])


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
    """P(class 1) at ``inputs`` (n, 2) under N(mean, diag(variance)); (..., n) for means and variances (..., 2)."""
    spread = np.sqrt(np.asarray(variance) @ (inputs**2).T)
    return np.asarray(expit((np.asarray(mean) @ inputs.T)[..., None] + spread[..., None] * _NODES) @ _WEIGHTS)


def sam_residual(loss: LogisticRegression, prior_precision: float, rho: float, point: Array) -> Array:
    """(grad l(theta + rho g/|g|) + delta0 theta) / N, zero at a stationary point of SAM; |g| = 0 perturbs nothing."""
    gradient = np.asarray(loss.gradient(point))
    size = float(np.linalg.norm(gradient))
    worst = np.asarray(loss.gradient(point + (rho / size if size > 0 else 0.0) * gradient))
    return np.asarray((worst + prior_precision * point) / NUM_DATA)


def sam_points(loss: LogisticRegression, prior_precision: float, rhos: Sequence[float]) -> Array:
    """SAM's stationary points (rhos, 2), followed from the maximum a posteriori in steps of rho; NaN where lost.

    SAM's own iteration has these as its fixed points; `run_sam` finds them by the shipped optimizer.
    """
    point, before = map_estimate(loss, prior_of(prior_precision)), 0.0
    found = np.full((len(rhos), 2), np.nan)
    for i, rho in enumerate(rhos):
        for step in np.linspace(before, rho, 5)[1:]:
            solved = root(lambda theta, r=step: sam_residual(loss, prior_precision, r, theta), point, tol=1e-12)
            point = np.asarray(solved.x)
        before = rho
        if float(np.linalg.norm(sam_residual(loss, prior_precision, rho, point))) < 1e-8:
            found[i] = point
    return found


def run_sam(problem: ClassificationProblem, prior_precision: float, rho: float, steps: int, start: Array) -> Array:
    """The shipped SAM over SGD with momentum 0.9 on the mean loss, full batch, cosine learning rate from 0.2."""
    weight = nn.Parameter(torch.from_numpy(np.array(start)))
    rows = torch.from_numpy(problem.inputs * problem.labels[:, None])
    decay = prior_precision / NUM_DATA
    optimizer = SAM([weight], torch.optim.SGD, rho, lr=0.2, momentum=0.9, weight_decay=decay)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = softplus(-rows @ weight).mean()
        loss.backward()
        return loss

    for rate in cosine(0.2, steps):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step(closure)
    return weight.detach().numpy().copy()


def run_bsam(
    data: Sequence[ClassificationProblem],
    prior_precision: float,
    settings: Sequence[Bsam],
    seeds: int,
    steps: int,
    seed: int,
) -> tuple[Array, Array, Array]:
    """Means, variances (settings, data sets, seeds, 2) of bSAM runs made side by side, and how far s still moved.

    Algorithm 1 acts on every parameter alone, so that independent runs can be rows of one parameter: full batches, one
    noise a row, beta = (0.9, 0.99), learning rate 0.1 with a cosine, from the maximum a posteriori. The last tenth of
    the variances is averaged; ``moved`` (settings, data sets) is the largest |log ratio| of the geometric mean over
    seeds of s between that tenth and the one before.
    """
    rows = torch.stack([torch.from_numpy(d.inputs * d.labels[:, None]) for d in data])  # (sets, 60, 2)
    prior = prior_of(prior_precision)
    start = torch.from_numpy(np.stack([map_estimate(d.loss, prior) for d in data]))[:, None].expand(-1, seeds, -1)
    params = [nn.Parameter(start.clone()) for _ in settings]
    groups = [
        {"params": [p], "rho": s.rho, "damping": s.damping, "sqrt_num_data": s.sqrt_num_data}
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
        losses = softplus(-torch.einsum("kdsj,dij->kdsi", theta, rows)).mean(-1)
        losses.sum().backward()
        return losses.detach().mean()  # a run's; the gradients of independent runs do not mix

    tail = max(1, steps // 10)
    kept = torch.zeros((2, len(settings), *start.shape), dtype=torch.float64)
    for step, rate in enumerate(cosine(0.1, steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step(closure)
        if step >= steps - 2 * tail:
            kept[int(step >= steps - tail)] += torch.stack(optimizer.posterior_variance()) / tail
    moved = (kept[1].log().mean(2) - kept[0].log().mean(2)).abs().amax(-1)
    return torch.stack([p.detach() for p in params]).numpy(), kept[1].numpy(), moved.numpy()
