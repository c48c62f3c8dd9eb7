"""What is proved about the scalar functions g of built-in losses: values, and parabolas above g on intervals.

Every bound has the form g(z) <= g(z0) + g'(z0) (z - z0) + bend/2 (z - z0)^2 for z in [lo, hi]. The least such bend is
the supremum of r(z) = 2 (g(z) - g(z0) - g'(z0) (z - z0)) / (z - z0)^2, an average of g'' over the segment from z0 to z
with weights that decrease from z0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from flint import arb

from fenchel.checker.numbers import Refused, ball

__all__ = ["Link", "link_of"]


class Link(ABC):
    """``rule``: a, where g = a z + (a concave function of z^2), else None; ``jump``: g is discontinuous at 0."""

    rule: arb | None = arb(0)
    jump = False

    @abstractmethod
    def value(self, z: arb) -> arb:
        """g(z)."""

    def slope(self, z: arb) -> arb:
        """g'(z), at a kink any slope between those of its sides."""
        raise Refused("a link that jumps has no slope")

    def bend(self, z0: arb, g0: arb, s0: arb, lo: arb, hi: arb) -> arb | None:
        """An upper bound of r on [lo, hi] (exact ends); None where there is none."""
        return None

    def chord(self, lo: arb, hi: arb) -> tuple[arb, arb] | None:
        """(g(lo), slope) of the chord above g on [lo, hi], offered only across a kink of a convex g."""
        return None

    def parabola(self, slope: arb, lo: arb, hi: arb) -> tuple[arb, arb, arb]:
        """(c, a, b) with g(z) <= c + a z + b z^2 / 2 on [lo, hi], for indicators; ``slope`` >= 0 is a at the jump."""
        raise Refused("only an indicator jumps")

    def everywhere(self, z0: arb) -> tuple[arb, arb, arb]:
        """(c, a, b) with g(z) <= c + a z + b z^2 / 2 for all z: the tangent in z^2 at z0^2, z0 > 0."""
        assert self.rule is not None
        b = (self.slope(z0) - self.rule) / z0
        return self.value(z0) - self.rule * z0 - b * z0 * z0 / 2, self.rule, b


class _Even(Link):
    """g'' is even and does not increase with |z| (a measure for kinks): r increases up to z = -z0, then decreases."""

    peak: arb | None = None

    def bend(self, z0: arb, g0: arb, s0: arb, lo: arb, hi: arb) -> arb | None:
        if hi < -z0:
            z = hi
        elif lo > -z0:
            z = lo
        else:
            return self.peak if z0.contains(0) else self.everywhere(z0)[2]
        step = z - z0
        return self.peak if step.contains(0) else 2 * (self.value(z) - g0 - s0 * step) / (step * step)


class Softplus(_Even):
    rule = arb(1) / 2
    peak = arb(1) / 4

    def value(self, z: arb) -> arb:
        return z.exp().log1p() if z < 0 else z + (-z).exp().log1p()

    def slope(self, z: arb) -> arb:
        return 1 / (1 + (-z).exp())


class _Kinked(_Even):
    left = arb(0)

    def value(self, z: arb) -> arb:
        return z.max(self.left * z)

    def slope(self, z: arb) -> arb:
        return arb(1) if z > 0 else self.left  # on the kink one of the subgradients; `bend` refuses it

    def bend(self, z0: arb, g0: arb, s0: arb, lo: arb, hi: arb) -> arb | None:
        return None if z0.contains(0) else super().bend(z0, g0, s0, lo, hi)

    def chord(self, lo: arb, hi: arb) -> tuple[arb, arb] | None:
        if not (lo < 0 and hi > 0):
            return None
        at = self.value(lo)
        return at, (self.value(hi) - at) / (hi - lo)


class ReLU(_Kinked):
    rule = arb(1) / 2


class Absolute(_Kinked):
    left = arb(-1)


class Huber(_Even):
    peak = arb(1)

    def __init__(self, delta: arb) -> None:
        if not delta > 0:
            raise Refused("Huber's delta must be positive")
        self.delta = delta

    def value(self, z: arb) -> arb:
        size = z.abs_lower().union(z.abs_upper())
        inner = size.min(self.delta)
        return inner * (size - inner / 2)

    def slope(self, z: arb) -> arb:
        return z.min(self.delta).max(-self.delta)


class Bump(Link):
    """-exp(-z^2/2), whose g'' decreases for z^2 < 3 and increases to 0 beyond."""

    def value(self, z: arb) -> arb:
        return -(-z * z / 2).exp()

    def slope(self, z: arb) -> arb:
        return z * (-z * z / 2).exp()

    def bend(self, z0: arb, g0: arb, s0: arb, lo: arb, hi: arb) -> arb | None:
        lo, hi = lo.min(z0), hi.max(z0)
        far = (-lo).max(hi)
        near = lo if lo > 0 else -hi if hi < 0 else arb(0)
        local = self._curvature(near).max(self._curvature(far))
        return local.min((-z0 * z0 / 2).exp())

    @staticmethod
    def _curvature(z: arb) -> arb:
        return (1 - z * z) * (-z * z / 2).exp()


class SquaredReLU(Link):
    """max(z, 0)^2, whose g'' does not decrease, and so neither does r."""

    rule = None

    def value(self, z: arb) -> arb:
        top = z.max(arb(0))
        return top * top

    def slope(self, z: arb) -> arb:
        return 2 * z.max(arb(0))

    def bend(self, z0: arb, g0: arb, s0: arb, lo: arb, hi: arb) -> arb | None:
        if hi <= 0 and z0 <= 0:
            return arb(0)
        step = hi - z0
        return arb(2) if step.contains(0) else (2 * (self.value(hi) - g0 - s0 * step) / (step * step)).min(arb(2))

    def everywhere(self, z0: arb) -> tuple[arb, arb, arb]:
        return arb(0), arb(0), arb(2)


class Indicator(Link):
    """1 for z >= 0, else 0."""

    jump = True

    def value(self, z: arb) -> arb:
        return arb(1) if z >= 0 else arb(0) if z < 0 else arb(0).union(arb(1))

    def everywhere(self, z0: arb) -> tuple[arb, arb, arb]:
        return arb(1), arb(0), arb(0)

    def parabola(self, slope: arb, lo: arb, hi: arb) -> tuple[arb, arb, arb]:
        if hi < 0:
            return arb(0), arb(0), arb(0)
        if lo >= 0 or not slope > 0:
            return arb(1), arb(0), arb(0)
        return arb(1), slope, arb(0) if 1 + slope * lo >= 0 else slope * slope / 2


def link_of(record: Any) -> Link:
    """The link of a group of terms; Refused for one that is not known here."""
    name = record.get("link")
    if name == "huber":
        return Huber(ball(record.get("delta")))
    known: dict[str, Callable[[], Link]] = {"softplus": Softplus, "relu": ReLU, "absolute": Absolute, "bump": Bump}
    known |= {"squared-relu": SquaredReLU, "indicator": Indicator}
    if name not in known:
        raise Refused(f"nothing is known here about the link {name!r}")
    return known[name]()
