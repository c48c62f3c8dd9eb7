"""f*: closed forms of the supremum, the families' blocks, infinity as a value (Theorem 1, claims A3, A4)."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fenchel import Gaussian, conjugate
from fenchel import losses as L
from fenchel.conjugate import second_block

numbers = st.floats(-3, 3)
widths = st.floats(0.05, 3)


def check(found: object, truth: float) -> None:
    assert found.certified  # type: ignore[attr-defined]
    assert found.message == ""  # type: ignore[attr-defined]
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


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_asymmetric_lam2(scale: float) -> None:
    with pytest.raises(ValueError, match="symmetric"):
        conjugate(L.Quadratic(np.eye(2), np.zeros(2)), np.zeros(2), scale * np.array([[-3.0, 0.5], [0.0, -3.0]]))


def narrow(center: float) -> L.UserLoss:
    """A bump of width 0.02 on [-10, 10], and nothing elsewhere that would lead to it."""
    return L.from_function(
        lambda t: np.exp(-0.5 * ((t[:, 0] - center) / 0.02) ** 2),
        lambda t: -(t - center) / 0.02**2 * np.exp(-0.5 * ((t - center) / 0.02) ** 2),
        1,
        curvature=1200.0,
        bounds=(-10.0, 10.0),
    )


def test_the_given_starts_are_climbed_from() -> None:
    lost = conjugate(narrow(7.31), [0.0], 0.0, max_boxes=1)
    found = conjugate(narrow(7.31), [0.0], 0.0, starts=[[7.30]], max_boxes=1)
    assert lost.value < 1e-6
    assert found.value == pytest.approx(1.0, abs=1e-12)
    assert found.argmax == pytest.approx([7.31], abs=1e-9)
    with pytest.raises(ValueError, match="starts"):
        conjugate(narrow(7.31), [0.0], 0.0, starts=np.zeros((2, 3)))


def test_budgets_and_tolerance_are_kept_and_what_was_spent_is_said() -> None:
    loss, wanted = narrow(3.3), 1.0
    begin = time.perf_counter()
    coarse, fine = (conjugate(loss, [0.0], 0.0, tol=tol) for tol in (0.1, 1e-9))
    assert min(coarse.seconds, fine.seconds) > 0.0
    assert coarse.seconds + fine.seconds <= time.perf_counter() - begin
    assert coarse.certified
    assert fine.certified
    assert fine.gap <= 1e-9 < coarse.gap <= 0.1
    assert fine.value == pytest.approx(wanted, abs=1e-9)
    assert 0 < coarse.boxes < fine.boxes
    assert conjugate(loss, [0.0], 0.0).gap <= 1e-9
    assert conjugate(L.Quadratic(np.eye(2), np.zeros(2)), np.ones(2), -1.0).boxes == 0
    for spent in (conjugate(loss, [0.0], 0.0, max_boxes=1), conjugate(loss, [0.0], 0.0, max_seconds=1e-9)):
        assert spent.boxes < fine.boxes
        assert not spent.certified
        assert "stopped" in spent.message
        assert spent.lower <= wanted <= spent.upper
    for option in ({"max_boxes": 0.5}, {"max_seconds": -1.0}, {"tol": 0.0}):
        with pytest.raises((TypeError, ValueError), match=next(iter(option))):
            conjugate(loss, [0.0], 0.0, **option)


def test_a_wrong_gradient_is_refused_at_the_points_that_matter() -> None:
    """Right everywhere but near the maximizer, where the derivative of the value disagrees."""
    wrong = L.from_function(
        lambda t: np.cos(t[:, 0]),
        lambda t: -np.sin(t) + 0.3 * np.exp(-((t / 0.02) ** 2)),
        1,
        curvature=20.0,
        bounds=(-9.0, 9.0),
    )
    with pytest.raises(ValueError, match="gradient is not the derivative of value at theta"):
        conjugate(wrong, [0.0], -0.1)


def test_lam2_in_a_shape_of_no_family() -> None:
    for lam2 in (np.zeros((1, 2)), np.zeros((2, 2, 2)), np.zeros(3)):
        with pytest.raises(ValueError, match=r"lam2 must be a scalar or have shape \(2,\) or \(2, 2\)"):
            conjugate(L.Quadratic(np.eye(2), np.zeros(2)), np.zeros(2), lam2)
    # A matrix that is symmetric up to rounding is taken, and made so.
    tilted = np.array([[-3.0, 0.5 + 1e-13], [0.5, -3.0]])
    np.testing.assert_allclose(second_block(tilted, 2), second_block(tilted, 2).T, rtol=0.0)
    np.testing.assert_allclose(second_block(tilted, 2), tilted, atol=1e-12)
