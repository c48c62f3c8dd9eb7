"""Certified Fenchel biconjugates of the expected loss: the theory that SAM is an optimal relaxation of Bayes.

The optimizers live in `fenchel.optim` and need torch; nothing here imports it.
"""

from importlib.metadata import PackageNotFoundError, version

from fenchel import losses, problems
from fenchel.bayes.exact import exact_posterior
from fenchel.bayes.laplace import laplace, map_estimate
from fenchel.bayes.learning_result import LearningResult
from fenchel.bayes.learning_rules import bayesian_learning_rule
from fenchel.bayes.objectives import bayes_objective, proximal_objective, relaxed_bayes_objective
from fenchel.bayes.posterior import ExactPosterior
from fenchel.bayes.relaxed import RelaxedResult, minimize_relaxed
from fenchel.biconjugate import biconjugate
from fenchel.certificates import Certificate, check
from fenchel.closed.sums import sum_of_biconjugates
from fenchel.conjugate import conjugate
from fenchel.errors import CertificateError, DomainError, FenchelError, MissingDependencyError, SolverError
from fenchel.expectation.expected_loss import ExpectedLoss, expected_loss, expected_loss_gradient, expected_loss_result
from fenchel.gaussian import Gaussian
from fenchel.hull.surface import Surface, biconjugate_surface, biconjugate_surface_result
from fenchel.results import BiconjugateResult, ConjugateResult, Natural, ObjectiveResult, SumOfBiconjugates, Verdict
from fenchel.sharpness.sam import minimize_sam, sam_objective
from fenchel.theorems.theorem1 import verify_theorem1
from fenchel.theorems.theorem2 import verify_theorem2

__all__ = [
    "BiconjugateResult",
    "Certificate",
    "CertificateError",
    "ConjugateResult",
    "DomainError",
    "ExactPosterior",
    "ExpectedLoss",
    "FenchelError",
    "Gaussian",
    "LearningResult",
    "MissingDependencyError",
    "Natural",
    "ObjectiveResult",
    "RelaxedResult",
    "SolverError",
    "SumOfBiconjugates",
    "Surface",
    "Verdict",
    "__version__",
    "bayes_objective",
    "bayesian_learning_rule",
    "biconjugate",
    "biconjugate_surface",
    "biconjugate_surface_result",
    "check",
    "conjugate",
    "exact_posterior",
    "expected_loss",
    "expected_loss_gradient",
    "expected_loss_result",
    "laplace",
    "losses",
    "map_estimate",
    "minimize_relaxed",
    "minimize_sam",
    "problems",
    "proximal_objective",
    "relaxed_bayes_objective",
    "sam_objective",
    "sum_of_biconjugates",
    "verify_theorem1",
    "verify_theorem2",
]

try:
    __version__ = version("fenchel")
except PackageNotFoundError:  # used from a folder without an installation
    __version__ = "unknown"
