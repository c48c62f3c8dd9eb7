"""The functions that expressions are made of: values, slopes and curvatures on balls, and parabolas above them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from flint import arb


class Smooth(NamedTuple):
    """z -> enclosures of f(z), f'(z) and f''(z), of f'' in `ONE_SIDED` the upper end alone; wide balls are allowed."""

    value: Callable[[arb], arb]
    slope: Callable[[arb], arb]
    bend: Callable[[arb], arb]


def size(z: arb) -> arb:
    """|z|, tight on balls that hold 0."""
    return z.abs_lower().union(z.abs_upper())


def power(z: arb, n: int) -> arb:
    """z^n, monotone in z or in |z|."""
    if n < 0:
        return 1 / power(z, -n)
    base = z if n % 2 else size(z)
    return (base.lower() ** n).union(base.upper() ** n)


def powers(n: int) -> Smooth:
    """z^n."""
    return Smooth(
        lambda z: power(z, n),
        lambda z: n * power(z, n - 1) if n else arb(0),
        lambda z: n * (n - 1) * power(z, n - 2) if n * (n - 1) else arb(0),
    )


Parabola = tuple[arb, arb, arb]


def parabola_above(name: str, z0: arb, spread: arb | None, tilt: arb) -> Callable[[arb], Parabola]:
    """From a ball to (v, s, r) with f(z) <= v + s (z - z0) + r (z - z0)^2 / 2 on it; f is a step or in `ONE_SIDED`.

    The parabola touches f at t, t^2 = z0^2 + spread^2, or at z0 if the spread is None; next to kinks the spread is then
    the radius of the ball.
    """
    if name == "step":
        return partial(_above_step, z0, tilt)
    if spread is None and name in ("relu", "abs"):
        return lambda ball: parabola_above(name, z0, ball.rad(), tilt)(ball)
    f, t = ONE_SIDED[name], z0
    if spread is not None and spread > 0:
        t = (z0 * z0 + spread * spread).sqrt() * (-1 if z0 < 0 else 1)
    return partial(_touching, name, z0, t, f.value(t), f.slope(t))


def _touching(name: str, z0: arb, t: arb, value: arb, slope: arb, ball: arb) -> Parabola:
    """The least r is the largest average of f'' from t to a z in the ball, with weights that fall on the way.

    For squared-relu f'' does not fall with z: that z is the upper end. For the others f'' is even and falls with |z|:
    that z is the one next to -t. Only for the bump f'' rises again; but the bump is a concave function of z^2, so that
    the parabola that touches it at t and -t is above it everywhere.
    """
    f = ONE_SIDED[name]
    far = ball.upper() if name == "squared-relu" else -t if name == "bump" else (-t).max(ball.lower()).min(ball.upper())
    step = far - t
    r = (2 * (f.value(far) - value - slope * step) / (step * step)).upper()
    if name == "bump" or not r.is_finite():
        highest = f.bend(ball.union(t)).upper()
        r = r if r <= highest else highest
    back = z0 - t
    return (value, slope, r) if t is z0 else (value + (slope + r * back / 2) * back, slope + r * back, r)


def _above_step(z0: arb, tilt: arb, ball: arb) -> Parabola:
    """1 for z >= 0, else 0: below 1 + s z where that is >= 0, and below (1 + s z / 2)^2, for any s >= 0 (``tilt``).

    With a negative ``tilt`` both values of a jump in the ball count.
    """
    if ball < 0 or ball >= 0 or not tilt > 0:
        top = arb(0) if ball < 0 else arb(1)
        return top.union(arb(0)) if tilt < 0 and not ball >= 0 else top, arb(0), arb(0)
    r = arb(0) if 1 + tilt * ball >= 0 else tilt * tilt / 2
    return 1 + tilt * z0 + r * z0 * z0 / 2, tilt + r * z0, r


def _ends(g: Callable[[arb], arb]) -> Callable[[arb], arb]:
    """Of an even function the values where |z| is least and where it is greatest, and what is between."""
    return lambda z: g(z.abs_lower()).union(g(z.abs_upper()))


def _softplus(z: arb) -> arb:
    """log(1 + exp(z))."""
    return z.exp().log1p() if z < 0 else z + (-z).exp().log1p()


def _tanh(z: arb) -> arb:
    return z.lower().tanh().union(z.upper().tanh())


def _huber(z: arb) -> arb:
    """z^2/2 for |z| <= 1, |z| - 1/2 beyond."""
    inner = size(z).min(arb(1))
    return inner * (size(z) - inner / 2)


def _hinge(left: int) -> Smooth:
    """z for z >= 0, left z for z < 0; on the kink its slope is anything between, its curvature infinite."""
    slopes = arb(left).union(arb(1))
    return Smooth(
        lambda z: z.max(left * z),
        lambda z: arb(1) if z > 0 else arb(left) if z < 0 else slopes,
        lambda z: arb(0) if z >= 0 or z <= 0 else arb.pos_inf(),
    )


_bell = _ends(lambda z: 1 / (2 + 2 * z.cosh()))
_SOFTPLUS = Smooth(_softplus, lambda z: 1 / (1 + (-z).exp()), _bell)
SMOOTH = {
    "exp": Smooth(arb.exp, arb.exp, arb.exp),
    "log": Smooth(arb.log, lambda z: 1 / z, lambda z: -power(z, -2)),
    "sqrt": Smooth(arb.sqrt, lambda z: 1 / (2 * z.sqrt()), lambda z: -1 / (4 * power(z.sqrt(), 3))),
    "tanh": Smooth(_tanh, lambda z: 4 * _bell(2 * z), lambda z: -8 * _tanh(z) * _bell(2 * z)),
    "softplus": _SOFTPLUS,
    "sin": Smooth(arb.sin, arb.cos, lambda z: -z.sin()),
    "cos": Smooth(arb.cos, lambda z: -z.sin(), lambda z: -z.cos()),
    "atan": Smooth(arb.atan, lambda z: 1 / (1 + power(z, 2)), lambda z: -2 * z / power(1 + power(z, 2), 2)),
}
_BUMP = Smooth(
    lambda z: -(-power(z, 2) / 2).exp(),
    lambda z: z * (-power(z, 2) / 2).exp(),
    _ends(lambda z: (1 - z * z) * (-z * z / 2).exp()),  # which falls with |z| up to its least value, and then rises
)
_HUBER = Smooth(_huber, lambda z: z.min(arb(1)).max(arb(-1)), lambda z: arb(0) if size(z) >= 1 else arb(1))
_SQUARED = Smooth(lambda z: z.max(arb(0)) ** 2, lambda z: 2 * z.max(arb(0)), lambda z: arb(0) if z <= 0 else arb(2))
ONE_SIDED = {"softplus": _SOFTPLUS, "relu": _hinge(0), "abs": _hinge(-1), "huber": _HUBER, "bump": _BUMP}
ONE_SIDED["squared-relu"] = _SQUARED
