"""The result of a learning rule, and distances between its iterates."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fenchel.arrays import Array
from fenchel.bayes.objectives import raise_block
from fenchel.gaussian import STRUCTURES, Gaussian
from fenchel.results import BiconjugateResult


@dataclass(frozen=True)
class LearningResult:
    """A run of the Bayesian learning rule; every array has one entry for the start and one an iteration (T + 1,).

    ``objective`` is -F(mu_t) + KL(q_t || prior), minimized, with ``lower`` and ``upper`` (equal up to the error of f
    or the certificate of f**; infinite where nothing is known). ``means`` (T + 1, P) and ``covs`` (T + 1, P, P) are
    the iterates, ``seconds`` the time when each was evaluated. ``damped`` counts steps that had to be shortened,
    because they left the domain or raised the objective; ``extrapolated`` the accepted steps of the acceleration.
    ``final`` is the last evaluation of f** (None for the exact rule).
    """

    posterior: Gaussian
    objective: Array
    lower: Array = field(repr=False)
    upper: Array = field(repr=False)
    converged: bool
    iterations: int
    means: Array = field(repr=False)
    covs: Array = field(repr=False)
    seconds: Array = field(repr=False)
    damped: int
    extrapolated: int
    certified: bool
    surrogate: str
    message: str
    final: BiconjugateResult | None = field(default=None, repr=False)

    @property
    def value(self) -> float:
        """The last objective."""
        return float(self.objective[-1])

    @property
    def history(self) -> list[Gaussian]:
        """The iterates as Gaussians of full covariance."""
        return [Gaussian(m, S) for m, S in zip(self.means, self.covs, strict=True)]


def family_member(q: Gaussian, structure: str) -> Gaussian:
    """``q`` as a member of the family ``structure``, which must contain it.

    Raises:
        ValueError: the family is smaller than q's, which would change q.
    """
    if structure not in STRUCTURES:
        raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}; got {structure!r}.")
    ndim = {"isotropic": 0, "diagonal": 1, "full": 2}[structure]
    if q.cov_block.ndim > ndim:
        raise ValueError(f"a {q.structure} Gaussian is not a member of the {structure} family.")
    return Gaussian(q.mean, raise_block(q.cov_block, ndim, q.dim))


def parameter_distance(q: Gaussian, other: Gaussian) -> float:
    """The larger of |difference of means| in q's standard deviations and of q-whitened |difference of covariances|."""
    factor = np.linalg.cholesky(q.cov)
    step = np.linalg.solve(factor, other.mean - q.mean)
    inside = np.linalg.solve(factor, np.linalg.solve(factor, other.cov).T)
    return float(max(np.linalg.norm(step), np.linalg.norm(inside - np.eye(q.dim), 2)))
