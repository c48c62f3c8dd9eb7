"""`biconjugate` against closed forms, against independent dense linear programs, and at the edges of its domain."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog

import fenchel
from fenchel import losses as L
from fenchel.moments.certificate import certify_lower
from fenchel.moments.cutting_plane import cutting_plane, states
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.rounds import Budget, Start
from fenchel.moments.white_loss import WhiteLoss

Array = np.ndarray


def murphy() -> tuple[L.LogisticRegression, fenchel.Gaussian]:
    """The paper's logistic regression at one q."""
    rng = np.random.RandomState(0)
    X = np.vstack([rng.randn(30, 2) + np.array([1, 5]), 2.2 * rng.randn(30, 2) + np.array([-5, 1])])
    loss = L.LogisticRegression(X, np.r_[np.ones(30), -np.ones(30)])
    return loss, fenchel.Gaussian(np.array([1.0, 1.0]), np.array([[1.0, 0.3], [0.3, 0.8]]))


def assert_proves(result: fenchel.BiconjugateResult, truth: float, relative: float = 1e-8) -> None:
    scale = max(1.0, abs(truth))
    assert result.certified, result.message
    assert abs(result.value - truth) <= relative * scale
    assert result.lower - 1e-12 * scale <= truth <= result.upper + 1e-12 * scale


def dense_upper(loss: Any, q: fenchel.Gaussian, structure: str, points: Array) -> float:
    """Minus the worst-case mean loss over distributions on ``points``: at least f**, and close on a fine set."""
    outer = np.einsum("ni,nj->nij", points, points)
    target = q.cov + np.outer(q.mean, q.mean)
    rows = [np.ones((points.shape[0], 1)), points]
    ends = [np.ones(1), q.mean]
    if structure == "full":
        index = np.triu_indices(q.dim)
        rows.append(outer[:, index[0], index[1]])
        ends.append(target[index])
    elif structure == "diagonal":
        rows.append(np.einsum("nii->ni", outer))
        ends.append(np.diag(target))
    else:
        rows.append(np.einsum("nii->n", outer)[:, None])
        ends.append(np.array([np.trace(target)]))
    solved = linprog(
        -loss(points), A_eq=np.concatenate(rows, axis=1).T, b_eq=np.concatenate(ends), bounds=(0, None), method="highs"
    )
    assert solved.status == 0
    return float(solved.fun)


# --- closed forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_scalar_closed_forms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mean, sigma, k = 2.0 * rng.normal(), np.exp(rng.uniform(-2, 1)), rng.normal()
    q = fenchel.Gaussian(np.array([mean]), np.array([[sigma**2]]))
    r, r0 = np.hypot(sigma, mean - k), np.hypot(sigma, mean)
    delta = np.exp(rng.normal())
    huber = 0.5 * r0**2 if r0 < delta else delta * r0 - 0.5 * delta**2
    cantelli = 1.0 if k <= mean else sigma**2 / (sigma**2 + (k - mean) ** 2)
    assert_proves(fenchel.biconjugate(L.ReLU(k), q), -0.5 * (mean - k + r))
    assert_proves(fenchel.biconjugate(L.Absolute(k), q), -r)
    assert_proves(fenchel.biconjugate(L.Softplus(), q), -(0.5 * mean + np.logaddexp(0.5 * r0, -0.5 * r0)))
    assert_proves(fenchel.biconjugate(L.Huber(delta), q), -huber)
    assert_proves(fenchel.biconjugate(L.Indicator(k), q), -cantelli)


