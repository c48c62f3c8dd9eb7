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
from fenchel.divergence import kl_divergence, log_normalizer
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


def exact(block: Any, dim: int) -> Any:
    """A covariance block, or a vector (P,) given as a column, in mpmath."""
    array = np.asarray(block, dtype=float)
    dense = array if array.ndim == 2 else np.diag(np.broadcast_to(array, (dim,)))
    return mp.matrix([[mp.mpf(float(x)) for x in row] for row in dense])


def wild(rng: np.random.Generator, dim: int) -> Gaussian:
    """A Gaussian of any family with deviations over eight orders, its covariance at times nearly singular."""
    sd = 10.0 ** rng.uniform(-4, 4, dim)
    mean = rng.normal(size=dim) * 10.0 ** rng.uniform(-4, 4)
    family = int(rng.integers(3))
    if family < 2:
        return Gaussian(mean, sd**2 if family else float(sd[0] ** 2))
    A = rng.normal(size=(dim, dim))
    A[0] = A[-1] + 10.0 ** rng.uniform(-5, 0) * A[0]
    cov = A @ A.T * np.outer(sd, sd)
    return Gaussian(mean, 0.5 * (cov + cov.T))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_divergences_and_normalizers_know_their_rounding(dim: int) -> None:
    """Nearly singular covariances and distant Gaussians: sums of large numbers that cancel."""
    rng, known = np.random.default_rng(dim), 0
    for _ in range(40):
        q, p = wild(rng, dim), wild(rng, dim)
        with mp.workdps(120):
            C, C0 = exact(q.cov_block, dim), exact(p.cov_block, dim)
            m, m0 = (mp.matrix([mp.mpf(float(x)) for x in g.mean]) for g in (q, p))
            inverse = C0**-1
            step = m - m0
            logs = mp.log(mp.det(C0) / mp.det(C))
            trace = sum((inverse * C)[i, i] for i in range(dim))
            divergence = (trace + (step.T * inverse * step)[0] - dim + logs) / 2
            lam1, lam2 = q.natural()
            eta = mp.matrix([mp.mpf(float(x)) for x in lam1]) + inverse * m0
            precision = inverse - 2 * exact(lam2, dim)
            normalizer = (eta.T * precision**-1 * eta)[0] - (m0.T * inverse * m0)[0]
            normalizer = (normalizer - mp.log(mp.det(precision) * mp.det(C0))) / 2
            for found, truth in (
                (kl_divergence(q.mean, q.cov_block, p.mean, p.cov_block), divergence),
                (log_normalizer(lam1, np.asarray(lam2), p.mean, p.cov_block), normalizer),
            ):
                if np.isfinite(found.error):
                    assert abs(mp.mpf(found.value) - truth) <= mp.mpf(found.error)
                    known += 1
    assert known > 60


@pytest.mark.parametrize("narrow", [1e-2, 1e-5, 1e-7])
def test_ends_of_the_relaxed_objective_allow_for_the_divergence(narrow: float) -> None:
    """A nearly singular covariance makes KL uncertain, whatever is known of f**."""
    q = Gaussian([3e3, -1.0, 2.0], np.array([[1e6, 1e3, 0.0], [1e3, 1.0 + narrow, 0.0], [0.0, 0.0, 1e4]]))
    prior = Gaussian(np.zeros(3), np.array([[1.0, 1.0 - narrow, 0.0], [1.0 - narrow, 1.0, 0.0], [0.0, 0.0, 1e-6]]))
    loss = L.Absolute().compose([1.0, 0.0, 0.0])
    found = fenchel.relaxed_bayes_objective(loss, q, prior, method="closed-form")
    with mp.workdps(60):
        m = mp.matrix([mp.mpf(float(x)) for x in q.mean])
        C, C0 = exact(q.cov, 3), exact(prior.cov, 3)
        trace = sum((C0**-1 * C)[i, i] for i in range(3))
        divergence = (trace + (m.T * C0**-1 * m)[0] - 3 + mp.log(mp.det(C0) / mp.det(C))) / 2
        truth = mp.sqrt(C[0, 0] + m[0] ** 2) + divergence
        assert mp.mpf(found.lower) <= truth <= mp.mpf(found.upper)


@pytest.mark.parametrize("seed", range(6))
def test_ends_of_the_proximal_objective_allow_for_the_normalizer(seed: int) -> None:
    """Eq. 12 for the ReLU: the larger of its two branches, minus log Z'."""
    rng, certified = np.random.default_rng(seed), 0
    for _ in range(12):
        m, sigma, delta0 = (float(sign * 10.0 ** rng.uniform(-3, 3)) for sign in (rng.choice([-1.0, 1.0]), 1.0, 1.0))
        found = fenchel.proximal_objective(L.ReLU(), [m], sigma, delta0)
        with mp.workdps(60):
            at, square = mp.mpf(m), mp.mpf(sigma) ** 2
            best = max(at + square / 2 if at + square > 0 else mp.mpf(0), mp.mpf(0))
            delta = 1 / (square + 1 / mp.mpf(delta0))
            truth = best + delta / 2 * at**2 - mp.log(square * delta) / 2
            assert mp.mpf(found.lower) <= truth <= mp.mpf(found.upper)
        certified += found.certified
    assert certified > 6


