"""What the moment problem does without, counted: rounds, atoms, boxes and evaluations of the loss. Nothing is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fenchel
from fenchel import Gaussian
from fenchel import losses as L
from fenchel.losses.bounded_links import BumpLink, IndicatorLink
from fenchel.losses.links import AbsLink, HuberLink, SoftplusLink
from fenchel.moments.atoms import moment_error
from fenchel.moments.ensemble import ensemble
from fenchel.moments.joint import _Joint, joint_bound
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.nested import nested_start
from fenchel.moments.polish import ActiveSet, polish
from fenchel.moments.rounds import Budget, Start
from fenchel.moments.white_loss import WhiteLoss

Array = np.ndarray


def terms(link: Any, dim: int, count: int, scale: Any = 1.0) -> L.LinearPredictorLoss:
    rng = np.random.default_rng(10 * dim + count)
    rows = rng.normal(size=(count, dim)) * scale
    return L.LinearPredictorLoss([L.Terms(link, rows, rng.normal(size=count), np.ones(count))])


def counting(name: str, seen: list[int]) -> Callable[[WhiteLoss, Array], Array]:
    whole = getattr(WhiteLoss, name)

    def counted(self: WhiteLoss, x: Array) -> Array:
        seen.append(len(x))
        return np.asarray(whole(self, x))

    return counted


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many points the value, gradient and Hessian of whitened losses were asked for, call by call."""
    seen: dict[str, list[int]] = {"value": [], "gradient": [], "hessian": []}
    for name in seen:
        monkeypatch.setattr(WhiteLoss, name, counting(name, seen[name]))
    return seen


# Rounds, atoms tried, boxes, evaluations of the loss.
PROBLEMS = {
    "wells": (L.ThreeWells(), 1, "full", 1e-8, (1, 181, 4, 215)),
    "softplus": (terms(SoftplusLink(), 2, 20), 2, "full", 1e-8, (1, 331, 55, 392)),
    "softplus-diagonal": (terms(SoftplusLink(), 2, 20), 2, "diagonal", 1e-8, (1, 329, 49, 383)),
    "softplus-isotropic": (terms(SoftplusLink(), 3, 8), 3, "isotropic", 1e-7, (1, 834, 44, 894)),
    "kinks": (terms(AbsLink(), 2, 4), 2, "full", 1e-7, (1, 333, 49, 401)),
    "huber": (terms(HuberLink(0.5), 2, 6), 2, "diagonal", 1e-7, (1, 329, 49, 377)),
    "bumps": (terms(BumpLink(), 2, 3), 2, "full", 1e-6, (1, 335, 97, 399)),
    "jump": (terms(IndicatorLink(), 2, 1), 2, "full", 1e-6, (1, 183, 4, 365)),
    "nested": (terms(SoftplusLink(), 3, 8, np.array([1.0, 0.8, 1e-3])), 3, "full", 1e-7, (1, 864, 150, 1371)),
    "many": (terms(SoftplusLink(), 6, 8), 6, "diagonal", 1e-5, (1, 932, 385, 5129)),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_bracket_takes_no_more_than_it_did(name: str, sizes: dict[str, list[int]]) -> None:
    """Counts depend on rounding a little, hence half as many more; these hold where the mean is off by 1e-13."""
    loss, dim, structure, tol, most = PROBLEMS[name]
    q = Gaussian(0.3 * np.ones(dim), 0.8 * np.eye(dim) + 0.2)
    found = fenchel.biconjugate(loss, q, tol=tol, structure=structure)
    counts = found.iterations, found.info["columns"], found.info["boxes"], sum(sizes["value"])
    assert found.certified
    assert all(count <= 1.5 * limit for count, limit in zip(counts, most, strict=True))


def test_an_ensemble_climbs_in_few_steps(sizes: dict[str, list[int]]) -> None:
    for structure, steps, mean in (("full", 107, 11.722), ("diagonal", 212, 15.433), ("isotropic", 26, 17.516)):
        white = WhiteLoss(terms(SoftplusLink(), 6, 12), MomentFrame.of(np.zeros(6), np.eye(6), structure))
        sizes["gradient"].clear()
        found = ensemble(white, 40)
        assert found is not None
        x, c = found
        assert moment_error(white.frame, x, np.full(40, 1.0 / 40.0)) < 1e-12
        above = white.frame.features(x) @ c - white.value(x)
        assert above.min() == pytest.approx(0.0, abs=1e-12)
        assert len(sizes["gradient"]) <= 1.5 * steps
        assert white.value(x).mean() >= 0.99 * mean


def test_newton_s_method_converges_quadratically(sizes: dict[str, list[int]]) -> None:
    """From atoms off by 0.1 five evaluations, or six, reach rounding error."""
    frame = MomentFrame.of(np.array([0.3]), np.array([[1.0]]), "full")
    white, radius = WhiteLoss(L.Softplus(), frame), np.hypot(1.0, 0.3)
    x = frame.to_white(np.array([[-radius], [radius]])) + 0.1
    bend = 0.5 * (white.gradient(x)[1, 0] - white.gradient(x)[0, 0]) / (x[1, 0] - x[0, 0])
    c = np.array([1.0, white.gradient(x)[1, 0] - 2.0 * bend * x[1, 0], bend])
    found = polish(white, ActiveSet(x, np.array([0.4, 0.6]), c, np.inf))
    assert found is not None
    assert found.residual < 1e-15
    assert len(sizes["hessian"]) <= 6


@pytest.mark.parametrize("structure", ["full", "diagonal"])
def test_the_atoms_of_a_nested_start_have_the_moments_already(structure: str) -> None:
    """To first order in the rows of the minor directions they are optimal, weights and all."""
    rows = np.random.default_rng(2).normal(size=(9, 3)) * np.array([1.0, 0.7, 1e-3])
    rows = rows if structure == "full" else np.diag([1.0, 0.8, 1e-3])
    loss = L.LinearPredictorLoss([L.Terms(SoftplusLink(), rows, np.linspace(-1.0, 1.5, len(rows)), np.ones(len(rows)))])
    white = WhiteLoss(loss, MomentFrame.of(np.array([0.5, -0.3, 0.2]), np.diag([1.0, 0.7, 1.3]), structure))
    begun = nested_start(white, Start(np.zeros((0, 3))), 1e-9, Budget())
    for bound in begun.uppers:
        assert bound is not None
    first = begun.uppers[0]
    assert first is not None
    assert moment_error(white.frame, begun.points[: first.weights.size], first.weights) < 1e-12


def test_the_joint_bound_takes_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, mean = list[int](), _Joint.mean
    monkeypatch.setattr(_Joint, "mean", lambda self, v, *rest: seen.append(len(v)) or mean(self, v, *rest))
    loss = terms(SoftplusLink(), 4, 4) + terms(AbsLink(), 4, 3) + terms(HuberLink(0.7), 4, 3)
    white = WhiteLoss(loss, MomentFrame.of(np.zeros(4), np.eye(4) + 0.5, "full"))
    found = joint_bound(white, 100.0)
    assert found is not None
    # The terms' own f** give -13.915.
    assert found.value >= -13.881
    assert len(seen) <= 84