CONCAVE: list[tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = [
    (lambda u, s: np.sqrt(u + s), lambda u, s: 0.5 / np.sqrt(u + s), lambda u, s: -0.25 * (u + s) ** -1.5),
    (lambda u, s: np.log1p(u / s), lambda u, s: 1.0 / (u + s), lambda u, s: -1.0 / (u + s) ** 2),
    (lambda u, s: -np.exp(-u / s), lambda u, s: np.exp(-u / s) / s, lambda u, s: -np.exp(-u / s) / s**2),
]


@pytest.mark.parametrize("seed", range(12))
def test_rule_with_random_concave_functions(seed: int) -> None:
    """a t + b + h((t - c)^2), h a random mixture of concave functions, through `from_function`."""
    rng = np.random.default_rng(100 + seed)
    parts = [(CONCAVE[rng.integers(3)], np.exp(rng.normal()), np.exp(rng.normal())) for _ in range(2)]

    def h(u: Any, order: int = 0) -> Any:
        return sum(weight * pieces[order](u, scale) for pieces, weight, scale in parts)

    a, b, c = rng.normal(size=3)
    mean, sigma = 2.0 * rng.normal(), np.exp(rng.uniform(-2, 1))
    # The tangent of h at u0, far beyond the worst case at sigma^2 + (mean - c)^2, is the declared majorizer.
    u0 = 50.0 * (sigma**2 + (mean - c) ** 2 + 10.0)
    slope = float(h(u0, 1))
    majorizer = L.Quadratic([[2 * slope]], [a - 2 * slope * c], b + float(h(u0)) - slope * u0 + slope * c * c)
    loss = L.from_function(
        lambda t: a * t[:, 0] + b + h((t[:, 0] - c) ** 2),
        lambda t: a + 2 * (t - c) * h((t - c) ** 2, 1),
        1,
        hessian=(lambda t: (2 * h((t - c) ** 2, 1) + 4 * (t - c) ** 2 * h((t - c) ** 2, 2))[:, :, None])
        if seed % 2
        else None,
        curvature=2.0 * float(h(0.0, 1)) * (1 + 1e-12),
        majorizer=majorizer,
    )
    truth = -(a * mean + b + float(h(sigma**2 + (mean - c) ** 2)))
    assert_proves(fenchel.biconjugate(loss, fenchel.Gaussian(np.array([mean]), np.array([[sigma**2]]))), truth)


@pytest.mark.parametrize("structure", ["full", "diagonal", "isotropic"])
@pytest.mark.parametrize("dim", [2, 3])
def test_projections(structure: str, dim: int) -> None:
    rng = np.random.default_rng(dim)
    for _ in range(3):
        x, mean, root = rng.normal(size=dim), 2.0 * rng.normal(size=dim), rng.normal(size=(dim, dim))
        q = fenchel.Gaussian(mean, root @ root.T + 0.1 * np.eye(dim))
        variance = {
            "full": x @ q.cov @ x,
            "diagonal": float(np.abs(x) @ np.sqrt(np.diag(q.cov))) ** 2,
            "isotropic": x @ x * np.trace(q.cov),
        }[structure]
        k = rng.normal()
        m, r = x @ mean, np.sqrt(variance + (x @ mean - k) ** 2)
        r0 = np.sqrt(variance + m**2)
        cantelli = 1.0 if k <= m else variance / (variance + (k - m) ** 2)
        cases = [
            (L.ReLU(k), -0.5 * (m - k + r)),
            (L.Absolute(k), -r),
            (L.Softplus(), -(0.5 * m + np.logaddexp(0.5 * r0, -0.5 * r0))),
            (L.Indicator(k), -cantelli),
        ]
        for loss, truth in cases:
            assert_proves(fenchel.biconjugate(loss.compose(x[None, :]), q, structure=structure), truth)


def test_field_note_values_of_the_logistic_projection() -> None:
    loss = L.LogisticRegression(np.array([[-1.0, 0.7]]), [1])
    q = fenchel.Gaussian(np.array([0.4, 0.3]), np.diag([0.64, 0.25]))
    for structure, truth in (("full", 0.8848173), ("diagonal", 0.9491485), ("isotropic", 0.9495536)):
        assert -fenchel.biconjugate(loss, q, structure=structure).value == pytest.approx(truth, abs=1e-7)


@pytest.mark.parametrize("structure", ["full", "diagonal", "isotropic"])
def test_closed_form_method_agrees_and_is_consistent(structure: str) -> None:
    loss = L.ReLU(0.3).compose(np.array([[1.0, -0.4]]))
    q = fenchel.Gaussian(np.array([0.2, 0.5]), np.array([[1.0, 0.2], [0.2, 0.5]]))
    form = fenchel.biconjugate(loss, q, "closed-form", structure=structure)
    found = fenchel.biconjugate(loss, q, structure=structure)
    assert form.certified
    assert form.lower <= found.upper
    assert found.lower <= form.upper
    assert form.value == pytest.approx(found.value, rel=1e-10)
    np.testing.assert_allclose(form.natural.lam1, found.natural.lam1, atol=1e-6)
    np.testing.assert_allclose(form.natural.lam2, found.natural.lam2, atol=1e-6)


@pytest.mark.parametrize("structure", ["diagonal", "isotropic"])
def test_quadratic_outside_the_family_is_a_semidefinite_program(structure: str) -> None:
    import cvxpy as cp

    rng = np.random.default_rng(7)
    H, root = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    H = H + H.T
    loss = L.Quadratic(H, rng.normal(size=3), 0.4)
    q = fenchel.Gaussian(rng.normal(size=3), root @ root.T + 0.2 * np.eye(3))
    worst = cp.Variable((3, 3), PSD=True)
    held = cp.diag(worst) == np.diag(q.cov) if structure == "diagonal" else cp.trace(worst) == np.trace(q.cov)
    program = cp.Problem(cp.Maximize(0.5 * cp.trace(H @ worst)), [held])
    program.solve(solver="CLARABEL")
    result = fenchel.biconjugate(loss, q, structure=structure)
    assert result.certified
    assert result.value == pytest.approx(-(program.value + loss(q.mean)), abs=1e-6)


# --- independent dense programs -----------------------------------------------------------------------------------


def test_the_paper_example() -> None:
    loss, q = murphy()
    result = fenchel.biconjugate(loss, q)
    assert result.certified
    assert result.gap <= 1e-7
    assert -result.value == pytest.approx(73.0299958, abs=1e-6)
    # Symmetric atoms carry the mean, so lam1 is half the sum of the signed data.
    np.testing.assert_allclose(result.natural.lam1, 0.5 * (loss.y[:, None] * loss.X).sum(axis=0), atol=1e-6)


@pytest.mark.parametrize("mean", [-3.0, 0.4, 2.0])
@pytest.mark.parametrize("sigma", [0.3, 1.5, 4.0])
def test_nonconvex_loss_against_a_dense_program(mean: float, sigma: float) -> None:
    loss = L.ThreeWells()
    q = fenchel.Gaussian(np.array([mean]), np.array([[sigma**2]]))
    result = fenchel.biconjugate(loss, q)
    assert result.certified
    assert result.gap <= 1e-7 * max(1.0, abs(result.value))
    points = np.concatenate([np.linspace(-40, 40, 8001), result.atoms[:, 0] + 1e-3])[:, None]
    dense = dense_upper(loss, q, "full", points)
    assert dense >= result.lower - 1e-9
    assert dense == pytest.approx(result.value, abs=5e-5)


@pytest.mark.parametrize("structure", ["full", "diagonal", "isotropic"])
@pytest.mark.parametrize("n", [5, 40, 200])
def test_logistic_regression_against_a_dense_program(structure: str, n: int) -> None:
    rng = np.random.default_rng(n)
    loss = L.LogisticRegression(rng.normal(size=(n, 2)) + 0.3, rng.integers(0, 2, size=n))
    root = rng.normal(size=(2, 2))
    q = fenchel.Gaussian(rng.normal(size=2), root @ root.T + 0.2 * np.eye(2))
    result = fenchel.biconjugate(loss, q, structure=structure)
    assert result.certified
    assert result.gap <= 1e-7 * max(1.0, abs(result.value))
    # A grid in whitened coordinates; atoms of the solution are not on it.
    side = np.linspace(-7, 7, 113)
    frame = MomentFrame.of(q.mean, q.cov, structure)
    points = frame.to_theta(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2))
    dense = dense_upper(loss, q, structure, points)
    assert dense >= result.lower - 1e-9 * n
    assert dense == pytest.approx(result.value, rel=2e-3)


