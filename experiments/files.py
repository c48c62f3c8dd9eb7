"""Files that are complete or absent, and arrays read from them; what readers raise on damaged ones."""

from __future__ import annotations

import lzma
import os
import pickle
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

# What readers of JSON, arrays, archives, images and pickles raise on files that are not what they should be.
DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError, lzma.LZMAError, pickle.UnpicklingError, tarfile.TarError, zipfile.BadZipFile, zlib.error),
)


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a stored piece; None where there is none, or where it is damaged and has to be computed again."""
    if not os.path.lexists(path):
        return None
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as stored:
            return {k: stored[k] for k in stored.files}
    except DAMAGE:
        print(f"warning: {path} is damaged; that piece is computed again", file=sys.stderr)
        return None


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz so that it is complete or absent."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{k: np.asarray(v) for k, v in arrays.items()})  # type: ignore[arg-type]


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of ``path`` once it is complete; a failure leaves neither behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
