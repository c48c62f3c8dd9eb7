"""The paper's networks; each ends in classes - 1 outputs, the minimal logits, with the last logit fixed at zero."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MinimalLogits(nn.Module):
    """Appends the fixed zero logit: (n, classes - 1) -> (n, classes)."""

    def forward(self, logits: Tensor) -> Tensor:
        return F.pad(logits, (0, 1))


class FilterResponseNorm(nn.Module):
    """x / sqrt(mean of x^2 over the image + eps), scaled and shifted by channel; no batch statistics."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        power = x.square().mean((-2, -1), keepdim=True)
        return x * torch.rsqrt(power + self.eps) * self.weight + self.bias


def mlp(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Inputs - 500 - 300 - (classes - 1), ReLU."""
    inputs = shape[0] * shape[1] * shape[2]
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, 500),
        nn.ReLU(),
        nn.Linear(500, 300),
        nn.ReLU(),
        nn.Linear(300, classes - 1),
        MinimalLogits(),
    )


def lenet5(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """LeNet-5 with ReLU and max pooling: 6 and 16 filters of 5 x 5, then 120 - 84 - (classes - 1)."""
    channels, height, width = shape
    side = ((height // 2 - 4) // 2, (width // 2 - 4) // 2)
    if min(side) < 1:
        raise ValueError(f"LeNet-5 needs images of at least 12 x 12, got {height} x {width}")
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(6, 16, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * side[0] * side[1], 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes - 1),
        MinimalLogits(),
    )


class _FRNBlock(nn.Module):
    """Two 3 x 3 convolutions with FRN; the shortcut subsamples and pads with zeros, so it has no parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = FilterResponseNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = FilterResponseNorm(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(shortcut, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return F.silu(self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x))))) + shortcut)


def resnet20_frn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-20 with filter response normalization: as many parameters as the original with batch normalization."""
    blocks: list[nn.Module] = []
    width = 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for position in range(3):
            blocks.append(_FRNBlock(width, outputs, stride if position == 0 else 1))
            width = outputs
    stem = [nn.Conv2d(shape[0], 16, 3, padding=1, bias=False), FilterResponseNorm(16), nn.SiLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes - 1), MinimalLogits()]
    return nn.Sequential(*stem, *blocks, *head)


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


def resnet18(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-18 for 32 x 32 images: a 3 x 3 stem without pooling, batch normalization."""
    blocks: list[nn.Module] = []
    width = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [_BasicBlock(width, outputs, stride), _BasicBlock(outputs, outputs, 1)]
        width = outputs
    stem = [nn.Conv2d(shape[0], 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes - 1), MinimalLogits()]
    return nn.Sequential(*stem, *blocks, *head)


MODELS = {"mlp": mlp, "lenet5": lenet5, "resnet20-frn": resnet20_frn, "resnet18": resnet18}


def build(name: str, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """The network ``name`` with PyTorch's default initialization drawn from ``seed`` alone.

    Raises:
        ValueError: there is no such network, or the images are too small for it.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(MODELS)}")
    if classes < 2:
        raise ValueError(f"classes must be at least 2, got {classes}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](shape, classes)
