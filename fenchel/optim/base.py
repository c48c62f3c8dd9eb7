"""What all optimizers here share: checks of the groups, the parts of parameters at hand, copies and checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fenchel.optim.distributed import called_within, process_group
from fenchel.optim.hyperparameters import (
    check_common,
    check_group,
    check_group_names,
    check_params,
    leading_group,
    plain,
)
from fenchel.optim.noise import work_dtype
from fenchel.optim.shards import Shards


class BaseOptimizer(torch.optim.Optimizer):
    """Base class.

    Args:
        params: parameters or group dictionaries.
        defaults: hyperparameters of a group.
        module: the network; needed for ``distributed`` over a module with `no_sync`, and under FSDP1.
        distributed: True or a process group: average over the sub-batches of all ranks.
    """

    state_names: ClassVar[tuple[str, ...] | None] = None
    """Of the entries of a parameter's state ("mean" for 16-bit weights alone); None if they are a base's."""
    elementwise_state = True
    """Whether the tensors of the state have the shapes of the parameters."""

    def __init__(
        self, params: Any, defaults: dict[str, Any], *, module: nn.Module | None = None, distributed: Any = False
    ) -> None:
        process_group(distributed)
        if called_within("torch.distributed.optim.zero_redundancy_optimizer", "ZeroRedundancyOptimizer"):
            raise TypeError(  # each process would move some weights alone
                f"{type(self).__name__} cannot work inside ZeroRedundancyOptimizer, where a process sees a part of the "
                "parameters: shard the network by fully_shard instead (or, for SAM, the base: "
                "SAM(params, ZeroRedundancyOptimizer, rho, optimizer_class=torch.optim.SGD, ...) shards the base)"
            )
        self._module, self._distributed, self._shards = module, distributed, Shards(module)
        super().__init__(params, defaults)
        self.saved_settings = self.defaults  # by which a group of a state dictionary is known as this optimizer's

    def check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for hyperparameters out of range."""
        check_group(group)

    def check_settings(self, params: list[Tensor]) -> None:
        """Warn, before the first step, of settings that are more likely a mistake."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with its own hyperparameters; those it does not name take the optimizer's.

        Raises:
            ValueError: a hyperparameter out of range or misspelt, or parameters that no optimizer here can handle.
        """
        check_group_names(param_group, self.defaults)
        if self.param_groups:
            check_common(param_group, leading_group(self.param_groups))
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self.check_group(group)
            check_params(group["params"])
        except ValueError:
            self.param_groups.pop()
            raise

    def with_groups(self) -> list[tuple[Tensor, dict[str, Any]]]:
        """The parameters that require a gradient, each with its group."""
        return [(p, group) for group in self.param_groups for p in group["params"] if p.requires_grad]

    def trainable(self) -> list[Tensor]:
        """The parameters that require a gradient, in the order of the groups."""
        return [p for p, _ in self.with_groups()]

    def _is_priming(self) -> bool:
        """Whether torch.distributed.checkpoint asks, by a bare step with lr 0, for the state to be made."""
        return not self.state and all(float(group["lr"]) == 0 for group in self.param_groups)

    @abstractmethod
    def prime(self) -> None:
        """Make the state of a step, and move nothing."""

    def state_dict(self) -> dict[str, Any]:
        """As of torch's optimizers, with numbers of numpy's as Python's."""
        found: dict[str, Any] = super().state_dict()
        for group in found.get("param_groups", ()):  # a hook may have put another dictionary in its place
            group.update({name: plain(value) for name, value in group.items()})
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`, bit for bit on the same machine; the state keeps its precision.

        Raises:
            ValueError: the state is another optimizer's, or of other parameters; nothing was loaded.
        """
        pairs: list[tuple[Tensor, dict[str, Any]]] = []
        places = [{k: v.device for k, v in group.items() if isinstance(v, Tensor)} for group in self.param_groups]

        def check(_: Any, final: dict[str, Any]) -> None:
            pairs.extend(self._checked(final))

        @torch.no_grad()
        def restore(_: Any) -> None:
            for p, entry in pairs if self.state_names is not None else []:
                for name, saved in entry.items():
                    dtype = saved.dtype if name == "step" else work_dtype(p)
                    self.state[p][name] = saved.to(device=p.device, dtype=dtype, copy=True)
            # Learning rates stay on their device: on the CPU a CUDA graph takes one for a constant.
            for group, devices in zip(self.param_groups, places, strict=True):
                group.update({k: group[k].to(d) for k, d in devices.items() if isinstance(group.get(k), Tensor)})

        own = [  # between the hooks of users, which may put another state in place of this one
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in own:
                hook.remove()

    def _checked(self, state_dict: dict[str, Any]) -> list[tuple[Tensor, dict[str, Any]]]:
        """Each parameter with what is saved of its state (numbers of groups and parameters are checked by torch)."""
        kind, names = type(self).__name__, self.state_names
        if not {"state", "param_groups"} <= set(state_dict):
            raise ValueError(f"{kind} cannot load a state without 'state' and 'param_groups': give it a state_dict()")
        groups = state_dict["param_groups"]
        known = self.saved_settings.items()  # flags need not be there: later versions may add some
        needed = {k for k, v in known if not (v is None or isinstance(v, bool) or k in ("seed", "step", "draws"))}
        lacking = [name for group in groups if group["params"] for name in needed - set(group)]
        if lacking:
            raise ValueError(f"this state was not saved by {kind}: its groups lack {min(lacking)!r}")
        for group in groups:
            self.check_group({**self.defaults, **group})
        ids = [i for group in groups for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        pairs = [(p, state_dict["state"].get(i, {})) for i, p in zip(ids, params, strict=False)]
        for p, entry in pairs:
            if names is not None and entry:
                foreign, missing = sorted(set(entry) - set(names)), sorted(set(names) - {"mean"} - set(entry))
                if foreign or missing:
                    what = f"which has no {foreign[0]!r}" if foreign else f"it lacks {missing[0]!r}"
                    raise ValueError(f"this state was not saved by {kind}, {what}: train on with the weights alone")
            for name, saved in entry.items() if self.elementwise_state else ():
                shape = tuple(saved.shape) if isinstance(saved, Tensor) else None
                number = name == "step" if names is not None else not shape  # bases have others
                if shape != tuple(p.shape) and not number:
                    raise ValueError(f"the state {name!r} has shape {shape}, its parameter {tuple(p.shape)}")
        return pairs

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """All of it, but for hooks, and a step that a scheduler wrapped, which is bound to the original."""
        own = {k: v for k, v in self.__dict__.items() if k != "step" and not k.startswith("_optimizer_")}
        return {**super().__getstate__(), **own}
