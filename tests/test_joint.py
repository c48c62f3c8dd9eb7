"""The quadratic above all terms at once: triangle inequalities, the mean that is minimized, and the proved bound."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import fenchel
from fenchel import Gaussian
from fenchel import losses as L
from fenchel.losses.bounded_links import BumpLink
from fenchel.losses.links import AbsLink, HuberLink, SoftplusLink
from fenchel.losses.more_links import SquaredReLULink
from fenchel.moments.joint import _SIGNS, Triangles, _Joint, joint_bound
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.white_loss import WhiteLoss

Array = np.ndarray


def white(loss: L.Loss, q: Gaussian, structure: str = "full") -> WhiteLoss:
    return WhiteLoss(loss, MomentFrame.of(q.mean, q.cov, structure))


def mixed(dim: int, count: int) -> L.LinearPredictorLoss:
    rng = np.random.default_rng(dim)
    groups = [
        L.Terms(link, rng.normal(size=(count, dim)), rng.normal(size=count), rng.uniform(0.5, 2.0, size=count))
        for link in (SoftplusLink(), AbsLink(), HuberLink(0.7))
    ]
    return L.LinearPredictorLoss(groups, H=0.1 * np.eye(dim), b=rng.normal(size=dim), c=0.4)


def test_triangle_inequalities_hold_on_the_cube() -> None:
    for corner in product((-1.0, 1.0), repeat=3):
        s = np.array(corner)
        products = np.array([s[0] * s[1], s[0] * s[2], s[1] * s[2]])
        assert (1.0 + _SIGNS @ products >= 0.0).all()
        # At each corner of the cube three of the four are equalities.
        assert (1.0 + _SIGNS @ products == 0.0).sum() == 3


def test_three_directions_at_sixty_degrees_are_bounded_exactly() -> None:
    """sum_i |x_i.theta| <= 2 |theta|, with equality at the corners of a hexagon, which carry the moments of N(0, I).

    The terms' own f** add up to -3; with the triangle inequality the bound is f** = -2 sqrt 2.
    """
    angles = np.pi / 3.0 * np.arange(3)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    loss = L.LinearPredictorLoss([L.Terms(AbsLink(), rows, np.zeros(3), np.ones(3))])
    q = Gaussian(np.zeros(2), np.eye(2))
    assert fenchel.sum_of_biconjugates(loss, q).lower == pytest.approx(-3.0, abs=1e-9)
    found = joint_bound(white(loss, q), 10.0)
    assert found is not None
    assert -2.0 * np.sqrt(2.0) - 1e-3 < found.value <= -2.0 * np.sqrt(2.0)


def test_the_mean_has_the_gradient_that_is_used() -> None:
    problem = white(mixed(4, 3), Gaussian(np.full(4, 0.3), 0.5 * np.eye(4) + 0.2))
    linear = problem.loss.in_predictors()
    assert linear is not None
    joint = _Joint(linear.compose(problem.frame.factor, problem.frame.mean))
    triangles = Triangles(np.array([[5, 2, 0], [8, 6, 1], [7, 4, 3]]), _SIGNS[:3])
    v = np.concatenate([np.log(np.linspace(0.8, 2.5, 9)), [0.02, 0.05, 0.01]])
    value, gradient = joint.mean(v, triangles, 0.3)
    assert np.isfinite(value)
    for i in range(v.size):
        step = 1e-5 * np.eye(v.size)[i]
        slope = (joint.mean(v + step, triangles, 0.3)[0] - joint.mean(v - step, triangles, 0.3)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dim", [3, 9])
def test_the_quadratic_lies_above_the_loss_and_is_better_than_the_sum(dim: int) -> None:
    loss, q = mixed(dim, 8), Gaussian(np.full(dim, 0.2), 2.0 * np.eye(dim) + 0.5)
    problem = white(loss, q)
    found = joint_bound(problem, 20.0)
    assert found is not None
    c = found.coefficients
    assert c is not None
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, dim)) * 10.0 ** rng.uniform(-1.0, 1.5, size=(4000, 1))
    assert (problem.value(x) <= problem.frame.features(x) @ c).all()
    _, violations = problem.local_maximizers(c, x[:200])
    assert violations.max() <= 0.0
    assert found.value <= -float(c @ problem.frame.target)
    assert found.value == pytest.approx(-float(c @ problem.frame.target), rel=1e-9)
    summed = fenchel.sum_of_biconjugates(loss, q).lower
    assert found.value > summed + 1e-3 * abs(summed)
    assert found.value <= fenchel.biconjugate(loss, q, tol=1e-3, max_seconds=3.0).upper


def test_rows_of_very_different_scales_keep_their_bound() -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(30, 9)) * 10.0 ** rng.uniform(-3.0, 3.0, size=(30, 1)) * 10.0 ** rng.uniform(-2.0, 2.0, 9)
    loss, q = L.LogisticRegression(rows, rng.integers(0, 2, 30)), Gaussian(np.zeros(9), np.eye(9))
    found = joint_bound(white(loss, q), 20.0)
    assert found is not None
    summed = fenchel.sum_of_biconjugates(loss, q).lower
    assert found.value > summed + 1e-4 * abs(summed)
    assert found.value <= fenchel.biconjugate(loss, q, tol=1e-3, max_seconds=2.0).upper


def test_terms_of_other_kinds_and_smaller_families_have_no_such_bound() -> None:
    q = Gaussian(np.zeros(2), np.eye(2))
    for link in (BumpLink(), SquaredReLULink()):
        terms = L.LinearPredictorLoss([L.Terms(link, np.eye(2), np.zeros(2), np.ones(2))])
        assert joint_bound(white(terms, q), 1.0) is None
    assert joint_bound(white(mixed(2, 2), q, "diagonal"), 1.0) is None
    assert joint_bound(white(L.from_expression("x**2 + cos(y)", ["x", "y"]), q), 1.0) is None


def test_many_parameters_take_over_the_joint_bound() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 10)) + 0.3 * rng.normal(size=(40, 10))
    loss, q = L.LogisticRegression(rows, rng.integers(0, 2, 40)), Gaussian(np.zeros(10), np.eye(10))
    summed = fenchel.sum_of_biconjugates(loss, q).lower
    found = fenchel.biconjugate(loss, q, tol=1e-3, max_seconds=3.0)
    assert found.lower > summed + 0.2 * (found.upper - summed)
    assert found.natural is not None
    theta = 3.0 * rng.normal(size=(2000, 10))
    assert (
        loss(theta)
        <= found.info["majorant_offset"]
        - theta @ found.natural.lam1
        - np.einsum("ki,ij,kj->k", theta, found.natural.lam2, theta)
        + 1e-9
    ).all()
