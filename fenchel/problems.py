"""The data sets of the theory part: logistic regressions whose posterior can be computed in other ways.

Each is a `ClassificationProblem`: a training loss (total, Eq. 2's l), and held-out points for the predictive.
Inputs are standardized by the training set, and a column of ones carries the bias where the model has one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from fenchel.arrays import Array
from fenchel.errors import missing
from fenchel.losses import LogisticRegression

__all__ = [
    "ClassificationProblem",
    "breast_cancer",
    "iris",
    "murphy",
    "murphy_draw",
    "murphy_logistic_regression",
    "separation_margin",
    "two_moons",
    "two_moons_points",
]


@dataclass(frozen=True)
class ClassificationProblem:
    """Binary classification by logistic regression on fixed features.

    ``inputs`` (n, P) with ``labels`` (n,) in {-1, +1} are the training data, ``loss`` their total loss;
    ``test_inputs`` (n', P) and ``test_labels`` (n',) are held out.
    """

    inputs: Array
    labels: Array
    test_inputs: Array
    test_labels: Array

    @property
    def loss(self) -> LogisticRegression:
        """l(theta) = sum_i log(1 + exp(-y_i x_i.theta))."""
        return LogisticRegression(self.inputs, self.labels)

    @property
    def dim(self) -> int:
        """P."""
        return int(self.inputs.shape[1])


def murphy_logistic_regression() -> LogisticRegression:
    """The paper's logistic regression (App. F.1; Murphy 2012, Ch. 8.4): 60 points in the plane, no bias.

    The paper calls these data separable by a line through the origin. With this seed and order of draws they are so but
    for one point, (-1.55, 5.65) of class 1, so the likelihood has a maximum, near (3.87, 0.94); with a bias they would
    be separable.
    """
    return murphy().loss


def murphy(num_test: int = 2000) -> ClassificationProblem:
    """The data of `murphy_logistic_regression` with ``num_test`` fresh points from the same two classes.

    Raises:
        ValueError: ``num_test`` is odd or negative.
    """
    return _murphy(0, 1, num_test)


def murphy_draw(seed: int, *, num_test: int = 2000) -> ClassificationProblem:
    """The recipe of `murphy` drawn from `numpy.random.RandomState(seed)`; ``seed`` 0 gives its training data.

    Whether a draw is separable through the origin, as the paper says of its data, is decided by `separation_margin`.

    Raises:
        ValueError: ``num_test`` is odd or negative.
    """
    return _murphy(seed, 1_000_000 + seed, num_test)


def _murphy(seed: int, test_seed: int, num_test: int) -> ClassificationProblem:
    if num_test < 0 or num_test % 2:
        raise ValueError(f"num_test must be even and not negative, got {num_test}.")
    # The legacy generator is part of the data's definition: it reproduces the published points.
    inputs, labels = _murphy_points(np.random.RandomState(seed), 30)
    return ClassificationProblem(inputs, labels, *_murphy_points(np.random.RandomState(test_seed), num_test // 2))


def separation_margin(inputs: Array, labels: Array) -> float:
    """The largest t with y_i w.x_i >= t for all i and some |w_j| <= 1: positive iff separable through the origin.

    Args:
        inputs: (n, P). labels: (n,) in {-1, +1}.
    """
    rows = np.asarray(inputs) * np.asarray(labels)[:, None]
    count, dim = rows.shape
    constraints = np.column_stack([-rows, np.ones(count)])
    bounds = [(-1.0, 1.0)] * dim + [(None, None)]
    found = linprog(np.r_[np.zeros(dim), -1.0], A_ub=constraints, b_ub=np.zeros(count), bounds=bounds, method="highs")
    return float(-found.fun)


def _murphy_points(generator: np.random.RandomState, per_class: int) -> tuple[Array, Array]:
    positive = generator.randn(per_class, 2) + np.array([1.0, 5.0])
    negative = 2.2 * generator.randn(per_class, 2) + np.array([-5.0, 1.0])
    return np.vstack([positive, negative]), np.r_[np.ones(per_class), -np.ones(per_class)]


def two_moons_points(num: int, noise: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """``num`` points (num, 2) on two interleaved half circles of radius 1 with Gaussian noise, labels +-1.

    The upper arc (label -1) is centred at (0, 0), the lower one (label +1) at (1, 1/2).

    Raises:
        ValueError: ``num`` is not a positive even number or ``noise`` is negative.
    """
    if num < 2 or num % 2:
        raise ValueError(f"num must be a positive even number, got {num}.")
    if not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise must be a finite number >= 0, got {noise}.")
    angle = np.linspace(0.0, np.pi, num // 2)
    upper = np.column_stack([np.cos(angle), np.sin(angle)])
    lower = np.column_stack([1.0 - np.cos(angle), 0.5 - np.sin(angle)])
    points = np.vstack([upper, lower]) + noise * rng.standard_normal((num, 2))
    return points, np.r_[-np.ones(num // 2), np.ones(num // 2)]


def two_moons(
    num: int = 100, noise: float = 0.2, features: int = 12, *, seed: int = 0, num_test: int = 2000
) -> ClassificationProblem:
    """Two moons as logistic regression on random Fourier features: P = ``features``, no separate bias.

    Features sqrt(2/P) cos(w_j.x + b_j), w_j ~ N(0, I / 0.5^2), b_j uniform: the random map of a Gaussian kernel of
    length 1/2, times sqrt(P) so that a unit Gaussian prior on theta lets the logit vary by several units.

    Raises:
        ValueError: a count is not positive (and even, for the numbers of points).
    """
    if features < 1:
        raise ValueError(f"features must be at least 1, got {features}.")
    rng = np.random.default_rng(seed)
    frequencies = rng.standard_normal((2, features)) / 0.5
    phases = rng.uniform(0.0, 2.0 * np.pi, features)
    points, labels = two_moons_points(num, noise, rng)
    test_points, test_labels = two_moons_points(num_test, noise, rng)

    def lift(x: Array) -> Array:
        return np.asarray(np.sqrt(2.0) * np.cos(x @ frequencies + phases))

    return ClassificationProblem(lift(points), labels, lift(test_points), test_labels)


def breast_cancer(features: int = 10, *, seed: int = 0) -> ClassificationProblem:
    """Wisconsin breast cancer (569 cases): the first ``features`` of its 30 columns and a bias; 70 % for training.

    The default takes the ten "mean" measurements, P = 11.

    Raises:
        ValueError: ``features`` is not in 1..30.
        MissingDependencyError: scikit-learn is not installed (extra ``experiments``).
    """
    if not 1 <= features <= 30:
        raise ValueError(f"features must be between 1 and 30, got {features}.")
    raw = _sklearn_data("load_breast_cancer")
    return _split(raw[0][:, :features], 2.0 * raw[1] - 1.0, seed)


def iris(*, seed: int = 0) -> ClassificationProblem:
    """Iris versicolor against virginica (100 flowers, not separable): four measurements and a bias, P = 5.

    Raises:
        MissingDependencyError: scikit-learn is not installed (extra ``experiments``).
    """
    inputs, target = _sklearn_data("load_iris")
    keep = target > 0
    labels = np.where(target[keep] == 2, 1.0, -1.0)
    return _split(inputs[keep], labels, seed)


def _sklearn_data(loader: str) -> tuple[Array, Array]:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise missing("this data set", "scikit-learn", "experiments") from error
    inputs, target = getattr(datasets, loader)(return_X_y=True)
    return np.asarray(inputs, dtype=float), np.asarray(target, dtype=float)


def _split(inputs: Array, labels: Array, seed: int) -> ClassificationProblem:
    order = np.random.default_rng(seed).permutation(labels.size)
    cut = round(0.7 * labels.size)
    train, test = order[:cut], order[cut:]
    center, spread = inputs[train].mean(axis=0), inputs[train].std(axis=0)
    standard = np.column_stack([(inputs - center) / spread, np.ones(labels.size)])
    return ClassificationProblem(standard[train], labels[train], standard[test], labels[test])
