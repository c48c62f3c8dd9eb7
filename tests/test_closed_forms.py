"""Closed forms of f**: published numbers, linear programs, and duality with the certified search."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from fenchel import Gaussian, conjugate
from fenchel import losses as L
from fenchel.closed.closed_forms import closed_form_biconjugate, covariance_atoms, merged, onto_jump
from fenchel.closed.quadratic_forms import (
    _balanced_signs,
    _coordinate_ascent,
    _polished,
    quadratic_biconjugate,
    worst_covariance,
)
from fenchel.results import Natural

STRUCTURES = ("full", "diagonal", "isotropic")
Array = np.ndarray


def statistics(theta: Array, structure: str) -> Array:
    if structure == "full":
        i, j = np.triu_indices(theta.shape[1])
        return np.column_stack([theta, theta[:, i] * theta[:, j]])
    squares = theta**2
    return np.column_stack([theta, squares if structure == "diagonal" else squares.sum(axis=1)])


def moments(q: Gaussian, structure: str) -> Array:
    second = q.cov + np.outer(q.mean, q.mean)
    if structure == "full":
        i, j = np.triu_indices(q.dim)
        return np.r_[q.mean, second[i, j]]
    return np.r_[q.mean, np.diag(second) if structure == "diagonal" else np.trace(second)]


def pairing(natural: object, q: Gaussian, structure: str) -> float:
    lam1, lam2 = natural  # type: ignore[misc]
    second = q.cov + np.outer(q.mean, q.mean)
    if structure == "full":
        return float(lam1 @ q.mean + np.sum(lam2 * second))
    return float(lam1 @ q.mean + np.sum(lam2 * (np.diag(second) if structure == "diagonal" else np.trace(second))))


def worst_case_program(loss: L.Loss, q: Gaussian, structure: str, grid: Array) -> float:
    """sup E_p[l] over distributions on the grid with q's moments: a lower bound on -f**, by a linear program."""
    T = np.column_stack([np.ones(len(grid)), statistics(grid, structure)])
    found = linprog(-loss(grid), A_eq=T.T, b_eq=np.r_[1.0, moments(q, structure)], method="highs")
    assert found.success
    return float(-found.fun)


def test_published_numbers() -> None:
    q = Gaussian(np.array([0.5]), np.array([[1.0]]))
    numbers = {
        L.Softplus(): 1.0918789,
        L.ReLU(): 0.8090170,
        L.Absolute(): 1.1180340,
        L.Indicator(0.0).compose([-1.0]): 0.8,
        L.Quadratic(0.0, 0.0, 1.0)
        + L.LinearPredictorLoss(
            [L.Terms(L.ThreeWells().groups[0].link, np.ones((1, 1)), np.zeros(1), np.ones(1))]
        ): 0.4647386,
    }
    for loss, worst in numbers.items():
        form = closed_form_biconjugate(loss, q, "full")
        assert form is not None
        assert -form[0] == pytest.approx(worst, abs=5e-8)
    datum = L.Softplus().compose([1.0, -0.7])
    q2 = Gaussian(np.array([0.4, 0.3]), np.diag([0.64, 0.25]))
    # The isotropic number is 0.94955358: one unit in the seventh digit from the value in circulation.
    for structure, worst in zip(STRUCTURES, (0.8848173, 0.9491485, 0.9495536), strict=True):
        form = closed_form_biconjugate(datum, q2, structure)
        assert form is not None
        assert -form[0] == pytest.approx(worst, abs=5e-8)


def check_duality(loss: L.LinearPredictorLoss, q: Gaussian, structure: str) -> None:
    """The atoms bound f** from above, the certified conjugate at the natural parameter from below: both are tight."""
    form = closed_form_biconjugate(loss, q, structure)
    assert form is not None
    value, natural, atoms, weights, _ = form
    scale = max(1.0, abs(value))
    found = conjugate(loss, *natural, tol=1e-10)
    if np.isinf(found.upper):
        # On the edge of the domain rounding decides whether f* is finite; a hair inside it is.
        lam1, lam2 = natural
        hair = 1e-11 * max(np.abs(lam2).max(), np.abs(loss.H).max())
        natural = Natural(lam1, lam2 - hair * (np.eye(loss.dim) if np.ndim(lam2) == 2 else 1.0))
        found = conjugate(loss, *natural, tol=1e-10)
    dual = pairing(natural, q, structure) - found.upper
    assert dual == pytest.approx(value, abs=2e-9 * scale)
    if atoms is not None and weights is not None:
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1.0, abs=1e-14)
        size = np.abs(weights) @ np.abs(statistics(atoms, structure))
        np.testing.assert_allclose(
            weights @ statistics(atoms, structure), moments(q, structure), atol=1e-12 * size.max()
        )
        assert -(weights @ loss(atoms)) == pytest.approx(value, abs=1e-9 * scale)


