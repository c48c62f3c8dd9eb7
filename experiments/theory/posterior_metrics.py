"""How far a Gaussian q is from the exact posterior: divergences, widths, predictive distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import sqrtm
from scipy.special import expit, xlogy

from fenchel import ExactPosterior, Gaussian, bayes_objective
from fenchel.arrays import Array
from fenchel.losses import Loss


def wasserstein2(p: Gaussian, q: Gaussian) -> float:
    """The Wasserstein-2 distance between two Gaussians."""
    root = np.real(sqrtm(p.cov))
    cross = np.real(sqrtm(root @ q.cov @ root))
    squared = float(np.sum((p.mean - q.mean) ** 2) + np.trace(p.cov + q.cov - 2.0 * cross))
    return float(np.sqrt(max(0.0, squared)))


def kl_by_grid(posterior: ExactPosterior, q: Gaussian, *, half_width: float = 9.0, nodes: int = 301) -> float:
    """KL(q || posterior) for P <= 2 by a trapezoidal rule in q's own coordinates: a second way."""
    axis = np.linspace(-half_width, half_width, nodes)
    grid = np.stack(np.meshgrid(*[axis] * q.dim, indexing="ij"), axis=-1).reshape(-1, q.dim)
    weights = np.exp(-0.5 * np.sum(grid**2, axis=1))
    weights /= weights.sum()
    theta = q.mean + grid @ np.linalg.cholesky(q.cov).T
    return float(weights @ (np.asarray(q.log_density(theta)) - posterior.log_density(theta)))


def distances(loss: Loss, posterior: ExactPosterior, prior: Gaussian, q: Gaussian) -> dict[str, float]:
    """Distances of q from the posterior.

    ``kl_q_p`` and ``kl_p_q`` (P <= 2 or, by MCMC, from the draws) are between q and the posterior itself; the
    ``moments_`` ones between q and the Gaussian with the posterior's moments. ``width`` is the geometric mean ratio of
    standard deviations (det S_q / det S)^(1 / 2P); ``width_min``, ``width_max`` the extreme ratios over directions;
    ``mean_shift`` the distance of the means in the posterior's standard deviations.
    """
    gaussian = posterior.gaussian()
    ratios = np.sqrt(np.real(np.linalg.eigvals(np.linalg.solve(gaussian.cov, q.cov))))
    step = q.mean - gaussian.mean
    log_p = posterior.expectation(posterior.log_density)
    log_q = posterior.expectation(lambda theta: np.asarray(q.log_density(theta)))
    return {
        "kl_q_p": bayes_objective(loss, q, prior).value + posterior.log_evidence,
        "kl_p_q": float(log_p - log_q),
        "moments_kl_q_p": q.kl(gaussian),
        "moments_kl_p_q": gaussian.kl(q),
        "wasserstein2": wasserstein2(gaussian, q),
        "width": float(np.exp(np.log(ratios).mean())),
        "width_min": float(ratios.min()),
        "width_max": float(ratios.max()),
        "mean_shift": float(np.sqrt(step @ gaussian.precision @ step)),
    }


def predictive(inputs: Array, q: Gaussian, nodes: int = 241) -> Array:
    """P(y = +1 | x) = E_q[sigmoid(x.theta)] at inputs (n, P), by a trapezoidal rule over x.theta; (n,)."""
    z = np.linspace(-9.0, 9.0, nodes)
    weights = np.exp(-0.5 * z * z)
    weights /= weights.sum()
    center = inputs @ q.mean
    spread = np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", inputs, q.cov, inputs), 0.0))
    return np.asarray(expit(center[:, None] + spread[:, None] * z) @ weights)


def predictive_exact(inputs: Array, posterior: ExactPosterior, block: int = 50) -> Array:
    """The same under the exact posterior (quadrature nodes or draws)."""

    def probability(rows: Array) -> Array:
        return posterior.expectation(lambda theta: np.asarray(expit(theta @ rows.T)))

    return np.concatenate([probability(inputs[k : k + block]) for k in range(0, len(inputs), block)])


def bernoulli_kl(truth: Array, other: Array) -> float:
    """Mean KL between predicted class distributions, truth (n,) against other (n,)."""
    other = np.clip(other, 1e-300, 1.0 - 1e-16)
    value = xlogy(truth, truth / other) + xlogy(1.0 - truth, (1.0 - truth) / (1.0 - other))
    return float(np.mean(np.maximum(value, 0.0)))


def predictive_scores(labels: Array, probability: Array, exact: Array) -> dict[str, Any]:
    """NLL, ECE (20 bins) of labels (n,) in {-1, +1}, and the distance of the predictive from the exact one."""
    from fenchel.metrics import evaluate

    scores = evaluate(probability, labels > 0)
    return {
        "nll": scores.nll,
        "ece": scores.ece,
        "mean_abs_from_exact": float(np.mean(np.abs(probability - exact))),
        "max_abs_from_exact": float(np.max(np.abs(probability - exact))),
        "kl_from_exact": bernoulli_kl(exact, probability),
        "mean_confidence": float(np.mean(np.maximum(probability, 1.0 - probability))),
        "accuracy": scores.accuracy,
    }
