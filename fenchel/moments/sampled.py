"""The paper's own approximation of f** (App. F.3, Eqs. 32, 33): l replaced by K sampled affine pieces."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from fenchel.moments.certificate import make_upper
from fenchel.moments.programs import SolverOptions, sampled_program
from fenchel.moments.white_loss import WhiteLoss
from fenchel.results import BiconjugateResult

__all__ = ["sampled_biconjugate"]

Array = NDArray[np.float64]


def sampled_biconjugate(
    white: WhiteLoss, *, num_pieces: int, rng: np.random.Generator, options: SolverOptions
) -> BiconjugateResult:
    """Eq. 33 with first-order expansions of l at ``num_pieces`` points drawn from q.

    The pieces of a convex loss lie below it, so the value is too large. It is never certified. Its multipliers give
    atoms theta_k = Prec^-1 (eta + a_k), which, with their moments repaired, are a valid upper bound for any loss;
    ``upper`` is the larger of that bound and the value, ``info["atoms_upper"]`` the bound itself. There is no lower
    bound.

    Raises:
        SolverError: the solver is missing or did not end in an accepted status.
    """
    begin = time.perf_counter()
    frame, loss = white.frame, white.loss
    theta = frame.to_theta(rng.standard_normal((num_pieces, frame.dim)))
    slopes = loss._gradient(theta)
    offsets = loss._value(theta) - np.sum(slopes * theta, axis=1)
    solved = sampled_program(frame, slopes, offsets, options)
    active = solved.multipliers > 1e-7
    atoms: Array = np.zeros((0, frame.dim))
    weights: Array = np.zeros(0)
    atoms_upper = np.inf
    if active.any():
        shifted = (solved.lam1 + slopes[active]).T
        points = np.asarray(np.linalg.lstsq(-2.0 * solved.lam2, shifted, rcond=None)[0].T, dtype=float)
        bound = make_upper(white, frame.to_white(points), solved.multipliers[active])
        if bound is not None:
            atoms, weights, atoms_upper = bound.points, bound.weights, bound.value
    # A solver's value is only as good as its tolerance, so a one-sided claim carries it.
    slack = 1e-6 * max(1.0, abs(solved.value))
    upper = max(solved.value + slack, atoms_upper)
    if not loss.convex and not np.isfinite(atoms_upper):
        upper = np.inf
    return BiconjugateResult(
        value=solved.value,
        lower=-np.inf,
        upper=upper,
        certified=False,
        natural=frame.blocks(solved.lam1, solved.lam2),
        atoms=atoms,
        weights=weights,
        iterations=1,
        seconds=time.perf_counter() - begin,
        method="sampled",
        structure=frame.structure,
        message=f"{num_pieces} sampled pieces, solved by {options.solver}; an approximation without a lower bound",
        info={"atoms_upper": atoms_upper},
    )
