"""The ends of certified brackets allow for their own rounding, and no proof rests on a rounded zero."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fenchel
from fenchel import Gaussian
from fenchel import losses as L
from fenchel.losses.bounded_links import BumpLink
from fenchel.moments.cutting_plane import _round
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.rounds import Budget, Problem, State
from fenchel.moments.white_loss import WhiteLoss
from fenchel.sharpness.proximal import proximal_sup

mpmath = pytest.importorskip("mpmath")
mp = mpmath.mp


def scalar(
    link: L.Link, row: float, offset: float, weight: float, H: float, b: float, c: float
) -> L.LinearPredictorLoss:
    terms = L.Terms(link, np.array([[row]]), np.array([offset]), np.array([weight]))
    return L.LinearPredictorLoss([terms], H=[[H]], b=[b], c=c)


def supremum(slopes: tuple[int, int], row: float, offset: float, weight: float, quadratic: tuple[Any, Any, Any]) -> Any:
    """sup of weight g(row t + offset) + a t^2 + b t + c, g of slopes[0] left and slopes[1] right of 0; a < 0."""
    a, b, c = quadratic
    r, o, w = mp.mpf(row), mp.mpf(offset), mp.mpf(weight)
    best = a * (o / r) ** 2 - b * o / r + c
    for side, slope in zip((-1, 1), slopes, strict=True):
        t = -(b + w * slope * r) / (2 * a)
        if side * (r * t + o) > 0:
            best = max(best, w * slope * (r * t + o) + a * t**2 + b * t + c)
    return best


@pytest.mark.parametrize("scale", [0.3, 6.0, 20.0])
@pytest.mark.parametrize(("name", "slopes"), [("ReLU", (0, 1)), ("Absolute", (-1, 1))])
def test_the_ends_of_a_conjugate_allow_for_rounding(name: str, slopes: tuple[int, int], scale: float) -> None:
    rng, certified = np.random.default_rng(1), 0
    link = getattr(L, name)().groups[0].link
    for _ in range(60):
        row, offset, b, c, lam1 = (float(rng.normal() * 10.0 ** rng.uniform(-scale / 2, scale / 2)) for _ in range(5))
        weight, H, bend = (float(10.0 ** rng.uniform(-scale / 2, scale / 2)) for _ in range(3))
        lam2 = -bend - 0.5 * H
        with mp.workdps(400):
            sizes = (mp.mpf(H) / 2 + mp.mpf(lam2), mp.mpf(b) + mp.mpf(lam1), mp.mpf(c))
            if sizes[0] >= 0:
                continue
            truth = supremum(slopes, row, offset, weight, sizes)
            found = fenchel.conjugate(scalar(link, row, offset, weight, H, b, c), [lam1], lam2)
            if found.certified and np.isfinite(found.upper):
                assert mp.mpf(found.lower) <= truth <= mp.mpf(found.upper)
                assert found.gap <= 1e-9 * max(1.0, abs(found.value))
                certified += 1
    assert certified > 30


@pytest.mark.parametrize("drift", [1e-15, 1e-13, -1e-13])
@pytest.mark.parametrize("bent", [1e-15, -1e-15, 0.0])
def test_what_only_rounding_makes_flat_is_not_proved(bent: float, drift: float) -> None:
    """lam2 + H/2 or lam1 + b within rounding of zero: the supremum may be finite or not, and huge."""
    H, b = 1.3, -2.7
    for loss in (L.Quadratic(H, [b]), scalar(L.Indicator().groups[0].link, -1.9, 1.0, 1.0, H, b, 0.0)):
        lam1, lam2 = -b * (1.0 + drift), -0.5 * H * (1.0 + bent)
        found = fenchel.conjugate(loss, [lam1], lam2)
        exact_bend, exact_slope = mp.mpf(lam2) + mp.mpf(H) / 2, mp.mpf(lam1) + mp.mpf(b)
        finite = exact_bend < 0 or (exact_bend == 0 and exact_slope == 0)
        if found.certified:
            assert np.isfinite(found.upper) == finite
        else:
            assert found.upper == np.inf


def test_a_supremum_that_is_exactly_flat_stays_proved() -> None:
    H = np.array([[2.0, 0.3], [0.3, 1.0]])
    flat = fenchel.conjugate(L.Quadratic(H, [1.0, 2.0], 0.5), [-1.0, -2.0], -0.5 * H)
    assert flat.certified
    assert flat.value == 0.5
    ridge = fenchel.conjugate(
        L.Softplus().compose([1.0, -0.75]), [0.25, -0.1875], [[-0.25, 0.1875], [0.1875, -0.140625]]
    )
    assert ridge.certified
    # 0.3 x x^T in floating point has a negative determinant: the supremum is infinite, not that along the ridge.
    x = np.array([1.0, -0.7])
    rounded = fenchel.conjugate(L.Softplus().compose(x), 0.2 * x, -0.3 * np.outer(x, x))
    assert not rounded.certified


@pytest.mark.parametrize("mean", [-121.0, 90.0, 1e3])
def test_values_that_underflow_are_inside_the_bracket(mean: float) -> None:
    """-f** = -exp(-(v + m^2) / 2) is not 0, although double precision knows no such number."""
    loss = L.LinearPredictorLoss([L.Terms(BumpLink(), np.ones((1, 1)), np.zeros(1), np.ones(1))])
    for method in ("cutting-plane", "hull", "closed-form"):
        found = fenchel.biconjugate(loss, Gaussian([mean], 0.5), method=method)
        assert found.certified
        assert found.lower <= 0.0 < found.upper


def test_an_atom_barely_above_a_jump_is_moved_where_rounding_cannot_undo_it() -> None:
    found = fenchel.biconjugate(L.Indicator(0.3), Gaussian([-0.6232744625373522], [[0.05807857550193688]]))
    assert found.certified
    assert found.upper == pytest.approx(-0.06378655991295532, abs=1e-10)


def test_sizes_that_the_linear_program_refuses_leave_a_bracket() -> None:
    q = Gaussian([-3.96851075e09], [2.6600337])
    loss = scalar(L.Absolute().groups[0].link, 9.83585791, 39033707876.11711, 1.0, 159674.38228416, 7e-4, 0.09)
    found = fenchel.biconjugate(loss, q)
    closed = fenchel.biconjugate(loss, q, method="closed-form")
    assert found.lower <= closed.value <= found.upper
    if not found.certified:
        assert found.message


def test_the_hull_allows_for_the_rounding_of_its_atoms() -> None:
    q = Gaussian([10.86418221], [57218455.45533304])
    loss = scalar(
        L.ReLU().groups[0].link, 0.53923191, -5.251027324108602, 173568.5708963776, 0.00083915, 58799887.35651806, 0.0
    )
    found = fenchel.biconjugate(loss, q, method="hull")
    with mp.workdps(60):
        row, offset, m, v = (mp.mpf(float(x)) for x in (0.53923191, -5.251027324108602, q.mean[0], q.cov[0, 0]))
        center = row * m + offset
        worst = mp.mpf(173568.5708963776) * (center + mp.sqrt(row**2 * v + center**2)) / 2
        truth = worst + mp.mpf(58799887.35651806) * m + mp.mpf(0.00083915) / 2 * (v + m**2)
        assert found.certified
        assert mp.mpf(found.lower) <= -truth <= mp.mpf(found.upper)


def test_mass_that_escapes_from_the_hull_leaves_a_finite_bracket() -> None:
    """Above its threshold an indicator's worst case is its value; the variance escapes, and the hull has no atoms."""
    found = fenchel.biconjugate(L.Indicator(0.3), Gaussian([0.3289696294602021], [[0.7721530128110184]]), method="hull")
    assert (found.value, found.certified, found.method) == (-1.0, True, "hull")
    assert found.lower <= -1.0 <= found.upper <= -1.0 + 1e-13
    # How a user's loss grows is told from samples: no proof, so that cutting planes answer.
    hill = L.from_function(
        lambda t: 1.0 / (1.0 + t[:, 0] ** 2),
        lambda t: -2.0 * t / (1.0 + t * t) ** 2,
        dim=1,
        curvature=0.5,
        majorizer=1.0,
    )
    other = fenchel.biconjugate(hill, Gaussian([0.0], 2.0), method="hull")
    assert (other.certified, other.method) == (True, "cutting-plane")
    assert other.lower <= -1.0 <= other.upper < -1.0 + 1e-8


