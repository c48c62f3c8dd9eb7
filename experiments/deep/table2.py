"""Table 2: with augmentation, on ResNet-20-FRN and ResNet-18, beside the published values."""

from __future__ import annotations

from typing import Any

from experiments.deep import large
from experiments.registry import Context, Outcome

__all__ = ["PUBLISHED", "run"]

# The authors' README: accuracy, NLL as printed, ECE, AUROC. Their script divides the NLL by the last batch index.
PUBLISHED: tuple[tuple[str, str, float, float, float, float], ...] = (
    ("resnet18 / cifar10", "SGD", 0.9477, 0.2058, 0.0306, 0.9336),
    ("resnet18 / cifar10", "SAM-SGD", 0.9569, 0.1431, 0.0134, 0.9468),
    ("resnet18 / cifar10", "bSAM", 0.9595, 0.1239, 0.0082, 0.9536),
    ("resnet20-frn / tiny-imagenet", "SGD", 0.5228, 2.0077, 0.0452, 0.8316),
    ("resnet20-frn / tiny-imagenet", "SAM-SGD", 0.5239, 1.9961, 0.0317, 0.8304),
    ("resnet20-frn / tiny-imagenet", "bSAM", 0.5337, 1.9594, 0.0206, 0.8272),
)


def run(context: Context) -> Outcome:
    """Complete configurations; run where there is a GPU and the data (quick: a few steps on small images)."""
    from fenchel.metrics import correct_published_nll

    published: list[dict[str, Any]] = [
        {
            "task": task,
            "method": method,
            "accuracy": accuracy,
            "nll": nll,
            "nll corrected": correct_published_nll(nll, 50),
            "ece": ece,
            "auroc": auroc,
        }
        for task, method, accuracy, nll, ece, auroc in PUBLISHED
    ]
    return large.outcome(context, "table2", large.table2, published)
