"""The four numbers of every table, and what a row says about the machine that made it."""

from __future__ import annotations

import datetime
import platform
from typing import Any

import torch
from torch import Tensor

from fenchel import metrics

__all__ = ["METRICS", "describe", "measure"]

METRICS = ("accuracy", "nll", "ece", "auroc")


def measure(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, mean NLL, ECE (20 bins) and AUROC of confidence as a detector of correct predictions.

    ``probabilities``: (n, classes); ``labels``: (n,).
    """
    if not bool(torch.isfinite(probabilities).all()):
        return dict.fromkeys(METRICS, float("nan"))
    found = metrics.evaluate(probabilities, labels)
    return {name: float(getattr(found, name)) for name in METRICS}


def describe(device: torch.device) -> dict[str, Any]:
    """Device model, precision of matrix products, versions and date."""
    name, precision = f"cpu ({platform.machine()})", "float32"
    if device.type == "cuda":
        # The vendor's marketing suffix (memory type and size) is no part of the model's name.
        name = " ".join(torch.cuda.get_device_name(device).split()[:2])
        precision = "float32 (tf32 products)" if torch.backends.cuda.matmul.allow_tf32 else "float32"
    return {
        "device": name,
        "precision": precision,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }
