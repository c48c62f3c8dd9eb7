"""f** by column generation: linear program, Newton polish, local oracle, and the certified search last.

A round solves the moment problem over the atoms known so far, moves the active atoms to the maximizers of l - Q,
polishes them with Newton's method, and asks where l rises above the resulting quadratic. Cheap local searches answer
first; the global search is asked only when they find nothing, and whatever it finds is added.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fenchel.moments.atoms import design, sigma_points
from fenchel.moments.certificate import LowerBound, certify_lower, make_upper
from fenchel.moments.ensemble import ensemble
from fenchel.moments.moment_problem import MasterSolution, MomentProblem
from fenchel.moments.polish import ActiveSet, polish
from fenchel.moments.rounds import Budget, Candidate, Outcome, Start, distinct, distinct_from
from fenchel.moments.white_loss import WhiteLoss

__all__ = ["Master", "cutting_plane"]

Array = NDArray[np.float64]
Master = Callable[[Array, Array], MasterSolution]
_PATIENCE = 8
_MARGINS = (1e-9, 1e-6, 1e-3)
_CONFINED_BOXES = 100_000
_ACTIVE_STEPS = 6
_FEW = 5
_ENSEMBLE = 6
_LIFTS = np.array([1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4])


class _Rounds:
    """State of one column generation."""

    def __init__(self, white: WhiteLoss, tol: float, budget: Budget, master: Master | None) -> None:
        self.white, self.frame, self.tol, self.budget = white, white.frame, tol, budget
        self.problem = MomentProblem(white.frame)
        self.reference = master
        self.outcome = Outcome()
        self.deadline = time.perf_counter() + budget.max_seconds
        self.best: Candidate | None = None
        self.searched: Candidate | None = None

    # --- pieces of a round ---------------------------------------------------------------------------------------

    def add(self, points: Array) -> None:
        if points.shape[0]:
            self.problem.add(points, self.white.value(points))

    def solve(self) -> MasterSolution | None:
        if self.reference is None:
            return self.problem.solve(max(1.0, self.deadline - time.perf_counter()))
        return self.reference(self.problem.points, self.problem.values)

    def scale(self) -> float:
        bounds = [b.value for b in (self.outcome.lower, self.outcome.upper) if b is not None and np.isfinite(b.value)]
        return max(1.0, min((abs(b) for b in bounds), default=1.0))

    def look(self, c: Array, starts: Array) -> Candidate:
        """Local maximizers of l - Q from ``starts``; a runaway or non-finite one makes the quadratic worthless."""
        points, values = self.white.local_maximizers(c, starts)
        good = np.isfinite(values) & np.all(np.isfinite(points), axis=1)
        lower = -np.inf
        if np.all(good) and values.size:
            lower = -float(c @ self.frame.target) - float(np.max(values))
        points, values = distinct(points[good], values[good])
        candidate = Candidate(c, points, values, lower)
        if self.best is None or lower > self.best.lower:
            self.best = candidate
        self.outcome.local_lower = self.best.lower
        return candidate

    def starts(self, c: Array, active: Array) -> Array:
        """Where to look: the active atoms, and the known atoms that come nearest to violating Q."""
        slackness = (self.problem.values - self.frame.features(self.problem.points) @ c) / (
            1.0 + np.sum(self.problem.points**2, axis=1)
        )
        count = min(slackness.size, 24 + 4 * self.frame.dim, 64)
        nearest = np.argpartition(-slackness, count - 1)[:count]
        return np.concatenate([active, self.problem.points[nearest]])

    def closed(self) -> bool:
        """The bracket is narrow enough for the local searches."""
        upper, best = self.outcome.upper, self.best
        return upper is not None and best is not None and upper.value - best.lower <= 0.3 * self.tol * self.scale()

    def improve(self, polished: ActiveSet | None) -> None:
        """Active-set steps: polish, look where the loss crosses the result, take the crossings in, polish again."""
        for _ in range(_ACTIVE_STEPS):
            if polished is None or polished.residual > 1e-3:
                return
            self.outcome.offer_upper(make_upper(self.white, polished.points, polished.weights))
            candidate = self.look(polished.coefficients, self.starts(polished.coefficients, polished.points))
            self.add(self.near_violations(candidate))
            if self.closed() or candidate.violations.size == 0:
                return
            crossing = candidate.violations > max(0.1 * candidate.violations[0], 1e-12 * self.scale())
            points = np.concatenate([polished.points, candidate.points[crossing]])
            fresh = distinct_from(polished.points, points)
            if not fresh.any():
                return
            weights = np.concatenate([polished.weights, np.zeros(int(crossing.sum()))])
            fresh[: polished.weights.size] = True
            polished = self.polish(ActiveSet(points[fresh], weights[fresh], polished.coefficients, np.inf))

    def lift(self, c: Array) -> Candidate | None:
        """The least tried multiple of |x|^2 that makes l - Q bounded when added to Q; None where none does.

        A linear program over finitely many atoms can fall short of the growth of the loss by rounding.
        """
        second = self.frame.coefficients(0.0, np.zeros(self.frame.dim), np.eye(self.frame.dim))
        shortfall = self.white.shortfall(c)
        for amount in _LIFTS if shortfall is None else (1.0 + 1e-9) * shortfall + np.array([1e-13, 1e-9]):
            raised = c + amount * second
            candidate = self.look(raised, self.starts(raised, np.zeros((0, self.frame.dim))))
            if np.isfinite(candidate.lower):
                return candidate
        return None

    def newton(self, candidate: Candidate, active: Array, weights: Array) -> ActiveSet | None:
        """Merge the active atoms into the maximizers they lead to, and solve the optimality conditions there."""
        if candidate.points.shape[0] == 0:
            return None
        distance = np.linalg.norm(active[:, None, :] - candidate.points[None, :, :], axis=2)
        owner = np.argmin(distance, axis=1)
        mass = np.asarray(np.bincount(owner, weights=weights, minlength=candidate.points.shape[0]), dtype=float)
        used = mass > 0.0
        return self.polish(ActiveSet(candidate.points[used], mass[used], candidate.coefficients, np.inf))

    def polish(self, start: ActiveSet) -> ActiveSet | None:
        """Newton's method; a maximizer with a slope sits on a kink or a jump and stays there."""
        slope = self.white.slope(start.coefficients, start.points)
        size = 1.0 + np.max(np.abs(self.white.gradient(start.points)), axis=1)
        norm = np.linalg.norm(slope, axis=1)
        held = norm > 1e-5 * size
        normals = np.where(held[:, None], slope / np.where(held, norm, 1.0)[:, None], 0.0)
        return polish(self.white, start, normals)

    # --- the rounds ----------------------------------------------------------------------------------------------

    def run(self, start: Start) -> Outcome:
        out = self.outcome
        if self.white.superquadratic:
            points = sigma_points(self.frame.dim)
            out.offer_upper(make_upper(self.white, points, np.full(points.shape[0], 1.0 / points.shape[0])))
            self.unbounded()
            return out
        if start.lower is not None:
            out.offer_lower(start.lower)
        for bound in start.uppers:
            out.offer_upper(bound)
        self.add(start.points)
        if start.active is not None and self.resume(start.active):
            out.atoms = self.problem.values.size
            return out
        self.add(design(self.frame.dim))
        start = self.many(start)
        for c in start.coefficients:
            self.add(self.look(c, self.starts(c, start.points)).points)
        stalled = 0
        for _ in range(self.budget.max_rounds):
            out.rounds += 1
            before = (self.best.lower if self.best else -np.inf, out.upper.value if out.upper else np.inf)
            if not self.round():
                break
            after = (self.best.lower if self.best else -np.inf, out.upper.value if out.upper else np.inf)
            if out.gap() <= self.tol * self.scale():
                break
            stalled = stalled + 1 if after == before else 0
            if stalled >= _PATIENCE:
                out.message = "no progress within rounding error"
                break
            if time.perf_counter() > self.deadline:
                out.message = "time limit reached"
                break
        else:
            out.message = "round limit reached"
        if self.best is None or not np.isfinite(self.best.lower):
            if not out.message:
                self.unbounded()
        elif out.gap() > self.tol * self.scale() and self.best is not self.searched:
            self.certify(self.best)
        out.atoms = self.problem.values.size
        return out

    def many(self, start: Start) -> Start:
        """In many dimensions the design says little: an ensemble of atoms joins the start, and its quadratic."""
        found = ensemble(self.white, _ENSEMBLE * (self.frame.dim + 1)) if self.frame.dim > _FEW else None
        if found is None:
            return start
        points, c = found
        self.add(points)
        self.outcome.offer_upper(make_upper(self.white, points, np.full(len(points), 1.0 / len(points))))
        return replace(start, points=np.concatenate([start.points, points]), coefficients=(*start.coefficients, c))

    def resume(self, active: ActiveSet) -> bool:
        """Newton straight from the active set of a nearby problem; True where the bracket closes."""
        polished = self.polish(active)
        if polished is None or polished.residual > 1e-6 or polished.weights.min() < 0.0:
            return False
        self.add(polished.points)
        self.outcome.offer_upper(make_upper(self.white, polished.points, polished.weights))
        if self.outcome.upper is None:
            return False
        # The global search climbs from these points itself, so nothing is gained by a local look before it.
        supposed = -float(polished.coefficients @ self.frame.target)
        self.certify(Candidate(polished.coefficients, polished.points, np.zeros(polished.weights.size), supposed))
        return self.outcome.gap() <= self.tol * self.scale()

    def unbounded(self) -> None:
        """No quadratic tried was above the loss: say so, with the reason the search gives for a steep one."""
        c = self.frame.coefficients(0.0, np.zeros(self.frame.dim), _LIFTS[-1] * np.eye(self.frame.dim))
        found, _, _ = self.white.supremum(c, tol=1.0, starts=None, max_boxes=1000)
        self.outcome.unbounded = found.lower == np.inf
        self.outcome.message = found.message or "no quadratic tried lies above the loss"

    def round(self) -> bool:
        solution = self.solve()
        if solution is None:
            self.outcome.message = "time limit reached"
            return False
        if not solution.feasible:
            self.outcome.message = "no distribution on the atoms tried has these moments"
            return False
        keep = solution.weights * (1.0 + np.sum(self.problem.points**2, axis=1)) > 1e-12
        active, weights = self.problem.points[keep], solution.weights[keep]
        self.outcome.offer_upper(make_upper(self.white, active, weights))
        candidate = self.look(solution.coefficients, self.starts(solution.coefficients, active))
        if not np.isfinite(candidate.lower):
            candidate = self.lift(solution.coefficients) or candidate
        self.add(self.near_violations(candidate))
        self.improve(self.newton(candidate, active, weights))
        best = self.best
        if best is not None and not self.closed() and candidate.lower < best.lower:
            # The dual of a program with few atoms swings wildly: also ask halfway to the best quadratic known.
            middle = 0.5 * (best.coefficients + solution.coefficients)
            halfway = self.look(middle, self.starts(middle, np.concatenate([active, best.points])))
            self.add(self.near_violations(halfway))
            if halfway.lower > candidate.lower:
                self.improve(self.newton(halfway, active, weights))
        return self.certify(self.best) if self.best is not None and self.closed() else True

    def near_violations(self, candidate: Candidate) -> Array:
        """The maximizers worth a column: those not far below the highest."""
        if candidate.violations.size == 0:
            return candidate.points
        order = np.argsort(-candidate.violations)[: 4 * self.frame.size]
        return candidate.points[order]

    def certify(self, candidate: Candidate) -> bool:
        """Search globally; False where nothing more can be learned."""
        out, allowed = self.outcome, self.tol * self.scale()
        self.searched = candidate
        spent = np.inf if out.upper is None else out.upper.value - candidate.lower
        bound, found = certify_lower(
            self.white,
            candidate.coefficients,
            tol=0.8 * max(allowed - spent, 0.3 * allowed),
            starts=candidate.points,
            max_seconds=max(1e-3, self.deadline - time.perf_counter()),
            max_boxes=self.budget.max_boxes,
        )
        out.offer_lower(bound)
        out.boxes += found.boxes
        proved = -float(candidate.coefficients @ self.frame.target) - found.lower
        if proved < candidate.lower - 0.1 * allowed:
            # The local searches had missed a violation: the candidate is worth less than it seemed.
            self.best = Candidate(candidate.coefficients, candidate.points, candidate.violations, proved)
            self.add(found.maximizers)
            return True
        # Where the declared growth is as steep as Q nothing confines the search: a steeper Q is searched instead.
        if found.upper == np.inf or (not found.certified and found.boxes == 0):
            excess = self.confine(candidate)
            if excess > allowed:
                worth = -float(candidate.coefficients @ self.frame.target) - excess
                self.best = Candidate(candidate.coefficients, candidate.points, candidate.violations, worth)
                return True
        if out.gap() > allowed and not found.certified:
            out.message = found.message or "the global search was stopped before its proof was complete"
            return False
        return True

    def confine(self, candidate: Candidate) -> float:
        """Lower bounds from what is declared of the growth of a user's loss, where that is steeper than Q.

        The declared quadratic itself; and Q, steep enough for the global search to be confined by it. Returns by how
        much the loss exceeds Q at the points that this search met; they join the atoms.
        """
        declared, frame, c = self.white.majorizer(), self.frame, candidate.coefficients
        if declared is None:
            return 0.0
        _, _, w = frame.quadratic(c)
        short = max(0.0, float(np.linalg.eigvalsh(declared[2] - w)[-1]))
        if np.array_equal(frame.quadratic(frame.coefficients(*declared))[2], declared[2]):
            own = frame.coefficients(*declared)
            _, lam1, lam2 = frame.to_natural(own)
            value = -float(own @ frame.target)
            slack = 1e-14 * float(np.abs(own) @ np.abs(frame.target))
            self.outcome.offer_lower(LowerBound(value - slack, lam1, lam2))
        square = frame.coefficients(0.0, np.zeros(frame.dim), np.eye(frame.dim))
        excess = 0.0
        for margin in _MARGINS:
            # A wider margin costs more of the bound, but confines the search to a smaller region.
            steep = c + (short + margin * max(1.0, float(np.abs(declared[2]).max()))) * square
            starts = self.starts(steep, np.zeros((0, frame.dim)))
            allowed = self.tol * self.scale()
            bound, found = certify_lower(self.white, steep, tol=allowed, starts=starts, max_boxes=_CONFINED_BOXES)
            self.outcome.offer_lower(bound)
            self.outcome.boxes += found.boxes
            above = self.white.value(found.maximizers) - frame.features(found.maximizers) @ c
            excess = max(excess, float(above.max(initial=0.0)))
            self.add(found.maximizers[above > allowed])
        return excess


def cutting_plane(
    white: WhiteLoss, *, tol: float, start: Start, budget: Budget, master: Master | None = None
) -> Outcome:
    """Run the rounds until the certified bracket is no wider than tol * max(1, |f**|), or the budget is spent.

    ``master`` replaces the built-in linear program (the CVXPY reference).
    """
    return _Rounds(white, tol, budget, master).run(start)