@pytest.mark.parametrize("name", ["ReLU", "Absolute", "Indicator", "Softplus", "SquaredReLU"])
def test_a_term_without_parameters_is_a_constant(name: str) -> None:
    """A datum of zeros: nothing divides by its variance, in any family; P = 1 and 2."""
    link = getattr(L, name)().groups[0].link
    for dim, cov in ((1, 0.3), (2, [0.3, 2.0]), (2, [[0.3, 0.1], [0.1, 2.0]])):
        rows = np.zeros((1, dim))
        for H in (np.zeros((dim, dim)), 1e-3 * np.eye(dim)):
            loss = L.LinearPredictorLoss([L.Terms(link, rows, np.zeros(1), np.full(1, 4.5))], H=H, b=np.full(dim, -3.0))
            q = Gaussian(np.full(dim, -2.5), cov)
            truth = -(4.5 * float(link.value(np.zeros(1))[0]) + loss.b @ q.mean)
            truth -= 0.5 * float(np.sum(H * (q.cov + np.outer(q.mean, q.mean))))
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found, summed = fenchel.biconjugate(loss, q), fenchel.sum_of_biconjugates(loss, q)
            assert found.certified
            assert found.lower - 1e-12 <= truth <= found.upper + 1e-12
            assert summed.value == pytest.approx(truth, abs=1e-13)


@pytest.mark.parametrize("slope", [1e6, 1e10, 1e13])
@pytest.mark.parametrize("name", ["Absolute", "Indicator", "Softplus", "Bump"])
def test_a_weak_quadratic_beside_steep_terms_is_not_left_out(name: str, slope: float) -> None:
    """The loss bends in a direction although its curvature there is nothing beside the row of a term."""
    link = BumpLink() if name == "Bump" else getattr(L, name)().groups[0].link
    terms = L.Terms(link, np.array([[0.0, slope]]), np.array([-18.0 * slope]), np.array([0.1]))
    loss = L.LinearPredictorLoss([terms], H=[[0.06, 0.02], [0.02, 0.03]])
    q = Gaussian([18.9, 18.6], [[2.7, -1.1], [-1.1, 2.0]])
    closed, found = (fenchel.biconjugate(loss, q, method=method) for method in ("closed-form", "cutting-plane"))
    assert closed.certified
    if found.certified:
        assert found.lower <= closed.upper
        assert found.upper >= closed.lower


@pytest.mark.parametrize("noise", [1e-15, 1e-14, 1e-13, 1e-12, 1e-10])
def test_rows_that_are_collinear_but_for_little_are_certified(noise: float) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 2)) @ rng.normal(size=(2, 3)) + noise * rng.normal(size=(20, 3))
    loss = L.LogisticRegression(rows, np.sign(rng.normal(size=20)))
    A = rng.normal(size=(3, 3))
    found = fenchel.biconjugate(loss, Gaussian(rng.normal(size=3), A @ A.T + 0.1 * np.eye(3)), max_seconds=10.0)
    assert found.certified, found.message


@pytest.mark.parametrize("structure", ["full", "diagonal", "isotropic"])
def test_a_quadratic_whose_parts_cancel_at_the_mean(structure: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        m, b = rng.normal(size=2) * 10.0 ** rng.uniform(0, 6), rng.normal(size=2) * 1e4
        h = float(10.0 ** rng.uniform(-3, 3))
        c = -float(b @ m + 0.5 * h * m @ m)
        loss = L.Quadratic(h * np.eye(2), b, c)
        with mp.workdps(60):
            M = [mp.mpf(float(x)) for x in m]
            at = sum(mp.mpf(float(x)) * y for x, y in zip(b, M, strict=True)) + mp.mpf(h) / 2 * sum(y * y for y in M)
            truth = -(at + mp.mpf(c) + mp.mpf(h) * mp.mpf(0.25))
            q = Gaussian(m, 0.25)
            summed = fenchel.sum_of_biconjugates(loss, q, structure=structure)
            assert mp.mpf(summed.lower) <= truth
            for method in ("closed-form", "cutting-plane"):
                found = fenchel.biconjugate(loss, q, method=method, structure=structure)
                assert mp.mpf(found.lower) <= truth <= mp.mpf(found.upper)
