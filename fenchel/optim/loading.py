"""Loading a state dictionary as torch documents it, checked first, without rounding float32 state to 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fenchel.optim.noise import work_dtype

if TYPE_CHECKING:
    from fenchel.optim.base import BaseOptimizer

__all__ = ["load_state"]

NOT_NEEDED = ("seed", "step", "draws")


@torch.no_grad()
def load_state(optimizer: BaseOptimizer, state_dict: dict[str, Any], load: Callable[[dict[str, Any]], None]) -> None:
    """Run torch's own ``load`` between the hooks of users; the entries `state_names` keep their precision.

    Settings that are tensors (a learning rate) stay on their device; on the CPU a CUDA graph takes one for a constant.

    Raises:
        ValueError: the state is another optimizer's, or of other parameters; nothing was loaded.
    """
    pairs: list[tuple[Tensor, dict[str, Any]]] = []
    places = [{k: v.device for k, v in group.items() if isinstance(v, Tensor)} for group in optimizer.param_groups]

    def check(_: torch.optim.Optimizer, final: dict[str, Any]) -> None:
        pairs.extend(_checked(optimizer, final))

    def restore(_: torch.optim.Optimizer) -> None:
        for p, entry in pairs if optimizer.state_names is not None else []:
            for name, saved in entry.items():
                if isinstance(saved, Tensor) and saved.dim() > 0:
                    optimizer.state[p][name] = saved.to(device=p.device, dtype=work_dtype(p), copy=True)
        for group, devices in zip(optimizer.param_groups, places, strict=True):
            group.update({k: group[k].to(d) for k, d in devices.items() if isinstance(group.get(k), Tensor)})

    own = [
        optimizer.register_load_state_dict_pre_hook(check),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    ]
    try:
        load(state_dict)
    finally:
        for hook in own:
            hook.remove()


def _checked(optimizer: BaseOptimizer, state_dict: dict[str, Any]) -> list[tuple[Tensor, dict[str, Any]]]:
    """Each parameter with what is saved of its state (numbers of groups and parameters are checked by torch)."""
    kind, names = type(optimizer).__name__, optimizer.state_names
    if not {"state", "param_groups"} <= set(state_dict):
        raise ValueError(
            f"{kind} cannot load a state without 'state' and 'param_groups'; use what state_dict() returned"
        )
    groups = state_dict["param_groups"]
    # not flags, which later versions may add
    settings = optimizer.saved_settings().items()
    wanted = {k for k, v in settings if not (v is None or isinstance(v, bool) or k in NOT_NEEDED)}
    lacking = [name for group in groups if group["params"] for name in wanted - set(group)]
    if lacking:
        raise ValueError(f"this state was not saved by {kind}: its groups lack {min(lacking)!r}")
    ids = [i for group in groups for i in group["params"]]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    pairs = [(p, state_dict["state"].get(i, {})) for i, p in zip(ids, params, strict=False)]
    for p, entry in pairs:
        if names is not None and entry:
            own = set(names) - ({"mean"} if work_dtype(p) == p.dtype else set())
            foreign, missing = sorted(set(entry) - set(names)), sorted(own - set(entry))
            if foreign or missing:
                what = f"which has no {foreign[0]!r}" if foreign else f"it lacks {missing[0]!r}"
                raise ValueError(f"this state was not saved by {kind}, {what}: train on with the weights alone")
        for name, saved in entry.items():
            if (
                isinstance(saved, Tensor)
                and saved.dim() > 0
                and saved.shape != p.shape
                and optimizer.elementwise_state()
            ):
                raise ValueError(f"the state {name!r} has shape {tuple(saved.shape)}, its parameter {tuple(p.shape)}")
    return pairs
