"""The four numbers of every table, and what a row says about the machine that made it."""

from __future__ import annotations

import datetime
import platform
from typing import Any

import torch
from torch import Tensor


__all__ = ["METRICS", "describe", "measure"]

METRICS = ("accuracy", "nll", "ece", "auroc")


def measure(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, mean NLL, ECE (20 bins) and AUROC of confidence as a detector of correct predictions.

    ``probabilities``: (n, classes); ``labels``: (n,).
    """
    if not bool(torch.isfinite(probabilities).all()):
        return dict.fromkeys(METRICS, float("nan"))
    p = probabilities.double(); conf, pred = p.max(1); ok = (pred == labels).double(); n = len(labels)
    nll = -p.gather(1, labels[:, None]).clamp_min(1e-300).log().mean()
    bins = (conf * 20).ceil().clamp(1, 20).long() - 1
    cnt = torch.zeros(20, dtype=p.dtype, device=p.device)
    acc_b, conf_b = cnt.clone().scatter_add_(0, bins, ok), cnt.clone().scatter_add_(0, bins, conf)
    ece = (acc_b - conf_b).abs().sum() / n
    _, inverse = conf.unique(return_inverse=True)
    k = int(inverse.max()) + 1
    total = torch.zeros(k, dtype=p.dtype, device=p.device).scatter_add_(0, inverse, torch.ones_like(ok))
    pos = torch.zeros(k, dtype=p.dtype, device=p.device).scatter_add_(0, inverse, ok)
    neg = total - pos
    below = neg.cumsum(0) - neg
    auroc = (pos * (below + neg / 2)).sum() / (pos.sum() * neg.sum())
    return {"accuracy": float(ok.mean()), "nll": float(nll), "ece": float(ece), "auroc": float(auroc)}


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
