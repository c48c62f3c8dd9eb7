"""The certified search: nothing sampled or climbed to ever exceeds the upper bound, and the bracket closes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fenchel import Gaussian, sum_of_biconjugates
from fenchel import losses as L
from fenchel.losses.bounded_links import BumpLink, IndicatorLink
from fenchel.losses.links import AbsLink, HuberLink, ReLULink, SoftplusLink
from fenchel.search.bounds import LinearModel
from fenchel.search.box_quadratic import box_maximum
from fenchel.search.confine import Setting, prepare
from fenchel.search.enclose import box_around, global_majorants
from fenchel.search.maximize import local_maximizers, maximize
from fenchel.search.root_bound import global_quadratics, stacked_terms

LINKS = [ReLULink(), AbsLink(), SoftplusLink(), HuberLink(0.8), BumpLink(), IndicatorLink()]
Array = np.ndarray


def objective(loss: L.Loss, lam1: Array, lam2: Array, theta: Array) -> Array:
    return loss(theta) + theta @ lam1 + np.einsum("ni,ij,nj->n", theta, lam2, theta)


def random_problem(seed: int, *, jumps: bool = False) -> tuple[L.LinearPredictorLoss, Array, Array]:
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(1, 4))
    groups = []
    for _ in range(rng.integers(1, 4)):
        n = int(rng.integers(1, 12))
        rows = rng.normal(size=(n, dim)) * np.exp(rng.uniform(-2, 2))
        groups.append(L.Terms(LINKS[rng.integers(5)], rows, 2.0 * rng.normal(size=n), np.exp(rng.normal(size=n))))
    if jumps:
        groups.append(L.Terms(IndicatorLink(), rng.normal(size=(1, dim)), rng.normal(size=1), np.array([3.0])))
    B = rng.normal(size=(dim, dim))
    H = B @ B.T * rng.choice([0.0, 0.1, 1.0])
    A = rng.normal(size=(dim, dim))
    lam2 = -np.exp(rng.uniform(-4, 2)) * (A @ A.T + 10 ** rng.uniform(-3, -1) * np.eye(dim)) - 0.5 * H
    return L.LinearPredictorLoss(groups, H=H, b=rng.normal(size=dim)), rng.normal(size=dim) * 3.0, lam2


def probes(loss: L.LinearPredictorLoss, lam1: Array, lam2: Array, around: Array, seed: int) -> Array:
    """Points on all scales around the origin, the quadratic's center and a maximizer."""
    rng = np.random.default_rng(seed)
    root = np.linalg.inv(np.linalg.cholesky(-(2 * lam2 + loss.H))).T
    center = root @ root.T @ (lam1 + loss.b)
    parts = [np.zeros((1, loss.dim))]
    for scale in (1e-4, 0.3, 1.0, 3.0, 10.0, 40.0):
        for base in (np.zeros(loss.dim), center, around, -around):
            parts.append(base + scale * rng.normal(size=(400, loss.dim)) @ root.T)
    return np.vstack(parts)


@settings(max_examples=200)
@given(seed=st.integers(0, 10**6), jumps=st.booleans())
def test_no_point_exceeds_the_certified_bound(seed: int, jumps: bool) -> None:
    loss, lam1, lam2 = random_problem(seed, jumps=jumps)
    found = maximize(loss, lam1, lam2, tol=1e-7, max_boxes=1_000 if jumps else 60_000)
    theta = probes(loss, lam1, lam2, found.argmax, seed)
    h = objective(loss, lam1, lam2, theta)
    room = 1e-12 * (1.0 + np.abs(loss(theta)) + np.abs(h))
    assert (h <= found.upper + room).all()
    top = found.argmax
    parts = abs(loss(top)) + np.abs(top * lam1).sum() + np.abs(top[:, None] * lam2 * top).sum()
    assert objective(loss, lam1, lam2, top[None])[0] == pytest.approx(found.lower, rel=1e-12, abs=1e-14 * parts)
    best = theta[np.argsort(-h)[:30]]
    if not jumps:
        assert found.certified
        climbed, values = local_maximizers(loss, lam1, lam2, best)
        assert values[0] <= found.upper + 1e-11 * (1.0 + abs(values[0]))
        assert (np.diff(values) <= 0).all()
        assert climbed.shape == (values.size, loss.dim)
    assert found.upper - found.lower <= 1e-7 * max(1.0, abs(found.lower)) * 1.0001 or not found.certified


