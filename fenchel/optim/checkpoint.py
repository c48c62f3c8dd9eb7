"""Checkpoints without pickle: one safetensors file, written so that a killed process leaves the old or the new one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fenchel.errors import MissingDependencyError

__all__ = ["flatten", "load_checkpoint", "save_checkpoint", "unflatten"]

_TENSOR = "__tensor__"
_TUPLE = "__tuple__"
_ITEMS = "__items__"


def flatten(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested dictionaries, lists, tuples, numbers, strings and tensors in tensors by name and a JSON-able rest.

    Raises:
        TypeError: something else is in it, named by its place.
    """
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, place: str) -> Any:
        if isinstance(node, Tensor):
            tensors[place] = node.detach().cpu().contiguous().clone()
            return {_TENSOR: place}
        if isinstance(node, Mapping):
            return {_ITEMS: [[key, walk(value, f"{place}/{key}")] for key, value in node.items()]}
        if isinstance(node, (list, tuple)):
            items = [walk(value, f"{place}/{i}") for i, value in enumerate(node)]
            return {_TUPLE: items} if isinstance(node, tuple) else items
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise TypeError(
            f"a checkpoint holds tensors, numbers, strings and containers of them, not {type(node)} at {place}"
        )

    return tensors, walk(tree, "")


def unflatten(tensors: Mapping[str, Tensor], rest: Any) -> Any:
    """The inverse of `flatten`."""
    if isinstance(rest, list):
        return [unflatten(tensors, value) for value in rest]
    if isinstance(rest, dict):
        if _TENSOR in rest:
            return tensors[rest[_TENSOR]]
        if _TUPLE in rest:
            return tuple(unflatten(tensors, value) for value in rest[_TUPLE])
        return {key: unflatten(tensors, value) for key, value in rest[_ITEMS]}
    return rest


def save_checkpoint(path: str | os.PathLike[str], **parts: Any) -> None:
    """Write state dictionaries (and torch's global generator) to one file, atomically.

    save_checkpoint("run.safetensors", model=model.state_dict(), optimizer=optimizer.state_dict(), epoch=3)

    Raises:
        TypeError: a part holds something that is neither a tensor, a number, a string nor a container of these.
        MissingDependencyError: safetensors is not installed.
    """
    save_file, _ = _safetensors()
    tensors, rest = flatten({"parts": parts, "generator": torch.get_rng_state()})
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    save_file(tensors, temporary, metadata={"tree": json.dumps(rest)})
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(target)


def load_checkpoint(path: str | os.PathLike[str], *, restore_generator: bool = True) -> dict[str, Any]:
    """What `save_checkpoint` was given, by name; torch's global generator continues where it was.

    Raises:
        ValueError: the file is not one of `save_checkpoint`.
    """
    _, safe_open = _safetensors()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "tree" not in metadata:
            raise ValueError(f"{path} was not written by save_checkpoint: it lacks the entry 'tree'")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    tree = unflatten(tensors, json.loads(metadata["tree"]))
    if restore_generator:
        torch.set_rng_state(tree["generator"])
    parts: dict[str, Any] = tree["parts"]
    return parts


def _safetensors() -> tuple[Any, Any]:
    try:
        from safetensors import safe_open
        from safetensors.torch import save_file
    except ImportError:
        raise MissingDependencyError("checkpoints need safetensors: pip install 'fenchel[experiments]'") from None
    return save_file, safe_open
