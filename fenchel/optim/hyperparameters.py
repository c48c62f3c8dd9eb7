"""Checks of what users hand to an optimizer: one sentence naming the argument and what is wrong with it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

SYNONYMS = {"learning_rate": "lr", "wd": "weight_decay", "dataset_size": "num_data", "ess": "num_data"}
"""What other libraries call a hyperparameter."""
NON_NEGATIVE = {"lr", "rho", "weight_decay", "damping", "h_init", "eps"}
POSITIVE = {"num_data", "s_init", "data_factor", "max_grad_norm"}


def settings_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of the ``locals()`` with which an ``__init__`` begins, the arguments that are hyperparameters of groups."""
    others = ("self", "__class__", "params", "module", "batch_norm", "distributed")
    return {name: value for name, value in arguments.items() if name not in others}


def plain(value: Any) -> Any:
    """A number of numpy's as Python's, which `torch.load` admits without pickle's dangers."""
    if isinstance(value, tuple | list):
        return type(value)(map(plain, value))
    return value.item() if hasattr(value, "item") and not isinstance(value, Tensor) else value


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor):
        if value.dim() > (name == "lr") or value.numel() != 1:
            raise ValueError(f"{name} as a tensor must be 0-d, got shape {tuple(value.shape)}")
        if value.device.type != "cpu":
            return 1.0  # reading it would wait for the device
    try:
        return math.fsum([value])  # float() would take strings
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None


def check_group(group: Mapping[str, Any]) -> None:
    """Raise ValueError for hyperparameters out of range, of those known here."""
    for name in (NON_NEGATIVE | POSITIVE) & set(group):
        value = group[name]
        if not (name == "max_grad_norm" and value is None):
            number, sign = _number(name, value), "positive" if name in POSITIVE else "not negative"
            if not math.isfinite(number) or number < 0 or (number == 0 and name in POSITIVE):
                raise ValueError(f"{name} must be finite and {sign}, got {value!r}")
    if "betas" in group:
        betas = group["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas must be a pair (beta1, beta2), got {betas!r}")
        for name, value in zip(("betas[0]", "betas[1]"), betas, strict=True):
            if not 0 <= _number(name, value) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    if group.get("fused") not in (None, True, False):
        raise ValueError(f"fused must be True, False or None, got {group['fused']!r}")
    if "h_init" in group and not group["h_init"] + group["weight_decay"] > 0:
        raise ValueError("h_init and weight_decay must not both be zero, or the first variance is infinite")


def check_group_names(group: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raise ValueError for a key that is nearly the name of a hyperparameter (schedulers may add keys of their own)."""
    for key in group:
        if key not in known and key not in ("params", "param_names", "initial_lr"):
            near = difflib.get_close_matches(SYNONYMS.get(str(key), str(key)), list(known), 1, 0.85)
            if near:
                raise ValueError(f"a group has {key!r}, which is no hyperparameter; did you mean {near[0]!r}?")


def check_common(group: Mapping[str, Any], leading: Mapping[str, Any]) -> None:
    """Raise ValueError where a group has its own value of what the first one says for all."""
    for name in {"max_grad_norm", "seed"} & set(group):
        if group[name] != leading.get(name, group[name]):
            raise ValueError(f"{name} is the whole optimizer's: a group cannot have its own, got {group[name]!r}")


def leading_group(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The group that speaks for all: the first with parameters, since distributed checkpoints forget empty ones."""
    return next((group for group in groups if group["params"]), groups[0])


def trainable(params: nn.Module | Iterable[Any]) -> list[Tensor]:
    """Parameters that require a gradient, of a module or of parameters (with or without their names).

    Raises:
        ValueError: there is none.
    """
    each = params.parameters() if isinstance(params, nn.Module) else params
    found = [p for p in (p[1] if isinstance(p, tuple) else p for p in each) if p.requires_grad]
    if not found:
        raise ValueError("there is no parameter that requires a gradient")
    return found


def check_params(params: Iterable[Tensor]) -> None:
    """Raise ValueError for parameters no optimizer here can handle."""
    for p in params:
        if not p.is_floating_point():
            raise ValueError(f"parameters must be real floating point tensors, got dtype {p.dtype}")
        if p.layout is not torch.strided:
            raise ValueError(f"parameters must be dense tensors, got layout {p.layout}")
