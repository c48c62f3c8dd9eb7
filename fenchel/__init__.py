"""Certified Fenchel biconjugates of the expected loss: the theory that SAM is an optimal relaxation of Bayes.

The optimizers live in `fenchel.optim` and need torch; nothing here imports it.
"""

from fenchel import losses
from fenchel.biconjugate import biconjugate
from fenchel.conjugate import conjugate
from fenchel.errors import CertificateError, DomainError, FenchelError, MissingDependencyError, SolverError
from fenchel.expected_loss import ExpectedLoss, expected_loss, expected_loss_gradient, expected_loss_result
from fenchel.gaussian import Gaussian
from fenchel.results import BiconjugateResult, ConjugateResult, Natural, ObjectiveResult, Verdict
from fenchel.sums import sum_of_biconjugates

__all__ = [
    "BiconjugateResult",
    "CertificateError",
    "ConjugateResult",
    "DomainError",
    "ExpectedLoss",
    "FenchelError",
    "Gaussian",
    "MissingDependencyError",
    "Natural",
    "ObjectiveResult",
    "SolverError",
    "Verdict",
    "biconjugate",
    "conjugate",
    "expected_loss",
    "expected_loss_gradient",
    "expected_loss_result",
    "losses",
    "sum_of_biconjugates",
]
