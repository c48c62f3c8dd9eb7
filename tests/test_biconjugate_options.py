"""What `biconjugate` is asked for is what it does, and what it says of its answer is so."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

import numpy as np
import pytest

import fenchel
from fenchel import losses as L
from fenchel.moments.brackets import _in_order, _value, of_state
from fenchel.moments.certificate import LowerBound, UpperBound
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.rounds import Budget, State
from fenchel.moments.starting import known_start

Q = fenchel.Gaussian(np.array([0.4]), np.array([[0.7]]))
PLANE = fenchel.Gaussian(np.array([0.3, -0.2]), np.array([[1.0, 0.2], [0.2, 0.6]]))


def logistic(n: int = 12, dim: int = 2) -> L.LogisticRegression:
    rng = np.random.default_rng(0)
    return L.LogisticRegression(rng.normal(size=(n, dim)), rng.integers(0, 2, size=n))


def test_the_method_asked_for_is_the_one_that_answers() -> None:
    for method in ("cutting-plane", "hull", "closed-form"):
        begin = time.perf_counter()
        found = fenchel.biconjugate(L.Softplus(), Q, method)
        assert found.method == method
        assert found.certified
        assert found.message == ""
        assert 0.0 <= found.seconds <= time.perf_counter() - begin
    assert fenchel.biconjugate(L.Softplus(), Q, "closed-form").iterations == 0
    assert fenchel.biconjugate(L.Softplus(), Q).iterations >= 1
    exact = fenchel.biconjugate(L.Quadratic(np.eye(2), np.zeros(2)), PLANE)
    assert (exact.iterations, exact.info["boxes"], exact.message) == (1, 0, "")
    assert fenchel.biconjugate(logistic(), PLANE).info["boxes"] > 0


def test_where_the_hull_cannot_answer_it_says_who_did() -> None:
    far = fenchel.Gaussian(np.array([1.0]), np.array([[1e-18]]))
    found = fenchel.biconjugate(L.Softplus(), far, "hull")
    assert found.method == "cutting-plane"
    assert found.message.startswith("by cutting planes: the hull cannot resolve")
    assert found.value == pytest.approx(-float(np.logaddexp(0.0, 1.0)), rel=1e-12)
    near = fenchel.biconjugate(L.Softplus(), fenchel.Gaussian(np.array([1.0]), np.array([[1e-8]])), "hull")
    assert (near.method, near.message) == ("hull", "")
    # Neither closes its bracket: the narrower one is returned.
    narrow = fenchel.biconjugate(L.ThreeWells(), Q, "hull", tol=1e-16, max_boxes=1)
    assert narrow.method == "hull"
    assert narrow.gap < fenchel.biconjugate(L.ThreeWells(), Q, tol=1e-16, max_boxes=1).gap
    with pytest.raises(ValueError, match="P = 2"):
        fenchel.biconjugate(logistic(), PLANE, "hull")


@pytest.mark.parametrize("how", ["raises", "nan"])
def test_a_hull_that_fails_is_named_and_replaced(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> fenchel.BiconjugateResult:
        if how == "raises":
            raise IndexError("no\n  facet")
        return dataclasses.replace(fenchel.biconjugate(L.Softplus(), Q), value=np.nan)

    monkeypatch.setattr("fenchel.hull.hull_bracket.hull_biconjugate", broken)
    found = fenchel.biconjugate(L.Softplus(), Q, "hull")
    assert found.certified
    assert found.method == "cutting-plane"
    said = "the hull failed (IndexError: no facet)" if how == "raises" else "the hull gave no number"
    assert found.message == f"by cutting planes: {said}"


def test_cutting_planes_have_the_time_that_the_hull_left(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def slow(*_: object, **options: object) -> fenchel.BiconjugateResult:
        asked.append(options)
        time.sleep(0.2)
        raise IndexError("no facet")

    module, given = sys.modules["fenchel.biconjugate"], list[float]()
    solve = module.cutting_plane

    def watched(*args: Any, budget: Budget, **options: Any) -> Any:
        given.append(budget.max_seconds)
        return solve(*args, budget=budget, **options)

    monkeypatch.setattr("fenchel.hull.hull_bracket.hull_biconjugate", slow)
    monkeypatch.setattr(module, "cutting_plane", watched)
    assert fenchel.biconjugate(L.Softplus(), Q, "hull", max_seconds=30.0).certified
    assert len(given) == 1
    assert given[0] <= 29.8
    assert asked == [{"tol": 1e-8, "structure": "full", "max_seconds": 30.0}]
    diagonal = fenchel.Gaussian(np.array([0.4]), np.array([0.7]))
    fenchel.biconjugate(L.Softplus(), diagonal, "hull", tol=1e-6)
    assert (asked[1]["tol"], asked[1]["structure"]) == (1e-6, diagonal.structure)


def test_the_reference_master_solves_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    module, calls = sys.modules["fenchel.biconjugate"], list[int]()
    solve = module.reference_master

    def watched(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return solve(*args, **options)

    monkeypatch.setattr(module, "reference_master", watched)
    found = [fenchel.biconjugate(logistic(), PLANE, "cutting-plane", master=master) for master in ("cvxpy", "highs")]
    assert calls
    assert found[0].certified
    assert found[0].value == pytest.approx(found[1].value, abs=1e-8)


def test_the_sampled_program_without_a_generator_is_that_of_seed_zero() -> None:
    found = [fenchel.biconjugate(logistic(), PLANE, "sampled", num_pieces=20, rng=rng) for rng in (None, 0, 1)]
    assert found[0].value == found[1].value
    assert found[0].value != found[2].value
    hundred = fenchel.biconjugate(L.Softplus(), Q, "sampled")
    assert hundred.message.startswith("100 sampled pieces")
    # All of the pieces lie below the loss, so that the atoms are no worse than the value, but for the solver.
    assert hundred.upper - hundred.value == pytest.approx(1e-6, rel=1e-6)


@pytest.mark.parametrize("variance", [1.01e-150, 0.99e150])
def test_variances_are_refused_where_double_precision_cannot_square_them(variance: float) -> None:
    found = fenchel.biconjugate(L.Absolute(), fenchel.Gaussian([0.0], variance), "closed-form")
    assert found.value == pytest.approx(-np.sqrt(variance), rel=1e-12)
    beyond = variance * (0.98 if variance < 1.0 else 1.02)
    with pytest.raises(fenchel.DomainError, match="other units"):
        fenchel.biconjugate(L.Absolute(), fenchel.Gaussian([0.0], beyond), "closed-form")


def test_a_bracket_left_open_says_how_wide_it_is() -> None:
    short = fenchel.biconjugate(logistic(40, 3), fenchel.Gaussian(np.zeros(3), 1.0), tol=1e-13, max_rounds=1)
    assert not short.certified
    assert short.message
    assert short.lower <= short.upper
    stopped = fenchel.biconjugate(logistic(), PLANE, max_boxes=1)
    assert not stopped.certified
    assert "stopped after" in stopped.message
    exact = L.Quadratic(np.array([[1.0, 0.5, 0.3], [0.5, 1.0, -0.4], [0.3, -0.4, 2.0]]), np.ones(3))
    closed = fenchel.biconjugate(exact, fenchel.Gaussian(np.ones(3), np.ones(3)), tol=1e-17)
    assert not closed.certified
    assert "wide" in closed.message


def test_a_supremum_that_is_not_attained_has_no_atoms() -> None:
    found = fenchel.biconjugate(L.Indicator(0.4), Q, "closed-form")
    assert found.value == pytest.approx(-1.0, abs=1e-12)
    assert (found.atoms.shape, found.weights.shape) == ((0, 1), (0,))
    assert found.message == "the worst case is not attained"
    coarse = fenchel.biconjugate(L.Indicator(0.4), Q, "closed-form", tol=1e-16)
    assert not coarse.certified
    assert coarse.message.startswith("rounding may have moved the value by")
    assert coarse.message.endswith("the worst case is not attained")
    with pytest.raises(ValueError, match="no closed form"):
        fenchel.biconjugate(logistic(), PLANE, "closed-form")


def test_a_warm_start_without_atoms_or_bound_is_a_cold_one() -> None:
    cold = fenchel.biconjugate(logistic(), PLANE)
    bare = dataclasses.replace(cold, atoms=np.zeros((0, 2)), weights=np.zeros(0))
    offset = dataclasses.replace(cold, info={**cold.info, "majorant_offset": None})
    endless = dataclasses.replace(cold, info={**cold.info, "majorant_offset": np.inf})
    idle = dataclasses.replace(
        cold, atoms=np.concatenate([cold.atoms, [[3.0, 3.0]]]), weights=np.append(cold.weights, 0.0)
    )
    for warm in (bare, offset, endless, idle, fenchel.biconjugate(logistic(), PLANE, structure="diagonal")):
        found = fenchel.biconjugate(logistic(), PLANE, warm=warm)
        assert found.certified
        assert found.value == pytest.approx(cold.value, rel=1e-8)


@pytest.mark.parametrize(
    "warm",
    [np.zeros(2), np.zeros((3, 1)), np.full((3, 2), np.nan), np.zeros((1, 2, 2))],
    ids=["flat", "narrow", "nan", "deep"],
)
def test_atoms_to_start_from_have_a_shape(warm: np.ndarray) -> None:
    with pytest.raises(ValueError, match="warm"):
        fenchel.biconjugate(logistic(), PLANE, warm=warm)


@pytest.mark.parametrize(
    "change",
    [
        {"natural": None},
        {"atoms": np.zeros((2, 3))},
        {"weights": np.array([-1.0, 2.0])},
        {"weights": np.array([np.inf, 2.0])},
        {"natural": fenchel.Natural(np.array([np.nan, 0.0]), -np.eye(2))},
        {"natural": fenchel.Natural(np.zeros(2), np.full((2, 2), np.inf))},
    ],
    ids=["none", "atoms", "negative", "infinite", "lam1", "lam2"],
)
def test_results_to_start_from_are_looked_at(change: dict) -> None:
    found = fenchel.biconjugate(L.Softplus().compose([1.0, 2.0]), PLANE)
    with pytest.raises(ValueError, match="warm must"):
        fenchel.biconjugate(logistic(), PLANE, warm=dataclasses.replace(found, **change))


def test_the_ends_of_a_bracket_are_put_in_order_within_rounding_only() -> None:
    assert _in_order(1.0, 2.0, 1.0) == (1.0, 2.0, "")
    assert _in_order(2.0, 2.0, 1.0) == (2.0, 2.0, "")
    assert _in_order(-np.inf, np.inf, 1.0) == (-np.inf, np.inf, "")
    low, high, clash = _in_order(1.0 + 1e-13, 1.0, 1.0)
    assert (low, high, clash) == (1.0, 1.0 + 1e-13, "")
    assert _in_order(100.0 + 5e-11, 100.0, 100.0)[2] == ""
    low, high, clash = _in_order(1.0 + 1e-9, 1.0, 1.0)
    assert (low, high) == (1.0 + 1e-9, 1.0)
    assert "inverted" in clash


def test_the_value_is_the_upper_end_once_the_bracket_has_closed_at_least_locally() -> None:
    assert _value(1.0, 1.0 + 1e-7, -np.inf, 1e-8) == 1.0 + 1e-7
    assert _value(0.5, 1.0, 1.0 - 1e-7, 1e-8) == 1.0
    assert _value(0.5, 1.0, 0.6, 1e-8) == 0.5
    assert _value(0.5, 1.0, 0.6, 0.41) == 1.0
    assert _value(500.0, 1000.0, 1000.0 - 5e-4, 1e-8) == 1000.0
    assert _value(-0.5, 1e-3, 1e-3 - 5e-7, 1e-8) == 1e-3
    assert _value(-np.inf, 1.0, -np.inf, 1e-8) == 1.0
    assert _value(0.5, np.inf, 0.6, 1e-8) == 0.5


@pytest.mark.parametrize("structure", ["full", "diagonal", "isotropic"])
@pytest.mark.parametrize(
    "loss",
    [L.Quadratic(np.array([[1.0, 0.7], [0.7, 0.4]]), [0.3, -0.2], 0.8), L.Quadratic(np.diag([0.5, 2.0]), [1.0, 0.0])],
    ids=["bent", "diagonal"],
)
def test_the_majorant_of_a_quadratic_is_above_it_and_worth_the_lower_end(structure: str, loss: L.Quadratic) -> None:
    found = fenchel.biconjugate(loss, PLANE, structure=structure)
    assert found.certified
    second = PLANE.cov + np.outer(PLANE.mean, PLANE.mean)
    lam1, lam2 = found.natural.lam1, np.asarray(found.natural.lam2)
    lam2 = lam2 if lam2.ndim == 2 else lam2 * np.eye(2)
    offset = found.info["majorant_offset"]
    assert lam1 @ PLANE.mean + np.sum(lam2 * second) - offset == pytest.approx(found.lower, abs=1e-12)
    theta = 5.0 * np.random.default_rng(0).normal(size=(200, 2))
    above = offset - theta @ lam1 - np.einsum("ni,ij,nj->n", theta, lam2, theta)
    assert (above >= loss(theta) - 1e-12 * (1.0 + np.abs(above))).all()
    assert -(found.weights @ loss(found.atoms)) == pytest.approx(found.upper, abs=1e-12)


@pytest.mark.parametrize("method", ["closed-form", "cutting-plane"])
def test_certified_means_no_wider_than_asked_for(method: str) -> None:
    """Of a value below 1 the tolerance is absolute, of a larger one relative."""
    for factor in (0.1, 30.0):
        loss = L.Quadratic(factor * np.array([[1.0, 0.7], [0.7, 0.4]]), factor * np.array([0.3, -0.2]), 0.1 * factor)
        width = fenchel.biconjugate(loss, PLANE, method, structure="diagonal").gap
        scale = max(1.0, abs(fenchel.biconjugate(loss, PLANE, method, structure="diagonal").value))
        assert width > 0.0
        assert fenchel.biconjugate(loss, PLANE, method, 1.2 * width / scale, structure="diagonal").certified
        assert not fenchel.biconjugate(loss, PLANE, method, 0.8 * width / scale, structure="diagonal").certified


@pytest.mark.parametrize("value", [-0.3, 0.0, 0.7, -40.0, 300.0])
def test_what_the_rounds_established_is_what_the_result_says(value: float) -> None:
    frame, tol = MomentFrame.of(Q.mean, Q.cov, "full"), 1e-5
    scale, atoms, weights = max(1.0, abs(value)), np.array([[0.0], [1.0]]), np.array([0.6, 0.4])
    for width, certified in ((0.9 * tol * scale, True), (1.2 * tol * scale, False)):
        lower = LowerBound(value - width, np.array([0.2]), np.array([[-0.3]]), "within the bounds")
        upper = UpperBound(value, atoms, weights)
        state = State(np.zeros((5, 1)), np.zeros(5), lower, upper, rounds=3, boxes=17)
        found = of_state(frame, state, tol, time.perf_counter() - 0.25)
        assert found.certified == certified
        assert found.upper == value
        assert found.lower == value - width
        assert found.message == ("" if certified else f"the bracket is {width:.2g} wide; ") + "within the bounds"
        assert (found.iterations, found.info["boxes"], found.info["columns"]) == (3, 17, 5)
        assert found.seconds >= 0.25
        np.testing.assert_array_equal(found.atoms, atoms)
        np.testing.assert_array_equal(found.weights, weights)
        assert found.natural.lam1 == [0.2]
        assert found.info["majorant_offset"] == pytest.approx(frame.pairing(lower.lam1, lower.lam2)[0] - lower.value)
    empty = np.zeros((0, 1)), np.zeros(0)
    stopped = of_state(frame, State(*empty, lower, upper, message="time limit reached"), tol, 0.0)
    assert stopped.message == "time limit reached; within the bounds"
    clash = of_state(frame, State(*empty, LowerBound(value + 1.0, np.zeros(1), np.zeros((1, 1))), upper), tol, 0.0)
    assert not clash.certified
    assert "inverted" in clash.message
    nothing = of_state(frame, State(*empty, unbounded=True, message="too steep"), tol, 0.0)
    assert (nothing.value, nothing.lower, nothing.upper) == (-np.inf, -np.inf, np.inf)
    assert (nothing.natural, nothing.atoms.shape, nothing.weights.size) == (None, (0, 1), 0)
    assert not nothing.certified
    assert nothing.message == "too steep"


def test_a_loss_without_closed_forms_starts_from_nothing_and_one_with_them_from_their_sum() -> None:
    wide = fenchel.Gaussian(np.array([0.1, -0.2, 0.3]), np.array([0.5, 1.0, 2.0]))
    frame = MomentFrame.of(wide.mean, wide.cov, "full")
    user = L.from_function(lambda t: np.cos(t).sum(axis=1), lambda t: -np.sin(t), 3, curvature=1.0)
    empty = known_start(user, wide, frame, None)
    assert (empty.points.shape, empty.coefficients, empty.lower, empty.active) == ((0, 3), (), None, None)
    loss = logistic(9, 3)
    begun = known_start(loss, wide, frame, None)
    assert begun.lower is not None
    assert begun.lower.value == fenchel.sum_of_biconjugates(loss, wide, "full").lower
    assert -begun.coefficients[0] @ frame.target == pytest.approx(begun.lower.value, rel=1e-12)
    theta = 4.0 * np.random.default_rng(0).normal(size=(300, 3))
    assert (frame.features(frame.to_white(theta)) @ begun.coefficients[0] >= loss(theta) - 1e-9).all()
    given = known_start(user, wide, frame, theta[:4])
    np.testing.assert_allclose(frame.to_theta(given.points), theta[:4], atol=1e-12)
