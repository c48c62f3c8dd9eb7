"""For test suites: hypothesis strategies for Gaussians, natural parameters and losses, and the theorems as assertions.

@given(gaussians(dim=1))
def test_relaxation(q): assert fenchel.biconjugate(loss, q).lower <= -fenchel.expected_loss(loss, q) + 1e-9
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fenchel import losses as _losses
from fenchel.arrays import Array
from fenchel.errors import missing
from fenchel.gaussian import STRUCTURES, Gaussian
from fenchel.losses import LinearPredictorLoss, Loss
from fenchel.losses.bounded_links import BumpLink
from fenchel.losses.links import AbsLink, HuberLink, Link, ReLULink, SoftplusLink
from fenchel.results import Verdict
from fenchel.theorems.theorem1 import verify_theorem1
from fenchel.theorems.theorem2 import verify_theorem2

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise missing("fenchel.testing", "hypothesis", "testing") from error

__all__ = ["assert_theorem1", "assert_theorem2", "gaussians", "losses", "natural_parameters"]

_LINKS: tuple[Link, ...] = (SoftplusLink(), ReLULink(), AbsLink(), HuberLink(0.7), BumpLink())


def _numbers(size: int, bound: float) -> st.SearchStrategy[Array]:
    element = st.floats(-bound, bound, allow_nan=False, allow_subnormal=False)
    return st.lists(element, min_size=size, max_size=size).map(lambda values: np.array(values, dtype=float))


@st.composite
def gaussians(
    draw: st.DrawFn,
    dim: int | None = None,
    structure: str | None = None,
    *,
    mean_bound: float = 3.0,
    smallest: float = 0.1,
    largest: float = 3.0,
) -> Gaussian:
    """Gaussians of P = ``dim`` (1 to 3 by default) and of one family, or any.

    Means lie in [-mean_bound, mean_bound], standard deviations along the axes (of the diagonal and isotropic family) in
    [smallest, largest]; for the full family the same holds before a random rotation. ValueError for a bad structure.
    """
    if structure is not None and structure not in STRUCTURES:
        raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}; got {structure!r}.")
    p = draw(st.integers(1, 3)) if dim is None else dim
    family = draw(st.sampled_from(STRUCTURES)) if structure is None else structure
    mean = draw(_numbers(p, mean_bound))
    scales = st.floats(smallest, largest)
    if family == "isotropic":
        return Gaussian(mean, draw(scales) ** 2)
    sds = np.array(draw(st.lists(scales, min_size=p, max_size=p)))
    if family == "diagonal":
        return Gaussian(mean, sds**2)
    rotation, _ = np.linalg.qr(draw(_numbers(p * p, 1.0)).reshape(p, p) + 2.0 * np.eye(p))
    cov = (rotation * sds**2) @ rotation.T
    return Gaussian(mean, 0.5 * (cov + cov.T))


@st.composite
def natural_parameters(
    draw: st.DrawFn, /, dim: int | None = None, structure: str | None = None, **bounds: float
) -> tuple[Array, Array]:
    """(lam1, lam2) with negative definite lam2, in the blocks of the family: those of `gaussians`."""
    lam1, lam2 = draw(gaussians(dim, structure, **bounds)).natural()
    return np.asarray(lam1), np.asarray(lam2)


@st.composite
def losses(draw: st.DrawFn, dim: int | None = None, *, most_terms: int = 4) -> Loss:
    """Built-in losses of P = ``dim`` (1 to 3 by default): scalar ones, and sums of terms with a convex quadratic."""
    p = draw(st.integers(1, 3)) if dim is None else dim
    if p == 1 and draw(st.booleans()):
        at = draw(st.floats(-2.0, 2.0, allow_subnormal=False))
        scalar = (_losses.ReLU(at), _losses.Absolute(at), _losses.Softplus(), _losses.Huber(0.5), _losses.ThreeWells())
        return draw(st.sampled_from(scalar))
    count = draw(st.integers(1, most_terms))
    rows, offsets = draw(_numbers(count * p, 2.0)).reshape(count, p), draw(_numbers(count, 2.0))
    # Rows that are nearly zero make terms that are nearly constant: allowed, but of no use to a test.
    rows[np.abs(rows).max(axis=1) < 1e-3] = 1.0
    weights = np.array(draw(st.lists(st.floats(0.1, 2.0), min_size=count, max_size=count)))
    link = draw(st.sampled_from(_LINKS))
    bend = draw(st.sampled_from([0.0, 0.3, 1.0]))
    return LinearPredictorLoss([_losses.Terms(link, rows, offsets, weights)], H=bend * np.eye(p))


def assert_theorem1(loss: Loss, lam1: Any = None, lam2: Any = None, **options: Any) -> Verdict:
    """Theorem 1 for a loss, at one natural parameter or at random ones; see `verify_theorem1` for ``options``.

    Raises:
        AssertionError: it fails, or could not be decided; the explanation is the message.
    """
    return _asserted(verify_theorem1(loss, lam1, lam2, **options))


def assert_theorem2(loss: Loss, rho: float, delta: float, *, pairs_only: bool = False, **options: Any) -> Verdict:
    """Theorem 2 for a loss: the SAM minimizer is a pair whose image minimizes relaxed Bayes; see `verify_theorem2`.

    ``pairs_only`` asks for what the paper's proof gives, that stationary pairs map both ways. The full statement has
    exceptions (kinks of the SAM objective, perturbations inside the ball), for which this raises.

    Raises:
        AssertionError: it fails, or could not be decided; the explanation is the message.
    """
    verdict = verify_theorem2(loss, rho, delta, **options)
    if not pairs_only:
        return _asserted(verdict)
    mapped = verdict.measured["pairs_map"]
    if mapped is not True:
        found = {k: verdict.measured[k] for k in ("pairs", "pair_residual", "pair_distance", "pairs_complete")}
        undecided = "undecided whether stationary pairs map, since not all were found"
        raise AssertionError(f"{'stationary pairs do not map' if mapped is False else undecided}: {found}")
    return verdict


def _asserted(verdict: Verdict) -> Verdict:
    if verdict.holds is not True:
        word = "undecided" if verdict.holds is None else "does not hold"
        raise AssertionError(f"{word}: {verdict.explanation}")
    return verdict