@pytest.mark.parametrize("structure", ["full", "diagonal", "isotropic"])
def test_three_parameters_certified(structure: str) -> None:
    rng = np.random.default_rng(2)
    loss = L.LogisticRegression(rng.normal(size=(40, 3)), rng.integers(0, 2, size=40))
    root = rng.normal(size=(3, 3))
    q = fenchel.Gaussian(rng.normal(size=3), root @ root.T / 3 + 0.2 * np.eye(3))
    result = fenchel.biconjugate(loss, q, tol=1e-6, structure=structure)
    assert result.certified
    assert result.lower >= fenchel.sum_of_biconjugates(loss, q, structure=structure).lower - 1e-9


def test_many_parameters_give_an_honest_bracket_within_the_limit() -> None:
    rng = np.random.default_rng(3)
    loss = L.LogisticRegression(rng.normal(size=(30, 9)), rng.integers(0, 2, size=30))
    q = fenchel.Gaussian(rng.normal(size=9), np.eye(9))
    result = fenchel.biconjugate(loss, q, tol=1e-6, max_seconds=1.0, max_boxes=200)
    summed = fenchel.sum_of_biconjugates(loss, q)
    assert summed.lower - 1e-9 <= result.lower <= result.upper
    assert result.lower <= -fenchel.expected_loss(loss, q)
    assert not result.certified
    assert result.message


