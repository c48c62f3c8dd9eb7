"""Checks of what users hand to a loss; every message names the argument and what is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from fenchel.arrays import Array


def finite_array(value: Any, name: str, ndim: int | None = None, *, copy: bool = True) -> Array:
    """``value`` as a float array of ``ndim`` axes (None: of any); ValueError unless finite, TypeError unless real."""
    try:
        if np.iscomplexobj(value):
            raise TypeError("complex numbers")
        array = np.array(value, dtype=float) if copy else np.asarray(value, dtype=float)
    except (TypeError, ValueError, OverflowError) as error:
        kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{name} must be an array of real numbers, got {kind}") from error
    if ndim is not None and array.ndim != ndim:
        axes = "1 axis" if ndim == 1 else f"{ndim} axes"
        raise ValueError(f"{name} must have {axes}, got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, but it contains NaN or infinity")
    return array


def finite_vector(value: Any, name: str) -> Array:
    """`finite_array` of one axis; a number is a vector of one entry."""
    array = finite_array(value, name)
    return finite_array(array.reshape(1) if array.ndim == 0 else array, name, 1)


def finite_points(value: Any, name: str, dim: int) -> Array:
    """``value`` as points (S, dim); one point may be given as (dim,), and numbers (S,) where dim is 1."""
    array = finite_array(value, name)
    if array.ndim < 2 and array.size % dim == 0:
        array = array.reshape(-1, dim)
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(f"{name} must have shape (S, {dim}), got {array.shape}")
    return array


def shown(value: Any) -> str:
    """``value`` in a sentence: a number or a name itself, of anything else the type."""
    text = repr(value) if isinstance(value, (int, float, complex, str, bytes, np.generic)) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


def finite_number(value: Any, name: str) -> float:
    """``value`` as a finite float."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name} must be a real number, got {shown(value)}") from error
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
    matrix = finite_array(value, name)
    matrix = finite_array(matrix.reshape(1, 1) if matrix.ndim == 0 else matrix, name, 2)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must be square, got shape {matrix.shape}")
    if np.abs(matrix - matrix.T).max(initial=0.0) > 1e-9 * max(1e-300, np.abs(matrix).max(initial=0.0)):
        raise ValueError(f"{name} must be a symmetric matrix")
    return 0.5 * (matrix + matrix.T)
