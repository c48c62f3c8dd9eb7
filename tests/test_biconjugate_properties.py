"""Mathematics of f** that must hold for every loss and every q, up to the brackets that are reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fenchel
from fenchel import losses as L

Array = np.ndarray
MANY = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
TOL = 1e-8


def numbers(lo: float, hi: float) -> st.SearchStrategy[float]:
    return st.floats(lo, hi, allow_nan=False, allow_infinity=False).map(lambda v: round(v, 6))


def positive(lo: float, hi: float) -> st.SearchStrategy[float]:
    return numbers(float(np.log(lo)), float(np.log(hi))).map(lambda v: float(np.exp(v)))


@st.composite
def scalar_losses(draw: Callable[..., Any]) -> L.LinearPredictorLoss:
    """P = 1: convex and nonconvex, smooth, with kinks, with wells; sums of up to two shifted and scaled links."""
    kinds: list[Callable[[], L.LinearPredictorLoss]] = [
        L.Softplus,
        L.ReLU,
        L.Absolute,
        L.ThreeWells,
        lambda: L.Huber(0.7),
    ]
    total = None
    for _ in range(draw(st.integers(1, 2))):
        part = draw(st.sampled_from(kinds))()
        slope, offset = draw(st.sampled_from([-1.0, 1.0])) * draw(positive(0.3, 3.0)), draw(numbers(-3.0, 3.0))
        part = draw(positive(0.3, 3.0)) * part.compose(np.array([[slope]]), np.array([offset]))
        total = part if total is None else total + part
    assert total is not None
    return total


@st.composite
def scalar_moments(draw: Callable[..., Any]) -> fenchel.Gaussian:
    return fenchel.Gaussian(np.array([draw(numbers(-4.0, 4.0))]), np.array([[draw(positive(0.05, 9.0))]]))


@st.composite
def plane_problems(draw: Callable[..., Any]) -> tuple[L.LogisticRegression, fenchel.Gaussian]:
    """A logistic regression of 3 to 8 data in the plane, and a full-covariance Gaussian."""
    n, rng = draw(st.integers(3, 8)), np.random.default_rng(draw(st.integers(0, 10**6)))
    labels = rng.integers(0, 2, size=n)
    loss = L.LogisticRegression(draw(positive(0.5, 3.0)) * rng.normal(size=(n, 2)), labels)
    spread, angle = draw(positive(0.1, 3.0)), draw(numbers(0.0, 3.0))
    rotation = rotation_by(angle)
    cov = rotation @ np.diag([spread, spread * draw(positive(0.1, 1.0))]) @ rotation.T
    mean = np.array([draw(numbers(-3.0, 3.0)), draw(numbers(-3.0, 3.0))])
    return loss, fenchel.Gaussian(mean, 0.5 * (cov + cov.T))


def rotation_by(angle: float) -> Array:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def solve(loss: Any, q: fenchel.Gaussian, **options: Any) -> fenchel.BiconjugateResult:
    """A solution that must be certified: an uncertified one would make every property below vacuous."""
    result = fenchel.biconjugate(loss, q, tol=TOL, **options)
    assert result.certified, (loss, q, result.message)
    assert result.lower <= result.upper + 1e-12 * (1.0 + abs(result.upper))
    return result


def room(*values: float) -> float:
    return 1e-10 * (1.0 + max(abs(v) for v in values))


def scalar_pairing(natural: Any, q: fenchel.Gaussian) -> float:
    mean, variance = float(q.mean[0]), float(q.cov[0, 0])
    return float(natural.lam1[0]) * mean + float(np.ravel(natural.lam2)[0]) * (variance + mean**2)


@MANY
@given(plane_problems())
def test_larger_families_give_larger_biconjugates(problem: Any) -> None:
    loss, q = problem
    isotropic, diagonal, full = (solve(loss, q, structure=s) for s in ("isotropic", "diagonal", "full"))
    expected = -fenchel.expected_loss(loss, q)
    for below, above in ((isotropic, diagonal), (diagonal, full)):
        assert below.lower <= above.upper + room(above.upper)
    assert full.lower <= expected + room(expected)


@MANY
@given(scalar_losses(), scalar_moments(), scalar_moments(), numbers(0.05, 0.95))
def test_convex_along_segments_of_expectation_parameters(loss: Any, a: Any, b: Any, t: float) -> None:
    mean = t * a.mean + (1 - t) * b.mean
    second = t * (a.cov + np.outer(a.mean, a.mean)) + (1 - t) * (b.cov + np.outer(b.mean, b.mean))
    middle = fenchel.Gaussian(mean, second - np.outer(mean, mean))
    between, left, right = solve(loss, middle), solve(loss, a), solve(loss, b)
    assert between.lower <= t * left.upper + (1 - t) * right.upper + room(left.upper, right.upper)


@MANY
@given(scalar_losses(), scalar_moments(), numbers(-3.0, 3.0), positive(0.05, 5.0))
def test_fenchel_young(loss: Any, q: Any, lam1: float, precision: float) -> None:
    result = solve(loss, q)
    other = fenchel.conjugate(loss, np.array([lam1]), np.array([[-0.5 * precision]]))
    pairing = lam1 * q.mean[0] - 0.5 * precision * (q.cov[0, 0] + q.mean[0] ** 2)
    if np.isfinite(other.upper):
        assert result.upper + other.upper >= pairing - room(pairing, result.upper)
    own = fenchel.conjugate(loss, result.natural.lam1, np.reshape(result.natural.lam2, (1, 1)))
    # Equality at the gradient, as far as the bracket says.
    gap = result.value + own.value - scalar_pairing(result.natural, q)
    assert abs(gap) <= 2 * TOL * max(1.0, abs(result.value)) + room(own.value, result.value)


@MANY
@given(scalar_losses(), scalar_moments(), scalar_moments())
def test_gradient_is_a_subgradient(loss: Any, here: Any, there: Any) -> None:
    result, other = solve(loss, here), solve(loss, there)
    rise = scalar_pairing(result.natural, there) - scalar_pairing(result.natural, here)
    assert other.upper >= result.lower + rise - room(rise, result.value, other.value)


@MANY
@given(scalar_losses(), scalar_moments(), positive(0.2, 5.0), numbers(-2.0, 2.0), numbers(-2.0, 2.0), numbers(0.0, 1.0))
def test_adding_statistics_and_scaling_pass_through(
    loss: Any, q: Any, scale: float, slope: float, constant: float, bend: float
) -> None:
    plain = solve(loss, q)
    changed = solve(scale * loss + L.Quadratic([[bend]], [slope], constant), q)
    moved = 0.5 * bend * (q.cov[0, 0] + q.mean[0] ** 2) + slope * q.mean[0] + constant
    truth = scale * plain.value - moved
    assert abs(changed.value - truth) <= 2 * TOL * (1.0 + scale) * max(1.0, abs(plain.value), abs(moved))


@MANY
@given(scalar_losses(), scalar_moments(), st.sampled_from([-1.0, 1.0]), positive(0.1, 10.0), numbers(-5.0, 5.0))
def test_change_of_variables(loss: Any, q: Any, sign: float, scale: float, offset: float) -> None:
    a = sign * scale
    image = fenchel.Gaussian((q.mean - offset) / a, q.cov / a**2)
    there = solve(loss.compose(np.array([[a]]), np.array([offset])), image)
    here = solve(loss, q)
    assert abs(there.value - here.value) <= 2 * TOL * max(1.0, abs(here.value))


@MANY
@given(scalar_losses(), numbers(-3.0, 3.0), positive(0.05, 5.0))
def test_third_conjugate_is_the_first(loss: Any, lam1: float, precision: float) -> None:
    """f*** = f*: the supremum of <lam, mu> - f**(mu) never exceeds f*(lam), and narrow q at its maximizer reach it."""
    natural = fenchel.Natural(np.array([lam1]), np.array([[-0.5 * (precision + 0.2)]]))
    first = fenchel.conjugate(loss, natural.lam1, natural.lam2)
    if not (np.isfinite(first.upper) and first.certified):
        return
    deficits = []
    for variance in (1e-2, 1e-5, 1e-8):
        narrow = fenchel.Gaussian(first.argmax, np.array([[variance]]))
        third = scalar_pairing(natural, narrow) - solve(loss, narrow).value
        assert third <= first.upper + 2 * TOL * max(1.0, abs(first.upper))
        deficits.append(first.value - third)
    # The loss and the pairing have bounded curvature or a kink that is not met, so the deficit falls with the width.
    assert deficits[-1] <= 1e-2 * max(deficits[0], 0.0) + 1e-6 * max(1.0, abs(first.value))


@MANY
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_quadratics_are_their_own_biconjugate(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    H, root = rng.normal(size=(dim, dim)), rng.normal(size=(dim, dim))
    H = H + H.T
    b, c, mean, cov = rng.normal(size=dim), rng.normal(), rng.normal(size=dim), root @ root.T + 0.1 * np.eye(dim)
    result = solve(L.Quadratic(H, b, c), fenchel.Gaussian(mean, cov))
    truth = -(0.5 * np.trace(H @ (cov + np.outer(mean, mean))) + b @ mean + c)
    assert abs(result.value - truth) <= 1e-12 * (1.0 + np.abs(H).sum() * (1.0 + np.abs(cov).sum()))
    assert result.lower <= truth <= result.upper
    np.testing.assert_allclose(result.natural.lam1, -b)
    np.testing.assert_allclose(result.natural.lam2, -0.5 * H)


@MANY
@given(scalar_losses(), scalar_losses(), scalar_moments())
def test_biconjugate_of_a_sum_is_above_the_sum(first: Any, second: Any, q: Any) -> None:
    whole, one, two = solve(first + second, q), solve(first, q), solve(second, q)
    assert whole.upper >= one.lower + two.lower - room(whole.upper, one.lower, two.lower)


@MANY
@given(plane_problems(), st.sampled_from(["full", "diagonal", "isotropic"]))
def test_atoms_have_the_moments_and_give_the_upper_bound(problem: Any, structure: str) -> None:
    loss, q = problem
    result = solve(loss, q, structure=structure)
    atoms, weights = result.atoms, result.weights
    assert np.all(weights >= 0.0)
    assert abs(weights.sum() - 1.0) <= 1e-13
    size = 1.0 + np.abs(q.mean).max() ** 2 + np.abs(q.cov).max()
    np.testing.assert_allclose(weights @ atoms, q.mean, atol=1e-12 * size)
    second = (atoms * weights[:, None]).T @ atoms
    target = q.cov + np.outer(q.mean, q.mean)
    statistics: dict[str, Callable[[Array], Any]] = {"full": np.asarray, "diagonal": np.diag, "isotropic": np.trace}
    statistic = statistics[structure]
    np.testing.assert_allclose(statistic(second), statistic(target), atol=1e-11 * size)
    assert abs(-float(weights @ loss(atoms)) - result.upper) <= room(result.upper)


@MANY
@given(plane_problems(), st.sampled_from(["full", "diagonal", "isotropic"]), st.integers(0, 10**6))
def test_majorant_is_above_the_loss_everywhere(problem: Any, structure: str, seed: int) -> None:
    loss, q = problem
    result = solve(loss, q, structure=structure)
    lam1, block = result.natural
    lam2 = block if np.ndim(block) == 2 else (np.diag(block) if np.ndim(block) == 1 else float(block) * np.eye(2))
    offset = result.info["majorant_offset"]
    rng = np.random.default_rng(seed)
    cloud = q.mean + rng.normal(size=(400, 2)) * np.exp(rng.uniform(-3, 4, size=(400, 1)))
    # Adversarial points: the contacts, their neighbourhood, and the global maximizer of the difference.
    near = np.repeat(result.atoms, 20, axis=0) + 1e-3 * rng.normal(size=(20 * len(result.atoms), 2))
    worst = fenchel.conjugate(loss, lam1, lam2).argmax
    theta = np.concatenate([cloud, result.atoms, near, worst[None, :]])
    bent = np.einsum("ni,ij,nj->n", theta, lam2, theta)
    above = offset - theta @ lam1 - bent
    values = loss(theta)
    rounding = 1e-13 * (abs(offset) + np.abs(theta @ lam1) + np.abs(bent) + np.abs(values))
    assert np.all(above >= values - rounding)
    second = q.cov + np.outer(q.mean, q.mean)
    assert abs((lam1 @ q.mean + np.sum(lam2 * second) - offset) - result.lower) <= room(offset, result.lower)


@MANY
@given(plane_problems(), numbers(0.0, 6.3), st.sampled_from(["full", "isotropic"]))
def test_orthogonal_maps_change_nothing(problem: Any, angle: float, structure: str) -> None:
    loss, q = problem
    rotation = rotation_by(angle)
    cov = rotation.T @ q.cov @ rotation
    image = fenchel.Gaussian(rotation.T @ q.mean, 0.5 * (cov + cov.T))
    here, there = solve(loss, q, structure=structure), solve(loss.compose(rotation), image, structure=structure)
    assert abs(here.value - there.value) <= 2 * TOL * max(1.0, abs(here.value))