@pytest.mark.parametrize(
    ("loss", "lam1", "lam2"),
    [
        (L.ReLU(0.3), 0.3, -0.2),
        (L.Absolute(-1.0), 0.3, -1.2),
        (L.Softplus(), -0.5, -0.05),
        (L.Huber(0.7), 0.1, -0.1),
        (L.Indicator(0.2), 0.3, -1.2),
        (L.Indicator(1.0), 0.0, -0.5),
        (L.ThreeWells(), 0.05, -0.03),
        (L.ThreeWells(), 0.3, -1.2),
        (L.ThreeWells(), -0.2, -0.06),
    ],
    ids=str,
)
def test_one_dimension_against_a_dense_grid(loss: L.Loss, lam1: float, lam2: float) -> None:
    found = maximize(loss, np.array([lam1]), np.array([[lam2]]), tol=1e-10)
    grid = np.linspace(-40, 40, 400_001)[:, None]
    h = objective(loss, np.array([lam1]), np.array([[lam2]]), grid)
    assert found.certified
    assert found.upper >= h.max() - 1e-14
    # The grid's step 2e-4 misses a smooth maximum by at most curvature step^2 / 8.
    assert found.lower == pytest.approx(h.max(), abs=1e-6)


def murphy() -> L.LogisticRegression:
    rng = np.random.RandomState(0)
    X = np.vstack([rng.randn(30, 2) + np.array([1, 5]), 2.2 * rng.randn(30, 2) + np.array([-5, 1])])
    return L.LogisticRegression(X, np.r_[np.ones(30), -np.ones(30)])


def test_the_paper_s_data_against_a_dense_grid() -> None:
    loss = murphy()
    rows = loss.groups[0].rows
    lam1, lam2 = -0.5 * rows.sum(axis=0), -np.array([[6.0, -1.0], [-1.0, 9.0]])
    found = maximize(loss, lam1, lam2, tol=1e-9)
    assert found.certified
    axis = np.linspace(-12, 12, 301)
    theta = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    h = objective(loss, lam1, lam2, theta)
    assert h.max() <= found.upper
    # The loss is even up to its linear part, so with this lam1 the maximizers come in pairs.
    assert found.maximizers.shape[0] >= 2
    np.testing.assert_allclose(found.maximizers[0], -found.maximizers[1], atol=1e-6)
    assert found.lower == pytest.approx(found.values[1], rel=1e-12)
    assert found.lower - h.max() < 0.5


@pytest.mark.parametrize(("dim", "tol"), [(2, 1e-9), (3, 1e-7), (4, 1e-4)])
def test_logistic_regression_is_proved_in_several_dimensions(dim: int, tol: float) -> None:
    rng = np.random.default_rng(dim)
    loss = L.LogisticRegression(rng.normal(size=(60, dim)), rng.integers(0, 2, size=60))
    found = maximize(loss, rng.normal(size=dim), -0.8 * np.eye(dim), tol=tol)
    assert found.certified
    assert found.upper - found.lower <= tol * max(1.0, abs(found.lower)) * 1.0001
    _, values = local_maximizers(loss, np.zeros(dim), -0.8 * np.eye(dim), rng.normal(size=(50, dim)) * 5)
    again = maximize(loss, np.zeros(dim), -0.8 * np.eye(dim), tol=tol, starts=rng.normal(size=(3, dim)))
    assert values[0] <= again.upper


def test_a_spent_budget_leaves_a_valid_bracket() -> None:
    rng = np.random.default_rng(1)
    loss = L.LogisticRegression(rng.normal(size=(60, 6)) * 3, rng.integers(0, 2, size=60))
    lam2 = -0.4 * loss.X.T @ loss.X / 8
    short = maximize(loss, np.zeros(6), lam2, tol=1e-10, max_boxes=50)
    longer = maximize(loss, np.zeros(6), lam2, tol=1e-10, max_boxes=3000)
    assert not short.certified
    assert "open" in short.message
    assert short.lower <= longer.lower + 1e-9
    assert longer.upper <= short.upper + 1e-9
    assert longer.lower <= longer.upper
    timed = maximize(loss, np.zeros(6), lam2, tol=1e-10, max_seconds=0.0)
    assert timed.upper >= longer.lower
    assert not timed.certified


