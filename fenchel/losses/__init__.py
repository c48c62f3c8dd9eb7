"""Losses: total, lower-bounded, majorized by a quadratic, with the curvature bounds that certificates rest on."""

from fenchel.losses.base import Loss
from fenchel.losses.builtin import (
    Absolute,
    Huber,
    Indicator,
    LogisticRegression,
    Quadratic,
    ReLU,
    Softplus,
    SquareConcave,
    SquaredReLU,
    ThreeWells,
)
from fenchel.losses.expression import ExpressionLoss, from_expression
from fenchel.losses.linear_predictor import LinearPredictorLoss, Terms
from fenchel.losses.links import Link
from fenchel.losses.user import UserLoss, from_function

__all__ = [
    "Absolute",
    "ExpressionLoss",
    "Huber",
    "Indicator",
    "LinearPredictorLoss",
    "Link",
    "LogisticRegression",
    "Loss",
    "Quadratic",
    "ReLU",
    "Softplus",
    "SquareConcave",
    "SquaredReLU",
    "Terms",
    "ThreeWells",
    "UserLoss",
    "from_expression",
    "from_function",
]
