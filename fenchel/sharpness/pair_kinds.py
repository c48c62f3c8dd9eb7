"""What kind of pair a stationary pair is: whether its perturbation is a maximizer, and where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fenchel.losses import Loss
from fenchel.sharpness.ball import ball_maximum
from fenchel.sharpness.minimax import branch_derivatives
from fenchel.sharpness.proximal import proximal_sup
from fenchel.sharpness.stationary import StationaryPair


@dataclass(frozen=True)
class PairKind:
    """What a pair is in each problem; None where the certificate cannot decide.

    inner: eps is a strict local / the global maximizer at theta (SAM on the ball, relaxed with the quadratic penalty).
    outer: the Hessian of the value along the pair's branch, plus delta, is positive definite: its local minimizer.
    ``gap`` is the certified shortfall of eps in the proximal problem, 0 where it is the global maximizer.
    """

    sam_inner_local: bool
    sam_inner_global: bool | None
    sam_outer_local: bool
    relaxed_inner_local: bool
    relaxed_inner_global: bool | None
    relaxed_outer_local: bool
    prior_valid: bool
    gap: float


def classify(loss: Loss, pair: StationaryPair, *, tol: float = 1e-8) -> PairKind:
    """What the pair is in both problems; inner global maxima are certified, ``tol`` relative to 1 + |l|."""
    dim = loss.dim
    x = pair.worst[None, :]
    here = float(loss(pair.worst))
    slack = tol * (1.0 + abs(here))
    H = np.asarray(loss.hessian(pair.worst)).reshape(dim, dim)
    unit = pair.eps / pair.rho
    across = np.eye(dim) - unit[:, None] * unit[None, :]
    tangent = np.linalg.eigvalsh(across @ (H - pair.nu * np.eye(dim)) @ across - 1e-30 * np.outer(unit, unit))
    eps, nu = pair.eps[None, :], np.array([pair.nu])
    bends = [branch_derivatives(loss, x, eps, nu, np.array([free]))[1][0] for free in (False, True)]
    sam_outer, relaxed_outer = (float(np.linalg.eigvalsh(b + pair.delta * np.eye(dim))[0]) > 0.0 for b in bends)
    ball = ball_maximum(loss, pair.theta, pair.rho, starts=pair.eps[None, :])
    proximal = proximal_sup(loss, pair.theta, pair.sigma, starts=pair.eps[None, :])
    level = here - 0.5 * pair.nu * pair.rho**2
    return PairKind(
        sam_inner_local=bool(dim == 1 or np.sort(tangent)[-1] <= 1e-12 * pair.nu),
        sam_inner_global=_decided(ball.lower, ball.upper, here, slack),
        sam_outer_local=bool(sam_outer),
        relaxed_inner_local=bool(np.linalg.eigvalsh(H)[-1] < pair.nu),
        relaxed_inner_global=_decided(proximal.lower, proximal.upper, level, slack),
        relaxed_outer_local=bool(relaxed_outer),
        prior_valid=bool(0.0 < pair.prior < np.inf),
        gap=max(0.0, proximal.lower - level),
    )


def _decided(lower: float, upper: float, level: float, slack: float) -> bool | None:
    """Is ``level`` the supremum, given lower <= sup <= upper?"""
    if lower > level + slack:
        return False
    return True if upper <= level + slack else None
