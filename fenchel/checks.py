"""Checks that the public functions share: a loss, Gaussians of its dimension, positive tolerances."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.losses.inputs import shown

_LARGEST = float(np.finfo(float).max)


def check_loss(loss: Any) -> None:
    """TypeError unless ``loss`` is a `Loss`."""
    if not isinstance(loss, Loss):
        raise TypeError(
            "loss must be a fenchel.losses.Loss (see losses.from_expression and losses.from_function), "
            f"got {type(loss).__name__}."
        )


def check_problem(loss: Any, **gaussians: Any) -> None:
    """`check_loss`, and TypeError or ValueError unless the named arguments are Gaussians of the loss's dimension."""
    check_loss(loss)
    for name, gaussian in gaussians.items():
        if not isinstance(gaussian, Gaussian):
            raise TypeError(f"{name} must be a Gaussian, got {type(gaussian).__name__}.")
        if gaussian.dim != loss.dim:
            raise ValueError(
                f"loss and {name} must have the same dimension; the loss has {loss.dim} parameters, "
                f"{name} has {gaussian.dim}."
            )


def check_unbounded(loss: Loss, what: str) -> None:
    """ValueError for a loss with ``bounds``, which is no function on all of R^P."""
    if loss.bounds is not None:
        raise ValueError(
            f"loss has bounds, outside of which it says nothing, and {what} needs it everywhere a Gaussian has mass."
        )


def check_tolerance(tol: Any, name: str = "tol") -> float:
    """``tol`` as a positive finite float; ValueError otherwise."""
    if isinstance(tol, bool) or not isinstance(tol, (int, float, np.integer, np.floating)) or not 0.0 < tol <= _LARGEST:
        raise ValueError(f"{name} must be a positive number, got {shown(tol)}.")
    return float(tol)


def check_seconds(value: Any, name: str = "max_seconds") -> float:
    """A time limit: inf for None, else a positive number of seconds; ValueError otherwise."""
    return np.inf if value is None or (isinstance(value, float) and value == np.inf) else check_tolerance(value, name)


def check_count(value: Any, name: str, least: int = 1) -> int:
    """``value`` as an integer of at least ``least``; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {shown(value)}.")
    return int(value)


@cache
def probe_points(dim: int) -> NDArray[np.float64]:
    """Fixed standard normal points (32, P), near which a user's declarations are compared with the loss."""
    points = np.random.default_rng(7).normal(size=(32, dim))
    points.flags.writeable = False
    return points
