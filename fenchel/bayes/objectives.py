"""The objectives of Bayes and relaxed Bayes, all to be minimized, each with a bracket (Eqs. 2, 11, 12, 18)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.biconjugate import biconjugate
from fenchel.certificates import of_conjugate, of_relaxed_bayes
from fenchel.checks import check_loss, check_problem
from fenchel.conjugate import conjugate
from fenchel.divergence import Factor, Rounded, kl_divergence, log_normalizer, times
from fenchel.errors import DomainError
from fenchel.expectation.expected_loss import expected_loss_result
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.losses.accurate import EPS
from fenchel.losses.inputs import finite_array, finite_vector, positive_number
from fenchel.results import BiconjugateResult, ConjugateResult, Natural, ObjectiveResult


def bayes_objective(loss: Loss, q: Gaussian, prior: Gaussian) -> ObjectiveResult:
    """E_q[l] + KL(q || prior) = -L(q), the negative evidence lower bound (Eq. 2), in nats; to be minimized over q.

    Minus this is at most the log evidence log of the integral of prior exp(-l). The bracket is an error estimate of
    the quadrature, not a proof: ``certified`` is False.

    Raises:
        ValueError: the dimensions of loss, q and prior differ.
    """
    check_problem(loss, q=q, prior=prior)
    expected = expected_loss_result(loss, q, derivatives=False)
    divergence = _divergence(q, prior)
    value = expected.value + divergence.value
    slack = expected.error + divergence.error + 1e-15 * abs(value)
    return ObjectiveResult(
        value=value,
        lower=value - slack,
        upper=value + slack,
        certified=False,
        message="the bracket is the quadrature's error estimate",
        info={"expected_loss": expected.value, "kl": divergence.value},
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
    divergence = _divergence(q, prior)
    return ObjectiveResult(
        **_shifted(-result.value, -result.upper, -result.lower, divergence, result, tol),
        info={"biconjugate": result, "kl": divergence.value},
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
        tol, options: of `conjugate`, whose bracket this is up to a constant and to what rounding did to both.

    Returns:
        ObjectiveResult with ``argmax`` = m + eps*; inf where l grows faster than lambda' allows. ``info["posterior"]``
        is the q* that belongs to lambda' (`relaxed_posterior`).

    Raises:
        ValueError: a shape or sign is wrong, or both or neither of sigma and precision are given.
    """
    check_loss(loss)
    mean = finite_vector(m, "m")
    if mean.shape != (loss.dim,):
        raise ValueError(f"m must be a finite vector of length {loss.dim}, got shape {mean.shape}.")
    block, doubt = _precision_block(sigma, precision, loss.dim)
    prior = _prior(delta0, loss.dim)
    lam1 = times(block, mean)

    def moved(argmax: Array, posterior: Gaussian) -> float:
        """How far the rounding of lambda' moves the objective, whose derivative is T(theta*) - E_q*[T]."""
        far, off = argmax - mean, posterior.mean - mean
        spread = float(np.sum(raise_block(block, 2, loss.dim) * posterior.cov))
        bent = far @ times(block, far) + off @ times(block, off) + spread
        rounded = EPS * (loss.dim + 1.0) * times(np.abs(block), np.abs(mean))
        return float(doubt * bent + 2.0 * rounded @ np.abs(argmax - posterior.mean))

    return objective_at(loss, Natural(lam1, np.asarray(-0.5 * block)), prior, tol=tol, moved=moved, **options)


def objective_at(
    loss: Loss,
    natural: Natural,
    prior: Gaussian,
    *,
    tol: float = 1e-9,
    moved: Callable[[Array, Gaussian], float] | None = None,
    **options: Any,
) -> ObjectiveResult:
    """`proximal_objective` at lambda' = ``natural``, lam2 in its family's shape.

    ``moved`` (maximizer, q*) bounds what the rounding of ``natural`` itself changes.
    """
    found = conjugate(loss, natural.lam1, natural.lam2, tol=tol, **options)
    constant, posterior = normalizer(natural, prior), relaxed_posterior(natural, prior)
    if moved is not None and found.argmax is not None:
        constant = Rounded(constant.value, constant.error + moved(found.argmax, posterior))
    constant = Rounded(-constant.value, constant.error)
    return ObjectiveResult(
        **_shifted(found.value, found.lower, found.upper, constant, found, tol),
        argmax=found.argmax,
        info={"conjugate": found, "posterior": posterior},
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


def normalizer(natural: Natural, prior: Gaussian) -> Rounded:
    """log Z'(lambda') = A(lambda' + lambda0) - A(lambda0), with A the log-partition of the Gaussian family."""
    return log_normalizer(natural.lam1, np.asarray(natural.lam2), prior.mean, prior.cov_block)


def _divergence(q: Gaussian, prior: Gaussian) -> Rounded:
    return kl_divergence(q.mean, q.cov_block, prior.mean, prior.cov_block)


def _shifted(
    value: float, lower: float, upper: float, constant: Rounded, found: BiconjugateResult | ConjugateResult, tol: float
) -> dict[str, Any]:
    """A bracket plus a constant that was rounded: not certified where that leaves more than ``tol`` of the value."""
    total = value + constant.value
    # A proved infinity stays one.
    error = constant.error + EPS * (abs(value) + 2.0 * abs(total)) if np.isfinite(value) else 0.0
    clear = error <= tol * max(1.0, abs(total)) or not np.isfinite(value)
    doubt = "" if clear else f"rounding may have moved the Gaussian part by {constant.error:.2g}"
    return {
        "value": total,
        "lower": lower + constant.value - error,
        "upper": upper + constant.value + error,
        "certified": bool(found.certified and clear),
        "message": "; ".join(text for text in (found.message, doubt) if text),
    }


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


def _precision_block(sigma: Any, precision: Any, dim: int) -> tuple[Array, float]:
    """The precision, and how far it is from the exact inverse of the matrix that sigma means, relative to it."""
    if (sigma is None) == (precision is None):
        raise ValueError("give exactly one of sigma and precision.")
    name = "sigma" if precision is None else "precision"
    block = finite_array(sigma if precision is None else precision, name)
    if block.shape not in ((), (dim,), (dim, dim)):
        raise ValueError(f"{name} must be a finite number, ({dim},) or ({dim}, {dim}), got shape {block.shape}.")
    if block.ndim < 2:
        if (block <= 0.0).any():
            raise ValueError(f"{name} must be positive, got {block.tolist()}.")
        return (block, 0.0) if precision is not None else (np.asarray(1.0 / block**2), 2.0 * EPS)
    if np.abs(block - block.T).max() > 1e-9 * np.abs(block).max() or np.linalg.eigvalsh(block)[0] <= 0.0:
        raise DomainError(f"{name} must be a symmetric positive definite matrix.")
    block = 0.5 * (block + block.T)
    if precision is not None:
        return block, 0.0
    factor = Factor(block)
    return np.asarray(factor.inverse.T @ factor.inverse), 2.0 * factor.doubt


def _prior(delta0: float | Gaussian, dim: int) -> Gaussian:
    if isinstance(delta0, Gaussian):
        if delta0.dim != dim:
            raise ValueError(f"the prior must have dimension {dim}, got {delta0.dim}.")
        return delta0
    return Gaussian(np.zeros(dim), 1.0 / positive_number(delta0, "delta0"))
