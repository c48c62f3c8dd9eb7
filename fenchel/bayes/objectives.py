"""The objectives of Bayes and relaxed Bayes, all to be minimized, each with a bracket (Eqs. 2, 11, 12, 18)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.biconjugate import biconjugate
from fenchel.certificates import of_conjugate, of_relaxed_bayes
from fenchel.checks import check_loss, check_problem
from fenchel.conjugate import conjugate
from fenchel.errors import DomainError
from fenchel.expectation.expected_loss import expected_loss_result
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.losses.inputs import finite_array, positive_number
from fenchel.results import Natural, ObjectiveResult

__all__ = [
    "bayes_objective",
    "normalizer",
    "proximal_objective",
    "relaxed_bayes_objective",
    "relaxed_posterior",
]

Array = NDArray[np.float64]


def bayes_objective(loss: Loss, q: Gaussian, prior: Gaussian) -> ObjectiveResult:
    """E_q[l] + KL(q || prior) = -L(q), the negative evidence lower bound (Eq. 2), in nats; to be minimized over q.

    Minus this is at most the log evidence log of the integral of prior exp(-l). The bracket is an error estimate of
    the quadrature, not a proof: ``certified`` is False.

    Raises:
        ValueError: the dimensions of loss, q and prior differ.
    """
    check_problem(loss, q=q, prior=prior)
    expected = expected_loss_result(loss, q, derivatives=False)
    divergence = q.kl(prior)
    value = expected.value + divergence
    slack = expected.error + 1e-15 * abs(value)
    return ObjectiveResult(
        value=value,
        lower=value - slack,
        upper=value + slack,
        certified=False,
        message="the bracket is the quadrature's error estimate",
        info={"expected_loss": expected.value, "kl": divergence},
    )


def relaxed_bayes_objective(
    loss: Loss, q: Gaussian, prior: Gaussian, *, method: str = "cutting-plane", tol: float = 1e-8, **options: Any
) -> ObjectiveResult:
    """-f**(mu_q) + KL(q || prior) (Eq. 11, negated), in nats: at least `bayes_objective` at every q.

    The bracket is that of f** (see `biconjugate`, to which ``method``, ``tol`` and ``options`` go); the whole
    `BiconjugateResult` is ``info["biconjugate"]``. With method="sampled" nothing is certified.

    Raises:
        ValueError: the dimensions of loss, q and prior differ, or an option is bad.
    """
    check_problem(loss, q=q, prior=prior)
    result = biconjugate(loss, q, method=method, tol=tol, **options)
    divergence = q.kl(prior)
    return ObjectiveResult(
        value=-result.value + divergence,
        lower=-result.upper + divergence,
        upper=-result.lower + divergence,
        certified=result.certified,
        message=result.message,
        info={"biconjugate": result, "kl": divergence},
        assumes=loss.assumes,
        evidence=partial(of_relaxed_bayes, q, prior),
    )


def proximal_objective(
    loss: Loss,
    m: Any,
    sigma: Any = None,
    delta0: float | Gaussian = 1.0,
    *,
    precision: Any = None,
    tol: float = 1e-9,
    **options: Any,
) -> ObjectiveResult:
    """f*(lambda') - log Z'(lambda') (Eq. 18), for isotropic lambda' Eq. 12; to be minimized over lambda'.

    With m' = m and S' the covariance of lambda' this is
    sup_eps [l(m + eps) - eps^T S'^-1 eps / 2] + m^T S'^-1 m / 2 - log Z', where Z' normalizes prior exp<lambda', T>.
    For the prior N(0, I / delta0) and S' = sigma^2 I: sup_eps [l(m + eps) - |eps|^2 / (2 sigma^2)] +
    delta' / 2 |m|^2 - P/2 log(sigma^2 delta'), delta' = 1 / (sigma^2 + 1 / delta0).

    Args:
        m: (P,), the mean of lambda' (not of q).
        sigma: standard deviation (a number: isotropic), standard deviations (P,) (diagonal), or the covariance (P, P)
            of lambda' (full).
        delta0: precision of the prior N(0, I / delta0), or the prior itself as a Gaussian.
        precision: in place of sigma, the precision of lambda' as a number, (P,) or (P, P).
        tol, options: of `conjugate`, whose bracket this is up to a constant (of which the rounding is not counted).

    Returns:
        ObjectiveResult with ``argmax`` = m + eps*; inf where l grows faster than lambda' allows. ``info["posterior"]``
        is the q* that belongs to lambda' (`relaxed_posterior`).

    Raises:
        ValueError: a shape or sign is wrong, or both or neither of sigma and precision are given.
    """
    check_loss(loss)
    mean = finite_array([m] if np.ndim(m) == 0 else m, "m", 1)
    if mean.shape != (loss.dim,):
        raise ValueError(f"m must be a finite vector of length {loss.dim}, got shape {mean.shape}.")
    block = _precision_block(sigma, precision, loss.dim)
    prior = _prior(delta0, loss.dim)
    lam1 = block @ mean if block.ndim == 2 else np.asarray(block * mean)
    return objective_at(loss, Natural(lam1, np.asarray(-0.5 * block)), prior, tol=tol, **options)


def objective_at(
    loss: Loss, natural: Natural, prior: Gaussian, *, tol: float = 1e-9, **options: Any
) -> ObjectiveResult:
    """`proximal_objective` at lambda' = ``natural``, lam2 in its family's shape."""
    found = conjugate(loss, natural.lam1, natural.lam2, tol=tol, **options)
    constant = normalizer(natural, prior)
    return ObjectiveResult(
        value=found.value - constant,
        lower=found.lower - constant,
        upper=found.upper - constant,
        certified=found.certified,
        argmax=found.argmax,
        message=found.message,
        info={"conjugate": found, "posterior": relaxed_posterior(natural, prior)},
        assumes=loss.assumes,
        evidence=partial(of_conjugate, loss, natural.lam1, natural.lam2, prior),
    )


def relaxed_posterior(natural: Natural, prior: Gaussian) -> Gaussian:
    """q* proportional to prior exp<lambda', T> (App. C), in the family of lambda''s blocks or the prior's, if larger.

    Raises:
        DomainError: the sum of the natural parameters has no positive definite precision.
    """
    lam1, lam2 = _add_prior(natural, prior)
    return Gaussian.from_natural(lam1, lam2)


def normalizer(natural: Natural, prior: Gaussian) -> float:
    """log Z'(lambda') = A(lambda' + lambda0) - A(lambda0), with A the log-partition of the Gaussian family."""
    return relaxed_posterior(natural, prior).log_partition() - prior.log_partition()


def _add_prior(natural: Natural, prior: Gaussian) -> tuple[Array, Array]:
    """lambda' + lambda0 in the larger of the two families."""
    lam1, lam2 = prior.natural()
    mine = np.asarray(natural.lam2)
    ndim = max(mine.ndim, lam2.ndim)
    return natural.lam1 + lam1, raise_block(mine, ndim, prior.dim) + raise_block(lam2, ndim, prior.dim)


def raise_block(block: Any, ndim: int, dim: int) -> Array:
    """A number, (P,) or (P, P) block as a block of ``ndim`` axes, ndim at least its own."""
    array = np.asarray(block, dtype=float)
    if array.ndim == ndim:
        return array
    diagonal = np.broadcast_to(array, (dim,)).copy()
    return diagonal if ndim == 1 else np.diag(diagonal)


def _precision_block(sigma: Any, precision: Any, dim: int) -> Array:
    if (sigma is None) == (precision is None):
        raise ValueError("give exactly one of sigma and precision.")
    name = "sigma" if precision is None else "precision"
    block = np.asarray(sigma if precision is None else precision, dtype=float)
    if block.shape not in ((), (dim,), (dim, dim)) or not np.isfinite(block).all():
        raise ValueError(f"{name} must be a finite number, ({dim},) or ({dim}, {dim}), got shape {block.shape}.")
    if block.ndim < 2:
        if (block <= 0.0).any():
            raise ValueError(f"{name} must be positive, got {block.tolist()}.")
        return block if precision is not None else np.asarray(1.0 / block**2)
    if np.abs(block - block.T).max() > 1e-9 * np.abs(block).max() or np.linalg.eigvalsh(block)[0] <= 0.0:
        raise DomainError(f"{name} must be a symmetric positive definite matrix.")
    block = 0.5 * (block + block.T)
    inverse = block if precision is not None else np.linalg.inv(block)
    return np.asarray(0.5 * (inverse + inverse.T))


def _prior(delta0: float | Gaussian, dim: int) -> Gaussian:
    if isinstance(delta0, Gaussian):
        if delta0.dim != dim:
            raise ValueError(f"the prior must have dimension {dim}, got {delta0.dim}.")
        return delta0
    return Gaussian(np.zeros(dim), 1.0 / positive_number(delta0, "delta0"))
