"""A user's own loss, given by callables and by what is known about its curvature and growth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.losses.base import Loss
from fenchel.losses.builtin import Quadratic
from fenchel.losses.inputs import finite_array

__all__ = ["UserLoss", "from_function"]

Array = NDArray[np.float64]
# Declared bounds are compared with the callables at random points at these distances from the origin.
_PROBE_RADII = (0.1, 1.0, 3.0, 10.0, 100.0)


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
        return _reshaped(self._value_of(theta), (theta.shape[0],), "value")

    def _gradient(self, theta: Array) -> Array:
        return _reshaped(self._gradient_of(theta), theta.shape, "gradient")

    def _hessian(self, theta: Array) -> Array:
        n, dim = theta.shape
        if self._hessian_of is not None:
            return _reshaped(self._hessian_of(theta), (n, dim, dim), "hessian")
        step = 1e-5 * (1.0 + np.abs(theta).max(axis=1))
        shifts = step[:, None, None] * np.eye(dim)
        up = self._gradient((theta[:, None, :] + shifts).reshape(n * dim, dim)).reshape(n, dim, dim)
        down = self._gradient((theta[:, None, :] - shifts).reshape(n * dim, dim)).reshape(n, dim, dim)
        rough = (up - down) / (2.0 * step[:, None, None])
        return np.asarray(0.5 * (rough + rough.transpose(0, 2, 1)))

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
    majorizer: Quadratic | None = None,
    bounds: tuple[Any, Any] | None = None,
) -> UserLoss:
    """A loss from callables: value (n, P) -> (n,), gradient (n, P) -> (n, P), hessian (n, P) -> (n, P, P).

    ``curvature`` is an upper bound of the largest eigenvalue of the Hessian everywhere (in ``bounds``), inf if
    there is none; ``majorizer`` a `Quadratic` above the loss everywhere, which confines the global search (without
    one, the curvature gives one); ``bounds`` = (lo, hi) a box outside of which nothing is claimed: suprema are then
    taken over the box and results say so.
    Certificates rest on these declarations, which are compared with the callables at random points: ValueError where
    they are false there, or where shapes or values are wrong.
    """
    if not callable(value) or not callable(gradient) or not (hessian is None or callable(hessian)):
        raise TypeError("value, gradient and hessian must be callable")
    if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1:
        raise ValueError(f"dim must be a positive integer, got {dim!r}")
    try:
        bound = float(curvature)
    except (TypeError, ValueError) as error:
        raise TypeError(f"curvature must be a number or inf, got {curvature!r}") from error
    if np.isnan(bound):
        raise ValueError("curvature must be a number or inf, got NaN")
    if majorizer is not None and (not isinstance(majorizer, Quadratic) or majorizer.dim != dim):
        raise ValueError(f"majorizer must be a Quadratic of dimension {dim}")
    box = None
    if bounds is not None:
        lo = finite_array(np.broadcast_to(bounds[0], (dim,)), "bounds[0]", 1)
        hi = finite_array(np.broadcast_to(bounds[1], (dim,)), "bounds[1]", 1)
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
    finite = np.isfinite(values) & np.isfinite(slopes).all(axis=1)
    if not finite[:16].all():
        raise ValueError("value and gradient must be finite, but they return NaN or infinity near the origin")
    points, values, slopes = points[finite], values[finite], slopes[finite]
    if loss.majorizer is not None:
        above = loss.majorizer(points)
        if (values > above + 1e-9 * (1.0 + np.abs(values) + np.abs(above))).any():
            worst = points[np.argmax(values - above)]
            raise ValueError(f"majorizer lies below the loss at theta = {worst}")
    if np.isfinite(loss.curvature):
        # Over a segment the slope rises at most by curvature times its length.
        steps = points[1:] - points[:-1]
        rise = np.einsum("ni,ni->n", slopes[1:] - slopes[:-1], steps)
        allowed = loss.curvature * np.einsum("ni,ni->n", steps, steps)
        if (rise > allowed + 1e-7 * (np.abs(allowed) + 1.0)).any():
            raise ValueError(f"curvature = {loss.curvature:g} is exceeded by the gradient between two points")


def _reshaped(result: Any, shape: tuple[int, ...], name: str) -> Array:
    array = np.asarray(result, dtype=float)
    if array.size != int(np.prod(shape)):
        raise ValueError(f"{name} must return shape {shape}, got {array.shape}")
    return array.reshape(shape)
