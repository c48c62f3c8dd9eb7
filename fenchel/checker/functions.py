"""The functions that expressions are made of: values, slopes and curvatures on balls, and parabolas above them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flint import arb

__all__ = ["ONE_SIDED", "SMOOTH", "Smooth", "parabola_above", "power", "powers"]


class Smooth(NamedTuple):
    """z -> enclosures of f(z), f'(z) and f''(z); wide balls are allowed."""

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

    All but squared-relu and the step are f(z) = a z + h(z^2) with h concave. A tangent of h at t^2 gives a parabola
    above f that touches it at t and -t, f(t) + a (z - t) + r (z^2 - t^2) / 2, r = (f'(t) - a) / t. It is taken for
    t^2 = z0^2 + spread^2; the spread is the radius of the ball if it is None. For squared-relu, and where that is
    better, r is from Taylor's theorem at z0.
    """
    if name == "step":
        return lambda ball: _above_step(z0, ball, tilt)
    a, f = ONE_SIDED[name]

    def touching(width: arb) -> Parabola:
        t = (z0 * z0 + width * width).sqrt()
        r = (f.slope(t) - a) / t
        return f.value(t) + a * (z0 - t) + r * (z0 * z0 - t * t) / 2, a + r * z0, r if t > 0 else arb.pos_inf()

    def taylor(ball: arb) -> Parabola:
        highest = f.bend(ball.union(z0)).upper()
        found = wide or touching(ball.rad())
        return found if found[2] <= highest and name != "squared-relu" else (f.value(z0), f.slope(z0), highest)

    def falling(ball: arb) -> Parabola:
        # r is an average of f'' between z0 and z; as f'' falls with |z|, it is largest for the z next to -z0.
        step = (-z0).max(ball.lower()).min(ball.upper()) - z0
        average = 2 * (f.value(z0 + step) - value - slope * step) / (step * step)
        return (value, slope, average.upper()) if average.is_finite() else taylor(ball)

    wide = None if spread is None else touching(spread)
    if name in _FALLING and (spread == 0 or (spread is None and name not in _KINKED)):
        value, slope = f.value(z0), f.slope(z0)
        return falling
    return taylor


def _above_step(z0: arb, whole: arb, tilt: arb) -> tuple[arb, arb, arb]:
    """1 for z >= 0, else 0: below 1 + s z where that is >= 0, and below (1 + s z / 2)^2, for any s >= 0 (``tilt``)."""
    if whole < 0 or whole >= 0 or not tilt > 0:
        return arb(0) if whole < 0 else arb(1), arb(0), arb(0)
    r = arb(0) if 1 + tilt * whole >= 0 else tilt * tilt / 2
    return 1 + tilt * z0 + r * z0 * z0 / 2, tilt + r * z0, r


def _bell(z: arb) -> arb:
    """1 / (2 cosh(z/2))^2, which falls with |z|."""
    near, far = ((-end).exp() for end in (z.abs_lower(), z.abs_upper()))
    return (near / (1 + near) ** 2).union(far / (1 + far) ** 2)


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
    lambda z: (1 - power(z, 2)) * (-power(z, 2) / 2).exp(),
)
_HUBER = Smooth(_huber, lambda z: z.min(arb(1)).max(arb(-1)), lambda z: arb(0) if size(z) >= 1 else arb(1))
_SQUARED = Smooth(lambda z: z.max(arb(0)) ** 2, lambda z: 2 * z.max(arb(0)), lambda z: arb(0) if z <= 0 else arb(2))
# (a, f): what `parabola_above` says; of the curvature only the upper end counts.
ONE_SIDED = {
    "softplus": (arb(0.5), _SOFTPLUS),
    "relu": (arb(0.5), _hinge(0)),
    "abs": (arb(0), _hinge(-1)),
    "huber": (arb(0), _HUBER),
    "bump": (arb(0), _BUMP),
    "squared-relu": (arb(0), _SQUARED),
}
_KINKED = ("relu", "abs")
_FALLING = ("softplus", "huber", *_KINKED)