def test_a_program_without_a_solution_ends_the_rounds_unless_it_is_the_reference() -> None:
    def broken(points: np.ndarray, values: np.ndarray) -> None:
        raise fenchel.SolverError("no luck.")

    white = WhiteLoss(L.Softplus(), MomentFrame.of(np.zeros(1), np.eye(1), "full"))
    task = Problem(white, 1e-8, Budget(), np.inf, broken)
    ended = _round(task, State(np.zeros((0, 1)), np.zeros(0)))
    assert (ended.done, ended.message) == (True, "no luck")
    assert ended.upper is not None
    assert ended.upper.value == pytest.approx(-0.5 * np.log(2.0 + 2.0 * np.cosh(1.0)), rel=1e-12)
    with pytest.raises(fenchel.SolverError, match="no luck"):
        _round(replace(task, strict=True), State(np.zeros((0, 1)), np.zeros(0)))


def test_the_lower_end_is_taken_on_the_upper_side_of_all_jumps_that_meet() -> None:
    """Two half-planes meet at the best point: their jumps count only a hair beyond both."""
    corner = L.Indicator().groups[0].link
    rows, offsets = np.array([[0.3, 0.1], [-0.1, 0.7]]), np.array([-0.17, -0.39])
    loss = L.LinearPredictorLoss([L.Terms(corner, rows, offsets, np.ones(2))])
    at = np.linalg.solve(rows, -offsets)
    found = fenchel.conjugate(loss, [0.0, 0.0], -0.1, starts=[at])
    assert found.certified
    assert found.value == pytest.approx(2.0 - 0.1 * at @ at, abs=1e-9)
    assert 0.0 < found.value - found.lower < 1e-12


