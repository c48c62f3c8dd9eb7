"""What a trained network is worth: the four numbers of every table, at the mean and averaged over samples."""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.deep.methods import VECTORIZED
from experiments.deep.training import Training
from fenchel import metrics

METRICS = ("accuracy", "nll", "ece", "auroc")
_BATCH = 1000


def measure(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, mean NLL, ECE (20 bins) and AUROC of confidence as a detector of correct predictions.

    ``probabilities``: (n, classes); ``labels``: (n,).
    """
    if not bool(torch.isfinite(probabilities).all()):
        return dict.fromkeys(METRICS, float("nan"))
    found = metrics.evaluate(probabilities, labels)
    return {name: float(getattr(found, name)) for name in METRICS}


@torch.no_grad()
def evaluate(training: Training) -> dict[str, dict[str, float]]:
    """The metrics at the mean and, for a method with a posterior, averaged over each number of samples."""
    config, split, method = training.config, training.split, training.method
    labels = ["mean", *(str(count) for count in config.samples if config.bayesian)]
    if training.diverged:
        return {label: dict.fromkeys(METRICS, float("nan")) for label in labels}
    with training.on_stream():
        with method.mean_weights(split.images):
            found = {"mean": measure(_probabilities(training), split.eval_labels)}
        total = torch.zeros((), device=split.images.device)
        for count in range(1, max(config.samples) + 1 if config.bayesian else 1):
            with method.sampled_weights(split.images):
                total = total + _probabilities(training)
            if count in config.samples:
                found[str(count)] = measure(total / count, split.eval_labels)
    return found


def _probabilities(training: Training) -> Tensor:
    model, images = training.model, training.split.eval_images
    size = len(images) if training.config.model in VECTORIZED and images.is_cuda else _BATCH
    was_training = model.training
    model.eval()
    try:
        return torch.cat([model(x).softmax(1) for x in images.split(size)])
    finally:
        model.train(was_training)
