"""What differs from the paper's settings, said once and stored with every result."""

from __future__ import annotations

from experiments.deep import plans
from experiments.registry import Context

QUICK = ["a quick run on the embedded digits: it exercises the code and means nothing about the paper"]


def small(context: Context, *more: str) -> list[str]:
    """Of the tables on small networks."""
    if context.scale == "quick":
        return QUICK
    return [
        "settings from our own search on a fixed validation split (the paper's Table 7 is not known to us), with equal "
        "budgets in passes over the data; final runs use all training data",
        f"{plans.EPOCHS['lenet5']} epochs for LeNet-5 and {plans.EPOCHS['mlp']} for the MLP, cosine to zero, constant "
        "within an epoch; the paper has 120",
        "pixels standardized by the training set's mean and standard deviation; PyTorch's default initialization",
        "SAM-Adam and Adam are torch.optim.Adam with bias correction; IVON (not in the paper) has one sample a step",
        *more,
    ]