def test_cauchy_without_slope_warns_of_nothing() -> None:
    loss = L.SquareConcave(np.log1p, lambda u: 1 / (1 + u), lambda u: -1 / (1 + u) ** 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fenchel.biconjugate(loss, Gaussian([0.0001922502], 2.17436095937597e-15))


@pytest.mark.parametrize("seed", range(12))
def test_ends_of_the_sam_objective_enclose_the_closed_form(seed: int) -> None:
    """A linear loss: b.theta + rho |b| + delta/2 |theta|^2, at 50 digits; half of all computed values lie above it."""
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(1, 4))
    b, theta = 3.0 * rng.normal(size=dim), 4.0 * rng.normal(size=dim)
    loss = L.LinearPredictorLoss([], dim=dim, H=np.zeros((dim, dim)), b=b, c=0.0)
    for rho, delta in ((float(rng.uniform(0.1, 2.0)), 0.0), (float(rng.uniform(0.1, 2.0)), 0.7), (0.0, 0.7)):
        with mp.workdps(50):
            exact = sum(
                mp.mpf(x) * mp.mpf(y) + mp.mpf(delta) * mp.mpf(y) ** 2 / 2 for x, y in zip(b, theta, strict=True)
            )
            exact += mp.mpf(rho) * mp.sqrt(sum(mp.mpf(x) ** 2 for x in b))
            found = fenchel.sam_objective(loss, theta, rho, delta)
            assert found.certified
            assert mp.mpf(found.lower) <= exact <= mp.mpf(found.upper)
            assert found.upper - found.lower <= 1e-12 * (1.0 + abs(found.value))


@pytest.mark.parametrize("seed", range(12))
def test_ends_of_the_inner_problem_enclose_the_closed_form(seed: int) -> None:
    """A linear loss: b.m + sigma^2 |b|^2 / 2, with 1/sigma^2 as it is rounded."""
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(1, 4))
    b, m, sigma = 3.0 * rng.normal(size=dim), 4.0 * rng.normal(size=dim), float(rng.uniform(0.2, 2.0))
    loss = L.LinearPredictorLoss([], dim=dim, H=np.zeros((dim, dim)), b=b, c=0.0)
    found = proximal_sup(loss, m, sigma)
    with mp.workdps(50):
        exact = sum(mp.mpf(x) * mp.mpf(y) + mp.mpf(x) ** 2 * mp.mpf(sigma) ** 2 / 2 for x, y in zip(b, m, strict=True))
        assert mp.mpf(found.lower) <= exact <= mp.mpf(found.upper)


def test_a_jump_at_the_best_point_is_not_lost() -> None:
    """The indicator's plane lies inside the ball."""
    assert fenchel.sam_objective(L.Indicator(0.3), 0.0, 0.5, 0.0).lower == pytest.approx(1.0, abs=1e-12)
