"""Image data sets as plain tensors, with a fixed validation split that never touches the test set."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.deep import image_folders
from experiments.files import DAMAGE
from experiments.registry import InputError

DATASETS = {
    "digits": "scikit-learn's digits, 16 x 16, embedded",
    "digits-rgb": "scikit-learn's digits as 32 x 32 colour images, embedded",
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "cifar10-jpeg": "CIFAR-10 re-encoded as JPEG (not the original pixels)",
    "tiny-imagenet": "TinyImageNet, a folder tiny-imagenet-200 as distributed",
    "tiny-imagenet-32": "Tiny ImageNet scaled to 32 x 32, re-encoded as JPEG",
}
_FOLDERS = {
    "cifar10-jpeg": "cifar10-jpeg",
    "tiny-imagenet": "tiny-imagenet-200",
    "tiny-imagenet-32": "tiny-imagenet-32-jpeg",
}
"""Data sets that are folders of class folders, or archives of them, and how these are called."""
_OWN = "FENCHEL_DATASETS"
_EMBEDDED = ("digits", "digits-rgb")
_SPLIT_SEED = 20230210
_VALIDATION_FRACTION = 6
_SIZES = {
    "mnist": (60000, 10000),
    "fashion-mnist": (60000, 10000),
    "cifar10": (50000, 10000),
    "cifar10-jpeg": (50000, 10000),
    "tiny-imagenet-32": (100000, 10000),
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
    """The data set ``name``: embedded, laid out in ``directory`` as torchvision does, or a folder or archive there.

    Raises:
        InputError: unknown name, no directory, missing or corrupted files (one sentence, with the remedy).
    """
    if name in _EMBEDDED:
        return _digits(name)
    own = _own_sets().get(name)
    if own is None and name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}, others with --dataset NAME=PATH")
    if own is None and directory is None:
        raise InputError(f"{DATASETS[name]} needs a data directory: give --data DIR or set FENCHEL_DATA")
    place = own or Path(directory or "")
    try:
        if own is not None or name in _FOLDERS:
            data = _folder(name, own or image_folders.find(_FOLDERS[name], place))
        else:
            data = _torchvision(name, place, download)
    except DAMAGE as error:
        raise InputError(_complaint(name, place, error)) from error
    _check(data, place)
    return data


def own_set(text: str) -> str:
    """Make a data set of the user's own known from ``NAME=PATH``, to this process and its workers.

    Returns:
        NAME and a fingerprint of the images: under one name other images are another data set.

    Raises:
        InputError: it is not of that form, the name is taken, or there is no such file or folder.
    """
    name, _, path = text.partition("=")
    if not (re.fullmatch(r"[\w.-]+", name) and path) or ";" in text:
        raise InputError(f"--dataset takes NAME=PATH, NAME of letters, digits, '.', '-' and '_', got {text!r}")
    if name in DATASETS:
        raise InputError(f"--dataset {name}: this name is taken by {DATASETS[name]}")
    try:
        known = f"{name}-{image_folders.fingerprint(Path(path))[:8]}"
    except OSError as error:
        raise InputError(f"--dataset {name}: {path} cannot be read: {error.strerror or error}") from error
    os.environ[_OWN] = ";".join(f"{key}={value}" for key, value in {**_own_sets(), known: Path(path).resolve()}.items())
    return known


def _own_sets() -> dict[str, Path]:
    entries = [entry.partition("=") for entry in os.environ.get(_OWN, "").split(";") if entry]
    return {name: Path(path) for name, _, path in entries}


def _folder(name: str, source: Path | None) -> DataSet:
    if source is None:
        raise FileNotFoundError(f"{_FOLDERS[name]} not found")
    train_images, train_labels, test_images, test_labels, classes = image_folders.read(source)
    tensors = [torch.from_numpy(a) for a in (train_images, train_labels, test_images, test_labels)]
    return DataSet(name, tensors[0], tensors[1], tensors[2], tensors[3], classes)


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
    from sklearn.datasets import load_digits

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


def _torchvision(name: str, directory: Path, download: bool) -> DataSet:
    import torchvision

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
        raise InputError(f"{DATASETS.get(data.name, data.name)} in {str(directory)!r} is corrupted: it has {problem}")


def _complaint(name: str, directory: Path, error: BaseException) -> str:
    title = DATASETS.get(name, name)
    text = " ".join(str(error).split())
    if "not found" in text.lower() or isinstance(error, FileNotFoundError):
        kind = f"a folder or archive {_FOLDERS[name]}" if name in _FOLDERS else "torchvision's layout"
        return f"{title} was not found in {str(directory)!r}; put it there as {kind}"
    reason = text or type(error).__name__
    place = f"{title} in {str(directory)!r}"
    return f"{place} is corrupted and cannot be read ({type(error).__name__}: {reason[:160]})"
