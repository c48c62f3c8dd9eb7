"""Loading a state dictionary as torch documents it, without rounding float32 state to 16 bits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from fenchel.optim.noise import work_dtype

__all__ = ["load_state"]


@torch.no_grad()
def load_state(
    optimizer: torch.optim.Optimizer,
    state_dict: dict[str, Any],
    load: Callable[[dict[str, Any]], None],
    *,
    names: Collection[str],
) -> None:
    """Run the pre-hooks, ``load`` and the post-hooks; entries of the state that are ``names`` keep their precision.

    Raises:
        ValueError: the state is another optimizer's.
    """
    before = optimizer._optimizer_load_state_dict_pre_hooks
    after = optimizer._optimizer_load_state_dict_post_hooks
    for hook in before.values():
        changed = hook(optimizer, state_dict)
        state_dict = state_dict if changed is None else changed
    kind = type(optimizer).__name__
    if not {"state", "param_groups"} <= set(state_dict):
        raise ValueError(
            f"{kind} cannot load a state without 'state' and 'param_groups'; use what state_dict() returned"
        )
    for entry in state_dict["state"].values():
        foreign = sorted(set(entry) - set(names))
        if foreign:
            raise ValueError(
                f"this state was not saved by {kind}, which has no {foreign[0]!r}: train on with the weights alone"
            )
    optimizer._optimizer_load_state_dict_pre_hooks = OrderedDict()
    optimizer._optimizer_load_state_dict_post_hooks = OrderedDict()
    try:
        load(state_dict)
    finally:
        optimizer._optimizer_load_state_dict_pre_hooks = before
        optimizer._optimizer_load_state_dict_post_hooks = after
    ids = [i for group in state_dict["param_groups"] for i in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for i, p in zip(ids, params, strict=True):
        for name, saved in state_dict["state"].get(i, {}).items():
            if isinstance(saved, Tensor) and saved.dim() > 0:
                if saved.shape != p.shape:
                    raise ValueError(
                        f"the state {name!r} has shape {tuple(saved.shape)}, its parameter {tuple(p.shape)}"
                    )
                optimizer.state[p][name] = saved.to(device=p.device, dtype=work_dtype(p), copy=True)
    for done in after.values():
        done(optimizer)
