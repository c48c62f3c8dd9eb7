"""Checkpoints without pickle: one safetensors file, written so that a killed process leaves the old or the new one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fenchel.errors import missing

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: str | os.PathLike[str], **parts: Any) -> None:
    """Write state dictionaries (and torch's global generator) to one file, atomically.

    save_checkpoint("run.safetensors", model=model.state_dict(), optimizer=optimizer.state_dict(), epoch=3)

    Raises:
        TypeError: a part holds something that is neither a tensor, a number, a string nor a container of these.
        FileNotFoundError: the folder is not there.
        MissingDependencyError: safetensors is not installed.
    """
    save_file, *_ = _safetensors()
    tensors: dict[str, Tensor] = {}
    rest = _taken_apart({"parts": parts, "generator": torch.get_rng_state()}, "", tensors)
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path names a folder that does not exist: {target.parent}")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata={"tree": json.dumps(rest)})
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(target)


def load_checkpoint(path: str | os.PathLike[str], *, restore_generator: bool = True) -> dict[str, Any]:
    """What `save_checkpoint` was given, by name; torch's global generator continues where it was.

    Raises:
        ValueError: the file is not one of `save_checkpoint`, or not whole.
    """
    _, safe_open, broken = _safetensors()
    try:
        with safe_open(path, framework="pt") as file:
            tree_text = (file.metadata() or {})["tree"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (broken, KeyError) as error:
        raise ValueError(f"{path} was not written by save_checkpoint, or is not whole: {error}") from None

    def together(node: dict[str, Any]) -> Any:
        if _TENSOR in node:
            return tensors[node[_TENSOR]]
        return tuple(node[_TUPLE]) if _TUPLE in node else dict(node[_ITEMS])

    tree = json.loads(tree_text, object_hook=together)
    if restore_generator:
        torch.set_rng_state(tree["generator"])
    parts: dict[str, Any] = tree["parts"]
    return parts


# Keys that mark what JSON has not: tensors (by name), tuples, and dictionaries with keys of any kind.
_TENSOR, _TUPLE, _ITEMS = "__tensor__", "__tuple__", "__items__"


def _taken_apart(node: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """``node`` as JSON; its tensors go to ``tensors``."""
    if isinstance(node, Tensor):
        tensors[place] = node.detach().cpu().contiguous().clone()
        return {_TENSOR: place}
    if isinstance(node, Mapping):
        return {_ITEMS: [[key, _taken_apart(value, f"{place}/{key}", tensors)] for key, value in node.items()]}
    if isinstance(node, (list, tuple)):
        items = [_taken_apart(value, f"{place}/{i}", tensors) for i, value in enumerate(node)]
        return {_TUPLE: items} if isinstance(node, tuple) else items
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    raise TypeError(f"a checkpoint holds tensors, numbers, strings and containers of them, not {type(node)} at {place}")


def _safetensors() -> tuple[Any, Any, Any]:
    try:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import save_file
    except ImportError:
        raise missing("a checkpoint", "safetensors", "optim") from None
    return save_file, safe_open, SafetensorError
