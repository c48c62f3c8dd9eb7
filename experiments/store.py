"""Results on disk: one JSON a run (settings, numbers, claims, provenance), larger arrays in an npz beside it."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.files import DAMAGE, write_arrays, written_whole
from experiments.registry import Claim, Experiment, InputError, Outcome

_PACKAGES = (
    "numpy",
    "scipy",
    "cvxpy",
    "highspy",
    "clarabel",
    "torch",
    "torchvision",
    "torchmetrics",
    "laplace-torch",
    "numpyro",
    "jax",
    "scikit-learn",
    "matplotlib",
)
# What is tried whether there is room for: more than any result takes.
_ROOM = 4_000_000
# What a stored result holds, and as what; a claim of it; its provenance.
_PARTS = {
    "name": str,
    "title": str,
    "scale": str,
    "settings": dict,
    "numbers": dict,
    "claims": list,
    "provenance": dict,
    "arrays": list,
}
_CLAIM = {field.name: dict if field.name == "numbers" else str for field in fields(Claim)}
_PROVENANCE = {"command": str, "revision": str, "device": str, "date": str, "seed": int, "wall_seconds": int | float}


@dataclass(frozen=True)
class Stored:
    """A stored run, as the figures and the report read it. Non-finite numbers are the strings inf, -inf, nan."""

    name: str
    title: str
    scale: str
    settings: dict[str, Any]
    numbers: dict[str, Any]
    claims: tuple[Claim, ...]
    provenance: dict[str, Any]
    arrays: dict[str, np.ndarray]


def results_directory() -> Path:
    """`experiments/results`, or the directory named by the environment variable FENCHEL_RESULTS."""
    return Path(os.environ.get("FENCHEL_RESULTS") or Path(__file__).parent / "results")


def result_path(name: str, scale: str) -> Path:
    """Where a run of ``name`` at ``scale`` is stored: full ones as NAME.json, quick ones beside as NAME.quick.json."""
    return results_directory() / (f"{name}.json" if scale == "full" else f"{name}.quick.json")


def shown_path(name: str) -> Path:
    """The full result of ``name``; where there is none, the quick one."""
    full = result_path(name, "full")
    return full if os.path.lexists(full) else result_path(name, "quick")


def save(experiment: Experiment, outcome: Outcome, stamp: Mapping[str, Any], scale: str) -> Path:
    """Write the outcome atomically: arrays first, so that a JSON that exists is always complete."""
    path = result_path(experiment.name, scale)
    arrays = path.with_suffix(".npz")
    if outcome.arrays:
        write_arrays(arrays, outcome.arrays)
    else:
        arrays.unlink(missing_ok=True)
    record = {
        "name": experiment.name,
        "title": experiment.title,
        "scale": scale,
        "settings": plain(outcome.settings),
        "numbers": plain(outcome.numbers),
        "claims": [plain(asdict(claim)) for claim in outcome.claims],
        "provenance": plain(stamp),
        "arrays": sorted(outcome.arrays),
    }
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return path


def check_writable() -> None:
    """Find out before a computation whether its result can be stored.

    Raises:
        InputError: the directory of results cannot be written to, or its disk is full.
    """
    directory = results_directory()
    probe = directory / f".{os.getpid()}.probe"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(_ROOM))
    except OSError as error:
        raise InputError(f"results cannot be written to {directory}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def state(name: str) -> str:
    """What is stored of an experiment, in two words; its arrays are not read."""
    path = shown_path(name)
    if not os.path.lexists(path):
        return "not run"
    try:
        record = _whole(read_json(path), path)
        claims, settings = record["claims"], record["settings"]
        if record["arrays"] and not zipfile.is_zipfile(path.with_suffix(".npz")):
            raise KeyError("arrays")
        if claims and all(claim["verdict"] == "not run" for claim in claims):
            return "not run"
        return f"{record['scale']}" if settings.get("complete", True) else f"{record['scale']}, in part"
    except InputError as error:
        print(f"warning: {error}", file=sys.stderr)
    except DAMAGE:
        print(
            f"warning: {path} or its arrays are damaged; delete them, or restore them with git checkout",
            file=sys.stderr,
        )
    return "damaged"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: the file cannot be read, naming it and the remedy.
    """
    try:
        record = json.loads(path.read_text(), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise InputError(f"{path} cannot be read as a result; delete it, or restore it with git checkout")
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of which no name is given twice, as after a merge by hand."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    return found


def load(path: Path) -> Stored:
    """Read one stored run with its arrays.

    Raises:
        InputError: the file, or that of its arrays, is damaged or foreign.
    """
    record = read_json(path)
    try:
        return _stored(_whole(record, path), path)
    except DAMAGE:
        raise InputError(f"{path} or its arrays are damaged; delete them, or restore them with git checkout") from None


def _whole(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """The record itself; KeyError or TypeError where a part is missing or of another kind, or of another run."""
    _check_kinds(record, _PARTS)
    _check_kinds(record["provenance"], _PROVENANCE)
    for claim in record["claims"]:
        _check_kinds({"condition": "", "would_change": "", **claim}, _CLAIM)
        Claim(**claim)
    if path != result_path(record["name"], record["scale"]):
        raise ValueError("it is the result of another run")
    return record


def _check_kinds(parts: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for part, kind in kinds.items():
        if not isinstance(parts[part], kind):
            raise TypeError(part)


def _stored(record: dict[str, Any], path: Path) -> Stored:
    arrays: dict[str, np.ndarray] = {}
    if record["arrays"]:
        with path.with_suffix(".npz").open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {k: file[k] for k in record["arrays"]}
    claims = tuple(Claim(**claim) for claim in record["claims"])
    return Stored(**{part: record[part] for part in _PARTS} | {"claims": claims, "arrays": arrays})


def load_all() -> dict[str, Stored]:
    """Every stored run by name: the full one, or the quick one where there is none.

    Files that cannot be read are named on the standard error stream, and left out.
    """
    found = {}
    names = {path.name.removesuffix(".json").removesuffix(".quick") for path in results_directory().glob("*.json")}
    for name in sorted(names):
        try:
            found[name] = load(shown_path(name))
        except InputError as error:
            print(f"warning: {error}", file=sys.stderr)
    return found


def provenance(command: str, seed: int, seconds: float, device: str | None = None) -> dict[str, Any]:
    """Command, seed, versions, revision, wall time and date of a run."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": command,
        "seed": seed,
        "versions": versions,
        "revision": revision(),
        "wall_seconds": round(seconds, 2),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device or f"cpu ({platform.machine()}, {os.cpu_count()} cores)",
    }


def plain(value: Any) -> Any:
    """``value`` as plain JSON types; non-finite floats become the strings inf, -inf, nan."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"a result must hold plain numbers, strings, lists and dicts, got {type(value).__name__}")


def is_dirty() -> bool:
    """Whether full results would go to the project's own directory from a tree with local changes."""
    return "FENCHEL_RESULTS" not in os.environ and revision().endswith("with local changes")


@cache
def revision() -> str:
    """The commit of the code, and whether it was changed since; FENCHEL_REVISION says it of a copy without git."""
    given = os.environ.get("FENCHEL_REVISION")
    if given:
        return given
    root = Path(__file__).parents[1]
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "fenchel", "experiments/*.py"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + (" with local changes" if dirty.stdout.strip() else "")
