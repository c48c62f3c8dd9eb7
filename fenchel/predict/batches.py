"""What a loader's batch holds for a model, and what a model's output holds for us."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fenchel.metrics import as_numbers

LABELS = ("labels", "label")


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call of a model."""

    positional: tuple[Any, ...]
    named: dict[str, Any]

    def tensors(self) -> list[Tensor]:
        """All tensors among them, also in lists, tuples and dictionaries."""
        return [leaf for leaf in tree_leaves((self.positional, self.named)) if isinstance(leaf, Tensor)]

    def to(self, device: torch.device) -> Inputs:
        """The same with the tensors on a device."""
        return Inputs(*tree_map_only(Tensor, lambda t: t.to(device), (self.positional, self.named)))


def _count(model: nn.Module) -> int:
    """How many positional arguments ``forward`` cannot do without."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(p.default is inspect.Parameter.empty and p.kind in kinds for p in parameters))


def split(model: nn.Module, batch: Any) -> tuple[Inputs, tuple[Any, ...]]:
    """The inputs of a batch and the rest of it.

    A batch is a tensor; a mapping of arguments by name (its labels are left out); or a tuple or list that begins with
    the inputs: a tensor, a mapping, a tuple of several inputs, or as many entries as ``forward`` needs.

    Raises:
        TypeError: it holds no tensor.
    """
    rest: tuple[Any, ...] = ()
    if isinstance(batch, Tensor | Mapping):
        first: Any = batch
    elif isinstance(batch, tuple | list) and batch:
        needed = _count(model)
        alone = isinstance(batch[0], Tensor) and needed > 1 and len(batch) >= needed
        first, rest = (tuple(batch[:needed]), tuple(batch[needed:])) if alone else (batch[0], tuple(batch[1:]))
    else:
        first = batch
    if isinstance(first, Mapping):
        rest = rest or tuple(first[name] for name in LABELS if name in first)
        inputs = Inputs((), {str(name): value for name, value in first.items() if name not in LABELS})
    else:
        inputs = Inputs(tuple(first) if isinstance(first, tuple | list) else (first,), {})
    if not inputs.tensors():
        raise TypeError(
            f"a batch must hold tensors, alone or in a tuple, list or dictionary, got {type(batch).__name__}"
        )
    return inputs, rest


def labels_of(model: nn.Module, batch: Any) -> Tensor:
    """The labels of a batch: what follows its inputs, or its entry "labels".

    Raises:
        ValueError: there are none.
    """
    rest = split(model, batch)[1]
    if not rest:
        raise ValueError("loader must give tuples (inputs, labels, ...), or dictionaries with labels")
    return as_numbers(rest[0], "labels")


def logits_of(output: Any) -> Tensor:
    """A model's output as a tensor: itself, its ``logits``, or the first of several.

    Raises:
        TypeError: it is none of these.
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if found is None:
        found = output[0] if isinstance(output, tuple | list) and output else output
    if not (isinstance(found, Tensor) and found.is_floating_point()):
        raise TypeError(
            f"the model must return a tensor of floats, something with logits, or a tuple that begins with a tensor, "
            f"got {type(output).__name__}"
        )
    return found
