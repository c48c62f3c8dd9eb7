"""Theorem 1: two independent suprema, other families, counterexamples of known size; the claims can fail."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.theory import convexity, max_loss_form, theorem1_sides
from experiments.theory.theorem1_cases import cauchy, hump, quartic, spike, wells
from experiments.theory.wells_surface import expected_surface, relaxed_barrier_by_gradient, vanishing_sigma
from fenchel import Gaussian, conjugate, expected_loss, verify_theorem1
from fenchel import losses as L
from fenchel.theorems.families import Bernoulli, FixedCovarianceGaussian, Gamma
from fenchel.theorems.gaussian_supremum import supremum_over_gaussians


@pytest.mark.parametrize("loss", [L.ThreeWells(), wells(2), L.Absolute(0.4)], ids=["wells 1", "wells 2", "absolute"])
def test_both_sides_agree(loss: L.Loss) -> None:
    verdict = verify_theorem1(loss, count=1)
    assert verdict.holds is True
    assert verdict.measured["worst"] <= 1e-6
    for row in verdict.measured["rows"]:
        # The covariance had to shrink: a Gaussian of visible width cannot reach the supremum.
        assert row["final_std"] < 1e-3
        assert row["over_mu"] <= row["over_theta_upper"] + 1e-9


def test_a_quadratic_has_its_closed_form_on_both_sides() -> None:
    loss = L.Quadratic([[2.0]], [0.3], 0.1)
    row = verify_theorem1(loss, [0.5], -3.0).measured["rows"][0]
    truth = 0.1 + (0.5 + 0.3) ** 2 / (4.0 * (3.0 - 1.0))
    assert row["over_mu"] == pytest.approx(truth, abs=1e-8)
    assert row["over_theta"] == pytest.approx(truth, abs=1e-8)


def test_infinite_on_both_sides() -> None:
    for loss, lam2 in ((L.ThreeWells(), [[0.1]]), (quartic(), [[-5.0]])):
        verdict = verify_theorem1(loss, [0.1], lam2)
        assert verdict.holds is True
        assert verdict.measured["rows"][0]["over_mu"] == np.inf


def test_a_false_theorem_is_not_confirmed() -> None:
    """A spike of height 1 on a null set: the suprema differ by what the Gaussians cannot see."""
    base = L.Softplus()
    over_mu = supremum_over_gaussians(spike(1.0, base), [0.0], -1.0, "isotropic", samples=40, starts=2).value
    raw = float(base(np.zeros(1))) + 1.0
    assert raw - over_mu > 0.5
    assert over_mu == pytest.approx(conjugate(base, [0.0], -1.0).value, abs=1e-6)


def test_verdict_bad_input() -> None:
    with pytest.raises(ValueError, match="together"):
        verify_theorem1(L.Softplus(), [0.0])
    with pytest.raises(ValueError, match="structure"):
        verify_theorem1(L.Softplus(), structures=("round",))
    with pytest.raises(TypeError, match="loss"):
        verify_theorem1(np.exp)  # type: ignore[arg-type]


def test_bernoulli() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        ends, lam = rng.normal(size=2), float(rng.normal())
        sides = Bernoulli().both_sides(lambda t, e=ends: e[0] * (1 - t) + e[1] * t, lam)
        assert sides.over_theta == pytest.approx(max(ends[0], ends[1] + lam))
        assert abs(sides.gap) < 1e-9


def test_gamma_expectations() -> None:
    assert Gamma.expected(lambda t: t**2, 3.0, 2.0) == pytest.approx(3.0, rel=1e-9)
    mu = Gamma.expectation(3.0, 2.0)
    assert Gamma.expected(np.log, 3.0, 2.0) == pytest.approx(mu[0], rel=1e-8)
    assert mu[1] == pytest.approx(1.5)
    with pytest.raises(ValueError, match="shape"):
        Gamma.expectation(-1.0, 1.0)


def test_gamma_sides() -> None:
    sides = Gamma().both_sides(lambda t: np.abs(t - 1.3), (0.7, -1.5), starts=3)
    assert abs(sides.gap) < 1e-6
    assert sides.member[1] > 1e6  # a Gamma on its way to a Dirac


def test_fixed_covariance_fails_by_its_closed_form() -> None:
    for sd in (0.3, 1.0):
        sides = FixedCovarianceGaussian(sd).both_sides(hump(), 0.0, reach=6.0)
        assert sides.gap == pytest.approx(1.0 - 1.0 / np.sqrt(1.0 + sd**2), abs=1e-9)


def test_declared_majorizer_of_the_users_cauchy_loss() -> None:
    loss = cauchy(0.4)
    theta = np.linspace(-500.0, 500.0, 10_001)
    assert loss.majorizer is not None
    assert (loss.majorizer(theta[:, None]) >= loss(theta[:, None])).all()


def test_convexity_and_the_largest_minorant() -> None:
    segments = {"wells": convexity.convexity_on_segments(L.ThreeWells(), "full", 3, 0)}
    minorant = {"wells": convexity.largest_minorant(L.ThreeWells(), Gaussian([0.7], [[1.3]]))}
    assert minorant["wells"]["moment_error"] < 1e-9
    assert convexity.claim_a1(segments, minorant).verdict == "held"
    worse = {"wells": {**segments["wells"], "above_f": 1e-3}}
    assert convexity.claim_a1(worse, minorant).verdict == "refuted"


def test_f_itself_would_refute_convexity() -> None:
    """f is not convex in mu: the same check applied to f in place of f** fails."""
    loss = L.ThreeWells()
    ends = [Gaussian([-4.0], 0.01), Gaussian([4.5], 0.01)]
    mu = [0.5 * (a + b) for a, b in zip(ends[0].expectation(), ends[1].expectation(), strict=True)]
    chord = -0.5 * sum(expected_loss(loss, q) for q in ends)
    assert -expected_loss(loss, Gaussian.from_expectation(*mu)) < chord
    peak = [Gaussian([-3.0], 0.01), Gaussian([3.5], 0.01)]
    mu = [0.5 * (a + b) for a, b in zip(peak[0].expectation(), peak[1].expectation(), strict=True)]
    assert -expected_loss(loss, Gaussian.from_expectation(*mu)) > -0.5 * sum(expected_loss(loss, q) for q in peak)


def test_max_loss_form() -> None:
    grid = np.linspace(-30.0, 30.0, 6001)[:, None]
    q = Gaussian([0.4], 0.7)
    conjugates = {"wells": max_loss_form.max_loss_conjugate(L.ThreeWells(), q, grid)}
    assert abs(conjugates["wells"]["difference"]) < 1e-9
    claim = max_loss_form.claim_a7(conjugates, {"wells": {"difference": 1e-3}})
    assert claim.verdict == "refuted"


def test_domain_claims_can_fail() -> None:
    probe = theorem1_sides.domain_probe(L.ThreeWells(), 6, 0)
    boundary = theorem1_sides.boundary_points()
    assert theorem1_sides.claim_a4({"wells": probe}, boundary).verdict == "held"
    assert theorem1_sides.claim_a4({"wells": {**probe, "finite": 1}}, boundary).verdict == "refuted"
    growth = theorem1_sides.growth_of_quartic(3, 0)
    good = {"wells": {"upper": 1.0, "certified": 1.0}}
    assert theorem1_sides.claim_a3(good, growth).verdict == "held"
    assert theorem1_sides.claim_a3({"wells": {"upper": np.inf, "certified": 0.0}}, growth).verdict == "refuted"


def test_well_c_is_lost_where_its_barrier_is() -> None:
    loss = L.ThreeWells()
    sigma = vanishing_sigma(loss, "relaxed", "C")
    assert relaxed_barrier_by_gradient(loss, "C", 0.97 * sigma, 31) > 0.0
    assert relaxed_barrier_by_gradient(loss, "C", 1.03 * sigma, 31) < 0.0
    means = np.linspace(3.6, 7.5, 300)
    slices = expected_surface(loss, means, np.array([0.8, 1.0]))
    peaks = (slices[1:-1] > slices[:-2]) & (slices[1:-1] > slices[2:])
    assert peaks[:, 0].any()
    assert not peaks[:, 1].any()


@pytest.mark.parametrize("scale", [1e-12, 1e7, 1e8, 1e12])
@pytest.mark.parametrize("seed", [0, 2])
def test_theorem_1_is_not_refuted_by_the_units_of_the_loss(scale: float, seed: int) -> None:
    for loss in (L.Quadratic([[0.0]], [scale]), L.Quadratic([[scale]], [0.3 * scale], 1.0)):
        assert verify_theorem1(loss, seed=seed).holds is not False