@settings(max_examples=200)
@given(m=st.floats(-5, 5), log_s=st.floats(-2, 1.5), c=st.floats(-3, 3), which=st.integers(0, 6))
def test_scalar_forms_by_duality(m: float, log_s: float, c: float, which: int) -> None:
    losses = [
        L.ReLU(c),
        L.Absolute(c),
        L.Softplus(),
        L.Huber(0.2 + abs(c)),
        L.Indicator(c),
        L.Quadratic(c, m, 0.3),
        2.0 * L.ReLU(c) + L.Quadratic(0.3, 0.1, -1.0),
    ]
    check_duality(losses[which], Gaussian(np.array([m]), np.array([[np.exp(2 * log_s)]])), "full")


@settings(max_examples=200)
@given(seed=st.integers(0, 10**6))
def test_the_rule_with_random_concave_functions(seed: int) -> None:
    """a t + h((t - c)^2), h a random mixture of sqrt(e + u), log(1 + u) and 1 - exp(-u)."""
    rng = np.random.default_rng(seed)
    p, q, r = rng.exponential(size=3)
    k, e, d = np.exp(rng.normal(size=3))

    def h(u: Array) -> Array:
        return p * np.sqrt(e + u) + q * np.log1p(u / k) + r * (1 - np.exp(-u / d))

    def dh(u: Array) -> Array:
        return 0.5 * p / np.sqrt(e + u) + q / (k + u) + r * np.exp(-u / d) / d

    def d2h(u: Array) -> Array:
        return -0.25 * p * (e + u) ** -1.5 - q / (k + u) ** 2 - r * np.exp(-u / d) / d**2

    a, c, m, s = rng.normal(), rng.normal(), 2 * rng.normal(), np.exp(rng.uniform(-2, 1))
    loss = L.SquareConcave(h, dh, d2h, slope=a, center=c)
    q1 = Gaussian(np.array([m]), np.array([[s * s]]))
    form = closed_form_biconjugate(loss, q1, "full")
    assert form is not None
    assert -form[0] == pytest.approx(a * (m - c) + h(s * s + (m - c) ** 2), rel=1e-12, abs=1e-12)
    check_duality(loss, q1, "full")
    x = rng.normal(size=2)
    check_duality(loss.compose(x), Gaussian(rng.normal(size=2), np.diag(rng.exponential(size=2) + 0.1)), "diagonal")


def test_the_squared_relu_is_attained_only_above_its_threshold() -> None:
    for m in (-0.7, 0.0, 1.3):
        q = Gaussian(np.array([m]), np.array([[0.6]]))
        form = closed_form_biconjugate(L.SquaredReLU(0.2), q, "full")
        assert form is not None
        value, natural, atoms, weights, _ = form
        assert -value == pytest.approx(0.6 + max(m - 0.2, 0.0) ** 2, rel=1e-14)
        short, wide = (
            worst_case_program(L.SquaredReLU(0.2), q, "full", np.linspace(-reach, reach, 4001)[:, None])
            for reach in (40.0, 400.0)
        )
        assert max(short, wide) <= -value + 1e-9
        assert wide == pytest.approx(-value, abs=2e-2)
        if m > 0.2:
            assert atoms is not None
            assert weights is not None
            assert -(weights @ L.SquaredReLU(0.2)(atoms)) == pytest.approx(value, rel=1e-12)
        else:
            assert atoms is None
            assert short < wide - 1e-3  # mass escapes to infinity
        lam1, lam2 = natural
        # A little inside the domain f* is finite, a little outside infinite.
        inside = conjugate(L.SquaredReLU(0.2), lam1, 1.01 * lam2)
        assert inside.certified
        assert np.isfinite(inside.value)
        # The natural parameter is that of a parabola above the loss, of the same mean: <lambda', mu> - t = f**.
        t = float(pairing(natural, q, "full")) - value
        theta = np.linspace(-30.0, 30.0, 2001)[:, None]
        above = t - theta[:, 0] * lam1[0] - theta[:, 0] ** 2 * lam2[0, 0]
        assert (above >= L.SquaredReLU(0.2)(theta) - 1e-12 * (1.0 + above)).all()
        assert conjugate(L.SquaredReLU(0.2), lam1, 0.99 * lam2).value == np.inf


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), which=st.integers(0, 6), structure=st.sampled_from(STRUCTURES))
def test_projections_and_quadratics_by_duality(seed: int, which: int, structure: str) -> None:
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(2, 5))
    A, B = rng.normal(size=(2, dim, dim))
    q = Gaussian(rng.normal(size=dim), A @ A.T + 0.1 * np.eye(dim))
    x, k = rng.normal(size=dim), [rng.normal()]
    losses = [
        L.Quadratic(B @ B.T, x, 0.2),
        L.Softplus().compose(x, k),
        L.ReLU().compose(x, k),
        L.Absolute().compose(x, k),
        L.Huber(0.5).compose(x, k),
        L.Indicator().compose(x, k),
        1.5 * L.Softplus().compose(x, k) + L.Quadratic(0.3 * np.eye(dim), x, 1.0),
    ]
    check_duality(losses[which], q, structure)


