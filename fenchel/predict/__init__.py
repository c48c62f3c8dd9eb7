"""Bayesian prediction: averages of the probabilities of posterior samples, for optimizers, Gaussians and Laplace."""

from fenchel.errors import need_torch

need_torch("fenchel.predict")

from fenchel.predict.average import evaluate_bma, predict_bma
from fenchel.predict.gaussian import DiagonalGaussian
from fenchel.predict.laplace import LaplacePosterior, fit_laplace

__all__ = ["DiagonalGaussian", "LaplacePosterior", "evaluate_bma", "fit_laplace", "predict_bma"]
