"""The per-datum relaxation: exact for one datum, a bound for many, linear in their number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fenchel import Gaussian, conjugate, sum_of_biconjugates
from fenchel import losses as L
from fenchel.closed.closed_forms import closed_form_biconjugate

STRUCTURES = ("full", "diagonal", "isotropic")


def gaussian(rng: np.random.Generator, dim: int) -> Gaussian:
    A = rng.normal(size=(dim, dim))
    return Gaussian(rng.normal(size=dim), A @ A.T + 0.1 * np.eye(dim))


def pairing(natural: object, q: Gaussian, structure: str) -> float:
    lam1, lam2 = natural  # type: ignore[misc]
    second = q.cov + np.outer(q.mean, q.mean)
    if structure == "full":
        return float(lam1 @ q.mean + np.sum(lam2 * second))
    return float(lam1 @ q.mean + np.sum(lam2 * (np.diag(second) if structure == "diagonal" else np.trace(second))))


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), structure=st.sampled_from(STRUCTURES))
def test_equals_the_sum_of_the_closed_forms(seed: int, structure: str) -> None:
    rng = np.random.default_rng(seed)
    dim, n = int(rng.integers(1, 5)), int(rng.integers(1, 12))
    q = gaussian(rng, dim)
    X, y = rng.normal(size=(n, dim)), rng.integers(0, 2, size=n)
    total = sum_of_biconjugates(L.LogisticRegression(X, y), q, structure)
    parts = [closed_form_biconjugate(L.LogisticRegression(X[i : i + 1], y[i : i + 1]), q, structure) for i in range(n)]
    expected = sum(part[0] for part in parts if part is not None)
    assert total.value == pytest.approx(expected, rel=1e-12)
    assert total.lower <= total.value
    np.testing.assert_allclose(
        total.natural.lam2, sum(np.asarray(p[1].lam2) for p in parts if p is not None), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(
        total.natural.lam1, sum(p[1].lam1 for p in parts if p is not None), rtol=1e-9, atol=1e-11
    )


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), structure=st.sampled_from(STRUCTURES))
def test_the_summed_majorant_majorizes(seed: int, structure: str) -> None:
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(1, 4))
    q = gaussian(rng, dim)
    loss = L.LogisticRegression(2 * rng.normal(size=(8, dim)), rng.integers(0, 2, size=8))
    mixed = loss + L.Huber(0.5).compose(rng.normal(size=dim), [0.2]) + L.Quadratic(0.3 * np.eye(dim), np.ones(dim))
    result = sum_of_biconjugates(mixed, q, structure)
    constant = pairing(result.natural, q, structure) - result.value
    theta = 4 * rng.normal(size=(400, dim))
    lam1, lam2 = result.natural
    quadratic = np.diag(lam2) if structure == "diagonal" else lam2 * np.eye(dim) if structure == "isotropic" else lam2
    majorant = constant - theta @ lam1 - np.einsum("ni,ij,nj->n", theta, quadratic, theta)
    assert (majorant >= mixed(theta) - 1e-10 * (1 + np.abs(majorant))).all()
    # Hence the certified conjugate there is no larger than the constant.
    assert conjugate(mixed, lam1, lam2, tol=1e-6).lower <= constant + 1e-10 * (1 + abs(constant))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(
    "link",
    [L.SquaredReLU(0.2), L.Indicator(0.4), L.ReLU(-0.3), L.Absolute(0.5), L.Softplus(), L.Huber(0.6)],
    ids=lambda loss: type(loss).__name__,
)
def test_every_term_s_majorant_lies_above_it(link: L.LinearPredictorLoss, structure: str) -> None:
    """Three terms of one kind with weights: sum_i f_i** = <natural, mu> - t, and t - <natural, T> >= the loss."""
    rng = np.random.default_rng(3)
    q = gaussian(rng, 2)
    loss = sum((w * link.compose(rng.normal(size=2), [rng.normal()]) for w in (2.0, 0.3)), link.compose([1.0, -2.0]))
    result = sum_of_biconjugates(loss, q, structure)
    assert result.terms == 3
    assert 0.0 < result.error < 1e-12 * max(1.0, abs(result.value))
    t = pairing(result.natural, q, structure) - result.value
    lam1, lam2 = result.natural.lam1, np.asarray(result.natural.lam2)
    theta = q.mean + 6.0 * rng.normal(size=(3000, 2))
    above = t - theta @ lam1 - np.einsum("ni,ij,nj->n", theta, lam2 if lam2.ndim == 2 else lam2 * np.eye(2), theta)
    assert (above >= loss(theta) - 1e-10 * (1.0 + np.abs(above))).all()
    single = link.compose([1.0, -2.0], [0.3])
    alone, form = sum_of_biconjugates(3.0 * single, q, structure), closed_form_biconjugate(3.0 * single, q, structure)
    assert form is not None
    assert alone.value == pytest.approx(form[0], rel=1e-13)
    assert alone.error >= 0.99 * form[4]  # no less than what rounding does to the closed form itself
    assert alone.lower == alone.value - alone.error


def test_one_term_with_a_constant_row_and_an_indicator() -> None:
    q = Gaussian(np.array([0.3]), np.array([[0.5]]))
    loss = L.LogisticRegression(np.array([[0.0], [1.0]]), np.ones(2)) + L.Indicator(1.0)
    one = closed_form_biconjugate(L.LogisticRegression(np.array([[1.0]]), np.ones(1)), q, "full")
    jump = closed_form_biconjugate(L.Indicator(1.0), q, "full")
    assert one is not None
    assert jump is not None
    assert sum_of_biconjugates(loss, q).value == pytest.approx(one[0] + jump[0] - np.log(2), rel=1e-12)


def test_chunks_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    loss = L.LogisticRegression(rng.normal(size=(1000, 5)), rng.integers(0, 2, size=1000))
    q = gaussian(rng, 5)
    for structure, entries in zip(STRUCTURES, (35, 35, 3), strict=True):  # 3: less than a row
        whole = sum_of_biconjugates(loss, q, structure)
        monkeypatch.setattr("fenchel.closed.sums._CHUNK_ENTRIES", entries)
        pieces = sum_of_biconjugates(loss, q, structure)
        monkeypatch.undo()
        assert pieces.value == pytest.approx(whole.value, rel=1e-12)
        np.testing.assert_allclose(pieces.natural.lam2, whole.natural.lam2, rtol=1e-10)


def test_bad_input() -> None:
    cauchy = L.from_function(lambda t: np.log1p(t[:, 0] ** 2), lambda t: 2 * t / (1 + t**2), 1, curvature=2.0)
    with pytest.raises(TypeError, match="LinearPredictorLoss"):
        sum_of_biconjugates(cauchy, Gaussian(np.zeros(1), np.eye(1)))
    with pytest.raises(ValueError, match="dimension"):
        sum_of_biconjugates(L.ReLU(), Gaussian(np.zeros(2), np.eye(2)))
    with pytest.raises(ValueError, match="structure"):
        sum_of_biconjugates(L.ReLU(), Gaussian(np.zeros(1), np.eye(1)), "banded")