@pytest.mark.parametrize("loss", [L.ReLU(0.3), L.Softplus(), L.Indicator(1.1), L.Huber(0.4)], ids=repr)
def test_scalar_forms_by_linear_program(loss: L.Loss) -> None:
    q = Gaussian(np.array([0.5]), np.array([[1.2]]))
    form = closed_form_biconjugate(loss, q, "full")
    assert form is not None
    worst = worst_case_program(loss, q, "full", np.linspace(-15, 15, 6001)[:, None])
    assert worst <= -form[0] + 1e-9
    assert worst == pytest.approx(-form[0], abs=2e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_projection_rule_by_linear_program_in_the_plane(structure: str) -> None:
    q = Gaussian(np.array([0.4, 0.3]), np.array([[0.64, 0.1], [0.1, 0.25]]))
    axis = np.linspace(-4, 4, 81)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    for loss in (L.Absolute(0.2).compose([1.0, -0.7]), L.Softplus().compose([2.0, 1.0])):
        form = closed_form_biconjugate(loss, q, structure)
        assert form is not None
        worst = worst_case_program(loss, q, structure, grid)
        assert worst <= -form[0] + 1e-9
        assert worst == pytest.approx(-form[0], abs=5e-3)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6))
def test_families_are_ordered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(1, 5))
    A, B = rng.normal(size=(2, dim, dim))
    q = Gaussian(rng.normal(size=dim), A @ A.T + 0.1 * np.eye(dim))
    for loss in (L.Quadratic(B @ B.T, rng.normal(size=dim)), L.ReLU().compose(rng.normal(size=dim), [0.3])):
        forms = [closed_form_biconjugate(loss, q, structure) for structure in ("isotropic", "diagonal", "full")]
        values = [form[0] for form in forms if form is not None]
        assert len(values) == 3
        assert values[0] <= values[1] + 1e-10
        assert values[1] <= values[2] + 1e-10


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_worst_covariance_by_semidefinite_program(dim: int) -> None:
    rng = np.random.default_rng(dim)
    A, B = rng.normal(size=(2, dim, dim))
    H, cov = B + B.T, A @ A.T + 0.1 * np.eye(dim)
    S = cp.Variable((dim, dim), PSD=True)
    for structure, constraint in (
        ("diagonal", [cp.diag(S) == np.diag(cov)]),
        ("isotropic", [cp.trace(S) == np.trace(cov)]),
    ):
        problem = cp.Problem(cp.Maximize(cp.trace(H @ S)), constraint)
        problem.solve(solver=cp.CLARABEL)
        worst, dominating, excess = worst_covariance(H, cov, structure)
        assert np.sum(H * worst) == pytest.approx(problem.value, rel=1e-6)
        assert np.linalg.eigvalsh(worst).min() >= -1e-12
        assert np.linalg.eigvalsh(np.diag(dominating) - H).min() >= -1e-12
        assert excess <= 1e-10
        value, _, _, _ = quadratic_biconjugate(H, np.zeros(dim), 0.0, np.zeros(dim), cov, structure)
        assert -2.0 * value == pytest.approx(problem.value, rel=1e-6)