# --- methods, warm starts, options --------------------------------------------------------------------------------


def test_reference_master_and_fast_path_give_the_same_biconjugate() -> None:
    loss, q = murphy()
    for structure in ("full", "diagonal", "isotropic"):
        fast = fenchel.biconjugate(loss, q, structure=structure)
        slow = fenchel.biconjugate(loss, q, structure=structure, master="cvxpy")
        assert slow.certified
        assert slow.value == pytest.approx(fast.value, rel=1e-8)


@pytest.mark.parametrize("structure", ["full", "diagonal"])
def test_warm_start_gives_the_same_answer_with_less_work(structure: str) -> None:
    loss, q = murphy()
    previous = fenchel.biconjugate(loss, q, structure=structure)
    columns = {"cold": 0, "warm": 0}
    for step in range(1, 6):
        near = fenchel.Gaussian(q.mean + 0.02 * step, q.cov * (1.0 + 0.02 * step))
        cold = fenchel.biconjugate(loss, near, structure=structure)
        warm = fenchel.biconjugate(loss, near, structure=structure, warm=previous)
        assert warm.certified
        assert warm.value == pytest.approx(cold.value, rel=1e-8)
        columns = {"cold": columns["cold"] + cold.info["columns"], "warm": columns["warm"] + warm.info["columns"]}
        previous = warm
    assert columns["warm"] < 0.5 * columns["cold"]
    atoms_only = fenchel.biconjugate(loss, near, structure=structure, warm=previous.atoms)
    assert atoms_only.value == pytest.approx(previous.value, rel=1e-8)


def test_warm_start_from_elsewhere_does_not_mislead() -> None:
    loss = L.ThreeWells()
    far = fenchel.biconjugate(loss, fenchel.Gaussian(np.array([-4.0]), np.array([[0.01]])))
    q = fenchel.Gaussian(np.array([3.0]), np.array([[4.0]]))
    warm, cold = fenchel.biconjugate(loss, q, warm=far), fenchel.biconjugate(loss, q)
    assert warm.certified
    assert warm.value == pytest.approx(cold.value, abs=1e-8)


def test_warm_start_from_another_loss_takes_over_no_bound() -> None:
    loss, q = murphy()
    smaller = fenchel.biconjugate(0.5 * loss, q)
    result = fenchel.biconjugate(loss, q, warm=smaller)
    assert_proves(result, fenchel.biconjugate(loss, q).value)


def test_hull_and_cutting_planes_agree() -> None:
    loss = L.ThreeWells()
    for mean, variance in ((0.0, 1.0), (2.0, 6.0), (-3.0, 0.2)):
        q = fenchel.Gaussian(np.array([mean]), np.array([[variance]]))
        hull, planes = fenchel.biconjugate(loss, q, "hull"), fenchel.biconjugate(loss, q)
        assert hull.value == pytest.approx(planes.value, abs=1e-8)
        assert hull.lower <= planes.upper + 1e-12
        assert planes.lower <= hull.upper + 1e-12


