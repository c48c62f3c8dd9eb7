"""What the learning rules put in the place of -f (Eq. 14): value, bracket and natural gradient at a Gaussian q.

For every surrogate F the natural gradient grad_mu F(mu) is a natural parameter lambda' in the blocks of q's family:
exact f (Bonnet and Price, see `expected_loss`), f** with a certificate, f** by the paper's sampled program, and the
sum of the f_i** in closed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fenchel.bayes.statistics import tangent_natural
from fenchel.biconjugate import biconjugate
from fenchel.closed.sums import sum_of_biconjugates
from fenchel.errors import SolverError
from fenchel.expectation.expected_loss import expected_loss_result
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.results import BiconjugateResult, Natural


@dataclass(frozen=True)
class Evaluation:
    """-F(mu), to be minimized, with its bracket, and lambda' = grad F(mu); ``detail`` is what it came from."""

    value: float
    lower: float
    upper: float
    natural: Natural
    certified: bool
    detail: BiconjugateResult | None = None


class Surrogate(ABC):
    """A way to evaluate F and grad F at q; ``deterministic`` ones allow a step to be checked by the objective."""

    name: ClassVar[str]
    deterministic: ClassVar[bool] = True

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    @abstractmethod
    def evaluate(self, q: Gaussian, previous: Evaluation | None) -> Evaluation:
        """F at q; ``previous`` is an evaluation at a nearby q, to start from."""


class Exact(Surrogate):
    """F = f = -E_q[l]: the exact Bayesian learning rule; the bracket is the quadrature's error."""

    name = "exact"

    def evaluate(self, q: Gaussian, previous: Evaluation | None) -> Evaluation:
        found = expected_loss_result(self.loss, q)
        natural = Natural(-found.mu1, np.asarray(-found.mu2))
        return Evaluation(found.value, found.value - found.error, found.value + found.error, natural, False)


class Relaxed(Surrogate):
    """F = f**, certified by cutting planes; the last evaluation's atoms and majorant start the next.

    With ``local`` the global search is left out, for P > 3 or so: where the atoms solve the moment problem at least
    locally, value and gradient come from them (uncertified; the proved bracket is still reported), else from the proved
    majorant.
    """

    name = "relaxed"

    def __init__(self, loss: Loss, *, tol: float = 1e-9, local: bool = False, **options: Any) -> None:
        super().__init__(loss)
        self.local = local
        self.options = {"tol": tol, **({"max_boxes": 1} if local else {}), **options}

    def evaluate(self, q: Gaussian, previous: Evaluation | None) -> Evaluation:
        warm = None if previous is None else previous.detail
        result = biconjugate(self.loss, q, warm=warm, **self.options)
        if self.local and not result.certified and len(result.atoms):
            natural, misfit = tangent_natural(self.loss, result.atoms, result.structure)
            if misfit <= 1e-6 * max(1.0, abs(result.upper)):
                return Evaluation(-result.upper, -result.upper, -result.lower, natural, False, result)
        return _from_biconjugate(result)


class Sampled(Surrogate):
    """F = the paper's program for f** (Eqs. 32, 33), with ``num_pieces`` fresh pieces a call; random and too large.

    Where the conic solver fails, pieces are drawn again, at most ``retries`` times; ``failures`` counts these.
    """

    name = "sampled"
    deterministic = False

    def __init__(
        self,
        loss: Loss,
        *,
        num_pieces: int = 100,
        rng: np.random.Generator | int | None = None,
        retries: int = 5,
        **options: Any,
    ) -> None:
        super().__init__(loss)
        self.rng = rng if isinstance(rng, np.random.Generator) else np.random.default_rng(0 if rng is None else rng)
        self.options = {"num_pieces": num_pieces, **options}
        self.retries, self.failures = retries, 0

    def evaluate(self, q: Gaussian, previous: Evaluation | None) -> Evaluation:
        for _ in range(self.retries):
            try:
                return self._once(q)
            except SolverError:
                self.failures += 1
        return self._once(q)

    def _once(self, q: Gaussian) -> Evaluation:
        return _from_biconjugate(biconjugate(self.loss, q, method="sampled", rng=self.rng, **self.options))


class PerDatum(Surrogate):
    """F = sum_i f_i**, closed form; for logistic regression and the full family the bound of Jaakkola and Jordan."""

    name = "per-datum"

    def evaluate(self, q: Gaussian, previous: Evaluation | None) -> Evaluation:
        found = sum_of_biconjugates(self.loss, q)
        value = -found.value
        return Evaluation(value, value - found.error, value + found.error, found.natural, True, None)


SURROGATES: Mapping[str, type[Surrogate]] = {s.name: s for s in (Exact, Relaxed, Sampled, PerDatum)}


def make_surrogate(name: str, loss: Loss, options: Mapping[str, Any] | None = None) -> Surrogate:
    """The surrogate called ``name`` for ``loss``; ``options`` go to `biconjugate` ("relaxed", "sampled").

    Raises:
        ValueError: there is no such surrogate, or it takes no such options.
    """
    if name not in SURROGATES:
        raise ValueError(f"surrogate must be one of {', '.join(SURROGATES)}; got {name!r}.")
    if options and name in ("exact", "per-datum"):
        raise ValueError(f"surrogate {name!r} takes no options, got {', '.join(options)}.")
    return SURROGATES[name](loss, **(options or {}))


def _from_biconjugate(result: BiconjugateResult) -> Evaluation:
    if result.natural is None:
        raise ValueError(f"f** has no finite majorant here: {result.message or 'the loss has none'}.")
    return Evaluation(-result.value, -result.upper, -result.lower, result.natural, result.certified, result)