@pytest.mark.parametrize("dim", [3, 5, 8])
def test_unit_vectors_end_along_the_pull_of_the_others(dim: int) -> None:
    """That is what a maximum of sum_ij H_ij v_i.v_j is; Newton's method gets there from nearby to rounding."""
    rng = np.random.default_rng(dim)
    B = rng.normal(size=(dim, dim))
    H = B + B.T
    turned = _coordinate_ascent(H)
    nearby = _polished(H, turned + 1e-4 * rng.normal(size=(dim, dim)))
    for vectors, error in ((turned, 1e-6), (nearby, 1e-13)):
        pull = (H - np.diag(np.diagonal(H))) @ vectors
        length = np.linalg.norm(pull, axis=1, keepdims=True)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-14)
        np.testing.assert_allclose(pull / length, vectors, atol=error)


def test_signs_that_agree_with_every_correlation_or_none() -> None:
    rng = np.random.default_rng(5)
    signs, size = np.array([1.0, -1.0, -1.0, 1.0, -1.0]), np.abs(rng.normal(size=(5, 5)))
    chain = np.outer(signs, signs) * (size + size.T)
    for i in range(5):
        for j in range(5):
            chain[i, j] *= abs(i - j) == 1  # each is told from its neighbours alone
    found = _balanced_signs(chain)
    assert found is not None
    np.testing.assert_array_equal(found * found[0], signs)
    apart = np.zeros((4, 4))
    apart[0, 1] = apart[1, 0] = -2.0
    apart[2, 3] = apart[3, 2] = 0.5
    np.testing.assert_array_equal(_balanced_signs(apart), [1.0, -1.0, 1.0, 1.0])
    frustrated = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -1.0, 0.0]])
    assert _balanced_signs(frustrated) is None
    beside = np.pad(frustrated, (0, 1))
    beside[3, 3] = 2.0
    # Of three that cannot all agree each pair has correlation 1/2; a fourth parameter changes nothing.
    for H, most in ((frustrated, 3.0), (beside, 5.0)):
        worst, _, excess = worst_covariance(H, np.eye(len(H)), "diagonal")
        assert np.sum(H * worst) == pytest.approx(most, rel=1e-9)
        assert excess < 1e-10
    worst, dominating, excess = worst_covariance(chain, np.diag([1.0, 4.0, 0.25, 1.0, 9.0]), "diagonal")
    deviations = np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    np.testing.assert_allclose(worst, np.outer(signs * deviations, signs * deviations), rtol=1e-12)
    assert np.trace(chain @ worst) == pytest.approx(dominating @ deviations**2, rel=1e-12)
    assert 0.0 <= excess < 1e-13


def test_no_closed_form_is_none_and_never_a_number() -> None:
    rng = np.random.default_rng(0)
    q = Gaussian(np.zeros(2), np.eye(2))
    assert closed_form_biconjugate(L.LogisticRegression(rng.normal(size=(5, 2)), np.ones(5)), q, "full") is None
    mixed = L.ReLU().compose([1.0, 0.5]) + L.Quadratic([[1.0, 0.2], [0.2, 1.0]], [0.0, 0.0])
    assert closed_form_biconjugate(mixed, q, "full") is not None
    assert closed_form_biconjugate(mixed, q, "diagonal") is None
    assert closed_form_biconjugate(L.ThreeWells(), Gaussian(np.zeros(1), np.eye(1)), "full") is None
    two = L.ReLU().compose([1.0, 0.5]) + L.Softplus().compose([0.3, 1.0])
    assert closed_form_biconjugate(two, q, "full") is None
    equal = L.LogisticRegression(np.ones((3, 2)), np.ones(3))
    form = closed_form_biconjugate(equal, q, "full")
    single = closed_form_biconjugate(L.LogisticRegression(np.ones((1, 2)), np.ones(1)), q, "full")
    assert form is not None
    assert single is not None
    assert form[0] == pytest.approx(3 * single[0], rel=1e-14)
    # Mean on the jump: the supremum 1 is not attained, so there are no atoms to give.
    jump = closed_form_biconjugate(L.Indicator(0.0), Gaussian(np.zeros(1), np.eye(1)), "full")
    assert jump is not None
    assert jump[0] == -1.0
    assert jump[2] is None
    # Away from the jump, on either side, rounding moves the value by no more than rounding.
    for threshold in (-0.5, 0.5):
        aside = closed_form_biconjugate(L.Indicator(threshold), Gaussian(np.zeros(1), np.eye(1)), "full")
        assert aside is not None
        assert 0.0 < aside[4] < 1e-14
    with pytest.raises(ValueError, match="structure"):
        closed_form_biconjugate(mixed, q, "banded")


