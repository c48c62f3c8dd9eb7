"""Images as a folder of class folders, or an archive of it, decoded once to a cache.

`train/CLASS/...` and `test/CLASS/...` (or `val/CLASS/...`), at the top or in one folder; as Tiny ImageNet has it, the
validation images may also lie in one folder beside `val_annotations.txt`. Class numbers follow the sorted names.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from experiments.files import read_arrays, written_whole

ARCHIVES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".tar.bz2", ".zip")
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp")

_CACHED = ("train_images", "train_labels", "test_images", "test_labels", "classes")

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64], int]
"""Training images (n, 3, height, width) and labels (n,), the same for test, and the number of classes."""


def find(name: str, directory: Path) -> Path | None:
    """The folder or archive called ``name`` in ``directory``."""
    places = [directory / name, *(directory / f"{name}{ending}" for ending in ARCHIVES)]
    return next((place for place in places if place.exists()), None)


def read(source: Path) -> Arrays:
    """Decode a folder or archive, or read the cache of an earlier time.

    Raises:
        ValueError: it is not laid out as described, or the images differ in size. OSError: it cannot be read.
    """
    cache = _cache(source)
    stored = read_arrays(cache)
    if stored is not None and set(stored) == set(_CACHED):
        *parts, classes = (stored[name] for name in _CACHED)
        return (*parts, int(classes))  # type: ignore[return-value]
    found = _decoded(source)
    try:
        with written_whole(cache) as temporary, temporary.open("wb") as file:
            np.savez(file, **dict(zip(_CACHED, found, strict=True)))  # type: ignore[arg-type]
    except OSError as error:
        print(f"warning: the decoded images are not kept in {cache.parent}: {error.strerror or error}", file=sys.stderr)
    return found


def fingerprint(source: Path) -> str:
    """A digest of an archive, or of the names and contents of the files in a folder.

    Raises:
        OSError: it cannot be read.
    """
    if not source.is_dir():
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for name, raw in _files(source):
        digest.update(f"{name}\n{len(raw)}\n".encode())
        digest.update(raw)
    return digest.hexdigest()


def _cache(source: Path) -> Path:
    home = os.environ.get("FENCHEL_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fenchel"
    )
    return Path(home) / f"{source.name.split('.')[0]}-{fingerprint(source)[:12]}.npz"


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield path.relative_to(source).as_posix(), path.read_bytes()
    elif source.suffix == ".zip":
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                if not name.endswith("/"):
                    yield name, archive.read(name)
    else:
        with tarfile.open(source, "r:*") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    yield member.name, file.read()


def _decode(raw: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(raw)) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _decoded(source: Path) -> Arrays:
    images: list[tuple[PurePosixPath, bytes]] = []
    annotations = ""
    for name, raw in _files(source):
        path = PurePosixPath(name)
        parts = path.parts
        while parts and parts[0] not in ("train", "test", "val"):
            parts = parts[1:]
        if path.name == "val_annotations.txt":
            annotations = raw.decode()
        elif parts and path.suffix.lower() in _IMAGES:
            images.append((PurePosixPath(*parts), raw))
    images.sort(key=lambda item: item[0].as_posix())
    classes = sorted({path.parts[1] for path, _ in images if path.parts[0] == "train" and len(path.parts) > 2})
    if len(classes) < 2:
        raise ValueError("it holds no folders train/CLASS with images of at least two classes")
    numbers = {name: i for i, name in enumerate(classes)}
    named = dict(line.split("\t")[:2] for line in annotations.splitlines() if "\t" in line)
    test_part = "test" if any(path.parts[0] == "test" and path.parts[1] in numbers for path, _ in images) else "val"
    found: dict[str, tuple[list[bytes], list[int]]] = {"train": ([], []), test_part: ([], [])}
    for path, raw in images:
        label = numbers.get(path.parts[1], numbers.get(named.get(path.name, "")))
        if path.parts[0] in found and label is not None:
            found[path.parts[0]][0].append(raw)
            found[path.parts[0]][1].append(label)
    if not found[test_part][0]:
        raise ValueError("it holds no test images: neither test/CLASS, val/CLASS nor val_annotations.txt")
    arrays: list[NDArray[np.uint8] | NDArray[np.int64]] = []
    with ThreadPoolExecutor() as pool:
        for raws, labels in (found["train"], found[test_part]):
            decoded = list(pool.map(_decode, raws, chunksize=256))
            shapes = {image.shape for image in decoded}
            if len(shapes) > 1:
                raise ValueError(f"its images differ in size: {sorted(shapes)[:3]}")
            arrays += [np.stack(decoded), np.array(labels)]
    return (*arrays, len(classes))  # type: ignore[return-value]
