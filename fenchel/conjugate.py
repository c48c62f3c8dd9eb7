"""f*(lambda') = sup_theta <lambda', T(theta)> + l(theta): Theorem 1 (Eq. 10), with a certificate."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.certificates import of_conjugate
from fenchel.checks import check_count, check_loss, check_seconds, check_tolerance, probe_points
from fenchel.losses import Loss
from fenchel.losses.inputs import finite_array, finite_vector
from fenchel.results import ConjugateResult
from fenchel.search.maximize import maximize


def conjugate(
    loss: Loss,
    lam1: Any,
    lam2: Any,
    *,
    tol: float = 1e-9,
    starts: Any = None,
    max_boxes: int = 200_000,
    max_seconds: float | None = None,
) -> ConjugateResult:
    """f*(lam1, lam2) by Theorem 1, with a proved bracket no wider than tol * max(1, |value|) where ``certified``.

    lam1 (P,); lam2 (P, P) symmetric for the full family, (P,) for the diagonal (T = (theta, theta^2)), a scalar for the
    isotropic (T = (theta, |theta|^2)). Outside the domain of f* the value is inf and ``message`` says why; no error.
    Where rounding decides whether it is inside, ``lower`` is -inf, ``upper`` inf and ``certified`` False.
    ``argmax`` is the best theta found (None for inf). For a loss with ``bounds`` the supremum is over them. Where
    nothing confines the search, ``upper`` is inf and ``certified`` False. ValueError for wrong shapes or NaN.
    """
    start = time.perf_counter()
    check_loss(loss)
    check_tolerance(tol)
    check_count(max_boxes, "max_boxes")
    check_seconds(max_seconds)
    first = finite_vector(lam1, "lam1")
    second = second_block(lam2, loss.dim)
    found = maximize(loss, first, second, tol=tol, starts=starts, max_boxes=max_boxes, max_seconds=max_seconds)
    infinite = bool(np.isinf(found.lower))
    value, message = np.inf if infinite else float(found.values[0]), found.message
    if not infinite:
        loss.examine(np.concatenate([found.maximizers, found.argmax + probe_points(loss.dim)]))
    wide = not infinite and found.gap > tol * max(1.0, abs(value))
    if wide and found.certified:
        message = f"rounding may have moved the bracket by {found.gap:.2g}"
    return ConjugateResult(
        value=value,
        lower=found.lower,
        upper=found.upper,
        certified=found.certified and not wide,
        argmax=None if infinite else found.argmax,
        message=message,
        boxes=found.boxes,
        seconds=time.perf_counter() - start,
        assumes=loss.assumes,
        evidence=partial(of_conjugate, loss, first, np.asarray(lam2, dtype=float), None),
    )


def second_block(lam2: Any, dim: int) -> Array:
    """The (P, P) matrix of a second natural parameter given in any family's blocks; ValueError for other shapes."""
    block = finite_array(lam2, "lam2")
    if block.ndim == 0:
        return float(block) * np.eye(dim)
    if block.shape == (dim,):
        return np.diag(block)
    if block.shape == (dim, dim):
        if np.abs(block - block.T).max() > 1e-9 * max(1e-300, np.abs(block).max()):
            raise ValueError("lam2 must be symmetric")
        return np.asarray(0.5 * (block + block.T))
    raise ValueError(f"lam2 must be a scalar or have shape ({dim},) or ({dim}, {dim}), got {block.shape}")
