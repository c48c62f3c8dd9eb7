"""Exact posteriors: closed forms, a second library's quadrature, and NUTS against quadrature."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from fenchel import Gaussian, exact_posterior, laplace, losses, map_estimate, problems
from fenchel.bayes.cubature import adaptive_nodes, uniform_nodes
from fenchel.errors import DomainError
from fenchel.losses.bounded_links import BumpLink

MURPHY = problems.murphy_logistic_regression()


@given(st.integers(0, 10_000), st.sampled_from([1, 2]), st.floats(-3.0, 6.0))
def test_a_quadratic_loss_has_its_gaussian_posterior(seed, dim, log_scale):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((dim, dim))
    H, b, c = np.exp(log_scale) * root @ root.T, rng.standard_normal(dim), float(rng.normal())
    prior = Gaussian(rng.standard_normal(dim), float(np.exp(rng.normal())))
    found = exact_posterior(losses.Quadratic(H, b, c), prior)
    precision = H + prior.precision
    mean = np.linalg.solve(precision, prior.precision @ prior.mean - b)
    evidence = (
        0.5 * mean @ precision @ mean
        - 0.5 * prior.mean @ prior.precision @ prior.mean
        - c
        - 0.5 * np.linalg.slogdet(precision @ prior.cov)[1]
    )
    assert found.log_evidence == pytest.approx(evidence, abs=1e-9 * max(1.0, abs(evidence)))
    np.testing.assert_allclose(found.mean, mean, atol=1e-9)
    np.testing.assert_allclose(found.cov, np.linalg.inv(precision), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("delta0", [1.0, 0.1, 0.01])
def test_two_quadratures_agree_on_the_papers_data(delta0):
    found = exact_posterior(MURPHY, Gaussian(np.zeros(2), 1.0 / delta0))
    assert abs(found.log_evidence - found.diagnostics["log_evidence_second"]) < 1e-9
    assert found.error < 1e-8
    assert found.diagnostics["mean_change"] < 1e-8


def test_the_papers_evidence_by_scipy():
    def joint(b: float, a: float) -> float:
        return float(np.exp(-MURPHY(np.array([a, b])) - 0.5 * (a * a + b * b)) / (2 * np.pi))

    value, _ = integrate.dblquad(joint, -1.0, 7.0, -0.6, 2.5, epsabs=1e-11, epsrel=1e-7)
    found = exact_posterior(MURPHY, Gaussian(np.zeros(2), 1.0))
    assert found.log_evidence == pytest.approx(np.log(value), abs=1e-5)


def test_three_separate_wells_are_all_integrated():
    loss, prior = losses.ThreeWells() * 20.0, Gaussian(0.0, 25.0)
    found = exact_posterior(loss, prior)
    theta = np.linspace(-60.0, 60.0, 2_000_001)
    log_joint = -loss(theta[:, None]) - theta**2 / 50.0 - 0.5 * np.log(50.0 * np.pi)
    total = np.trapezoid(np.exp(log_joint), theta)
    assert found.log_evidence == pytest.approx(np.log(total), abs=1e-9)
    assert found.mean[0] == pytest.approx(np.trapezoid(theta * np.exp(log_joint), theta) / total, abs=1e-8)
    assert np.trapezoid(found.density(theta), theta) == pytest.approx(1.0, abs=1e-8)


def test_a_narrow_peak_in_a_wide_prior_is_not_missed():
    loss = losses.Quadratic(np.diag([1e8, 1e8]), np.array([-3e8, 2e8]), 0.5 * (9 + 4) * 1e8)
    prior = Gaussian(np.zeros(2), 100.0)
    found = exact_posterior(loss, prior)
    shift = np.array([3.0, -2.0])
    expected = -0.5 * shift @ shift / (100.0 + 1e-8) - np.log(100.0 * (1e8 + 0.01))
    assert found.log_evidence == pytest.approx(expected, abs=1e-6)


def test_a_higher_peak_than_the_given_modes_is_found_on_the_way():
    def log_density(u):
        return np.logaddexp(-0.5 * np.sum((u - 0.5) ** 2, axis=1), 30.0 - 0.5 * np.sum((u - 9.0) ** 2, axis=1))

    lo, hi = np.full(1, -40.0), np.full(1, 40.0)
    nodes = adaptive_nodes(log_density, lo, hi, np.array([[0.5]]))
    assert nodes.log_mass == pytest.approx(30.0 + np.log1p(np.exp(-30.0)) + 0.5 * np.log(2 * np.pi), abs=1e-9)
    assert uniform_nodes(log_density, lo, hi).log_mass == pytest.approx(nodes.log_mass, abs=1e-9)


def test_a_mesh_that_was_not_looked_into_as_a_whole_is_not_complete() -> None:
    def log_density(u: np.ndarray) -> np.ndarray:
        return -0.5 * np.square(u).sum(axis=1)

    box = np.array([-9.0]), np.array([9.0]), np.zeros((1, 1))
    cuts = np.linspace(-9.0, 9.0, 60_001)
    whole, late = (adaptive_nodes(log_density, *box, cuts=cuts, end=end) for end in (np.inf, 0.0))
    assert whole.complete
    assert whole.log_mass == pytest.approx(0.5 * np.log(2.0 * np.pi), abs=1e-12)
    assert not late.complete
    assert late.log_mass < whole.log_mass - 1e-3


def test_density_and_samples_agree_with_the_moments():
    found = exact_posterior(MURPHY, Gaussian(np.zeros(2), 10.0))
    sd = np.sqrt(np.diag(found.cov))
    axes = [np.linspace(m - 8 * s, m + 14 * s, 801) for m, s in zip(found.mean, sd, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    mass = found.density(grid) * np.prod([axis[1] - axis[0] for axis in axes])
    assert mass.sum() == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(np.tensordot(mass, grid, axes=2), found.mean, atol=1e-5)
    draws = found.sample(40_000, np.random.default_rng(0))
    np.testing.assert_allclose(draws.mean(axis=0), found.mean, atol=5 * np.sqrt(np.diag(found.cov).max() / 40_000))
    np.testing.assert_allclose(np.cov(draws.T), found.cov, rtol=0.05)
    assert found.expectation(lambda theta: theta[:, 0]) == pytest.approx(found.mean[0], abs=1e-9)


def test_nuts_agrees_with_quadrature_within_its_errors():
    pytest.importorskip("numpyro")
    prior = Gaussian(np.zeros(2), 1.0)
    exact = exact_posterior(MURPHY, prior)
    found = exact_posterior(MURPHY, prior, method="nuts", draws=1500, chains=2, rng=np.random.default_rng(1))
    assert found.diagnostics["r_hat"].max() < 1.02
    assert found.diagnostics["ess"].min() > 300
    assert np.all(np.abs(found.mean - exact.mean) < 5 * found.diagnostics["mcse_mean"])
    assert abs(found.log_evidence - exact.log_evidence) < 5 * found.error
    assert found.error < 0.05


def test_laplace_is_the_curvature_at_the_map():
    prior = Gaussian(np.zeros(2), 10.0)
    q = laplace(MURPHY, prior)
    point = map_estimate(MURPHY, prior)
    np.testing.assert_allclose(MURPHY.gradient(point) + prior.precision @ point, 0.0, atol=1e-10)
    np.testing.assert_allclose(q.precision, MURPHY.hessian(point) + prior.precision, rtol=1e-9)
    elsewhere = laplace(MURPHY, prior, at=[1.0, 1.0], structure="diagonal")
    np.testing.assert_allclose(elsewhere.precision_block, np.diag(MURPHY.hessian(np.ones(2)) + prior.precision))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: exact_posterior(MURPHY, Gaussian(np.zeros(3), 1.0)), "dimension"),
        (lambda: exact_posterior(MURPHY, Gaussian(np.zeros(2), 1.0), method="magic"), "method"),
        (lambda: exact_posterior(MURPHY, Gaussian(np.zeros(2), 1.0), tol=-1.0), "tol"),
        (lambda: laplace(MURPHY, Gaussian(np.zeros(2), 1.0), at=[1.0]), "at must"),
        (lambda: laplace(MURPHY, Gaussian(np.zeros(2), 1.0), structure="block"), "structure"),
        (lambda: exact_posterior(losses.ThreeWells(), Gaussian(0.0, 1.0), method="nuts"), "logistic"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def _well(center: float, width: float, depth: float) -> losses.LinearPredictorLoss:
    terms = losses.Terms(BumpLink(), np.array([[1.0 / width]]), np.array([-center / width]), np.array([depth]))
    return losses.LinearPredictorLoss([terms])


@pytest.mark.parametrize(
    ("loss", "narrow"),
    [
        (_well(20.0, 0.5, 220.0), 0.03),  # far outside of the prior
        (_well(1.0, 1e-3, 20.0), 1e-3),
        (_well(-2.0, 0.1, 5.0) + _well(2.0, 0.05, 6.0), 0.02),
        (losses.Quadratic([[-0.99]], [0.0]), 1.0),  # ten times as wide as the prior
        (losses.from_expression("-220*exp(-2*(x - 20)**2)", ["x"]), 0.03),
        (losses.Indicator(0.5) * 5.0, 0.01),
        (losses.Absolute(0.3) * 3.0 + _well(4.0, 0.01, 25.0), 0.003),
    ],
    ids=["deep", "narrow", "two wells", "wide", "formula", "jump", "kink and well"],
)
def test_no_mode_is_missed_wherever_it_is(loss: losses.Loss, narrow: float) -> None:
    prior = Gaussian([0.0], [[1.0]])
    found = exact_posterior(loss, prior)
    theta = np.linspace(-110.0, 110.0, int(min(220.0 / (0.1 * narrow), 3e6)) + 1)
    log_joint = -loss(theta) - 0.5 * theta**2 - 0.5 * np.log(2.0 * np.pi)
    top = log_joint.max()
    density = np.exp(log_joint - top)
    assert found.log_evidence == pytest.approx(top + np.log(np.trapezoid(density, theta)), abs=1e-3)
    assert found.error < 1e-3
    mean = np.trapezoid(theta * density, theta) / np.trapezoid(density, theta)
    assert found.mean[0] == pytest.approx(mean, abs=1e-3)


def test_what_may_have_been_missed_is_said() -> None:
    def value(t: np.ndarray) -> np.ndarray:
        return -220.0 * np.exp(-2.0 * (t[:, 0] - 20.0) ** 2)

    def gradient(t: np.ndarray) -> np.ndarray:
        return 880.0 * (t - 20.0) * np.exp(-2.0 * (t - 20.0) ** 2)

    found = exact_posterior(losses.from_function(value, gradient, 1, curvature=880.0), Gaussian([0.0], [[1.0]]))
    assert found.error == np.inf
    assert "standard deviations" in found.message


@pytest.mark.parametrize(("H", "b"), [(-2.0, 0.3), (-1.0, 0.3), (-1.0, 0.0)])
def test_an_improper_posterior_is_refused(H: float, b: float) -> None:
    with pytest.raises(DomainError, match="improper"):
        exact_posterior(losses.Quadratic([[H]], [b]), Gaussian([0.0], [[1.0]]))


def test_two_ridges_in_the_plane_give_the_product_of_two_evidences() -> None:
    rows, offsets = np.array([[20.0, 0.0], [0.0, 20.0]]), np.array([-30.0, 10.0])
    ridges = losses.LinearPredictorLoss([losses.Terms(BumpLink(), rows, offsets, np.array([12.0, 11.0]))])
    found = exact_posterior(ridges, Gaussian([0.0, 0.0], 1.0))
    line = Gaussian([0.0], [[1.0]])
    parts = [exact_posterior(_well(1.5, 0.05, 12.0), line), exact_posterior(_well(-0.5, 0.05, 11.0), line)]
    assert found.log_evidence == pytest.approx(sum(part.log_evidence for part in parts), abs=1e-6)
    assert found.error < 1e-5


def test_the_units_of_the_columns_do_not_matter() -> None:
    """Data in other units, with the prior in these units, are the same problem: same evidence, no doubt."""
    units, plain = np.array([1000.0, 0.001]), exact_posterior(MURPHY, Gaussian([0.0, 0.0], [1.0, 1.0]))
    scaled = losses.LogisticRegression(MURPHY.X * units, MURPHY.y)
    found = exact_posterior(scaled, Gaussian([0.0, 0.0], units**-2.0))
    assert found.error < 1e-8
    assert found.log_evidence == pytest.approx(plain.log_evidence, abs=1e-8)
    np.testing.assert_allclose(found.mean * units, plain.mean, atol=1e-6)


def test_separable_data_under_a_wide_prior() -> None:
    separable = losses.LogisticRegression([[1.0, 0.3], [2.0, -0.1], [-1.0, -0.4]], [1, 1, 0])
    found = exact_posterior(separable, Gaussian([0.0, 0.0], 1e4))
    assert found.error < 1e-6
    axis = np.linspace(-700.0, 700.0, 2801)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    log_joint = -separable(grid) - np.square(grid).sum(axis=1) / 2e4 - np.log(2e4 * np.pi)
    assert found.log_evidence == pytest.approx(np.log(np.exp(log_joint).sum() * 0.25), abs=1e-3)


@pytest.mark.parametrize(
    ("depth", "width", "center"), [(2.53, 1 / 163, -3.9), (7.1, 1 / 2222, -2.8), (0.24, 1 / 8010, -1.7)]
)
def test_a_narrow_well_inside_a_broad_mode(depth: float, width: float, center: float) -> None:
    """Too shallow to be the highest mode, too narrow to be seen by a mesh for the broad one."""
    prior = Gaussian([0.3], 78.0)
    x, w = np.polynomial.legendre.leggauss(200)
    theta = center + 12.0 * width * x
    more = np.expm1(depth * np.exp(-0.5 * ((theta - center) / width) ** 2)) * np.exp(prior.log_density(theta[:, None]))
    truth = np.log1p(12.0 * width * w @ more)
    found = exact_posterior(_well(center, width, depth), prior)
    assert abs(found.log_evidence - truth) <= max(1e-12, found.error)
    assert found.error < 1e-6
    begin = time.perf_counter()
    formula = exact_posterior(losses.from_expression(f"-{depth}*exp(-(x - ({center}))**2/2/{width}**2)", ["x"]), prior)
    assert time.perf_counter() - begin < 10.0
    assert abs(formula.log_evidence - truth) <= max(1e-12, formula.error)
    assert formula.error < 1e-6


@given(st.floats(-1.0, 0.8), st.floats(-4.0, -1.0), st.floats(-4.0, 4.0))
@settings(max_examples=15)
def test_a_shallow_narrow_well_of_a_users_own_loss(log_depth: float, log_width: float, center: float) -> None:
    """Seen, or owned up to, in a formula, of which bounds on boxes are known, and in code, of which they are not."""
    depth, width, prior = 10.0**log_depth, 10.0**log_width, Gaussian([0.3], 4.0)
    x, w = np.polynomial.legendre.leggauss(200)
    theta = center + 12.0 * width * x
    more = np.expm1(depth * np.exp(-0.5 * ((theta - center) / width) ** 2)) * np.exp(prior.log_density(theta[:, None]))
    truth = np.log1p(12.0 * width * w @ more)
    formula = losses.from_expression(f"-{depth}*exp(-(x - ({center}))**2/2/{width}**2)", ["x"])
    box = ([-20.0], [20.0])
    code = losses.from_function(formula._value, formula._gradient, 1, curvature=depth / width**2, bounds=box)
    for loss in (formula, code):
        found = exact_posterior(loss, prior)
        assert abs(found.log_evidence - truth) <= max(1e-10, 2.0 * found.error)
    assert width < 1e-3 or exact_posterior(formula, prior).error < 1e-6


def test_a_time_limit_is_kept_and_owned_up_to() -> None:
    ripples = losses.from_expression("0.5*cos(300*x) + 0.3*cos(200*y)", ["x", "y"])
    begin = time.perf_counter()
    found = exact_posterior(ripples, Gaussian([0.0, 0.0], 4.0), max_seconds=0.2)
    assert time.perf_counter() - begin < 5.0
    assert found.error == np.inf
    assert "time limit" in found.message
    with pytest.raises(ValueError, match="max_seconds"):
        exact_posterior(ripples, Gaussian([0.0, 0.0], 4.0), max_seconds=-1.0)


def test_a_jump_is_where_boxes_end() -> None:
    jump = losses.LinearPredictorLoss(
        [losses.Terms(losses.Indicator().groups[0].link, [[6.4]], [-10.6], [1.37])], H=[[0.0328]], b=[0.0], c=0.0
    )
    prior = Gaussian([0.58], 21.0)
    density = (lambda t: np.exp(-jump(np.array([t])) + prior.log_density(np.array([t]))),)
    parts = [integrate.quad(*density, a, b, epsabs=1e-14)[0] for a, b in ((-50.0, 10.6 / 6.4), (10.6 / 6.4, 50.0))]
    found = exact_posterior(jump, prior)
    assert abs(found.log_evidence - np.log(sum(parts))) <= max(1e-11, found.error)


def test_a_peak_of_which_only_one_value_is_known() -> None:
    """The first mesh meets the well's slope by chance, the next misses it altogether."""
    center, width, depth = np.array([0.336, 1.097]), 0.043, 58.1
    well = losses.from_expression(
        f"-{depth}*exp(-((x - {center[0]})**2 + (y - {center[1]})**2)/2/{width}**2)", ["x", "y"]
    )
    found = exact_posterior(well, Gaussian([0.0, 0.0], 15.7))
    x, w = np.polynomial.legendre.leggauss(400)
    u = 0.2 * (1.0 + x)
    # To first order in the prior's change over the well.
    mass = 0.2 * w @ (u * np.exp(depth * np.expm1(-0.5 * (u / width) ** 2))) / 15.7
    truth = depth + np.log(mass) - 0.5 * center @ center / 15.7
    assert found.log_evidence == pytest.approx(truth, abs=1e-4)