def test_flat_ridges_close() -> None:
    """h is constant along a line, or along everything: maximizers are not isolated."""
    x = np.array([1.0, -0.75])
    datum = L.Softplus().compose(x)
    ridge = maximize(datum, 0.25 * x, -0.25 * np.outer(x, x), tol=1e-10)
    scalar = maximize(L.Softplus(), np.array([0.25]), np.array([[-0.25]]), tol=1e-10)
    assert ridge.certified
    assert ridge.lower == pytest.approx(scalar.lower, rel=1e-10)
    H = np.array([[2.0, 0.3], [0.3, 1.0]])
    flat = maximize(L.Quadratic(H, [1.0, 2.0], 0.5), np.array([-1.0, -2.0]), -0.5 * H, tol=1e-10)
    assert flat.certified
    assert flat.lower == pytest.approx(0.5, abs=1e-14)
    assert flat.upper == pytest.approx(0.5, abs=1e-12)
    # Huber equals its majorant theta^2/2 on an interval.
    tied = maximize(L.Huber(0.5), np.zeros(1), -0.5 * np.eye(1), tol=1e-10)
    assert tied.certified
    assert tied.lower == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize(
    ("loss", "lam1", "lam2", "word"),
    [
        (L.Softplus(), [0.0], [[0.1]], "positive eigenvalue"),
        (L.Softplus(), [-0.5], [[0.0]], "convex"),
        (L.ReLU(), [-1.0], [[0.0]], "convex"),
        (L.Indicator(), [0.1], [[0.0]], "drifts"),
        (L.ThreeWells(), [0.0], [[-0.024]], "positive eigenvalue"),
        (L.ThreeWells(), [0.1], [[-0.025]], "drifts"),
        (L.Quadratic(2.0, 0.0), [0.1], [[-1.0]], "linear"),
        (L.Softplus().compose([1.0, 0.0]), [0.0, 0.1], [[-1.0, 0.0], [0.0, 0.0]], "linear"),
        (L.Softplus().compose([1.0, 0.0]), [0.0, 0.0], [[0.0, 0.0], [0.0, -1.0]], "convex"),
    ],
)
def test_infinity_is_proved_and_explained(loss: L.Loss, lam1: list, lam2: list, word: str) -> None:
    found = maximize(loss, np.array(lam1), np.array(lam2))
    assert found.lower == found.upper == np.inf
    assert found.certified
    assert word in found.message
    assert found.gap == 0.0
    # h does grow beyond any level along some ray.
    axes = np.vstack([np.eye(loss.dim), -np.eye(loss.dim)])
    rays = np.vstack([axes, np.random.default_rng(0).normal(size=(200, loss.dim))])
    h = objective(loss, np.array(lam1), np.array(lam2), 1e7 * rays)
    assert h.max() > 1e4


def test_boundary_of_the_domain_can_be_finite() -> None:
    found = maximize(L.Indicator(0.3), np.zeros(1), np.zeros((1, 1)))
    assert (found.values[0], found.certified) == (1.0, True)
    assert found.lower == pytest.approx(1.0, abs=1e-14)
    wells = maximize(L.ThreeWells(), np.zeros(1), [[-0.025]])
    assert wells.certified
    assert wells.upper == pytest.approx(3.0, abs=1e-8)  # the quadratic part without the wells, reached far out


