"""Gaussian families: coordinates round-trip, Bregman identities, KL against quadrature, domain checks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from fenchel import DomainError, Gaussian

STRUCTURES = ("full", "diagonal", "isotropic")


@st.composite
def gaussians(draw: st.DrawFn, dim: int | None = None, structure: str | None = None) -> Gaussian:
    size = draw(st.integers(1, 4)) if dim is None else dim
    kind = draw(st.sampled_from(STRUCTURES)) if structure is None else structure
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = float(np.exp(draw(st.floats(-3.0, 3.0))))
    root = rng.normal(size=(size, size))
    cov = scale * (root @ root.T / size + 0.1 * np.eye(size))
    block = {"full": cov, "diagonal": np.diag(cov), "isotropic": float(cov[0, 0])}[kind]
    return Gaussian(3.0 * rng.normal(size=size), block)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Gaussian, Gaussian]:
    dim, kind = draw(st.integers(1, 4)), draw(st.sampled_from(STRUCTURES))
    return draw(gaussians(dim, kind)), draw(gaussians(dim, kind))


def inner(a: object, b: object) -> float:
    return float(sum(np.sum(np.asarray(x) * np.asarray(y)) for x, y in zip(a, b, strict=True)))  # type: ignore[call-overload]


@given(gaussians())
@settings(max_examples=200)
def test_coordinates_round_trip(q: Gaussian) -> None:
    for back in (Gaussian.from_natural(*q.natural()), Gaussian.from_expectation(*q.expectation())):
        assert back.structure == q.structure
        np.testing.assert_allclose(back.mean, q.mean, rtol=1e-7, atol=1e-9)
        # S = mu2 - m m^T loses what |m|^2 / S costs in relative accuracy.
        np.testing.assert_allclose(back.cov, q.cov, rtol=1e-7, atol=1e-13 * (1.0 + float(q.mean @ q.mean)))


@given(pairs())
@settings(max_examples=200)
def test_kl_is_the_bregman_divergence_of_the_log_partition(pair: tuple[Gaussian, Gaussian]) -> None:
    q, p = pair
    lam_q, lam_p = q.natural(), p.natural()
    difference = [a - b for a, b in zip(lam_p, lam_q, strict=True)]
    bregman = p.log_partition() - q.log_partition() - inner(q.expectation(), difference)
    assert q.kl(p) == pytest.approx(bregman, rel=1e-8, abs=1e-8 * (1.0 + abs(p.log_partition())))
    # A(lambda) - <lambda, mu> is the entropy up to the base measure, which is 1.
    assert q.entropy() == pytest.approx(q.log_partition() - inner(lam_q, q.expectation()), rel=1e-9, abs=1e-8)


def test_expectation_is_the_gradient_of_the_log_partition() -> None:
    q = Gaussian([0.4, -1.2], [[0.7, 0.2], [0.2, 0.5]])
    lam1, lam2 = q.natural()
    step = 1e-6
    for k in range(2):
        shift = step * np.eye(2)[k]
        slope = Gaussian.from_natural(lam1 + shift, lam2).log_partition()
        slope -= Gaussian.from_natural(lam1 - shift, lam2).log_partition()
        assert slope / (2 * step) == pytest.approx(q.expectation()[0][k], rel=1e-7)
        change = step * np.diag(np.eye(2)[k])
        slope = Gaussian.from_natural(lam1, lam2 + change).log_partition()
        slope -= Gaussian.from_natural(lam1, lam2 - change).log_partition()
        assert slope / (2 * step) == pytest.approx(q.expectation()[1][k, k], rel=1e-7)


def test_kl_and_entropy_against_quadrature_on_the_line() -> None:
    q, p = Gaussian([0.3], 0.5), Gaussian([-1.0], [[2.0]])
    density = stats.norm(0.3, np.sqrt(0.5)).pdf
    kl = integrate.quad(lambda t: density(t) * (q.log_density([t]) - p.log_density([t])), -8, 8, epsabs=1e-12)[0]
    entropy = integrate.quad(lambda t: -density(t) * q.log_density([t]), -8, 8, epsabs=1e-12)[0]
    assert q.kl(p) == pytest.approx(kl, abs=1e-10)
    assert q.entropy() == pytest.approx(entropy, abs=1e-10)


def test_moments_of_samples_and_of_isotropic_statistics() -> None:
    q = Gaussian([1.0, -2.0], 0.25)
    mu1, mu2 = q.expectation()
    assert mu2.ndim == 0
    assert float(mu2) == pytest.approx(2 * 0.25 + 5.0)
    draws = q.sample(200_000, np.random.default_rng(0))
    np.testing.assert_allclose(draws.mean(axis=0), mu1, atol=6e-3)
    assert np.mean(np.sum(draws**2, axis=1)) == pytest.approx(float(mu2), rel=5e-3)


def test_projection_keeps_the_moments_of_the_smaller_family() -> None:
    q = Gaussian([0.3, 1.0], [[1.0, 0.4], [0.4, 0.5]])
    diagonal, isotropic = q.with_structure("diagonal"), q.with_structure("isotropic")
    np.testing.assert_allclose(diagonal.expectation()[1], np.diag(q.expectation()[1]))
    assert float(isotropic.expectation()[1]) == pytest.approx(float(np.trace(q.expectation()[1])))
    assert isotropic.with_structure("full").structure == "full"


@pytest.mark.parametrize(
    ("mean", "cov", "word"),
    [
        ([0, 0], [[1, 2], [2, 1.0]], "positive definite"),
        ([0, 0], np.eye(3), "match"),
        ([0, 0], [[1, 0.5], [0, 1.0]], "symmetric"),
        ([np.nan, 0], np.eye(2), "mean"),
        ([0, 0], [1.0, -1.0], "positive"),
        ([0, 0], 0.0, "positive"),
        ([], 1.0, "mean"),
    ],
)
def test_bad_input_is_named(mean: object, cov: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Gaussian(mean, cov)


def test_parameters_outside_their_spaces() -> None:
    with pytest.raises(DomainError, match="Omega"):
        Gaussian.from_natural([0.0, 0.0], np.eye(2))
    with pytest.raises(DomainError, match="outside M"):
        Gaussian.from_expectation([2.0], [[3.0]])


def test_arrays_are_read_only() -> None:
    q = Gaussian([0.0, 1.0], np.eye(2))
    with pytest.raises(ValueError, match="read-only"):
        q.mean[0] = 1.0
