"""Checks of what users hand to a loss; every message names the argument and what is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["finite_array", "finite_number", "nonnegative_number", "positive_number", "symmetric_matrix"]

Array = NDArray[np.float64]


def finite_array(value: Any, name: str, ndim: int, *, copy: bool = True) -> Array:
    """``value`` as a float array of ``ndim`` axes; ValueError unless it is finite, TypeError unless it is numeric."""
    try:
        array = np.array(value, dtype=float) if copy else np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of real numbers, got {type(value).__name__}") from error
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, but it contains NaN or infinity")
    return array


def finite_number(value: Any, name: str) -> float:
    """``value`` as a finite float."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a real number, got {value!r}") from error
    if not np.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number


def positive_number(value: Any, name: str) -> float:
    """``value`` as a finite float above 0."""
    number = finite_number(value, name)
    if number <= 0.0:
        raise ValueError(f"{name} must be positive, got {number}")
    return number


def nonnegative_number(value: Any, name: str) -> float:
    """A finite number that is not negative; ValueError names the argument."""
    number = finite_number(value, name)
    if number < 0.0:
        raise ValueError(f"{name} must not be negative, got {number}")
    return number


def symmetric_matrix(value: Any, name: str) -> Array:
    """``value`` as a finite symmetric (P, P) matrix (asymmetry beyond rounding is an error); a scalar is 1 x 1."""
    if np.ndim(value) == 0:
        value = np.reshape(value, (1, 1))
    matrix = finite_array(value, name, 2)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must be square, got shape {matrix.shape}")
    if np.abs(matrix - matrix.T).max(initial=0.0) > 1e-9 * max(1e-300, np.abs(matrix).max(initial=0.0)):
        raise ValueError(f"{name} must be a symmetric matrix")
    return 0.5 * (matrix + matrix.T)
