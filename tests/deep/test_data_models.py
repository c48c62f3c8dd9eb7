"""Data: splits, missing and corrupted files; models: parameter counts, minimal logits; the large tables end to end."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch

from experiments.cli import main
from experiments.deep import data, large, models, runner
from experiments.registry import InputError


def test_the_validation_split_is_fixed_and_leaves_the_test_set_alone() -> None:
    digits = data.load("digits")
    first, again = data.split(digits, select=True), data.split(digits, select=True)
    assert torch.equal(first.eval_images, again.eval_images)
    assert len(first.labels) + len(first.eval_labels) == len(digits.train_labels)
    final = data.split(digits, select=False)
    assert len(final.labels) == len(digits.train_labels)
    assert torch.equal(final.eval_labels, digits.test_labels)
    assert abs(float(final.images.mean())) < 1e-5
    assert abs(float(final.images.std()) - 1) < 1e-3
    held_out = {bytes(i.numpy().tobytes()) for i in first.eval_images}
    assert not held_out & {bytes(i.numpy().tobytes()) for i in first.images}


def test_missing_and_corrupted_files_give_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(InputError, match="--data DIR"):
        data.load("mnist")
    with pytest.raises(InputError, match="not found"):
        data.load("mnist", tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for kind, count in (("train", 60), ("t10k", 10)):
        images = struct.pack(">IIII", 2051, count, 28, 28) + bytes(count * 784 // 2)
        (raw / f"{kind}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{kind}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + bytes(count))
    with pytest.raises(InputError, match="corrupted"):
        data.load("mnist", tmp_path)
    for kind, count in (("train", 60), ("t10k", 10)):
        images = struct.pack(">IIII", 2051, count, 28, 28) + bytes([1]) * (count * 784)
        (raw / f"{kind}-images-idx3-ubyte").write_bytes(images)
    with pytest.raises(InputError, match="60 training and 10 test"):
        data.load("mnist", tmp_path)
    (raw / "train-images-idx3-ubyte").write_bytes(gzip.compress(b"not an image file"))
    with pytest.raises(InputError, match="corrupted"):
        data.load("mnist", tmp_path)
    with pytest.raises(InputError, match="unknown data set"):
        data.load("imagenet")
    assert main(["run", "table6", "--data", str(tmp_path / "nowhere")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "shape", "classes", "count"),
    [
        ("mlp", (1, 28, 28), 10, 784 * 500 + 500 + 500 * 300 + 300 + 300 * 9 + 9),
        ("lenet5", (1, 28, 28), 10, 156 + 2416 + 400 * 120 + 120 + 120 * 84 + 84 + 84 * 9 + 9),
        # He et al.'s ResNet-20 has 269,722 with ten logits; one logit fewer saves 65.
        ("resnet20-frn", (3, 32, 32), 10, 269_722 - 65),
        ("resnet18", (3, 32, 32), 10, 11_173_962 - 513),
    ],
)
def test_parameter_counts_and_minimal_logits(name: str, shape: tuple[int, int, int], classes: int, count: int) -> None:
    net = models.build(name, shape, classes, 0)
    assert sum(p.numel() for p in net.parameters()) == count
    scores = net(torch.randn(2, *shape))
    assert scores.shape == (2, classes)
    assert bool((scores[:, -1] == 0).all())
    same = models.build(name, shape, classes, 0)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize("method", ["sgd", "swag", "vogn", "sam-adam", "bsam", "ivon"])
def test_table1_configurations_run_end_to_end(method: str) -> None:
    torch.set_num_threads(1)
    config = large.smoke(next(c for c in large.table1() if c.method == method))
    row = runner.train_one(config, device="cpu")
    assert 0 <= row["metrics"]["mean"]["accuracy"] <= 1


@pytest.mark.parametrize("method", ["sgd", "bsam"])
def test_table2_configurations_run_end_to_end(method: str) -> None:
    torch.set_num_threads(1)
    config = next(c for c in large.table2() if c.method == method and c.model == "resnet18")
    split = data.split(data.load("digits-rgb"), select=False, limit=8)
    trained = runner.train(large.smoke(config), split, max_steps=2)
    assert all(bool(torch.isfinite(p).all()) for p in trained.model.parameters())


def test_augmentation_keeps_shape_and_moves_pixels() -> None:
    torch.manual_seed(0)
    images = torch.randn(6, 3, 8, 8)
    moved = runner.augmented(images)
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)
