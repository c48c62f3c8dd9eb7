"""Bad input to every public function gets one sentence that names the argument."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fenchel
from fenchel import Gaussian, losses

Q = Gaussian([0.0], [[1.0]])
WIDE = Gaussian([0.0, 0.0], 1.0)
L = losses.Softplus()
CALLS: dict[str, Callable[..., Any]] = {
    "biconjugate": lambda loss=L, q=Q: fenchel.biconjugate(loss, q),
    "sum_of_biconjugates": lambda loss=L, q=Q: fenchel.sum_of_biconjugates(loss, q),
    "expected_loss": lambda loss=L, q=Q: fenchel.expected_loss(loss, q),
    "expected_loss_gradient": lambda loss=L, q=Q: fenchel.expected_loss_gradient(loss, q),
    "expected_loss_result": lambda loss=L, q=Q: fenchel.expected_loss_result(loss, q),
    "bayes_objective": lambda loss=L, q=Q, prior=Q: fenchel.bayes_objective(loss, q, prior),
    "relaxed_bayes_objective": lambda loss=L, q=Q, prior=Q: fenchel.relaxed_bayes_objective(loss, q, prior),
    "bayesian_learning_rule": lambda loss=L, prior=Q: fenchel.bayesian_learning_rule(loss, prior),
    "minimize_relaxed": lambda loss=L, prior=Q: fenchel.minimize_relaxed(loss, prior),
    "exact_posterior": lambda loss=L, prior=Q: fenchel.exact_posterior(loss, prior),
    "laplace": lambda loss=L, prior=Q: fenchel.laplace(loss, prior),
    "map_estimate": lambda loss=L, prior=Q: fenchel.map_estimate(loss, prior),
    "conjugate": lambda loss=L, lam1=0.0, lam2=-1.0, tol=1e-9: fenchel.conjugate(loss, lam1, lam2, tol=tol),
    "sam_objective": lambda loss=L, theta=0.0, rho=0.1, delta=0.1, tol=1e-9: fenchel.sam_objective(
        loss, theta, rho, delta, tol=tol
    ),
    "minimize_sam": lambda loss=L, rho=0.1, delta=0.1, tol=1e-9: fenchel.minimize_sam(loss, rho, delta, tol=tol),
    "proximal_objective": lambda loss=L, m=0.0, sigma=1.0, delta0=1.0: fenchel.proximal_objective(
        loss, m, sigma, delta0
    ),
    "verify_theorem1": lambda loss=L, tol=1e-6: fenchel.verify_theorem1(loss, tol=tol),
    "verify_theorem2": lambda loss=L, rho=0.1, delta=0.1, tol=1e-8: fenchel.verify_theorem2(loss, rho, delta, tol=tol),
    "biconjugate_surface": lambda loss=L, means=(0.0,), stds=(1.0,): fenchel.biconjugate_surface(loss, means, stds),
}
BAD: dict[str, list[Any]] = {
    "loss": [None, 3.0, np.cos, "relu"],
    "q": [None, 1.0, WIDE],
    "prior": [None, 1.0, WIDE],
    "tol": ["x", 0.0, -1.0, np.nan, None],
    "rho": ["x", -1.0, np.nan, None],
    "delta": ["x", -1.0, np.nan, None],
    "theta": ["x", [0.0, 0.0], np.nan, None],
    "m": ["x", [0.0, 0.0], np.nan],
    "sigma": [-1.0, np.nan],
    "delta0": ["x", -1.0, WIDE],
    "lam1": ["x", [0.0, 0.0], np.nan, None],
    "lam2": ["x", [0.0, 0.0], np.nan],
    "means": ["x", [np.nan]],
    "stds": ["x", [-1.0]],
}
CASES = [
    (name, argument, value)
    for name, call in CALLS.items()
    for argument in call.__code__.co_varnames[: call.__code__.co_argcount]
    for value in BAD[argument]
]


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_one_sentence_that_names_the_argument(name: str, argument: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        CALLS[name](**{argument: value})
    text = str(caught.value)
    assert "\n" not in text
    assert argument in text or {"delta0": "prior"}.get(argument, argument) in text, text


def _warm(**changes: Any) -> Any:
    found = fenchel.biconjugate(L, Q)
    return dataclasses.replace(found, **changes)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: fenchel.biconjugate(L, Q, max_boxes="a"), "max_boxes"),
        (lambda: fenchel.biconjugate(L, Q, max_rounds=1.5), "max_rounds"),
        (lambda: fenchel.biconjugate(L, Q, warm="x"), "warm"),
        (lambda: fenchel.biconjugate(L, Q, warm=_warm(weights=np.array([np.nan, 1.0]))), "warm"),
        (lambda: fenchel.biconjugate(L, Q, warm=_warm(atoms=np.array([[np.nan], [1.0]]))), "warm"),
        (lambda: fenchel.conjugate(L, 0.0, -1.0, max_boxes=-1), "max_boxes"),
        (lambda: fenchel.conjugate(L, 0.0, -1.0, max_seconds="a"), "max_seconds"),
        (lambda: fenchel.bayesian_learning_rule(L, Q, learning_rate="a"), "learning_rate"),
        (lambda: fenchel.bayesian_learning_rule(L, Q, max_iterations="a"), "max_iterations"),
        (lambda: fenchel.minimize_relaxed(L, Q, tol="a"), "tol"),
        (lambda: fenchel.laplace(L, Q, at="a"), "at"),
        (lambda: fenchel.verify_theorem1(L, count="a"), "count"),
        (lambda: fenchel.verify_theorem1(L, structures=3), "structures"),
        (lambda: Gaussian("a", 1.0), "mean"),
        (lambda: fenchel.minimize_relaxed(L, Q, search_tol="a"), "search_tol"),
        (lambda: fenchel.minimize_relaxed(L, Q, search_tol=-1.0), "search_tol"),
        (lambda: fenchel.bayesian_learning_rule(L, Q, callback="a"), "callback"),
        (lambda: fenchel.biconjugate_surface(L, [[1.0, [2.0]]], [1.0]), "means"),
        (lambda: losses.from_expression("x", None), "variables"),
        (lambda: losses.from_function(np.sum, np.sum, 1, curvature=10**400), "curvature"),
        (lambda: losses.from_function(np.sum, np.sum, 1, curvature=1.0, bounds=3), "bounds"),
        (lambda: losses.from_function(np.sum, np.sum, 1, curvature=1.0, bounds=(0.0,)), "bounds"),
        (lambda: losses.from_function(np.sum, np.sum, 1, curvature=1.0, bounds=(0.0, [1.0, 2.0])), "bounds"),
        (lambda: Gaussian([0.0], "a"), "cov"),
    ],
)
def test_options_too(call: Callable[[], Any], argument: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{argument} must"):
        call()


def _cosine(**changes: Any) -> losses.Loss:
    parts: dict[str, Any] = {
        "value": lambda t: 1.0 - np.cos(t[:, 0]),
        "gradient": np.sin,
        "dim": 1,
        "curvature": 1.0,
    }
    return losses.from_function(**(parts | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": lambda t: (1.0 - np.cos(t[:, 0])).astype(np.float32)}, "value must return float64"),
        ({"value": lambda t: 1.0 - np.cos(t[:, 0]) + 0j}, "value must return float64"),
        ({"value": lambda t: None}, "value must return float64"),
        ({"value": lambda t: "text"}, "value must return float64"),
        ({"value": lambda t: 1.0}, "value must return shape"),
        ({"gradient": lambda t: np.sin(t).astype(np.float16)}, "gradient must return float64"),
        ({"gradient": lambda t: 0.0 * t}, "gradient is not the derivative of value at theta"),
        ({"gradient": lambda t: np.sin(t - 0.3)}, "gradient is not the derivative of value at theta"),
        ({"gradient": lambda t: -np.sin(t)}, "gradient is not the derivative of value at theta"),
        ({"hessian": lambda t: np.full((len(t), 1, 1), 9.0)}, "hessian is not the derivative of gradient at theta"),
        ({"hessian": lambda t: np.full((len(t), 1, 1), np.nan)}, "hessian returned NaN or infinity at theta"),
        ({"hessian": lambda t: np.full((len(t), 1, 1), np.inf)}, "hessian returned NaN or infinity at theta"),
        ({"curvature": 0.2}, "curvature = 0.2"),
        ({"majorizer": losses.Quadratic([[0.0]], [0.0], 1.0)}, "majorizer lies below the loss at theta"),
        ({"value": lambda t: np.where(t[:, 0] > 5.0, np.nan, 0.0)}, "value returned NaN"),
    ],
)
def test_false_declarations_and_wrong_outputs_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        _cosine(**changes)


def test_results_say_what_they_take_on_trust() -> None:
    assert fenchel.biconjugate(L, Q).assumes == ()
    assert fenchel.biconjugate(losses.from_expression("1 - cos(x)", ["x"]), Q).assumes == ()
    trusted = fenchel.biconjugate(_cosine(), Q).assumes
    assert any("eigenvalue above 1" in sentence for sentence in trusted)
    assert any("eigenvalue above 1" in sentence for sentence in fenchel.conjugate(_cosine(), 0.0, -2.0).assumes)


def test_a_loss_with_bounds_is_no_function_on_the_whole_space() -> None:
    boxed = losses.from_function(lambda t: t[:, 0] ** 2, lambda t: 2.0 * t, 1, curvature=2.0, bounds=([-1.0], [1.0]))
    for call in (
        lambda: fenchel.expected_loss(boxed, Q),
        lambda: fenchel.bayes_objective(boxed, Q, Q),
        lambda: fenchel.verify_theorem1(boxed),
        lambda: fenchel.verify_theorem2(boxed, 0.1, 0.1),
    ):
        with pytest.raises(ValueError, match="bounds"):
            call()


def test_a_verdict_on_theorem_2_needs_a_proved_minimum() -> None:
    """Two wells in the plane: the best of many descents may not be the minimum of the SAM objective."""
    from fenchel.losses.bounded_links import BumpLink
    from fenchel.losses.linear_predictor import LinearPredictorLoss, Terms
    from fenchel.losses.links import SoftplusLink

    rows = np.array([[1.0, 0.5], [-0.7, 1.0], [0.3, -1.2]])
    wells = Terms(BumpLink(), np.array([[4.0, 0.0], [0.0, 4.0]]), np.array([-4.0, 2.0]), np.array([2.0, 2.0]))
    loss = LinearPredictorLoss([Terms(SoftplusLink(), rows, np.zeros(3), np.ones(3)), wells])
    verdict = fenchel.verify_theorem2(loss, 0.3, 0.5, pairs=False, max_seconds=1e-3)
    assert verdict.measured["certified"] is False
    assert verdict.holds is None
    assert "not proved" in verdict.explanation
    proved = fenchel.verify_theorem2(loss, 0.3, 0.5, pairs=False)
    assert proved.measured["certified"] is True
    assert proved.holds is not None


@pytest.mark.parametrize("formula", ["1 - cos(2*x)", "sqrt(1 + x**2)", "log(1 + x**2)"])
def test_theorem_2_gives_a_verdict_on_losses_with_only_a_curvature(formula: str) -> None:
    known = losses.from_expression(formula, ["x"])
    opaque = losses.from_function(known._value, known._gradient, 1, curvature=known.curvature)
    for loss in (known, opaque):
        assert fenchel.verify_theorem2(loss, 0.3, 0.5).holds in (True, False, None)


def test_a_logistic_regression_on_zeros_is_a_constant() -> None:
    loss = losses.LogisticRegression(np.zeros((1, 3)), [0])
    found = fenchel.biconjugate(loss, Gaussian(np.zeros(3), 1.0))
    assert found.certified
    assert found.value == pytest.approx(-np.log(2.0), abs=1e-9)


X2 = losses.LogisticRegression([[1.0, 2.0], [0.5, -1.0]], [0, 1])
ODD: dict[str, Any] = {
    "complex": np.array([1.0 + 1.0j, 2.0]),
    "ragged": [[1.0, 2.0], [3.0]],
    "huge": 10**400,
    "text": [1, "x"],
    "cube": np.zeros((3, 3, 3)),
}
TAKERS: dict[str, Callable[[Any], Any]] = {
    "lam1": lambda x: fenchel.conjugate(X2, x, -1.0),
    "lam2": lambda x: fenchel.conjugate(X2, [0.0, 0.0], x),
    "starts": lambda x: fenchel.conjugate(X2, [0.0, 0.0], -1.0, starts=x),
    "theta": lambda x: fenchel.sam_objective(X2, x, 0.1, 0.1),
    "starts of SAM": lambda x: fenchel.minimize_sam(X2, 0.1, 0.1, starts=x),
    "starts of Eq. 18": lambda x: fenchel.minimize_relaxed(X2, WIDE, starts=x),
    "initial": lambda x: fenchel.bayesian_learning_rule(X2, WIDE, initial=x),
    "m": lambda x: fenchel.proximal_objective(X2, x, 1.0),
    "sigma": lambda x: fenchel.proximal_objective(X2, [0.0, 0.0], x),
    "mean": lambda x: Gaussian(x, 1.0),
    "cov": lambda x: Gaussian([0.0, 0.0], x),
    "warm": lambda x: fenchel.biconjugate(X2, WIDE, warm=x),
    "tol": lambda x: fenchel.biconjugate(X2, WIDE, tol=x),
    "max_seconds": lambda x: fenchel.biconjugate(X2, WIDE, max_seconds=x),
    "seed": lambda x: fenchel.verify_theorem1(X2, seed=-1 if isinstance(x, int) else x),
    "lam2 of Theorem 1": lambda x: fenchel.verify_theorem1(X2, [0.0, 0.0], x),
    "H": lambda x: losses.Quadratic(x, [0.0, 0.0]),
    "b": lambda x: losses.Quadratic(np.eye(2), x),
    "c": lambda x: losses.Quadratic(np.eye(2), [0.0, 0.0], x),
    "X": lambda x: losses.LogisticRegression(x, [0, 1]),
}


@pytest.mark.parametrize("argument", list(TAKERS))
@pytest.mark.parametrize("kind", list(ODD))
def test_what_is_no_array_of_real_numbers_is_named(argument: str, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((TypeError, ValueError)) as caught:
            TAKERS[argument](ODD[kind])
    text = str(caught.value)
    assert argument.split()[0] in text
    assert "\n" not in text
    assert len(text) < 160
