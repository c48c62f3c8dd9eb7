"""Data: splits, missing and corrupted files; models: parameter counts, minimal logits; the large tables end to end."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.cli import main
from experiments.deep import data, feed, image_folders, large, models, plans, queue, training
from experiments.deep.config import Config
from experiments.registry import Context, InputError


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


CONTEXT = Context("full", 0, None, 1, Path("."), False)


@pytest.mark.parametrize("method", ["sgd", "swag", "vogn", "sam-adam", "bsam", "ivon"])
def test_table1_configurations_run_end_to_end(method: str) -> None:
    config = plans.quick(next(c for c in large.table1(CONTEXT) if c.method == method))
    rows: list[dict[str, Any]] = []
    cpu = torch.device("cpu")
    assert queue.train_all([config], None, cpu, rows.append) == []
    assert 0 <= rows[0]["metrics"]["mean"]["accuracy"] <= 1


@pytest.mark.parametrize("method", ["sgd", "bsam"])
def test_table2_configurations_run_end_to_end(method: str) -> None:
    config = next(c for c in large.table2(CONTEXT) if c.method == method and c.model == "resnet18")
    split = data.split(data.load("digits-rgb"), select=False, limit=8)
    run = training.train(plans.quick(config), split, max_steps=2)
    assert all(bool(torch.isfinite(p).all()) for p in run.model.parameters())


def test_augmentation_flips_and_crops_as_it_is_told() -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 2, 8, 8)
    moves = torch.tensor([[4, 4, 0], [4, 4, 1], [5, 2, 0]])
    moved = feed.augmented(images, moves)
    assert torch.equal(moved[0], images[0])
    assert torch.equal(moved[1], images[1].flip(2))
    expected = torch.zeros(2, 8, 8)
    expected[:, :7, 2:] = images[2][:, 1:, :6]
    assert torch.equal(moved[2], expected)


def test_a_feed_continues_anywhere() -> None:
    split = data.split(data.load("digits"), select=False, limit=60)
    config = Config("digits", "lenet5", "sgd", batch_size=20, augment=True, seed=3)
    whole = feed.Feed(config, split)
    whole.begin(5)
    batches = [whole.batch() for _ in range(whole.steps)]
    other = feed.Feed(config, split)
    other.begin(5, 2)
    images, labels = other.batch()
    assert torch.equal(images, batches[2][0])
    assert torch.equal(labels, batches[2][1])
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == sorted(split.labels.tolist())


def _png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


FILES = {
    "top/train/cat/a.png": 10,
    "top/train/cat/b.png": 20,
    "top/train/dog/images/c.png": 30,
    "top/test/cat/d.png": 40,
    "top/test/dog/e.png": 50,
}


@pytest.mark.parametrize("kind", ["folder", "tar.xz", "zip"])
def test_folders_and_archives_of_images(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FENCHEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FENCHEL_DATASETS", raising=False)
    source = tmp_path / f"pets.{kind}"
    if kind == "folder":
        for name, value in FILES.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(_png(value))
    elif kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for name, value in FILES.items():
                archive.writestr(name, _png(value))
    else:
        with tarfile.open(source, "w:xz") as tar:
            for name, value in FILES.items():
                info = tarfile.TarInfo(name)
                info.size = len(_png(value))
                tar.addfile(info, io.BytesIO(_png(value)))
    name = data.own_set(f"pets={source}")
    for _ in range(2):  # decoded, then from the cache
        pets = data.load(name)
        assert pets.train_images[:, 0, 0, 0].tolist() == [10, 20, 30]
        assert pets.train_labels.tolist() == [0, 0, 1]
        assert pets.test_images[:, 0, 0, 0].tolist() == [40, 50]
        assert pets.classes == 2
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 1
    (cache,) = (tmp_path / "cache").glob("*.npz")
    for damaged in (b"", cache.read_bytes()[:300]):
        cache.write_bytes(damaged)
        assert data.load(name).classes == 2
    with pytest.raises(InputError, match="cannot be read: No such file"):
        data.own_set("pets=nowhere")
    for text in ("pets", "=x", "../pets=x", "a b=x"):
        with pytest.raises(InputError, match="NAME=PATH"):
            data.own_set(text)
    with pytest.raises(InputError, match="is taken"):
        data.own_set(f"mnist={source}")


def test_other_images_under_one_name_are_another_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FENCHEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FENCHEL_DATASETS", raising=False)
    for name, value in FILES.items():
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_bytes(_png(value))
    first = data.own_set(f"pets={tmp_path / 'pets'}")
    assert data.load(first).train_images[0, 0, 0, 0] == 10
    (tmp_path / "pets" / "top/train/cat/a.png").write_bytes(_png(11))
    second = data.own_set(f"pets={tmp_path / 'pets'}")
    assert second != first
    assert data.load(second).train_images[0, 0, 0, 0] == 11


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar", "pets.tar.xz", "pets.tgz"])
def test_damaged_archives_give_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FENCHEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FENCHEL_DATASETS", raising=False)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, value in FILES.items():
            archive.writestr(path, _png(value))
    for raw in (b"", b"text" * 100, stream.getvalue()[:400], lzma.compress(b"text")[:-3]):
        (tmp_path / name).write_bytes(raw)
        known = data.own_set(f"pets={tmp_path / name}")
        with pytest.raises(InputError, match=name):
            data.load(known)


def test_validation_images_by_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FENCHEL_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "set"
    files = {"train/n1/images/a.JPEG": 1, "train/n2/images/b.JPEG": 2, "val/images/v0.JPEG": 3, "val/images/v1.JPEG": 4}
    for name, value in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(_png(value))
    (root / "val" / "val_annotations.txt").write_text("v0.JPEG\tn2\t0\t0\nv1.JPEG\tn1\t0\t0\n")
    assert image_folders.read(root)[3].tolist() == [1, 0]