def test_structure_overrides_the_family_of_q() -> None:
    loss, q = murphy()
    diagonal = fenchel.Gaussian(q.mean, np.diag(q.cov).copy())
    assert fenchel.biconjugate(loss, q, structure="diagonal").value == fenchel.biconjugate(loss, diagonal).value
    isotropic = fenchel.Gaussian(q.mean, float(np.trace(q.cov)) / 2)
    assert fenchel.biconjugate(loss, q, structure="isotropic").value == fenchel.biconjugate(loss, isotropic).value
    assert np.shape(fenchel.biconjugate(loss, isotropic).natural.lam2) == ()
    assert fenchel.biconjugate(loss, diagonal).natural.lam2.shape == (2,)


@pytest.mark.parametrize("start", [-8.0, 0.5, 9.0])
def test_lower_bound_rests_on_the_global_maximum_wherever_the_search_begins(start: float) -> None:
    """For quadratics that are not above the loss: E[Q] + max(l - Q) from a dense grid, never what a start climbs to."""
    loss = L.ThreeWells()
    frame = MomentFrame.of(np.array([0.0]), np.array([[9.0]]), "full")
    white = WhiteLoss(loss, frame)
    grid = np.linspace(-30.0, 30.0, 200_001)[:, None]
    for u, v, w in ((0.0, 0.0, 0.5), (1.0, 1.5, 0.4), (2.0, -2.0, 0.3)):
        c = frame.coefficients(u, np.array([v]), np.array([[w]]))
        bound, found = certify_lower(white, c, tol=1e-9, starts=np.array([[start]]))
        excess = float(np.max(white.value(grid) - frame.features(grid) @ c))
        truth = -float(c @ frame.target) - excess
        assert found.certified
        assert bound.value <= truth + 1e-12
        assert bound.value == pytest.approx(truth, abs=1e-6)


def test_the_states_of_a_run_only_gain_and_the_same_run_gives_them_again() -> None:
    loss, q = LOSS, fenchel.Gaussian(np.array([1.0, -2.0]), np.array([[2.0, 0.3], [0.3, 1.0]]))
    white = WhiteLoss(loss, MomentFrame.of(q.mean, q.cov, "full"))
    first, second = (list(states(white, tol=1e-8, start=Start(np.zeros((0, 2))), budget=Budget())) for _ in range(2))
    assert first[-1].gap <= 1e-8 * first[-1].scale
    for before, after in pairwise(first):
        assert after.gap <= before.gap
        np.testing.assert_array_equal(after.points[: before.values.size], before.points)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.points, other.points)
        assert one.gap == other.gap


def test_a_single_round_never_claims_more_than_it_has_proved() -> None:
    loss = L.ThreeWells()
    frame = MomentFrame.of(np.array([0.0]), np.array([[9.0]]), "full")
    white = WhiteLoss(loss, frame)
    truth = cutting_plane(white, tol=1e-8, start=Start(np.zeros((0, 1))), budget=Budget()).upper
    limited = cutting_plane(white, tol=1e-8, start=Start(np.zeros((0, 1))), budget=Budget(1, 60.0, 1))
    assert truth is not None
    if limited.lower is not None:
        assert limited.lower.value <= truth.value + 1e-12


