"""Frozen records that every computation returns: a value, its bracket, and what they rest on.

``assumes`` lists, as sentences, what a bracket takes on trust: the declarations of a user's own loss; it is empty for
built-in losses and for expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fenchel.arrays import Array

if TYPE_CHECKING:
    from fenchel.certificates.record import Certificate

# Makes the certificate of the result that holds it.
Evidence = Callable[[Any], "Certificate"]


class Bracket:
    """lower <= truth <= upper. A lower end above the upper proves one of the two wrong: then nothing is certified."""

    lower: float
    upper: float
    certified: bool
    message: str
    evidence: Evidence | None

    def __post_init__(self) -> None:
        if self.certified and self.lower > self.upper:
            ends = f"lower end {self.lower:.8g}, upper end {self.upper:.8g}"
            text = f"the bracket is inverted ({ends}): an error of fenchel"
            object.__setattr__(self, "certified", False)
            object.__setattr__(self, "message", "; ".join(part for part in (self.message, text) if part))

    def certificate(self) -> Certificate:
        """The proof of the bracket, to be saved and checked (`fenchel.check`). ValueError if there is none."""
        if not self.certified:
            raise ValueError("only a certified result has a certificate")
        if self.evidence is None:
            raise ValueError("this result's proof is not of a kind that a certificate can hold")
        return self.evidence(self)

    @property
    def gap(self) -> float:
        """Width of the bracket, in units of the loss; 0 for a proved infinity."""
        return 0.0 if self.lower == self.upper else self.upper - self.lower


@dataclass(frozen=True)
class Natural:
    """Natural parameter (lam1, lam2), lam2 = -precision/2, in the blocks of its family (see `Gaussian`).

    Unpacks like a pair: ``lam1, lam2 = result.natural``.
    """

    lam1: Array
    lam2: Array

    def __iter__(self) -> Any:
        return iter((self.lam1, self.lam2))

    def __getitem__(self, index: int) -> Array:
        return (self.lam1, self.lam2)[index]

    def __len__(self) -> int:
        return 2


@dataclass(frozen=True)
class ConjugateResult(Bracket):
    """f*(lambda') = sup_theta <lambda', T(theta)> + l(theta) (Theorem 1, Eq. 10).

    ``lower <= f*(lambda') <= upper``; ``value`` is that of the best point found (``lower`` allows for its rounding),
    or inf outside the domain.
    """

    value: float
    lower: float
    upper: float
    certified: bool
    argmax: Array | None
    message: str = ""
    boxes: int = 0
    seconds: float = 0.0
    assumes: tuple[str, ...] = ()
    evidence: Evidence | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class BiconjugateResult(Bracket):
    """f**(mu) (Eq. 8), bracketed: ``lower`` from a majorizing quadratic, ``upper`` from atoms with q's moments.

    ``natural`` = (lam1, lam2) is grad f**(mu), the majorant's natural parameter, in the blocks of ``structure``.
    ``atoms`` (K, P) and ``weights`` (K,) are the worst-case distribution: weights.sum() = 1, moments of q in the
    family's statistics. ``certified`` says that the bracket is proved and no wider than the tolerance asked for.
    """

    value: float
    lower: float
    upper: float
    certified: bool
    natural: Natural | None
    atoms: Array
    weights: Array
    iterations: int
    seconds: float
    method: str
    structure: str
    message: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    assumes: tuple[str, ...] = ()
    evidence: Evidence | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class SumOfBiconjugates:
    """sum_i f_i**(mu) over the terms of a loss: a lower bound of f**(mu), of which it says nothing from above.

    ``value`` is within ``error`` (rounding) of the sum. ``natural`` belongs to the summed majorant.
    """

    value: float
    error: float
    natural: Natural
    terms: int
    structure: str
    seconds: float

    @property
    def lower(self) -> float:
        """A proved lower bound of f**(mu)."""
        return self.value - self.error


@dataclass(frozen=True)
class ObjectiveResult(Bracket):
    """The value of an objective (Eqs. 1 to 3, 11, 12, 18) with a bracket lower <= truth <= upper."""

    value: float
    lower: float
    upper: float
    certified: bool
    argmax: Array | None = None
    message: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    assumes: tuple[str, ...] = ()
    evidence: Evidence | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Verdict:
    """The outcome of checking one statement; ``holds`` is None where the certificate cannot decide."""

    holds: bool | None
    measured: dict[str, Any]
    explanation: str

    def __bool__(self) -> bool:
        return self.holds is True