def test_parameters_of_very_different_scales_are_not_taken_for_flat() -> None:
    pair = L.Softplus().compose([1e3, 0.0]) + L.Softplus().compose([0.0, 1e-4])
    found = maximize(pair, np.array([1.0, 1e-5]), np.diag([-1e6, -1e-8]))
    parts = [
        maximize(L.Softplus().compose([scale]), np.array([eta]), [[lam]]).lower
        for scale, eta, lam in ((1e3, 1.0, -1e6), (1e-4, 1e-5, -1e-8))
    ]
    assert found.certified
    assert found.lower == pytest.approx(sum(parts), rel=1e-11)
    level = L.Quadratic(np.zeros((2, 2)), np.zeros(2), 2.0)
    user = maximize(cosine(majorizer=level), np.array([1.0, 1e-8]), np.diag([-1e6, -1e-8]), tol=1e-3)
    assert np.isfinite(user.lower)
    assert user.lower <= 2.0 + 1e-6 <= user.upper + 1e-2


def cosine(**known: object) -> L.UserLoss:
    return L.from_function(lambda t: np.cos(t).sum(axis=1), lambda t: -np.sin(t), 2, curvature=1.0, **known)  # type: ignore[arg-type]


def test_user_losses() -> None:
    level = L.Quadratic(np.zeros((2, 2)), np.zeros(2), 2.0)
    lam1, lam2 = np.array([0.3, 0.1]), -0.04 * np.eye(2)
    found = maximize(cosine(majorizer=level), lam1, lam2, tol=1e-8)
    assert found.certified
    axis = np.linspace(-25, 25, 1001)
    theta = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    h = objective(cosine(), lam1, lam2, theta)
    assert h.max() <= found.upper
    assert found.lower == pytest.approx(h.max(), abs=2e-3)
    # Without a majorizer the curvature bound confines steep problems, and shallow ones are not claimed.
    assert maximize(cosine(), lam1, -1.0 * np.eye(2)).certified
    shallow = maximize(cosine(), lam1, lam2)
    assert not shallow.certified
    assert shallow.upper == np.inf
    assert shallow.lower == pytest.approx(found.lower, rel=1e-6)
    assert "not confined" in shallow.message
    # At lam = 0 the majorizer's own supremum is the answer.
    zero = maximize(cosine(majorizer=level), np.zeros(2), np.zeros((2, 2)))
    assert zero.certified
    assert zero.upper == pytest.approx(2.0, abs=1e-12)
    assert maximize(cosine(), np.zeros(2), 0.1 * np.eye(2)).lower == np.inf


def test_bounds_limit_the_claim_and_say_so() -> None:
    seen = []

    def quartic(t: Array) -> Array:
        seen.append(np.abs(t).max())
        return t[:, 0] ** 4

    loss = L.from_function(quartic, lambda t: 4 * t**3, 1, curvature=108.0, bounds=(-3.0, 2.0))
    for lam1, lam2, best in ((0.0, -1.0, 72.0), (40.0, 1.0, 100.0), (0.0, -20.0, 0.0)):
        found = maximize(loss, np.array([lam1]), np.array([[lam2]]))
        assert found.certified
        assert found.lower == pytest.approx(best, abs=1e-9)
        assert "bounds" in found.message
    assert max(seen) <= 3.0  # the callables are never asked outside
    without = L.from_function(quartic, lambda t: 4 * t**3, 1, curvature=np.inf)
    assert maximize(without, np.zeros(1), -np.eye(1)).lower == np.inf


def test_an_anchor_on_a_kink_bounds_nothing_and_closes_nothing() -> None:
    """Infinite curvatures meet zero entries of x: boxes must stay open rather than vanish as NaN."""
    rng = np.random.default_rng(0)
    loss = L.ReLU().compose([1.0, 0.0]) + L.Absolute().compose([0.0, 2.0]) + L.Indicator().compose([0.0, 1.0], [0.5])
    model = prepare(loss, np.zeros(2), -np.eye(2))
    assert isinstance(model, Setting)
    origin = np.zeros((1, 2))
    anchors = model.model.anchors(origin)
    center, half = rng.normal(size=(50, 2)), rng.uniform(0.1, 1.0, size=(50, 2))
    v, s, K = model.model.anchored(anchors, np.zeros(50, dtype=int), center, half)
    bound = v + box_maximum(s, K, half)
    assert not np.isnan(bound).any()
    inside = center[:, None, :] + half[:, None, :] * rng.uniform(-1, 1, size=(50, 100, 2))
    assert (model.model.value(inside.reshape(-1, 2)).reshape(50, 100).max(axis=1) <= bound + 1e-12).all()
    found = maximize(loss, np.zeros(2), -np.eye(2), starts=np.zeros((1, 2)))
    assert found.certified
    grid = np.stack(np.meshgrid(np.linspace(-4, 4, 401), np.linspace(-4, 4, 401)), axis=-1).reshape(-1, 2)
    assert objective(loss, np.zeros(2), -np.eye(2), grid).max() <= found.upper


