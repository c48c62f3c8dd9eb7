"""Finished runs as rows: one small JSON file each while a sweep runs, one line each in the committed tables."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments import store
from experiments.deep.config import Config
from experiments.deep.evaluate import METRICS
from experiments.files import DAMAGE, written_whole
from experiments.registry import InputError

Row = dict[str, Any]
_KINDS = {
    **dict.fromkeys(("key", "device", "date", "revision", "ran", "torch"), str),
    "settings": dict,
    "metrics": dict,
    "diverged": bool,
    "seconds": int | float,
}


def committed_directory() -> Path:
    """Where the rows of full runs are kept under version control."""
    return store.results_directory() / "rows"


class RowStore:
    """Rows by configuration key: a directory of finished ones, and committed files that are only read.

    A row is written to a temporary file and renamed, so a killed process leaves a whole row or none.
    """

    def __init__(self, directory: Path, committed: Path | None = None) -> None:
        self.directory = directory
        self._committed = {row["key"]: row for row in _read_lines(committed)} if committed is not None else {}

    def get(self, config: Config) -> Row | None:
        """The finished row of ``config``, or None."""
        key = config.key()
        path = self.directory / f"{key}.json"
        return _read(path) if os.path.lexists(path) else self._committed.get(key)

    def every(self) -> list[Row]:
        """All finished rows."""
        found = dict(self._committed)
        for path in sorted(self.directory.glob("*.json")):
            found[path.stem] = _read(path)
        return list(found.values())

    def put(self, row: Mapping[str, Any]) -> None:
        """Store a finished row."""
        with written_whole(self.directory / f"{row['key']}.json") as temporary:
            temporary.write_text(json.dumps(store.plain(row)) + "\n")

    def forget(self, configs: Iterable[Config]) -> None:
        """Delete the finished rows and the checkpoints of ``configs`` from the directory."""
        for config in configs:
            for suffix in ("json", "pt"):
                (self.directory / f"{config.key()}.{suffix}").unlink(missing_ok=True)

    def missing(self, configs: Iterable[Config]) -> list[Config]:
        """The configurations without a row, each once, in order."""
        found: dict[str, Config] = {}
        for config in configs:
            if self.get(config) is None:
                found.setdefault(config.key(), config)
        return list(found.values())


def merge(source: Path, target: RowStore) -> tuple[int, int]:
    """Take finished rows and checkpoints over from the folder of another machine; how many of each were new.

    Raises:
        InputError: a row is damaged, does not belong to its settings, or differs from ours of the same key; what is
            in order is taken over.
    """
    if not source.is_dir():
        raise InputError(f"{source} is not a folder of rows")
    new = checkpoints = 0
    refused: list[str] = []
    for path in sorted(source.glob("*.json")):
        try:
            new += _take(path, target)
        except InputError as error:
            refused.append(str(error))
    for path in sorted(source.glob("*.pt")):
        kept = target.directory / path.name
        if not kept.exists() and not kept.with_suffix(".json").exists():
            with written_whole(kept) as temporary:
                temporary.write_bytes(path.read_bytes())
            checkpoints += 1
    if refused:
        others = f", and so are {len(refused) - 1} others" if len(refused) > 1 else ""
        raise InputError(f"{refused[0]}{others}; {new} finished runs and {checkpoints} begun ones are taken over")
    return new, checkpoints


def _take(path: Path, target: RowStore) -> bool:
    row = _read(path)
    ours = target.get(Config.from_settings(row["settings"]))
    if ours is not None and ours["metrics"] != row["metrics"]:
        raise InputError(f"{path} has other metrics than our row of the same key; delete one of them")
    if ours is None:
        target.put(row)
    return ours is None


def write_committed(rows: Iterable[Row]) -> None:
    """Merge rows into the committed files, one a task, sorted by key."""
    directory = committed_directory()
    by_file: dict[str, dict[str, Row]] = {}
    for row in rows:
        kind = "search" if row["settings"]["select"] else "final"
        name = f"{row['settings']['dataset']}-{row['settings']['model']}-{kind}.jsonl"
        by_file.setdefault(name, {})[row["key"]] = row
    for name, new in by_file.items():
        merged = {row["key"]: row for row in _read_lines(directory / name)} | new
        lines = (json.dumps(store.plain(merged[key]), sort_keys=True) for key in sorted(merged))
        with written_whole(directory / name) as temporary:
            temporary.write_text("\n".join(lines) + "\n")


def _read_lines(path: Path) -> list[Row]:
    if path.is_dir():
        return [row for file in sorted(path.glob("*.jsonl")) for row in _read_lines(file)]
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        if all(map(_is_row, rows)):
            return rows
    except (OSError, ValueError, RecursionError):
        pass
    raise InputError(f"{path} cannot be read as rows; restore it (git checkout) or delete it") from None


def _read(path: Path) -> Row:
    row = store.read_json(path)
    if not (_is_row(row) and row["key"] == path.stem):
        raise InputError(f"{path} is not a finished row of this version; delete it")
    return row


def _is_row(row: Any) -> bool:
    try:
        metrics = [float(group[name]) for group in row["metrics"].values() for name in METRICS]
        kinds = all(isinstance(row[name], kind) for name, kind in _KINDS.items())
        return kinds and bool(metrics) and row["key"] == Config.from_settings(row["settings"]).key()
    except DAMAGE:
        return False
