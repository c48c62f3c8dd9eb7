"""A certified bracket holds the truth at every scale: means far beyond the deviations, jumps, tiny and huge numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fenchel
from fenchel import Gaussian
from fenchel import losses as L
from fenchel.closed.projections import projected_variance, uncertainty
from fenchel.closed.scalar_forms import scalar_form
from fenchel.losses.bounded_links import IndicatorLink
from fenchel.losses.calculus import rounded
from fenchel.losses.links import AbsLink, HuberLink, ReLULink, SoftplusLink
from fenchel.losses.more_links import SquaredReLULink

mpmath = pytest.importorskip("mpmath")
mp = mpmath.mp


def relu(mean: Any, variance: Any) -> Any:
    return (mean + mp.sqrt(variance + mean**2)) / 2


def absolute(mean: Any, variance: Any) -> Any:
    return mp.sqrt(variance + mean**2)


def softplus(mean: Any, variance: Any) -> Any:
    radius = mp.sqrt(variance + mean**2)
    return (mean - radius) / 2 + mp.log1p(mp.exp(radius)) if radius < 700 else relu(mean, variance)


def step(mean: Any, variance: Any) -> Any:
    return mp.mpf(1) if mean >= 0 else variance / (variance + mean**2)


def squared(mean: Any, variance: Any) -> Any:
    return variance + max(mean, 0) ** 2


LOSSES: dict[str, tuple[Callable[[float], L.Loss], Callable[[Any, Any], Any]]] = {
    "ReLU": (L.ReLU, relu),
    "Absolute": (L.Absolute, absolute),
    "Indicator": (L.Indicator, step),
    "SquaredReLU": (L.SquaredReLU, squared),
}


def check(result: fenchel.BiconjugateResult, truth: Any) -> None:
    """-f** = truth, in 60 digits: between the ends of every certified bracket, and of every closed one."""
    assert not (result.certified and result.lower > result.upper)
    if result.certified:
        assert mp.mpf(result.lower) <= -truth <= mp.mpf(result.upper), (result.lower, result.upper, truth)


@pytest.mark.parametrize("method", ["closed-form", "cutting-plane"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_one_term_at_every_scale(name: str, method: str) -> None:
    make, worst = LOSSES[name]
    rng, certified = np.random.default_rng(0), 0
    for _ in range(60 if method == "closed-form" else 25):
        deviation = 10.0 ** rng.uniform(-12, 6)
        mean = float(rng.normal() * deviation * 10.0 ** rng.uniform(-2, 9))
        threshold = mean + float(rng.normal() * deviation * 10.0 ** rng.uniform(-2, 2))
        q = Gaussian(np.array([mean]), deviation**2)
        try:
            loss = make(threshold)
        except ValueError:
            continue
        with mp.workdps(60):
            variance = mp.mpf(float(q.cov[0, 0]))
            truth = worst(mp.mpf(mean) - mp.mpf(threshold), variance)
            result = fenchel.biconjugate(loss, q, method=method)
            check(result, truth)
        certified += result.certified
    assert certified >= (30 if method == "closed-form" else 3), (
        "margins so wide that nothing is certified prove nothing"
    )


@pytest.mark.parametrize("method", ["closed-form", "cutting-plane"])
def test_parameters_whose_difference_is_far_smaller_than_they_are(method: str) -> None:
    loss = L.LogisticRegression([[1e7, -1e7]], [1])
    for scale in (1e2, 1e5, 1e8):
        result = fenchel.biconjugate(loss, Gaussian([scale, scale], 1e-14 * np.eye(2)), method=method)
        with mp.workdps(60):
            variance = 2 * mp.mpf(1e7) ** 2 * mp.mpf(1e-14)
            check(result, softplus(mp.mpf(0), variance))
        assert result.certified


@pytest.mark.parametrize(("mean", "variance"), [(-1e8, 1.0), (-1e16, 1e17), (1.0, 9.0), (1e6, 1e-6)])
def test_the_closed_form_does_not_cancel(mean: float, variance: float) -> None:
    """(m + r)/2 for m = -1e8, v = 1 is 2.5e-9 and not 0; also through the sum over terms."""
    q = Gaussian([mean], variance)
    with mp.workdps(60):
        truth = relu(mp.mpf(mean), mp.mpf(variance))
        for value in (
            fenchel.biconjugate(L.ReLU(), q, method="closed-form").value,
            fenchel.sum_of_biconjugates(L.ReLU(), q).value,
        ):
            assert float(abs(mp.mpf(value) + truth) / truth) < 1e-14


def test_sums_of_terms_that_cancel_are_lower_bounds() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        size = 10.0 ** rng.uniform(0, 8)
        rows = rng.normal(size=(5, 2))
        mean = size * rng.normal(size=2)
        q = Gaussian(mean, np.diag(rng.uniform(0.1, 1.0, 2)))
        loss = L.LinearPredictorLoss([L.Terms(L.ReLU().groups[0].link, rows, -rows @ mean, np.ones(5))])
        result = fenchel.sum_of_biconjugates(loss, q)
        with mp.workdps(60):
            total = mp.mpf(0)
            for row, offset in zip(rows, loss.groups[0].offsets, strict=True):
                exact = [mp.mpf(float(r)) for r in row]
                center = sum(r * mp.mpf(float(m)) for r, m in zip(exact, mean, strict=True)) + mp.mpf(float(offset))
                variance = sum(r**2 * mp.mpf(float(v)) for r, v in zip(exact, np.diag(q.cov), strict=True))
                total += relu(center, variance)
            assert mp.mpf(result.lower) <= -total <= mp.mpf(result.value + result.error)


def test_an_expression_far_from_zero_is_the_one_near_zero() -> None:
    near = L.from_expression("x**2 + sin(x)", ["x"])
    far = L.from_expression("(x - 10000)**2 + sin(x - 10000)", ["x"])
    # Its expanded terms have the size 1e8.
    for truth, found in (
        (
            fenchel.biconjugate(near, Gaussian([0.25], 0.5)),
            fenchel.biconjugate(far, Gaussian([1e4 + 0.25], 0.5)),
        ),
        (fenchel.sam_objective(near, [0.25], 0.5, 0.0), fenchel.sam_objective(far, [1e4 + 0.25], 0.5, 0.0)),
        (fenchel.minimize_sam(near, 0.5, 0.0), fenchel.minimize_sam(far, 0.5, 0.0)),
    ):
        assert truth.certified
        assert found.lower <= truth.upper
        assert truth.lower <= found.upper
        assert found.upper - found.lower < 1e-7


@pytest.mark.parametrize("size", [1e8, 1e12])
def test_terms_that_cancel_widen_the_ends(size: float) -> None:
    loss = L.from_expression(f"{size}*cos(0.0001*x) - {size} + log(1 + x**2)", ["x"])
    mp.dps = 40
    theta = np.linspace(-3.0, 3.0, 11)[:, None]
    exact = [mp.mpf(size) * (mp.cos(mp.mpf(1e-4) * mp.mpf(t)) - 1) + mp.log1p(mp.mpf(t) ** 2) for t in theta[:, 0]]
    error = loss.rounding(theta, 1)
    assert all(abs(mp.mpf(v) - t) <= e for v, t, e in zip(loss(theta), exact, error, strict=True))
    assert error.max() < 1e-14 * size
    # Far out it falls, but around 0 the worst point of |theta| <= 1/2 is an end.
    worst = mp.mpf(size) * (mp.cos(mp.mpf(1e-4) / 2) - 1) + mp.log1p(mp.mpf(1) / 4)
    found = fenchel.sam_objective(loss, [0.0], 0.5, 0.0)
    if worst > 0:
        assert found.lower <= worst <= found.upper


def test_rounding_is_bounded_beyond_a_turn_and_across_a_pole() -> None:
    large = ["add", ["var", 0], ["const", (1e16).hex()], ["const", (-1e16).hex()]]  # 2 becomes 2 +- 2.2
    theta = np.array([[2.0]])
    assert rounded(["cos", ["mul", ["const", (4.0).hex()], large]], theta)[1] >= 2.0
    assert rounded(["pow", large, -1], theta)[1] == np.inf
    assert rounded(["pow", ["var", 0], -1], theta)[1] < 1e-15


@pytest.mark.parametrize("family", ["full", "diagonal"])
def test_values_that_overflow_far_out_warn_of_nothing(family: Any) -> None:
    rng = np.random.default_rng(365)
    loss = L.LinearPredictorLoss([L.Terms(SquaredReLULink(), rng.normal(size=(10, 2)), np.zeros(10), np.ones(10))])
    q = Gaussian([-0.3, -1.8], [125.0, 0.1]).with_structure(family)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fenchel.biconjugate(loss, q, max_seconds=0.5)
    assert found.lower <= found.upper


def test_the_error_of_a_closed_form_is_rounding_of_its_value() -> None:
    """Where mean and variance are exact, whatever the size of the value."""
    nothing = np.zeros(4), np.zeros(4)
    for link in (IndicatorLink(), SquaredReLULink(), AbsLink(), ReLULink(), SoftplusLink(), HuberLink(0.5)):
        for scale in (1e-4, 1.0, 1e4):
            mean = scale * np.array([-30.0, -1.0, 1.0, 30.0])
            form = scalar_form(link, mean, np.full(4, scale**2), nothing)
            assert form is not None
            size = np.abs(form.value) + (0.0 if link.rule is None else np.abs(mean) + np.abs(form.atom - mean))
            assert (form.error >= 1e-16 * np.abs(form.value)).all()
            assert (form.error <= 1e-14 * size).all()
    # P(z >= 0) of a mean that may lie on either side of 0: 1, or the 1/2 of Cantelli at one deviation below.
    unsure = scalar_form(IndicatorLink(), np.array([1e-3]), np.array([1e-6]), (np.array([2e-3]), np.zeros(1)))
    assert unsure is not None
    assert unsure.error[0] == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("structure", ["full", "diagonal", "isotropic"])
def test_rounding_moves_a_variance_by_rounding_of_what_is_added_up(structure: str) -> None:
    rows, offsets, mean = np.array([[1.0, 2.0], [1.0, -1.0]]), np.array([0.5, -0.2]), np.array([0.3, 0.1])
    nearly = np.array([[1.0, 1.0 - 1e-9], [1.0 - 1e-9, 1.0]])
    of_mean, of_variance = uncertainty(rows, offsets, mean, nearly, structure)
    share = of_variance / projected_variance(rows, nearly, structure)
    assert (of_mean > 0.0).all()
    assert (of_mean < 1e-14).all()
    # Correlated parameters cancel in the second row, which the full family alone sees.
    assert 1e-16 < share[0] < 1e-14
    assert (share[1] > 1e-7) == (structure == "full")
    assert 1e-16 < share[1] < 1e-5
    # Where nothing cancels it is the same share in every family.
    apart = np.diag([1.0, 4.0])
    ratio = uncertainty(np.abs(rows), offsets, mean, apart, structure)[1] / projected_variance(
        np.abs(rows), apart, structure
    )
    np.testing.assert_allclose(ratio, 16.0 * np.finfo(float).eps, rtol=1e-12)
