"""Image data sets as plain tensors, with a fixed validation split that never touches the test set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.registry import InputError
from fenchel.errors import MissingDependencyError

__all__ = ["DATASETS", "DataSet", "Split", "load", "split"]

DATASETS = {
    "digits": "scikit-learn's digits, 16 x 16, embedded",
    "digits-rgb": "scikit-learn's digits as 32 x 32 colour images, embedded",
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tiny-imagenet": "TinyImageNet, a folder tiny-imagenet-200 as distributed",
}
_EMBEDDED = ("digits", "digits-rgb")
_SPLIT_SEED = 20230210
_VALIDATION_FRACTION = 6
_SIZES = {
    "mnist": (60000, 10000),
    "fashion-mnist": (60000, 10000),
    "cifar10": (50000, 10000),
    "cifar100": (50000, 10000),
}


@dataclass(frozen=True)
class DataSet:
    """Images (n, channels, height, width) uint8 and labels (n,) int64, for training and test."""

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width


@dataclass(frozen=True)
class Split:
    """What one run sees: standardized float images and labels to train on, and the part it is evaluated on."""

    images: Tensor
    labels: Tensor
    eval_images: Tensor
    eval_labels: Tensor
    classes: int

    def to(self, device: torch.device | str) -> Split:
        """The same tensors on ``device``."""
        return Split(
            self.images.to(device),
            self.labels.to(device),
            self.eval_images.to(device),
            self.eval_labels.to(device),
            self.classes,
        )


def load(name: str, directory: Path | None = None, *, download: bool = False) -> DataSet:
    """The data set ``name``; all but the embedded ones are read from ``directory`` by torchvision.

    Raises:
        InputError: unknown name, no directory, missing or corrupted files (one sentence, with the remedy).
        MissingDependencyError: torchvision or scikit-learn is not installed.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    if name in _EMBEDDED:
        return _digits(name)
    if directory is None:
        raise InputError(f"{DATASETS[name]} needs a data directory: give --data DIR or set FENCHEL_DATA")
    try:
        import torchvision
    except ImportError as error:
        raise MissingDependencyError("image data needs torchvision; install fenchel[deep]") from error
    try:
        data = _read(torchvision, name, Path(directory), download)
    except (RuntimeError, ValueError, AssertionError, OSError, EOFError, KeyError, IndexError, TypeError) as error:
        raise InputError(_complaint(name, Path(directory), error)) from error
    _check(data, Path(directory))
    return data


def split(data: DataSet, *, select: bool, limit: int = 0) -> Split:
    """Training and evaluation parts, standardized by the training images' mean and standard deviation.

    With ``select`` a fixed sixth of the training set is held out and evaluated, the test set stays unseen; otherwise
    the whole training set is used and the test set is evaluated. ``limit`` keeps that many training images (0: all).
    """
    mean, std = _channel_moments(data.train_images)
    if select:
        order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(_SPLIT_SEED))
        held_out = len(order) // _VALIDATION_FRACTION
        train, evaluate = order[held_out:].sort().values, order[:held_out].sort().values
        parts = (data.train_images[train], data.train_labels[train], data.train_images[evaluate])
        images, labels, eval_images, eval_labels = (*parts, data.train_labels[evaluate])
    else:
        images, labels = data.train_images, data.train_labels
        eval_images, eval_labels = data.test_images, data.test_labels
    if limit:
        images, labels = images[:limit], labels[:limit]
    return Split(
        _standardize(images, mean, std), labels, _standardize(eval_images, mean, std), eval_labels, data.classes
    )


def _standardize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (images.float() / 255 - mean) / std


def _channel_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    # Sums in float64 a channel at a time: a float32 mean over 4.7e7 pixels would lose digits.
    counts = torch.arange(256, dtype=torch.float64) / 255
    moments = []
    for channel in range(images.shape[1]):
        histogram = torch.bincount(images[:, channel].reshape(-1).long(), minlength=256).double()
        weights = histogram / histogram.sum()
        mean = (weights * counts).sum()
        moments.append((mean, (weights * (counts - mean) ** 2).sum().sqrt()))
    shape = (1, images.shape[1], 1, 1)
    return tuple(torch.tensor([float(m[i]) for m in moments]).reshape(shape) for i in (0, 1))  # type: ignore[return-value]


def _digits(name: str) -> DataSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("the embedded digits need scikit-learn; install fenchel[deep]") from error
    bunch = load_digits()
    images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)[:, None]
    factor = 2 if name == "digits" else 4
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    if name == "digits-rgb":
        images = images.expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    train, test = order[:1297], order[1297:]
    return DataSet(name, images[train], labels[train], images[test], labels[test], 10)


def _read(torchvision: Any, name: str, directory: Path, download: bool) -> DataSet:
    if name == "tiny-imagenet":
        return _tiny_imagenet(torchvision, directory)
    kinds = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
    kind = getattr(torchvision.datasets, kinds[name])
    parts = []
    for train in (True, False):
        source = kind(str(directory), train=train, download=download)
        images = torch.as_tensor(source.data)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        parts += [images, torch.as_tensor(source.targets).long()]
    train_images, train_labels, test_images, test_labels = parts
    classes = 100 if name == "cifar100" else 10
    return DataSet(name, train_images, train_labels, test_images, test_labels, classes)


def _tiny_imagenet(torchvision: Any, directory: Path) -> DataSet:
    root = directory / "tiny-imagenet-200" if (directory / "tiny-imagenet-200").is_dir() else directory
    train = torchvision.datasets.ImageFolder(str(root / "train"))
    annotations = root / "val" / "val_annotations.txt"
    if annotations.exists():
        fields = [line.split("\t") for line in annotations.read_text().splitlines() if line]
        test = [(str(root / "val" / "images" / f[0]), train.class_to_idx[f[1]]) for f in fields]
    else:
        test = torchvision.datasets.ImageFolder(str(root / "val")).samples
    parts = []
    for samples in (train.samples, test):
        images = [torchvision.io.decode_image(path, torchvision.io.ImageReadMode.RGB) for path, _ in samples]
        parts += [torch.stack(images), torch.tensor([label for _, label in samples])]
    train_images, train_labels, test_images, test_labels = parts
    return DataSet("tiny-imagenet", train_images, train_labels, test_images, test_labels, len(train.classes))


def _check(data: DataSet, directory: Path) -> None:
    found = (len(data.train_labels), len(data.test_labels))
    problem = ""
    if data.name in _SIZES and found != _SIZES[data.name]:
        problem = f"{found[0]} training and {found[1]} test images instead of {_SIZES[data.name]}"
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        if len(images) != len(labels):
            problem = f"{len(images)} images but {len(labels)} labels"
        elif len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= data.classes:
            problem = f"labels outside 0..{data.classes - 1}"
        elif not bool(images.any()):
            problem = "images that are all zero"
    if problem:
        raise InputError(f"{DATASETS[data.name]} in {str(directory)!r} is corrupted: it has {problem}")


def _complaint(name: str, directory: Path, error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "not found" in text.lower() or isinstance(error, FileNotFoundError):
        return f"{DATASETS[name]} was not found in {str(directory)!r}; put it there as torchvision lays it out"
    reason = text or type(error).__name__
    place = f"{DATASETS[name]} in {str(directory)!r}"
    return f"{place} is corrupted and cannot be read ({type(error).__name__}: {reason[:160]})"
