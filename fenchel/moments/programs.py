"""Convex programs stated in CVXPY: the reference moment problem, and the paper's sampled program (Eqs. 32, 33).

The only module that imports cvxpy, and only when a program is solved. Every solve passes one status policy.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.errors import MissingDependencyError, SolverError
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.moment_problem import MasterSolution

__all__ = ["ReferenceMaster", "SampledSolution", "SolverOptions", "reference_master", "sampled_program"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SolverOptions:
    """Which CVXPY solver, with which settings, and which final statuses count as solved.

    ``accept`` holds ``optimal`` alone: an inaccurate solution is a failure, because nothing downstream would notice.
    """

    solver: str = "CLARABEL"
    settings: Mapping[str, Any] = field(default_factory=dict)
    accept: tuple[str, ...] = ("optimal",)
    verbose: bool = False


@dataclass(frozen=True)
class SampledSolution:
    """Maximizer of Eq. 33: lam1 (P,), lam2 (P, P), the optimal value, and the multipliers (K,) of the pieces."""

    lam1: Array
    lam2: Array
    value: float
    multipliers: Array


class ReferenceMaster:
    """The moment problem over ``count`` atoms as one DPP program, solved again for other atoms without recompiling.

    minimize E[Q] over the quadratics Q = c . features with Q(x_k) >= l_k at every atom.
    """

    def __init__(self, size: int, count: int) -> None:
        cp = _cvxpy()
        self._features = cp.Parameter((count, size))
        self._values = cp.Parameter(count)
        self._target = cp.Parameter(size)
        self._coefficients = cp.Variable(size)
        self._above = self._features @ self._coefficients >= self._values
        self._problem = cp.Problem(cp.Minimize(self._target @ self._coefficients), [self._above])

    def solve(self, frame: MomentFrame, points: Array, values: Array, options: SolverOptions) -> MasterSolution:
        """Solve for atoms ``points`` (K, P) with losses ``values`` (K,).

        Raises:
            SolverError: the solver is not installed, or its status is not accepted by ``options``.
        """
        # The same scaling as the fast path: both sides of a cut divided by the growth of the quadratic.
        scale = 1.0 + np.sum(points * points, axis=1)
        self._features.value = frame.features(points) / scale[:, None]
        self._values.value = values / scale
        self._target.value = frame.target
        if _solve(self._problem, options, infeasible=("unbounded", "unbounded_inaccurate")):
            return MasterSolution(np.zeros(values.size), np.zeros(frame.size), np.inf, False)
        weights = np.maximum(np.asarray(self._above.dual_value, dtype=float), 0.0) / scale
        coefficients = np.asarray(self._coefficients.value, dtype=float)
        return MasterSolution(weights, coefficients, float(-self._problem.value), True)


def reference_master(
    frame: MomentFrame, points: Array, values: Array, options: SolverOptions | None = None
) -> MasterSolution:
    """One solve of `ReferenceMaster`."""
    master = ReferenceMaster(frame.size, values.size)
    return master.solve(frame, points, values, options or SolverOptions())


def sampled_program(
    frame: MomentFrame, slopes: Array, offsets: Array, options: SolverOptions | None = None
) -> SampledSolution:
    """The paper's Eq. 33 for l replaced by max_k slopes_k . theta + offsets_k.

    maximize eta.m - 1/2 tr(Prec (S + m m^T)) - t  subject to  1/2 (eta + a_k)^T Prec^-1 (eta + a_k) + b_k <= t and
    Prec positive semidefinite: one matrix-fractional constraint a piece (full family), or its diagonal and
    isotropic forms, sums of quadratics over linear.

    Args:
        slopes: (K, P) gradients a_k.
        offsets: (K,) constants b_k.

    Raises:
        SolverError: the solver is not installed, or its status is not accepted by ``options``.
    """
    cp = _cvxpy()
    p = frame.dim
    eta, t = cp.Variable(p), cp.Variable()
    second = frame.factor @ frame.factor.T + np.outer(frame.mean, frame.mean)
    precision: Any
    if frame.structure == "full":
        precision = cp.Variable((p, p), PSD=True)
        trace = cp.trace(precision @ second)
        supremum = [cp.matrix_frac(eta + a, precision) for a in slopes]
    elif frame.structure == "diagonal":
        precision = cp.Variable(p, nonneg=True)
        trace = precision @ np.diag(second)
        supremum = [sum(cp.quad_over_lin(eta[i] + a[i], precision[i]) for i in range(p)) for a in slopes]
    else:
        precision = cp.Variable(nonneg=True)
        trace = precision * float(np.trace(second))
        supremum = [cp.quad_over_lin(eta + a, precision) for a in slopes]
    below = [0.5 * term + float(b) <= t for term, b in zip(supremum, offsets, strict=True)]
    problem = cp.Problem(cp.Maximize(eta @ frame.mean - 0.5 * trace - t), below)
    _solve(problem, options or SolverOptions())
    solved = np.asarray(precision.value, dtype=float)
    return SampledSolution(
        lam1=np.asarray(eta.value, dtype=float),
        lam2=-0.5 * frame.matrix(solved),
        value=float(problem.value),
        multipliers=np.array([float(np.ravel(constraint.dual_value)[0]) for constraint in below]),
    )


def _cvxpy() -> Any:
    try:
        import cvxpy
    except ImportError as error:
        raise MissingDependencyError("this program needs cvxpy (pip install cvxpy).") from error
    return cvxpy


def _solve(problem: Any, options: SolverOptions, infeasible: tuple[str, ...] = ()) -> bool:
    """Solve under the status policy; True where the status is one of ``infeasible`` instead of accepted."""
    cp = _cvxpy()
    name = str(options.solver).upper()
    if name not in cp.installed_solvers():
        raise SolverError(
            f"solver {options.solver!r} is not installed; installed: {', '.join(cp.installed_solvers())}."
        )
    try:
        with warnings.catch_warnings():
            # CVXPY warns where a solution may be inaccurate; the status policy below turns that into an error.
            warnings.simplefilter("ignore", UserWarning)
            problem.solve(solver=name, verbose=options.verbose, **dict(options.settings))
    except cp.error.SolverError as error:
        raise SolverError(f"solver {name} failed: {str(error).splitlines()[0]}") from error
    if problem.status in options.accept:
        return False
    if problem.status in infeasible:
        return True
    raise SolverError(f"solver {name} ended with status {problem.status!r}; accepted: {', '.join(options.accept)}.")
