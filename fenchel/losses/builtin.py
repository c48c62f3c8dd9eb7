"""The named losses: scalar ones, the quadratic in any dimension, logistic regression."""

from __future__ import annotations

from typing import Any

import numpy as np

from fenchel.arrays import Array
from fenchel.losses.bounded_links import BumpLink, IndicatorLink
from fenchel.losses.inputs import finite_array, finite_number, finite_vector, positive_number, symmetric_matrix
from fenchel.losses.linear_predictor import LinearPredictorLoss, Terms
from fenchel.losses.links import AbsLink, HuberLink, Link, ReLULink, SoftplusLink
from fenchel.losses.more_links import Function, SquareConcaveLink, SquaredReLULink


class Quadratic(LinearPredictorLoss):
    """theta^T H theta / 2 + b.theta + c; H symmetric (P, P) (or a scalar for P = 1), b (P,), c a number."""

    def __init__(self, H: Any, b: Any, c: Any = 0.0) -> None:
        super().__init__((), H=symmetric_matrix(H, "H"), b=finite_vector(b, "b"), c=c)

    def __repr__(self) -> str:
        return f"Quadratic(dim={self.dim})"


class _Scalar(LinearPredictorLoss):
    def __init__(self, link: Link, offset: float = 0.0) -> None:
        super().__init__([Terms(link, np.ones((1, 1)), np.array([offset]), np.ones(1))])


class ReLU(_Scalar):
    """(theta - threshold)^+."""

    def __init__(self, threshold: Any = 0.0) -> None:
        self.threshold = finite_number(threshold, "threshold")
        super().__init__(ReLULink(), -self.threshold)


class Absolute(_Scalar):
    """|theta - center|."""

    def __init__(self, center: Any = 0.0) -> None:
        self.center = finite_number(center, "center")
        super().__init__(AbsLink(), -self.center)


class Softplus(_Scalar):
    """log(1 + exp theta)."""

    def __init__(self) -> None:
        super().__init__(SoftplusLink())


class Huber(_Scalar):
    """theta^2/2 for |theta| <= delta, delta |theta| - delta^2/2 beyond."""

    def __init__(self, delta: Any = 1.0) -> None:
        self.delta = positive_number(delta, "delta")
        super().__init__(HuberLink(self.delta))


class Indicator(_Scalar):
    """1 for theta >= threshold, else 0 (upper semicontinuous, the relaxation that Theorem 1 sees)."""

    def __init__(self, threshold: Any = 0.0) -> None:
        self.threshold = finite_number(threshold, "threshold")
        super().__init__(IndicatorLink(), -self.threshold)


class SquaredReLU(_Scalar):
    """((theta - threshold)^+)^2, of quadratic growth on one side: its f** is not attained."""

    def __init__(self, threshold: Any = 0.0) -> None:
        self.threshold = finite_number(threshold, "threshold")
        super().__init__(SquaredReLULink(), -self.threshold)


class SquareConcave(_Scalar):
    """slope (theta - center) + h((theta - center)^2), h concave and nondecreasing, with its derivatives dh and d2h.

    Cauchy's loss is SquareConcave(np.log1p, lambda u: 1 / (1 + u), lambda u: -1 / (1 + u) ** 2). ValueError where h is
    seen not to be concave, nondecreasing and finite at u = 0.
    """

    def __init__(self, h: Function, dh: Function, d2h: Function, *, slope: Any = 0.0, center: Any = 0.0) -> None:
        self.center = finite_number(center, "center")
        super().__init__(SquareConcaveLink(h, dh, d2h, finite_number(slope, "slope")), -self.center)


class LogisticRegression(LinearPredictorLoss):
    """sum_i log(1 + exp(-y_i x_i.theta)), the total loss; X (n, P), labels y (n,) in {-1, +1} or in {0, 1}."""

    def __init__(self, X: Any, y: Any) -> None:
        rows = finite_array(X, "X", 2)
        labels = finite_array(y, "y", 1)
        if rows.shape[0] == 0 or rows.shape[1] == 0:
            raise ValueError(f"X must have at least one row and one column, got shape {rows.shape}")
        if labels.shape[0] != rows.shape[0]:
            raise ValueError(f"X and y must have equal length, got {rows.shape[0]} rows and {labels.shape[0]} labels")
        if np.isin(labels, (0.0, 1.0)).all():
            labels = 2.0 * labels - 1.0
        elif not np.isin(labels, (-1.0, 1.0)).all():
            raise ValueError("y must hold labels in {0, 1} or in {-1, +1} only")
        self.y = labels
        n = labels.shape[0]
        # In place: with a million data one copy of X is what there is room for.
        rows *= -labels[:, None]
        super().__init__([Terms(SoftplusLink(), rows, np.zeros(n), np.ones(n))])

    @property
    def X(self) -> Array:
        """(n, P)."""
        return -self.y[:, None] * self.groups[0].rows

    def __repr__(self) -> str:
        return f"LogisticRegression(n={self.y.shape[0]}, dim={self.dim})"


class ThreeWells(LinearPredictorLoss):
    """The one-dimensional loss of Figs. 1, 2: wells A (sharp, the global minimum), B (flat), C (sharp).

    l(theta) = offset + stiffness/2 theta^2 - sum_k depths[k] exp(-((theta - centers[k]) / widths[k])^2 / 2).
    The paper does not print its loss; these parameters are ours, chosen to show what Fig. 1 shows. The loss is
    majorized by its quadratic part.
    """

    centers = (-4.0, 0.5, 4.5)
    widths = (0.35, 1.6, 0.35)
    depths = (3.0, 2.5, 2.8)
    stiffness = 0.05
    offset = 3.0

    def __init__(self) -> None:
        centers, widths = np.array(self.centers), np.array(self.widths)
        super().__init__(
            [Terms(BumpLink(), 1.0 / widths[:, None], -centers / widths, np.array(self.depths))],
            H=[[self.stiffness]],
            b=[0.0],
            c=self.offset,
        )
