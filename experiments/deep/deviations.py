"""What differs from the paper's settings, said once and stored with every result."""

from __future__ import annotations

from experiments.deep import plans

__all__ = ["ABLATIONS", "COMMON", "QUICK"]

COMMON = [
    "hyperparameters from our own search on a fixed validation split (the paper's Table 7 is not known to us): "
    "16 random draws a method for 20 epochs, the best 4 again for 60, one seed; final runs use all training data",
    "pixels standardized by the training set's mean and standard deviation; PyTorch's default initialization",
    "training on the GPU with tf32 matrix products; many runs share one stack, each with its own weights",
    "the learning rate is constant within an epoch, and cosine over the epochs",
    "SAM-Adam and Adam are torch.optim.Adam with bias correction",
]
ABLATIONS = [
    *COMMON,
    f"{plans.ABLATION_EPOCHS} epochs and {plans.ABLATION_SEEDS} seeds on LeNet-5/FashionMNIST instead of a "
    "ResNet-20-FRN on CIFAR",
]
QUICK = ["a quick run on the embedded digits: it exercises the code and means nothing about the paper"]
