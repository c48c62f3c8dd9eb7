"""The two-moons problem of Fig. 6: data, a test set and the plotted box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fenchel.errors import missing

__all__ = ["Moons", "moons"]

Array = NDArray[np.float64]


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

    @property
    def points(self) -> Array:
        """Where predictions are compared: the grid, then the test inputs."""
        return np.vstack([self.grid, self.test_inputs])


def moons(
    num: int = 100, noise: float = 0.1, *, draw: int = 1, columns: int = 37, rows: int = 30, num_test: int = 500
) -> Moons:
    """Two half circles with Gaussian noise (random state ``draw``; 1 is the authors' demo), and fresh points.

    Raises:
        MissingDependencyError: scikit-learn is not installed (extra ``experiments``).
    """
    try:
        from sklearn.datasets import make_moons
    except ImportError as error:
        raise missing("this data set", "scikit-learn", "experiments") from error
    inputs, labels = make_moons(num, noise=noise, random_state=draw)
    test_inputs, test_labels = make_moons(num_test, noise=noise, random_state=10_000 + draw)
    return Moons(
        inputs=np.asarray(inputs, dtype=float),
        labels=np.asarray(labels, dtype=float),
        test_inputs=np.asarray(test_inputs, dtype=float),
        test_labels=np.asarray(test_labels, dtype=float),
        first_axis=np.linspace(-2.0, 3.0, columns),
        second_axis=np.linspace(-1.75, 2.25, rows),
    )