@settings(max_examples=150)
@given(seed=st.integers(0, 10**6), dim=st.integers(1, 4))
def test_box_maximum_bounds_and_is_exact_in_the_plane(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    slope, half = rng.normal(size=(20, dim)) * 3, rng.uniform(0.01, 3, size=(20, dim))
    matrix = rng.normal(size=(20, dim, dim))
    matrix = matrix + matrix.transpose(0, 2, 1) - 2.0 * rng.integers(0, 3) * np.eye(dim)
    bound = box_maximum(slope, matrix, half)
    axis = np.linspace(-1, 1, 41 if dim < 3 else 9)
    unit = np.stack(np.meshgrid(*[axis] * dim), axis=-1).reshape(-1, dim)
    d = unit[None] * half[:, None, :]
    q = np.einsum("bki,bi->bk", d, slope) + 0.5 * np.einsum("bki,bij,bkj->bk", d, matrix, d)
    assert (q.max(axis=1) <= bound + 1e-10).all()
    if dim <= 2:
        size = np.abs(matrix).max(axis=(1, 2)) * half.max(axis=1) ** 2
        assert (bound - q.max(axis=1) <= 2e-3 * size + 1e-12).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: maximize(L.ReLU(), np.zeros(2), -np.eye(1)),
        lambda: maximize(L.ReLU(), np.zeros(1), -np.eye(2)),
        lambda: maximize(L.ReLU(), np.array([np.nan]), -np.eye(1)),
        lambda: maximize(L.ReLU(), np.zeros(1), -np.eye(1), tol=0.0),
        lambda: maximize(L.ReLU(), np.zeros(1), -np.eye(1), starts=np.full((2, 1), np.nan)),
        lambda: maximize(murphy(), np.zeros(2), -np.eye(2), starts=np.zeros((2, 3))),
        lambda: maximize("loss", np.zeros(1), -np.eye(1)),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_a_sentence(call: object) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        call()  # type: ignore[operator]
    assert len(str(caught.value)) > 20


def test_the_root_bound_is_the_dual_of_the_sum_of_biconjugates() -> None:
    """At the summed majorant's parameter the best per-term quadratic bound is the summed majorant itself."""
    rng = np.random.default_rng(4)
    loss = L.LogisticRegression(rng.normal(size=(90, 12)), rng.integers(0, 2, size=90))
    mixed = loss + L.Huber(0.5).compose(rng.normal(size=12), [0.2]) + 0.5 * L.Absolute().compose(rng.normal(size=12))
    q = Gaussian(0.3 * rng.normal(size=12), 0.4 * np.eye(12))
    summed = sum_of_biconjugates(mixed, q, "full")
    lam1, lam2 = summed.natural
    constant = lam1 @ q.mean + np.sum(lam2 * (q.cov + np.outer(q.mean, q.mean))) - summed.value
    found = maximize(mixed, lam1, lam2, tol=1e-6, max_boxes=1)
    assert found.lower <= found.upper
    assert found.upper == pytest.approx(constant, rel=2e-6)
    # In steeper problems it closes the bracket by itself, in any dimension.
    steep = maximize(mixed, lam1, 2.0 * lam2, tol=1e-6, max_boxes=1)
    assert steep.certified
    theta = found.argmax + rng.normal(size=(2000, 12)) * np.exp(rng.uniform(-3, 2, size=(2000, 1)))
    assert objective(mixed, lam1, lam2, theta).max() <= found.upper


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_global_majorants_majorize(seed: int) -> None:
    loss, lam1, lam2 = random_problem(seed, jumps=seed % 2 == 0)
    setting = prepare(loss, lam1, lam2)
    assert isinstance(setting, Setting)
    rng = np.random.default_rng(seed)
    model = setting.model
    u = 5.0 * rng.normal(size=(300, model.dim))
    h = model.value(u)
    majorants = global_majorants(setting, float(h.max()), u[h.argmax()], 1e-6)
    assert majorants
    for q in majorants:
        above = q.constant + u @ q.linear - 0.5 * np.einsum("ni,ij,nj->n", u, q.concave, u)
        assert (above >= h - 1e-9 * (1.0 + np.abs(above))).all()
        assert q.top >= h.max() - 1e-9 * (1.0 + abs(q.top))
    center, half = box_around(majorants, float(h.max()) - 1.0, np.eye(model.dim))
    near = h >= h.max() - 1.0
    assert (np.abs(u[near] - center) <= half * (1.0 + 1e-9) + 1e-9).all()


@pytest.mark.parametrize("offset", [-1.3, 0.0, 0.8])
def test_majorants_come_ever_nearer(offset: float) -> None:
    """One smooth term: a parabola tangent where h is largest leaves nothing; at a kink five rounds halve the excess."""
    for loss, left in ((L.Softplus(), 1e-4), (L.Absolute(0.4), 0.55), (L.Huber(0.7), 0.2)):
        shifted, lam1, lam2 = loss.compose([1.7], [offset]), np.array([0.6]), np.array([[-0.8]])
        setting = prepare(shifted, lam1, lam2)
        assert isinstance(setting, Setting)
        best = maximize(shifted, lam1, lam2, tol=1e-10)
        u = setting.model.coordinates(best.argmax[None])
        excess = np.array([q.top for q in global_majorants(setting, best.lower, u[0], 1e-10)]) - best.lower
        assert excess.size == 5
        assert (np.diff(excess) <= 0.0).all()
        assert -1e-10 <= excess[-1] <= left * excess[0]


def test_the_root_bound_ends_at_the_least_maximum() -> None:
    """Of all choices of one parabola a term, by an independent minimizer over the contacts."""
    rng = np.random.default_rng(3)
    loss = L.LogisticRegression(2.0 * rng.normal(size=(7, 4)), rng.integers(0, 2, size=7))
    setting = prepare(loss, rng.normal(size=4), -2.0 * np.eye(4))
    assert isinstance(setting, Setting)
    assert isinstance(setting.model, LinearModel)
    terms = stacked_terms(setting.model)
    for start in (20.0, 100.0):
        tops = [q.top for q in global_quadratics(setting.model, 0.0, np.full(7, start), 1e-8)]
        assert len(tops) > 5
        least = minimize(
            lambda c: q.top if (q := terms.quadratic(np.exp(c))) else 1e9, np.full(7, 3.0), method="Powell"
        )
        assert tops[-1] == pytest.approx(least.fun, rel=1e-6)
        assert tops[-1] <= min(tops) + 1e-8


def test_terms_without_contacts_keep_their_own_parabola_or_their_supremum() -> None:
    """A squared hinge is below bend z^2 / 2, a jump below 1: these parts of the majorant do not depend on contacts."""
    squared, jump = L.SquaredReLU(0.3).compose([0.4, -0.2]), 2.0 * L.Indicator(1.0).compose([1.0, 1.0])
    setting = prepare(squared + jump, np.array([0.1, 0.2]), -np.eye(2))
    assert isinstance(setting, Setting)
    model, terms = setting.model, stacked_terms(setting.model)
    assert terms.rows.shape == (0, 2)
    q = terms.quadratic(np.empty(0))
    assert q is not None
    u = np.random.default_rng(0).normal(size=(50, 2))
    above = q.constant + u @ q.linear - 0.5 * np.einsum("ni,ij,nj->n", u, q.concave, u)
    theta = model.theta(u)
    z = theta @ [0.4, -0.2] - 0.3
    np.testing.assert_allclose(above - model.value(u), z**2 - np.maximum(z, 0.0) ** 2 + 2.0 - jump(theta), atol=1e-12)
    assert q.top == pytest.approx(q.constant + 0.5 * q.linear @ np.linalg.solve(q.concave, q.linear), rel=1e-13)
