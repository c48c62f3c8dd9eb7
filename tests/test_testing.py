"""What is shipped for users' test suites: the strategies cover what they promise, the assertions can fail."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

import fenchel
from fenchel import Gaussian, losses
from fenchel.testing import assert_theorem1, assert_theorem2, gaussians, natural_parameters
from fenchel.testing import losses as any_losses

CAUCHY = losses.from_expression("log(1 + (x - 1)**2)", variables=["x"])


@given(gaussians())
def test_gaussians_are_proper_and_within_their_bounds(q: Gaussian) -> None:
    assert q.dim in (1, 2, 3)
    assert np.abs(q.mean).max() <= 3.0
    scales = np.sqrt(np.linalg.eigvalsh(q.cov))
    assert 0.1 * (1 - 1e-9) <= scales[0] <= scales[-1] <= 3.0 * (1 + 1e-9)


@given(gaussians(dim=2, structure="diagonal"))
def test_the_family_and_the_dimension_can_be_chosen(q: Gaussian) -> None:
    assert (q.dim, q.structure) == (2, "diagonal")


@given(natural_parameters(dim=2, structure="full"))
def test_natural_parameters_lie_in_omega(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.linalg.eigvalsh(pair[1])[-1] < 0.0
    assert Gaussian.from_natural(*pair).dim == 2


@settings(max_examples=30)
@given(any_losses(dim=1), gaussians(dim=1))
def test_the_relaxation_lies_below_for_any_loss(loss: losses.Loss, q: Gaussian) -> None:
    result = fenchel.biconjugate(loss, q, max_seconds=5.0)
    assert result.lower <= -fenchel.expected_loss(loss, q) + 1e-8


def test_the_theorems_as_assertions() -> None:
    assert assert_theorem1(CAUCHY, count=1).holds is True
    assert assert_theorem1(losses.Softplus(), [0.3], -0.8).holds is True
    assert assert_theorem2(CAUCHY, 0.3, 0.5, pairs_only=True).measured["pairs_map"] is True
    # On a flat loss the worst perturbation lies inside the ball, and the theorem's assumption fails.
    with pytest.raises(AssertionError, match="does not hold"):
        assert_theorem2(losses.Quadratic([[-1.0]], [0.0]), 0.3, 2.0)


def test_a_bad_structure_is_refused() -> None:
    @given(gaussians(structure="round"))
    def draws(q: Gaussian) -> None:
        raise AssertionError("a family that does not exist was drawn")

    with pytest.raises(ValueError, match="structure"):
        draws()