LOSS = L.LogisticRegression(np.random.default_rng(0).normal(size=(10, 2)), np.arange(10) % 2)
Q = fenchel.Gaussian(np.zeros(2), np.eye(2))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((LOSS, fenchel.Gaussian(np.zeros(3), np.eye(3))), ValueError, "same dimension"),
        ((LOSS, np.zeros(2)), TypeError, "q must be a Gaussian"),
        ((np.sum, Q), TypeError, "loss must be"),
        ((LOSS, Q, "magic"), ValueError, "method must be one of"),
        ((LOSS, Q, "cutting-plane", -1.0), ValueError, "tol must be a positive number"),
        ((LOSS, Q, "cutting-plane", np.nan), ValueError, "tol must be a positive number"),
        ((LOSS, Q, "cutting-plane", "small"), ValueError, "tol must be a positive number"),
        ((LOSS, Q, "hull"), ValueError, "P = 1|one parameter|dimension"),
        ((LOSS, Q, "closed-form"), ValueError, "no closed form"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        fenchel.biconjugate(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"structure": "banded"}, "structure must be one of"),
        ({"master": "simplex"}, "master must be one of"),
        ({"method": "sampled", "num_pieces": 0}, "num_pieces must be an integer"),
        ({"method": "sampled", "num_pieces": 2.5}, "num_pieces must be an integer"),
        ({"max_rounds": 0}, "max_rounds must be an integer"),
        ({"max_seconds": 0.0}, "max_seconds must be a positive"),
        ({"warm": np.zeros(2)}, "warm must be"),
        ({"warm": fenchel.biconjugate(L.Softplus(), fenchel.Gaussian([0.0], [[1.0]]))}, "warm must be a result"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fenchel.biconjugate(LOSS, Q, **options)


@pytest.mark.parametrize("tangent", [0.0, 5.0])
def test_a_wrong_gradient_is_refused_with_the_point(tangent: float) -> None:
    with pytest.raises(ValueError, match="gradient is not the derivative of value at theta"):
        L.from_function(lambda t: np.logaddexp(t[:, 0], -t[:, 0]), lambda t: np.full_like(t, tangent), 1, curvature=1.0)


def test_a_gradient_that_is_wrong_only_near_q_is_refused_too() -> None:
    """Far from all points that are tried at the start, but where the search goes."""

    def gradient(t: np.ndarray) -> np.ndarray:
        return np.where(np.abs(t - 500.0) < 20.0, 0.5, 1.0) * np.sin(t)

    loss = L.from_function(lambda t: 1.0 - np.cos(t[:, 0]), gradient, 1, curvature=1.0)
    with pytest.raises(ValueError, match="gradient is not the derivative of value at theta"):
        fenchel.biconjugate(loss, fenchel.Gaussian([500.0], [[1.0]]), max_seconds=5.0)


def test_an_inverted_bracket_is_never_certified() -> None:
    found = fenchel.biconjugate(L.ReLU(), fenchel.Gaussian([0.5], [[1.0]]))
    inverted = dataclasses.replace(found, lower=found.upper + 1e-15, certified=True)
    assert not inverted.certified
    assert "inverted" in inverted.message


@pytest.mark.parametrize("threshold", [-0.4, 0.0, 0.3])
@pytest.mark.parametrize("loss", [L.SquaredReLU, L.Indicator])
def test_losses_whose_best_quadratic_is_an_edge_case_are_certified(loss: type[L.Loss], threshold: float) -> None:
    """The square of a hinge grows exactly as its majorant does; an indicator is met at its jump."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        q = fenchel.Gaussian(rng.normal(size=1), rng.uniform(0.05, 3.0, size=(1, 1)))
        found = fenchel.biconjugate(loss(threshold), q)  # type: ignore[call-arg]
        closed = fenchel.biconjugate(loss(threshold), q, method="closed-form")  # type: ignore[call-arg]
        # The worst case of the squared hinge is not attained: mass escapes, and the atoms only come near.
        assert found.certified or loss is L.SquaredReLU
        assert found.lower <= closed.upper
        assert found.upper >= closed.lower
        assert found.gap <= 1e-6 * max(1.0, abs(closed.value))


@pytest.mark.parametrize("threshold", [3e-20, 1e-12])
def test_jumps_far_below_the_scale_of_one(threshold: float) -> None:
    found = fenchel.biconjugate(
        L.Indicator(threshold), fenchel.Gaussian(np.array([0.0]), np.array([[(threshold / 3) ** 2]]))
    )
    assert found.lower <= found.upper or not found.certified
    if found.certified:
        assert found.lower - 1e-9 <= -0.1 <= found.upper + 1e-9
