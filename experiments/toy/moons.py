"""The two-moons problem of Fig. 6: the data of the authors' demo, its plotting grid and a test set."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fenchel.errors import MissingDependencyError

__all__ = ["WIDTHS", "Moons", "moons", "num_parameters"]

Array = NDArray[np.float64]

WIDTHS = (2, 32, 32, 32, 32, 1)
"""Layer widths of the network; its activation is ELU."""


@dataclass(frozen=True)
class Moons:
    """Training data, test data and a grid of inputs.

    ``inputs`` (n, 2), ``labels`` (n,) in {0, 1}; ``test_inputs``, ``test_labels`` likewise; ``grid``
    (rows * columns, 2) runs over ``rows`` values of the second input and, fastest, ``columns`` values of the first.
    """

    inputs: Array
    labels: Array
    test_inputs: Array
    test_labels: Array
    first_axis: Array
    second_axis: Array

    @property
    def grid(self) -> Array:
        """The grid as points, (rows * columns, 2)."""
        first, second = np.meshgrid(self.first_axis, self.second_axis)
        return np.column_stack([first.ravel(), second.ravel()])


def moons(num: int = 100, noise: float = 0.1, *, columns: int = 61, rows: int = 49, num_test: int = 2000) -> Moons:
    """The demo's data, two half circles with Gaussian noise (random state 1), and ``num_test`` fresh points.

    Raises:
        MissingDependencyError: scikit-learn is not installed (extra ``experiments``).
    """
    try:
        from sklearn.datasets import make_moons
    except ImportError as error:
        raise MissingDependencyError(
            "the two-moons data need scikit-learn; install it with `pip install the extra experiments`."
        ) from error
    inputs, labels = make_moons(num, noise=noise, random_state=1)
    test_inputs, test_labels = make_moons(num_test, noise=noise, random_state=2)
    return Moons(
        inputs=np.asarray(inputs, dtype=float),
        labels=np.asarray(labels, dtype=float),
        test_inputs=np.asarray(test_inputs, dtype=float),
        test_labels=np.asarray(test_labels, dtype=float),
        first_axis=np.linspace(-2.0, 3.0, columns),
        second_axis=np.linspace(-1.75, 2.25, rows),
    )


def num_parameters(widths: tuple[int, ...] = WIDTHS) -> int:
    """Weights and biases of the network."""
    return sum((a + 1) * b for a, b in pairwise(widths))
