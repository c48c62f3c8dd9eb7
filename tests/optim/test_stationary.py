"""On a quadratic: the fixed point of s, and the mean and variance of omega's stationary law, derived by hand.

Loss 1/2 a (w - b)^2 in each of many independent coordinates. With sigma^2 = 1/(N s) and m sub-batches that differ in
their noise z_k only, the gradients are

    g_k = a (omega - b + sigma z_k)
    mean_k g_eps = A (omega - b) + (rho a^2 / s) sigma zbar,   A = a (1 + rho a / s), zbar ~ N(0, 1/m)

For beta2 near one s hardly moves, so (omega, g_m) is a linear recursion with Gaussian noise:

    g_m' = beta1 g_m + (1 - beta1) (A (omega - b) + delta omega + d zbar),  omega' = omega - (alpha / s) g_m'

whose stationary mean is A b / (A + delta) and whose covariance solves a discrete Lyapunov equation. g_k is Gaussian
with mean a (mean - b) and variance a^2 (V + sigma^2), so E|g_k| is that of a folded normal, and s is the root of

    s = sqrt(s) E|g_k| + delta + gamma.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor, nn

from fenchel.optim import BSAM


def stationary_law(
    s: float, a: float, b: float, m: int, num_data: float, rho: float, lr: float, beta1: float, delta: float
) -> tuple[float, float]:
    """Mean and variance of omega while s stays where it is."""
    sigma = 1 / math.sqrt(num_data * s)
    slope, kick = a * (1 + rho * a / s), rho * a**2 / s * sigma / math.sqrt(m)
    r = 1 - beta1
    step = np.array([[1 - lr / s * r * (slope + delta), -lr / s * beta1], [r * (slope + delta), beta1]])
    noise = np.array([[-lr / s * r * kick], [r * kick]])
    covariance = solve_discrete_lyapunov(step, noise @ noise.T)
    return slope * b / (slope + delta), covariance[0, 0]


def fixed_point(
    a: float, b: float, m: int, num_data: float, rho: float, lr: float, beta1: float, delta: float, gamma: float,
    factor: float,
) -> float:  # fmt: skip
    def excess(s: float) -> float:
        mean, variance = stationary_law(s, a, b, m, num_data, rho, lr, beta1, delta)
        mu, tau = a * (mean - b), a * math.sqrt(variance + 1 / (num_data * s))
        folded = tau * math.sqrt(2 / math.pi) * math.exp(-0.5 * (mu / tau) ** 2) + mu * (1 - 2 * norm.cdf(-mu / tau))
        return s - factor * math.sqrt(s) * folded - delta - gamma

    return float(brentq(excess, delta + gamma, 50))


@pytest.mark.parametrize("precision_first", [True, False])
@pytest.mark.parametrize(("m", "beta1", "derived"), [(1, 0.0, False), (1, 0.9, False), (4, 0.5, False), (1, 0.9, True)])
def test_stationary_law_on_a_quadratic(m: int, beta1: float, derived: bool, precision_first: bool) -> None:
    a, b, num_data, rho, lr, delta, gamma = 1.3, 2.0, 4.0, 0.6, 0.2, 0.25, 0.3
    s = fixed_point(a, b, m, num_data, rho, lr, beta1, delta, gamma, math.sqrt(num_data) if derived else 1.0)
    mean, variance = stationary_law(s, a, b, m, num_data, rho, lr, beta1, delta)
    p = nn.Parameter(torch.full((1000,), mean, dtype=torch.float64))
    opt = BSAM(
        [p], lr, num_data=num_data, rho=rho, betas=(beta1, 0.998), weight_decay=delta, damping=gamma, s_init=0.8 * s,
        seed=1, precision_first=precision_first, sqrt_num_data=derived,
    )  # fmt: skip

    def closure() -> None:
        p.grad = a * (p.detach() - b)

    seen: list[Tensor] = []
    precision: list[float] = []
    for t in range(3500):
        opt.step([closure] * m)
        if t >= 2500 and t % 10 == 0:
            seen.append(p.detach().clone())
            precision.append(float(opt.state[p]["s"].mean()))
    omega = torch.stack(seen)
    assert np.mean(precision) == pytest.approx(s, rel=0.01)
    assert float(omega.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / 1000 / 10) + 0.002)
    assert float(omega.var()) == pytest.approx(variance, rel=0.04)
    assert abs(s - (delta + gamma)) > 0.2  # the curvature term has a say
