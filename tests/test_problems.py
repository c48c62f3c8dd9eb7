"""The data sets: fixed numbers of the paper's data, shapes and standardization of the others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from fenchel import Gaussian, biconjugate, expected_loss, problems


def test_the_papers_data_give_the_known_values():
    loss = problems.murphy_logistic_regression()
    q = Gaussian(np.array([1.0, 1.0]), np.array([[1.0, 0.3], [0.3, 0.8]]))
    assert expected_loss(loss, q) == pytest.approx(46.459, abs=5e-4)
    assert biconjugate(loss, q).value == pytest.approx(-73.0299958, abs=1e-6)
    assert loss.X.shape == (60, 2)


def test_the_papers_data_are_separable_through_the_origin_but_for_one_point():
    loss = problems.murphy_logistic_regression()
    angle = np.linspace(0.0, 2.0 * np.pi, 36_001)
    margins = (loss.y[:, None] * loss.X) @ np.array([np.cos(angle), np.sin(angle)])
    assert (margins <= 0).sum(axis=0).min() == 1
    best = optimize.minimize(lambda t: (loss(t), loss.gradient(t)), np.ones(2), jac=True)
    np.testing.assert_allclose(best.x, [3.8658, 0.9367], atol=1e-3)
    assert best.fun == pytest.approx(3.25292, abs=1e-4)


def test_two_moons_are_two_noisy_arcs():
    points, labels = problems.two_moons_points(400, 0.0, np.random.default_rng(0))
    np.testing.assert_allclose(np.hypot(*points[labels < 0].T), 1.0)
    np.testing.assert_allclose(np.hypot(*(points[labels > 0] - [1.0, 0.5]).T), 1.0)
    problem = problems.two_moons(features=15)
    assert problem.dim == 15
    assert problem.inputs.shape == (100, 15)
    assert np.abs(problem.inputs).max() <= np.sqrt(2.0)
    again = problems.two_moons(features=15)
    np.testing.assert_array_equal(problem.test_inputs, again.test_inputs)


@pytest.mark.parametrize(("make", "dim", "n"), [(problems.breast_cancer, 11, 398), (problems.iris, 5, 70)])
def test_sklearn_sets_are_standardized_by_the_training_part(make, dim, n):
    pytest.importorskip("sklearn")
    problem = make()
    assert problem.inputs.shape == (n, dim)
    np.testing.assert_allclose(problem.inputs[:, :-1].mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(problem.inputs[:, :-1].std(axis=0), 1.0)
    np.testing.assert_array_equal(problem.inputs[:, -1], 1.0)
    assert set(np.unique(problem.labels)) == {-1.0, 1.0}
    assert problem.loss.dim == dim


@pytest.mark.parametrize(
    "call",
    [
        lambda: problems.two_moons_points(7, 0.1, np.random.default_rng(0)),
        lambda: problems.two_moons_points(8, -0.1, np.random.default_rng(0)),
        lambda: problems.two_moons(features=0),
        lambda: problems.breast_cancer(31),
        lambda: problems.murphy(3),
    ],
)
def test_bad_input_is_named(call):
    with pytest.raises(ValueError, match="must"):
        call()
