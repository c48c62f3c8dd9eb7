"""The restricted moment problem: a small linear program over given atoms, kept warm while atoms are added.

minimize -sum_k w_k l(theta_k) over w >= 0 with sum_k w_k features(x_k) = target. Its rows are the 1 + dim T moments,
so it stays small however many atoms there are; its dual is the least quadratic above the atoms. This is the fast path;
`fenchel.moments.programs.reference_master` states the same program once more in CVXPY.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.errors import MissingDependencyError, SolverError
from fenchel.moments.moment_frame import MomentFrame

__all__ = ["MasterSolution", "MomentProblem"]

Array = NDArray[np.float64]

# HiGHS stops at 1e-7 by default, which ends all progress near 1e-8 of the value; 1e-10 is the least it accepts.
_TOLERANCE = 1e-10
_DUAL_SIMPLEX, _PRIMAL_SIMPLEX = 1, 4


@dataclass(frozen=True)
class MasterSolution:
    """Weights (K,) of the atoms, coefficients (D,) of the least quadratic above them, and the optimal value.

    ``feasible`` is False where no weights reproduce the moments (too few atoms, or the moments outside their hull).
    """

    weights: Array
    coefficients: Array
    value: float
    feasible: bool


class MomentProblem:
    """The linear program over the moments of ``frame``; solved again with more atoms it goes on from the last basis."""

    def __init__(self, frame: MomentFrame) -> None:
        self.frame = frame
        self._count = 0

    @cached_property
    def _model(self) -> Any:
        return _empty_model(self.frame.target)

    def _extend(self, points: Array, values: Array) -> None:
        """Append atoms as columns."""
        count, rows = values.size, self.frame.size
        # A far atom has features of the order of |x|^2; dividing its column (and its cost) by that keeps the
        # program well scaled and makes the dual tolerance relative to the growth of the quadratic.
        scale = _column_scale(points)
        columns = self.frame.features(points) / scale[:, None]
        self._model.addCols(
            count,
            -values / scale,
            np.zeros(count),
            np.full(count, np.inf),
            count * rows,
            np.arange(0, count * rows, rows, dtype=np.int32),
            np.tile(np.arange(rows, dtype=np.int32), count),
            np.ascontiguousarray(columns).ravel(),
        )
        self._count += count

    def solve(self, points: Array, values: Array, max_seconds: float = np.inf) -> MasterSolution | None:
        """Solve over whitened atoms (K, P) with finite losses (K,); None where ``max_seconds`` were not enough.

        The atoms of the last call come first, in their order.

        Raises:
            SolverError: HiGHS ended with a status that is neither optimal nor infeasible.
        """
        import highspy

        if values.size > self._count:
            self._extend(points[self._count :], values[self._count :])
        # HiGHS compares its limit with the time of all its runs together.
        self._model.setOptionValue("time_limit", self._model.getRunTime() + max_seconds)
        self._model.run()
        status = self._model.getModelStatus()
        statuses = highspy.HighsModelStatus
        if status == statuses.kTimeLimit:
            return None
        if status not in (statuses.kOptimal, statuses.kInfeasible, statuses.kUnboundedOrInfeasible):
            # The simplex method sometimes gives up on a basis of far atoms; a cold start without scaling is cheap.
            for strategy in (_DUAL_SIMPLEX, _PRIMAL_SIMPLEX):
                self._model.clearSolver()
                self._model.setOptionValue("simplex_scale_strategy", 0)
                self._model.setOptionValue("simplex_strategy", strategy)
                self._model.run()
                status = self._model.getModelStatus()
                if status == statuses.kOptimal:
                    break
        if status in (statuses.kInfeasible, statuses.kUnboundedOrInfeasible):
            return MasterSolution(np.zeros(values.size), np.zeros(self.frame.size), np.inf, False)
        if status != statuses.kOptimal:
            raise SolverError(
                f"HiGHS ended the moment problem with status {self._model.modelStatusToString(status)!r}."
            )
        solution = self._model.getSolution()
        weights = np.maximum(solution.col_value, 0.0) / _column_scale(points)
        coefficients = -np.asarray(solution.row_dual)
        return MasterSolution(weights, coefficients, float(-weights @ values), True)


def _column_scale(points: Array) -> Array:
    return np.asarray(1.0 + np.sum(points * points, axis=1))


def _empty_model(target: Array) -> Any:
    try:
        import highspy
    except ImportError as error:
        raise MissingDependencyError("the moment problem needs highspy (pip install highspy).") from error
    model: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    for name, value in (
        ("output_flag", False),
        ("presolve", "off"),
        ("primal_feasibility_tolerance", _TOLERANCE),
        ("dual_feasibility_tolerance", _TOLERANCE),
        ("threads", 1),
        # New columns leave the old basis primal feasible.
        ("simplex_strategy", _PRIMAL_SIMPLEX),
    ):
        model.setOptionValue(name, value)
    rows = target.size
    model.addRows(rows, target, target, 0, np.zeros(rows, np.int32), np.zeros(0, np.int32), np.zeros(0))
    return model
