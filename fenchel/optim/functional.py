"""Algorithm 1 and its relatives as pure, elementwise functions of tensors; no bookkeeping, nothing in place.

Notation of Moellenhoff & Khan (2023): mean ``omega``, precision over N ``s`` (the posterior variance is 1/(N s)), prior
precision over N ``delta``, damping ``gamma``. Every function broadcasts, so a leading axis of sub-batches is allowed.
The in-place kernels the optimizers run are tested against these.
"""

from __future__ import annotations

from torch import Tensor

__all__ = [
    "adversarial_point",
    "bsam_update",
    "curvature_estimate",
    "ivon_hessian",
    "noisy_point",
    "posterior_variance",
    "update_mean",
    "update_momentum",
    "update_precision",
]

Scalar = float | Tensor


def posterior_variance(s: Tensor, num_data: Scalar) -> Tensor:
    """sigma^2 = 1/(N s), line 3 of Algorithm 1."""
    return (s * num_data).reciprocal()


def noisy_point(mean: Tensor, noise: Tensor, s: Tensor, num_data: Scalar) -> Tensor:
    """theta = omega + e with e = noise / sqrt(N s), line 3; ``noise`` is standard normal."""
    return mean + noise / (s * num_data).sqrt()


def adversarial_point(mean: Tensor, gradient: Tensor, s: Tensor, rho: Scalar) -> Tensor:
    """omega + eps with eps = rho g / s, line 5; ``gradient`` was taken at the noisy point."""
    return mean + rho * gradient / s


def curvature_estimate(gradient: Tensor, s: Tensor) -> Tensor:
    """sqrt(s) |g| of line 8; under m-sharpness this, not g, is averaged over the sub-batches."""
    return s.sqrt() * gradient.abs()


def update_momentum(momentum: Tensor, gradient: Tensor, mean: Tensor, beta1: Scalar, weight_decay: Scalar) -> Tensor:
    """g_m <- beta1 g_m + (1 - beta1) (g_eps + delta omega), line 7."""
    return beta1 * momentum + (1 - beta1) * (gradient + weight_decay * mean)


def update_precision(
    s: Tensor, curvature: Tensor, beta2: Scalar, weight_decay: Scalar, damping: Scalar, factor: Scalar = 1.0
) -> Tensor:
    """s <- beta2 s + (1 - beta2) (factor sqrt(s)|g| + delta + gamma), line 8; ``curvature`` is sqrt(s)|g|.

    ``factor`` is 1 in Algorithm 1; sqrt(N) is what the derivation of App. E.3 would have.
    """
    return beta2 * s + (1 - beta2) * (factor * curvature + weight_decay + damping)


def update_mean(mean: Tensor, momentum: Tensor, s: Tensor, lr: Scalar) -> Tensor:
    """omega <- omega - alpha g_m / s, line 9."""
    return mean - lr * momentum / s


def bsam_update(
    mean: Tensor,
    s: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    curvature: Tensor,
    *,
    lr: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    weight_decay: Scalar,
    damping: Scalar,
    precision_first: bool = True,
    factor: Scalar = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lines 7 to 9 of Algorithm 1 from the averaged g_eps and sqrt(s)|g|: the new (mean, s, momentum).

    With ``precision_first=False`` the mean moves with the old s, as in the authors' code (line 9 before line 8).
    """
    momentum = update_momentum(momentum, gradient, mean, beta1, weight_decay)
    new_s = update_precision(s, curvature, beta2, weight_decay, damping, factor)
    return update_mean(mean, momentum, new_s if precision_first else s, lr), new_s, momentum


def ivon_hessian(h: Tensor, h_hat: Tensor, beta2: Scalar, weight_decay: Scalar) -> Tensor:
    """h <- beta2 h + (1 - beta2) h_hat + (1 - beta2)^2 (h - h_hat)^2 / (2 (h + delta)), of IVON.

    The last term is the one that keeps h + delta positive, whatever h_hat is.
    """
    return beta2 * h + (1 - beta2) * h_hat + 0.5 * (1 - beta2) ** 2 * (h - h_hat).square() / (h + weight_decay)