def test_a_quadratic_that_is_a_statistic_of_the_family_adds_up() -> None:
    """diag(0.3, 0.9) is one in the full and diagonal family, a multiple of I in all, a cross term in the full alone."""
    q = Gaussian(np.array([0.4, -0.3]), np.array([[0.9, 0.2], [0.2, 0.5]]))
    datum = 1.5 * L.Softplus().compose([1.0, -0.7], [0.2])
    allowed = {
        "multiple": (0.3 * np.eye(2), STRUCTURES),
        "diagonal": (np.diag([0.3, 0.9]), ("full", "diagonal")),
        "cross": (np.array([[0.3, 0.1], [0.1, 0.9]]), ("full",)),
    }
    for H, structures in allowed.values():
        mixed = datum + L.Quadratic(H, [0.1, 0.2], 0.3)
        for structure in STRUCTURES:
            if structure in structures:
                check_duality(mixed, q, structure)
            else:
                assert closed_form_biconjugate(mixed, q, structure) is None


def test_points_just_below_a_jump_move_onto_it_along_its_normal() -> None:
    term = L.Terms(L.Indicator().groups[0].link, np.array([[2.0, -0.5]]), np.array([0.3]), np.ones(1))
    row = term.rows[0]
    plane = np.array([1.7, -0.4]) - row * (term.predictors(np.array([[1.7, -0.4]]))[0, 0] / (row @ row))
    below, above, far = plane - 2e-16 * row, plane + 1e-9 * row, plane - 1e-6 * row
    moved = onto_jump(np.stack([below, above, far]), term)
    assert term.predictors(moved)[0, 0] >= 0.0
    np.testing.assert_allclose(moved[0], below, atol=1e-13)
    normal = np.array([0.5, 2.0])
    assert abs((moved[0] - below) @ normal) <= 1e-15
    np.testing.assert_array_equal(moved[1:], [above, far])


def test_merging_terms_leaves_the_loss_what_it_was() -> None:
    """Rows of zeros are a constant, equal rows and offsets one term, a weight of zero none."""
    rng = np.random.default_rng(0)
    rows = np.array([[0.0, 0.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [0.5, 0.1], [3.0, 1.0]])
    offsets, weights = np.array([0.7, 0.2, 0.2, -0.2, 0.0, 1.0]), np.array([2.0, 1.0, 0.5, 3.0, 0.25, 0.0])
    link = L.Softplus().groups[0].link
    terms = L.Terms(link, rows, offsets, weights)
    idle, single = L.Terms(link, rows[:2], offsets[:2], np.zeros(2)), L.Terms(link, rows[5:], offsets[5:], np.ones(1))
    loss = L.LinearPredictorLoss([idle, terms, idle, single], dim=2)
    groups, constant = merged(loss)
    assert [group.rows.shape[0] for group in groups] == [3, 1]
    assert constant == pytest.approx(2.0 * np.logaddexp(0.0, 0.7), rel=1e-14)
    theta = rng.normal(size=(20, 2))
    np.testing.assert_allclose(L.LinearPredictorLoss(groups, dim=2)(theta) + constant, loss(theta), rtol=1e-13)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e12])
def test_atoms_of_a_covariance_are_two_for_each_direction_it_has(scale: float) -> None:
    mean, row = np.array([0.3, -0.2, 1.0]), np.array([1.0, 2.0, -1.0])
    for cov, count in ((np.outer(row, row), 2), (np.diag([1.0, 2.0, 0.0]), 4), (np.eye(3), 6), (np.zeros((3, 3)), 1)):
        atoms, weights = covariance_atoms(mean, scale * cov)
        assert atoms.shape == (count, 3)
        apart = atoms - mean
        np.testing.assert_allclose(weights @ apart, 0.0, atol=1e-13 * np.sqrt(scale) + 1e-15)
        np.testing.assert_allclose(
            (apart * weights[:, None]).T @ apart, scale * cov, atol=1e-13 * scale + 1e-15 * np.sqrt(scale)
        )
