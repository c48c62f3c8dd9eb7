"""What all optimizers here share: checks of the groups, the parts of parameters at hand, copies and checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fenchel.optim.distributed import process_group, refuse_inside_zero
from fenchel.optim.hyperparameters import check_group, check_group_names, check_params
from fenchel.optim.loading import load_state
from fenchel.optim.shards import Shards

__all__ = ["BaseOptimizer"]


class BaseOptimizer(torch.optim.Optimizer):
    """Base class.

    Args:
        params: parameters or group dictionaries.
        defaults: hyperparameters of a group.
        module: the network; needed for ``distributed`` over a module with `no_sync`, and under FSDP1.
        distributed: True or a process group: average over the sub-batches of all ranks.
    """

    state_names: ClassVar[tuple[str, ...] | None] = None
    """Of the entries of a parameter's state ("mean" for 16-bit weights alone); None if another library's."""

    def __init__(
        self, params: Any, defaults: dict[str, Any], *, module: nn.Module | None = None, distributed: Any = False
    ) -> None:
        process_group(distributed)
        refuse_inside_zero(type(self).__name__)
        self._module, self._distributed, self._shards = module, distributed, Shards(module)
        super().__init__(params, defaults)

    def check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for hyperparameters out of range."""
        check_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with its own hyperparameters; those it does not name take the optimizer's.

        Raises:
            ValueError: a hyperparameter out of range or misspelt, or parameters that no optimizer here can handle.
        """
        check_group_names(param_group, self.defaults)
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

    def saved_settings(self) -> Mapping[str, Any]:
        """The hyperparameters, with defaults, by which a group of a state dictionary is known as this optimizer's."""
        return self.defaults

    def elementwise_state(self) -> bool:
        """Whether the tensors of the state have the shapes of the parameters."""
        return True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`, bit for bit on the same machine; the state keeps its precision.

        Raises:
            ValueError: the state is another optimizer's, or of other parameters; nothing was loaded.
        """
        load_state(self, state_dict, super().load_state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """All of it, but for hooks, and a step that a scheduler wrapped, which is bound to the original."""
        own = {k: v for k, v in self.__dict__.items() if k != "step" and not k.startswith("_optimizer_")}
        return {**super().__getstate__(), **own}
