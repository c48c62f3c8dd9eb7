"""The Bayesian learning rule (Eqs. 14, 34) with f, f**, the sampled f** or the per-datum relaxation.

One step in natural parameters: lambda <- (1 - alpha) lambda + alpha (grad_mu F(mu) + lambda0), lambda0 the prior's.
For the exact f this is Prec+ = (1 - alpha) Prec + alpha (E_q[Hess l] + delta0 I), m+ = m - alpha Prec+^-1 (E_q[grad l]
+ delta0 m); for f** it is Prec+ = (1 - alpha) Prec + alpha (Prec'* + delta0 I), Prec+ m+ = (1 - alpha) Prec m + alpha
Prec'* m'*, at alpha = 1 the DC algorithm (Eq. 14).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.bayes.acceleration import Anderson
from fenchel.bayes.learning_checks import check_initial, check_rule
from fenchel.bayes.learning_result import LearningResult, family_member, parameter_distance
from fenchel.bayes.objectives import raise_block
from fenchel.bayes.surrogates import Evaluation, Surrogate, make_surrogate
from fenchel.errors import DomainError, SolverError
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.losses.inputs import finite_number
from fenchel.results import Natural

Schedule = float | Callable[[int], float]
_MOST_HALVINGS = 40


def bayesian_learning_rule(
    loss: Loss,
    prior: Gaussian,
    surrogate: str | Surrogate = "exact",
    learning_rate: Schedule = 1.0,
    *,
    max_iterations: int = 1000,
    tol: float = 1e-9,
    parameter_tol: float = 1e-6,
    structure: str | None = None,
    initial: Gaussian | None = None,
    acceleration: int = 6,
    monotone: bool | None = None,
    callback: Callable[[int, Gaussian, float], Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> LearningResult:
    """Minimize -F(mu_q) + KL(q || prior) over Gaussians q by the Bayesian learning rule.

    Args:
        loss: the total loss l on R^P.
        prior: a Gaussian whose family is contained in ``structure``.
        surrogate: "exact" (F = f), "relaxed" (f** with certificate), "sampled" (the paper's program for f**),
            "per-datum" (sum of the f_i**), or a `Surrogate`.
        learning_rate: alpha in (0, 1], or a schedule t -> alpha.
        max_iterations: limit of steps.
        tol, parameter_tol: converged when the estimated distance to the limit is at most ``tol`` * max(1, |objective|)
            in the objective and ``parameter_tol`` in the parameters (means in standard deviations, covariances relative
            to q's own). The distance is extrapolated from the last steps, since the DC algorithm can be slow.
        structure: "full" (default), "diagonal", "isotropic"; by default that of ``initial``.
        initial: the first q; the prior by default. The problem is not convex: `minimize_relaxed` tries several starts.
        acceleration: memory of the Anderson extrapolation; 0 for the plain rule. An extrapolated step is taken only
            where it lowers the objective, so the run stays monotone.
        monotone: shorten steps that provably raise the objective (default: for deterministic surrogates).
        callback: called as callback(t, q, objective) after every evaluation, for progress; return True to stop.
        options: of the surrogate, for `biconjugate` (tol, max_seconds, num_pieces, rng, solver, ...).

    Returns:
        LearningResult. Steps that leave the domain (precision not positive definite) are halved and counted, never
        passed on; no iterate is NaN.

    Raises:
        ValueError: bad input, with one sentence.
    """
    family = structure or ("full" if initial is None else check_initial(loss, initial).structure)
    rule = surrogate if isinstance(surrogate, Surrogate) else make_surrogate(surrogate, loss, options)
    check_rule(loss, prior, max_iterations, tol, parameter_tol, family, acceleration, callback)
    start = family_member(prior if initial is None else initial, family)
    run = _Run(rule, prior, start, learning_rate, rule.deterministic if monotone is None else monotone, acceleration)
    run.loop(max_iterations, tol, parameter_tol, callback)
    return run.result()


class _Run:
    """The state of a run: the current q with its evaluation, and everything recorded on the way."""

    def __init__(
        self,
        rule: Surrogate,
        prior: Gaussian,
        start: Gaussian,
        rate: Schedule,
        monotone: bool,
        memory: int,
    ) -> None:
        self.rule, self.prior, self.rate, self.monotone = rule, prior, rate, monotone
        self.begin = time.perf_counter()
        ndim = start.cov_block.ndim
        lam1, lam2 = prior.natural()
        self.lam0 = Natural(lam1, raise_block(lam2, ndim, prior.dim))
        self.q, self.at = start, rule.evaluate(start, None)
        self.damped = self.extrapolated = 0
        self.converged, self.message = False, ""
        self.anderson = Anderson(memory) if memory and rule.deterministic else None
        self.rows: list[tuple[float, float, float]] = []
        self.means: list[Array] = []
        self.covs: list[Array] = []
        self.seconds: list[float] = []
        self.record()

    def record(self) -> None:
        divergence = self.q.kl(self.prior)
        self.rows.append((self.at.value + divergence, self.at.lower + divergence, self.at.upper + divergence))
        self.means.append(self.q.mean)
        self.covs.append(self.q.cov)
        self.seconds.append(time.perf_counter() - self.begin)

    def loop(
        self,
        max_iterations: int,
        tol: float,
        parameter_tol: float,
        callback: Callable[[int, Gaussian, float], Any] | None,
    ) -> None:
        steps: list[tuple[float, float]] = []
        for t in range(1, max_iterations + 1):
            residual = self.residual()
            if not self.step(t):
                self.message = "no step lowers the objective: stopped at the certificate's resolution"
                self.converged = residual <= 100.0 * parameter_tol
                return
            self.record()
            if callback is not None and callback(t, self.q, self.rows[-1][0]):
                self.message = "stopped by the callback"
                return
            steps.append((abs(self.rows[-1][0] - self.rows[-2][0]), self.residual()))
            if _settled(steps, tol * max(1.0, abs(self.rows[-1][0])), parameter_tol):
                self.converged = True
                return
        self.message = f"not converged after {max_iterations} iterations"

    def residual(self) -> float:
        """Length of the full step (alpha = 1) in the posterior's own units; inf where it leaves the domain."""
        try:
            return parameter_distance(self.q, self.member(self.target()))
        except DomainError:
            return np.inf

    def target(self) -> Natural:
        """grad_mu F + lambda0: where alpha = 1 leads."""
        return Natural(self.at.natural.lam1 + self.lam0.lam1, np.asarray(self.at.natural.lam2 + self.lam0.lam2))

    def member(self, natural: Natural) -> Gaussian:
        return Gaussian.from_natural(natural.lam1, natural.lam2)

    def step(self, t: int) -> bool:
        """One iteration; False where no step of any length keeps the objective from rising."""
        rate = finite_number(self.rate(t) if callable(self.rate) else self.rate, "learning_rate")
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"learning_rate must be in (0, 1], got {rate} at iteration {t}.")
        if self.anderson is not None and self.try_extrapolation(rate):
            return True
        old, target = self.q.natural(), self.target()
        for halving in range(_MOST_HALVINGS):
            if halving == 1:
                self.damped += 1
            alpha = rate * 0.5**halving
            try:
                q = self.member(_mix(old, target, alpha))
                at = self.rule.evaluate(q, self.at)
            except (DomainError, SolverError, np.linalg.LinAlgError):
                continue
            if self.accept(q, at):
                self.q, self.at = q, at
                return True
        return False

    def accept(self, q: Gaussian, at: Evaluation) -> bool:
        """False where the step is not finite or, in a monotone run, raises the objective beyond the certificate."""
        value = at.value + q.kl(self.prior)
        if not np.isfinite(value):
            return False
        if not self.monotone:
            return True
        old = self.rows[-1]
        room = (at.upper - at.lower) + (old[2] - old[1])
        if not room <= 1e-5 * max(1.0, abs(value)):  # a wide bracket says little: compare the best guesses
            room = 1e-9 * max(1.0, abs(value))
        return bool(value <= old[0] + room + 1e-12 * max(1.0, abs(value)))

    def try_extrapolation(self, rate: float) -> bool:
        """An Anderson step from the last iterates, taken only if it lowers the objective."""
        assert self.anderson is not None
        proposal = self.anderson.propose(self.q, self.q.natural(), _mix(self.q.natural(), self.target(), rate))
        if proposal is None:
            return False
        try:
            q = self.member(proposal)
            at = self.rule.evaluate(q, self.at)
        except (DomainError, SolverError, np.linalg.LinAlgError):
            self.anderson.reset()
            return False
        if not at.value + q.kl(self.prior) < self.rows[-1][0]:
            self.anderson.reset()
            return False
        self.q, self.at = q, at
        self.extrapolated += 1
        return True

    def result(self) -> LearningResult:
        rows = np.array(self.rows)
        return LearningResult(
            posterior=self.q,
            objective=rows[:, 0],
            lower=rows[:, 1],
            upper=rows[:, 2],
            converged=self.converged,
            iterations=len(rows) - 1,
            means=np.array(self.means),
            covs=np.array(self.covs),
            seconds=np.array(self.seconds),
            damped=self.damped,
            extrapolated=self.extrapolated,
            certified=self.at.certified,
            surrogate=self.rule.name,
            message=self.message,
            final=self.at.detail,
        )


def _settled(steps: list[tuple[float, float]], tol: float, parameter_tol: float) -> bool:
    """Whether the remaining distances, extrapolated as geometric series, are within the tolerances."""
    if len(steps) < 2:
        return bool(steps and steps[-1][0] == 0.0 and steps[-1][1] <= 1e-2 * parameter_tol)
    change, residual = steps[-1]
    # The slowest of the last ratios: a single lucky step must not end the run.
    ratios = [b[1] / a[1] for a, b in pairwise(steps[-5:]) if a[1] > 0.0 and np.isfinite(a[1])]
    ratio = min(0.999, max([r for r in ratios if r < 1.0], default=0.5))
    return change <= tol * max(1.0 - ratio, 1e-3) and residual <= parameter_tol * (1.0 - ratio)


def _mix(old: Natural, target: Natural, alpha: float) -> Natural:
    return Natural(
        (1.0 - alpha) * old.lam1 + alpha * target.lam1, np.asarray((1.0 - alpha) * old.lam2 + alpha * target.lam2)
    )
