"""Algorithm 1 line by line, as the paper prints it, in exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction as F

import pytest

torch = pytest.importorskip("torch")

from fenchel.optim import functional as f  # noqa: E402

OMEGA, S, MOMENTUM, G, G_EPS = F(3, 4), F(9, 4), F(-1, 3), F(-5, 8), F(7, 16)
N, RHO, ALPHA, BETA1, BETA2, DELTA, GAMMA = 100, F(1, 20), F(3, 10), F(9, 10), F(99, 100), F(1, 50), F(1, 8)


def t(value: F) -> torch.Tensor:
    return torch.tensor([float(value)], dtype=torch.float64)


def same(found: torch.Tensor, exact: F) -> None:
    assert found.item() == pytest.approx(float(exact), rel=1e-14)


def test_the_points_at_which_gradients_are_taken() -> None:
    same(f.posterior_variance(t(S), N), 1 / (N * S))
    same(f.noisy_point(t(OMEGA), t(F(2)), t(S), N), OMEGA + F(2) / (10 * F(3, 2)))  # sqrt(N s) = 10 * 3/2
    same(f.adversarial_point(t(OMEGA), t(G), t(S), float(RHO)), OMEGA + RHO * G / S)
    same(f.curvature_estimate(t(G), t(S)), F(3, 2) * F(5, 8))


@pytest.mark.parametrize("precision_first", [True, False])
@pytest.mark.parametrize("factor", [None, F(10)])
def test_lines_seven_to_nine(precision_first: bool, factor: F | None) -> None:
    curvature = F(3, 2) * F(5, 8)
    momentum = BETA1 * MOMENTUM + (1 - BETA1) * (G_EPS + DELTA * OMEGA)
    s = BETA2 * S + (1 - BETA2) * ((factor or 1) * curvature + DELTA + GAMMA)
    mean = OMEGA - ALPHA * momentum / (s if precision_first else S)
    rates = {"lr": ALPHA, "beta1": BETA1, "beta2": BETA2, "weight_decay": DELTA, "damping": GAMMA}
    options = {} if factor is None else {"factor": float(factor)}
    found = f.bsam_update(
        *(t(part) for part in (OMEGA, S, MOMENTUM, G_EPS, curvature)),
        **{name: float(rate) for name, rate in rates.items()},
        **options,
        precision_first=precision_first,
    )
    for tensor, exact in zip(found, (mean, s, momentum), strict=True):
        same(tensor, exact)
    alone = f.update_precision(t(S), t(curvature), float(BETA2), float(DELTA), float(GAMMA), **options)
    same(alone, s)


def test_the_mean_moves_with_the_new_precision_unless_told_otherwise() -> None:
    found = f.bsam_update(
        t(OMEGA), t(S), t(F(1)), t(F(1)), t(F(0)), lr=1.0, beta1=0.5, beta2=0.5, weight_decay=0.0, damping=0.0
    )
    same(found[0], OMEGA - 1 / (S / 2))


def test_the_hessian_of_ivon() -> None:
    h, h_hat = F(1, 5), F(-3, 2)
    exact = BETA2 * h + (1 - BETA2) * h_hat + (1 - BETA2) ** 2 * (h - h_hat) ** 2 / (2 * (h + DELTA))
    same(f.ivon_hessian(t(h), t(h_hat), float(BETA2), float(DELTA)), exact)
