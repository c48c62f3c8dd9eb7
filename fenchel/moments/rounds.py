"""The records of column generation: limits, start, the problem that is solved, and the states it passes through."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fenchel.moments.certificate import LowerBound, UpperBound
from fenchel.moments.moment_problem import MasterSolution
from fenchel.moments.polish import ActiveSet
from fenchel.moments.white_loss import WhiteLoss

__all__ = ["Budget", "Candidate", "Master", "Problem", "Start", "State"]

Array = NDArray[np.float64]
Master = Callable[[Array, Array], MasterSolution | None]
"""The moment problem over atoms (K, P) with losses (K,); None where time ran out."""


@dataclass(frozen=True)
class Budget:
    """Limits of one computation; ``max_boxes`` holds for each global search."""

    max_rounds: int = 60
    max_seconds: float = 60.0
    max_boxes: int = 10_000_000

    def since(self, begin: float) -> Budget:
        """What is left of it, when it began at ``begin`` on `time.perf_counter`."""
        return replace(self, max_seconds=max(1e-3, self.max_seconds - (time.perf_counter() - begin)))


@dataclass(frozen=True)
class Start:
    """Whitened atoms (K, P), quadratics, proved bounds, and the active set of a nearby problem to begin from."""

    points: Array
    coefficients: tuple[Array, ...] = ()
    lower: LowerBound | None = None
    active: ActiveSet | None = None
    uppers: tuple[UpperBound | None, ...] = ()


@dataclass(frozen=True)
class Problem:
    """The loss in whitened coordinates, the relative width asked for, the limits, and what solves linear programs.

    ``strict``: where it fails, that is an error; otherwise the rounds end with what they have.
    """

    white: WhiteLoss
    tol: float
    budget: Budget
    deadline: float
    master: Master
    strict: bool = False

    def seconds_left(self) -> float:
        return self.deadline - time.perf_counter()


@dataclass(frozen=True)
class Candidate:
    """A quadratic, the local maximizers of l - Q found (x (K, P), values (K,)), and the lower bound they suggest."""

    coefficients: Array
    points: Array
    violations: Array
    lower: float

    def highest(self, count: int) -> Array:
        """The ``count`` maximizers at which l - Q is largest."""
        return self.points[np.argsort(-self.violations)[:count]]


@dataclass(frozen=True)
class State:
    """What the rounds have established so far.

    ``points`` (K, P) and ``values`` (K,): the atoms of the linear program. ``best``: the quadratic with the largest
    lower bound that the local searches leave standing; ``searched``: the one that was last searched globally.
    """

    points: Array
    values: Array
    lower: LowerBound | None = None
    upper: UpperBound | None = None
    best: Candidate | None = None
    searched: Candidate | None = None
    rounds: int = 0
    boxes: int = 0
    stalled: int = 0
    message: str = ""
    unbounded: bool = False
    done: bool = False

    @property
    def local_lower(self) -> float:
        return -np.inf if self.best is None else self.best.lower

    @property
    def gap(self) -> float:
        """The width of the proved bracket."""
        return np.inf if self.lower is None or self.upper is None else self.upper.value - self.lower.value

    @property
    def scale(self) -> float:
        """max(1, |f**|), as far as it is known."""
        bounds = [b.value for b in (self.lower, self.upper) if b is not None and np.isfinite(b.value)]
        return max(1.0, min((abs(b) for b in bounds), default=1.0))

    def closed(self, problem: Problem) -> bool:
        """The bracket is narrow enough for the local searches."""
        return self.upper is not None and self.upper.value - self.local_lower <= 0.3 * problem.tol * self.scale

    def with_atoms(self, problem: Problem, points: Array) -> State:
        """With these atoms (K, P), those with a non-finite loss left out."""
        if points.shape[0] == 0:
            return self
        values = problem.white.value(points)
        keep = np.isfinite(values) & np.all(np.isfinite(points), axis=1)
        return replace(
            self,
            points=np.concatenate([self.points, points[keep]]),
            values=np.concatenate([self.values, values[keep]]),
        )

    def considering(self, problem: Problem, candidate: Candidate) -> State:
        """With the candidate's highest maximizers among the atoms, and as the best if it is."""
        best = candidate if self.best is None or candidate.lower > self.best.lower else self.best
        return replace(self, best=best).with_atoms(problem, candidate.highest(4 * problem.white.frame.size))

    def with_lower(self, bound: LowerBound | None) -> State:
        """With the larger of the two bounds."""
        if bound is None or (self.lower is not None and bound.value <= self.lower.value):
            return self
        return replace(self, lower=bound)

    def with_upper(self, bound: UpperBound | None) -> State:
        """With the smaller of the two bounds."""
        if bound is None or (self.upper is not None and bound.value >= self.upper.value):
            return self
        return replace(self, upper=bound)
