"""A user's own loss, given by callables and by what is known about its curvature and growth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.arrays import Array
from fenchel.losses.base import Loss
from fenchel.losses.builtin import Quadratic
from fenchel.losses.inputs import finite_array, finite_number, shown

# Declared bounds are compared with the callables at random points at these distances from the origin.
_PROBE_RADII = (0.1, 1.0, 3.0, 10.0, 100.0)
# Farther out a formula may overflow to NaN, which the searches take for "no value here".
_NEAR = 1e3


class UserLoss(Loss):
    """See `from_function`."""

    def __init__(
        self,
        value: Callable[[Array], Any],
        gradient: Callable[[Array], Any],
        dim: int,
        hessian: Callable[[Array], Any] | None,
        curvature: float,
        majorizer: Quadratic | None,
        bounds: tuple[Array, Array] | None,
    ) -> None:
        self.dim = dim
        self.curvature = curvature
        self.majorizer = majorizer
        self.bounds = bounds
        self._value_of, self._gradient_of, self._hessian_of = value, gradient, hessian

    def _value(self, theta: Array) -> Array:
        return _returned(self._value_of(theta), (theta.shape[0],), "value", theta)

    def _gradient(self, theta: Array) -> Array:
        return _returned(self._gradient_of(theta), theta.shape, "gradient", theta)

    def _hessian(self, theta: Array) -> Array:
        n, dim = theta.shape
        if self._hessian_of is not None:
            return _returned(self._hessian_of(theta), (n, dim, dim), "hessian", theta)
        step = 1e-5 * (1.0 + np.abs(theta).max(axis=1))
        shifts = step[:, None, None] * np.eye(dim)
        up = self._gradient((theta[:, None, :] + shifts).reshape(n * dim, dim)).reshape(n, dim, dim)
        down = self._gradient((theta[:, None, :] - shifts).reshape(n * dim, dim)).reshape(n, dim, dim)
        rough = (up - down) / (2.0 * step[:, None, None])
        return np.asarray(0.5 * (rough + rough.transpose(0, 2, 1)))

    @property
    def assumes(self) -> tuple[str, ...]:
        """What certificates about this loss take on trust, as sentences."""
        trusted = []
        if np.isfinite(self.curvature):
            trusted.append(f"the Hessian of the loss has no eigenvalue above {self.curvature:g}, as declared")
        if self.majorizer is not None:
            trusted.append("the declared majorizer lies above the loss everywhere")
        if self.bounds is not None:
            trusted.append("theta is confined to the bounds of the loss")
        return (*trusted, "value and gradient of the loss are exact to rounding")

    def examine(self, points: Array) -> None:
        """Compare the declarations with the callables at points (n, P) inside the bounds.

        Raises:
            ValueError: one is false at a point, which the message names.
        """
        if self.bounds is not None:
            points = points[((points >= self.bounds[0]) & (points <= self.bounds[1])).all(axis=1)]
        with np.errstate(all="ignore"):
            values, slopes = self._value(points), self._gradient(points)
        finite = np.isfinite(values) & np.isfinite(slopes).all(axis=1)
        points, values, slopes = points[finite], values[finite], slopes[finite]
        if values.size == 0:
            return
        if self.majorizer is not None:
            above = self.majorizer(points)
            low = values - above - 1e-9 * (1.0 + np.abs(values) + np.abs(above))
            _refuse(low > 0.0, points, "majorizer lies below the loss")
        _refuse(self._wrong_gradient(points, values, slopes), points, "gradient is not the derivative of value")
        if self._hessian_of is not None:
            given = self._hessian(points)
            self._hessian_of, declared = None, self._hessian_of
            numeric = self._hessian(points)
            self._hessian_of = declared
            size = 1.0 + np.abs(given).max(axis=(1, 2)) + np.abs(numeric).max(axis=(1, 2))
            wrong = np.abs(given - numeric).max(axis=(1, 2)) > 1e-2 * size
            # Where the gradient has a kink the difference quotient means nothing: most points must agree.
            _refuse(wrong & (wrong.mean() > 0.5), points, "hessian is not the derivative of gradient")
        if np.isfinite(self.curvature) and values.size > 1:
            # Over a segment the slope rises at most by curvature times its length.
            steps = points[1:] - points[:-1]
            rise = np.einsum("ni,ni->n", slopes[1:] - slopes[:-1], steps)
            allowed = self.curvature * np.einsum("ni,ni->n", steps, steps)
            rounding = 1e-13 * np.abs(slopes).max() * np.abs(steps).max(axis=1)
            high = rise > allowed + 1e-7 * np.abs(allowed) + 1e-9 + rounding
            _refuse(
                high, points[1:], f"curvature = {self.curvature:g} is exceeded by the gradient between two points, one"
            )
            bends = np.linalg.eigvalsh(self._hessian(points))[:, -1]
            room = 1e-4 * (1.0 + np.abs(self.curvature)) + 1e-10 * np.abs(values) / _steps(points) ** 2
            _refuse(bends > self.curvature + room, points, f"curvature = {self.curvature:g} is below the Hessian")

    def _wrong_gradient(self, points: Array, values: Array, slopes: Array) -> NDArray[np.bool_]:
        """Points at which no central difference of value agrees with the gradient, at any of three steps.

        A kink or a step that is too long or too short for the loss spoils one of them; a wrong gradient all.
        """
        wrong = np.ones(values.size, dtype=bool)
        for factor in (1.0, 1e-2, 10.0):
            step = factor * _steps(points)
            good = np.ones(values.size, dtype=bool)
            for j in range(self.dim):
                shift = step[:, None] * np.eye(self.dim)[j]
                with np.errstate(all="ignore"):
                    up, down = self._value(points + shift), self._value(points - shift)
                    slope = (up - down) / (2.0 * step)
                    # The difference quotient's own errors: rounding, and a change of the slope within the step.
                    room = (
                        1e-15 * (np.abs(up) + np.abs(down) + np.abs(values)) / step
                        + np.abs(up + down - 2.0 * values) / step
                    )
                size = 1e-3 * (np.abs(slopes).max(axis=1) + np.abs(slope))
                good &= ~np.isfinite(slope) | (np.abs(slope - slopes[:, j]) <= room + size + 1e-7)
            wrong &= ~good
        return wrong

    def hessian_upper(self, lo: Array, hi: Array) -> Array:
        """The declared curvature times the identity, on every box."""
        if np.isinf(self.curvature):
            return np.full((lo.shape[0], self.dim, self.dim), np.inf)
        return np.broadcast_to(self.curvature * np.eye(self.dim), (lo.shape[0], self.dim, self.dim)).copy()


def from_function(
    value: Callable[[Array], Any],
    gradient: Callable[[Array], Any],
    dim: int,
    *,
    hessian: Callable[[Array], Any] | None = None,
    curvature: float,
    majorizer: Quadratic | float | None = None,
    bounds: tuple[Any, Any] | None = None,
) -> UserLoss:
    """A loss from callables: value (n, P) -> (n,), gradient (n, P) -> (n, P), hessian (n, P) -> (n, P, P).

    ``curvature`` is an upper bound of the largest eigenvalue of the Hessian everywhere (in ``bounds``), inf if
    there is none; ``majorizer`` a `Quadratic` (or a number) above the loss everywhere, which confines the search;
    ``bounds`` = (lo, hi) a box outside of which nothing is claimed: suprema are then taken over the box and results say
    so. With a curvature alone the loss may still grow as steeply as that far from every point tried. The lower end of
    f** is then the best that can be proved, but the bracket only closes for losses that do grow so.
    Certificates rest on these declarations (`UserLoss.assumes`), which are compared with the callables at random
    points and at those that a search ends in: ValueError where they are false there, or where shapes are wrong;
    TypeError for callables that do not return float64.
    """
    if not callable(value) or not callable(gradient) or not (hessian is None or callable(hessian)):
        raise TypeError("value, gradient and hessian must be callable")
    if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1:
        raise ValueError(f"dim must be a positive integer, got {shown(dim)}")
    try:
        bound = float(curvature)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"curvature must be a number or inf, got {shown(curvature)}") from error
    if np.isnan(bound):
        raise ValueError("curvature must be a number or inf, got NaN")
    if isinstance(majorizer, (int, float, np.number)):
        height = finite_number(majorizer, "majorizer")
        majorizer = Quadratic(np.zeros((dim, dim)), np.zeros(dim), height)
    if majorizer is not None and (not isinstance(majorizer, Quadratic) or majorizer.dim != dim):
        raise ValueError(f"majorizer must be a number or a Quadratic of dimension {dim}")
    box = None
    if bounds is not None:
        if not isinstance(bounds, (tuple, list, np.ndarray)) or len(bounds) != 2:
            raise TypeError(f"bounds must be a pair (lo, hi), got {shown(bounds)}")
        lo, hi = (finite_array(end, f"bounds[{i}]") for i, end in enumerate(bounds))
        if not {lo.shape, hi.shape} <= {(), (1,), (dim,)}:
            raise ValueError(f"bounds must be numbers or have shape ({dim},), got shapes {lo.shape} and {hi.shape}")
        lo, hi = np.broadcast_to(lo, (dim,)), np.broadcast_to(hi, (dim,))
        if not (lo < hi).all():
            raise ValueError("bounds must be (lo, hi) with lo < hi in every coordinate")
        box = (lo, hi)
    loss = UserLoss(value, gradient, int(dim), hessian, bound, majorizer, box)
    _probe(loss)
    return loss


def _probe(loss: UserLoss) -> None:
    """Compare the declarations with the callables at random points; a false one is a ValueError."""
    rng = np.random.default_rng(0)
    if loss.bounds is not None:
        points = rng.uniform(*loss.bounds, size=(64, loss.dim))
    else:
        radii = np.repeat(_PROBE_RADII, 16)
        points = radii[:, None] * rng.normal(size=(radii.size, loss.dim))
    with np.errstate(all="ignore"):
        values, slopes = loss._value(points), loss._gradient(points)
    if not (np.isfinite(values) & np.isfinite(slopes).all(axis=1))[:16].all():
        raise ValueError("value and gradient must be finite, but they return NaN or infinity near the origin")
    loss.examine(points)


def _steps(points: Array) -> Array:
    return np.asarray(1e-5 * (1.0 + np.abs(points).max(axis=1)))


def _refuse(wrong: NDArray[np.bool_], points: Array, what: str) -> None:
    if wrong.any():
        raise ValueError(f"{what} at theta = {points[int(np.argmax(wrong))].tolist()}")


def _returned(result: Any, shape: tuple[int, ...], name: str, theta: Array) -> Array:
    """What a callable returned, as floats of the expected shape; one sentence where it is something else."""
    array = np.asarray(result)
    if array.dtype.kind not in "fiub" or (array.dtype.kind == "f" and array.dtype.itemsize < 8):
        raise TypeError(
            f"{name} must return float64 numbers, got {array.dtype if array.dtype != object else type(result).__name__}"
        )
    if array.size != int(np.prod(shape)):
        raise ValueError(f"{name} must return shape {shape} for theta of shape {theta.shape}, got {array.shape}")
    array = np.asarray(array, dtype=float).reshape(shape)
    bad = ~np.isfinite(array) if name == "hessian" else np.isnan(array)
    missing = bad.reshape(shape[0], int(np.prod(shape[1:]))).any(axis=1) & (np.abs(theta).max(axis=1) <= _NEAR)
    if missing.any():
        raise ValueError(f"{name} returned NaN or infinity at theta = {theta[int(np.argmax(missing))].tolist()}")
    return array
