"""f*: closed forms of the supremum, the families' blocks, infinity as a value (Theorem 1, claims A3, A4)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fenchel import Gaussian, conjugate
from fenchel import losses as L

numbers = st.floats(-3, 3)
widths = st.floats(0.05, 3)


def check(found: object, truth: float) -> None:
    assert found.certified  # type: ignore[attr-defined]
    assert found.value == pytest.approx(truth, rel=1e-9, abs=1e-9)  # type: ignore[attr-defined]
    room = 1e-12 * (1.0 + abs(truth))
    assert found.lower - room <= truth <= found.upper + room  # type: ignore[attr-defined]


@settings(max_examples=200)
@given(eta=numbers, precision=widths, k=numbers)
def test_piecewise_linear_losses(eta: float, precision: float, k: float) -> None:
    lam2 = np.array([[-0.5 * precision]])
    # On each affine piece a t + b the concave parabola peaks at (eta + a)^2 / (2 precision) + b.
    check(conjugate(L.Absolute(k), [eta], lam2), max((eta + a) ** 2 / (2 * precision) - a * k for a in (-1, 1)))
    check(conjugate(L.ReLU(k), [eta], lam2), max((eta + a) ** 2 / (2 * precision) - a * k for a in (0, 1)))
    free = eta / precision
    at_jump = 1.0 + eta * k - 0.5 * precision * k * k
    on_top = 1.0 + 0.5 * precision * free**2
    check(conjugate(L.Indicator(k), [eta], lam2), max(0.5 * precision * free**2, on_top if free >= k else at_jump))


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6))
def test_quadratics_in_every_dimension(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(1, 6))
    A, B = rng.normal(size=(2, dim, dim))
    H, b, c, lam1 = A @ A.T, rng.normal(size=dim), rng.normal(), rng.normal(size=dim)
    precision = H + B @ B.T + 0.1 * np.eye(dim)
    truth = c + 0.5 * (lam1 + b) @ np.linalg.solve(precision - H, lam1 + b)
    found = conjugate(L.Quadratic(H, b, c), lam1, -0.5 * precision)
    check(found, truth)
    np.testing.assert_allclose(found.argmax, np.linalg.solve(precision - H, lam1 + b), rtol=1e-6, atol=1e-8)


def test_blocks_of_the_families() -> None:
    rng = np.random.default_rng(0)
    loss = L.LogisticRegression(rng.normal(size=(20, 2)), rng.integers(0, 2, size=20))
    lam1 = rng.normal(size=2)
    full = conjugate(loss, lam1, np.diag([-0.7, -0.7]))
    for block in (np.array([-0.7, -0.7]), -0.7, np.array(-0.7)):
        same = conjugate(loss, lam1, block)
        assert same.value == pytest.approx(full.value, rel=1e-12)
    for q in (
        Gaussian(np.ones(2), 0.5),
        Gaussian(np.ones(2), np.array([0.5, 0.2])),
        Gaussian(np.ones(2), np.array([[0.5, 0.1], [0.1, 0.2]])),
    ):
        assert conjugate(loss, *q.natural()).certified


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), t=st.floats(0.05, 0.95))
def test_convexity_and_the_fenchel_young_inequality(seed: int, t: float) -> None:
    rng = np.random.default_rng(seed)
    loss = L.LogisticRegression(rng.normal(size=(15, 2)), rng.integers(0, 2, size=15))
    ends = []
    for _ in range(2):
        A = rng.normal(size=(2, 2))
        ends.append((rng.normal(size=2), -(A @ A.T + 0.05 * np.eye(2))))
    values = [conjugate(loss, *end) for end in ends]
    middle = conjugate(loss, *(t * a + (1 - t) * b for a, b in zip(*ends, strict=True)))
    assert middle.lower <= t * values[0].upper + (1 - t) * values[1].upper + 1e-12
    theta = 3 * rng.normal(size=(100, 2))
    for (lam1, lam2), found in zip(ends, values, strict=True):
        # <lam, T(theta)> - (-l(theta)) <= f*(lam)
        pairing = theta @ lam1 + np.einsum("ni,ij,nj->n", theta, lam2, theta) + loss(theta)
        assert pairing.max() <= found.upper
        assert loss(found.argmax) + lam1 @ found.argmax + found.argmax @ lam2 @ found.argmax == pytest.approx(
            found.value, rel=1e-12
        )


def test_outside_the_domain_the_value_is_inf_with_a_reason() -> None:
    for lam2 in ([[0.1]], [[0.0]]):
        found = conjugate(L.Absolute(), [0.0], lam2)
        assert found.value == np.inf
        assert found.certified
        assert found.argmax is None
        assert found.gap == 0.0
        assert len(found.message) > 20
    quartic = L.from_function(lambda t: t[:, 0] ** 4, lambda t: 4 * t**3, 1, curvature=np.inf)
    for lam2 in (-1.0, -1e6):
        assert conjugate(quartic, [0.0], lam2).value == np.inf
    # Not coercive: lam2 = 0 is in the domain (A4).
    assert conjugate(L.Indicator(), [0.0], 0.0).value == 1.0


@pytest.mark.parametrize(
    ("lam1", "lam2"),
    [
        ([0.0, 0.0], -1.0),
        ([0.0], [[-1.0, 0.0], [0.0, -1.0]]),
        ([0.0], [-1.0, -1.0]),
        ([np.nan], -1.0),
        ([0.0], np.nan),
        ([0.0], -np.inf),
    ],
)
def test_bad_input(lam1: list, lam2: object) -> None:
    with pytest.raises(ValueError, match=r"lam[12]"):
        conjugate(L.ReLU(), lam1, lam2)


def test_asymmetric_lam2() -> None:
    with pytest.raises(ValueError, match="symmetric"):
        conjugate(L.Quadratic(np.eye(2), np.zeros(2)), np.zeros(2), [[-3.0, 0.5], [0.0, -3.0]])
