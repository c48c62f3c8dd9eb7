"""What the diagonal variational methods VOGN and IVON share: state in float32, sampling, checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fenchel.optim.distributed import processes, rank_of, refuse_inside_zero, same_on_all
from fenchel.optim.hyperparameters import (
    check_betas,
    check_group_names,
    check_non_negative,
    check_params,
    check_positive,
    leading_group,
)
from fenchel.optim.loading import load_state
from fenchel.optim.noise import NoiseSource, new_seed, work_dtype
from fenchel.optim.posterior import DiagonalPosterior, Marginal
from fenchel.optim.shards import Shards

__all__ = ["DiagonalVariational"]


class DiagonalVariational(DiagonalPosterior, torch.optim.Optimizer):
    """Base class: q = N(omega, 1/(N (h + delta))), with h in ``state[p]["h"]`` and the momentum in "momentum".

    A group has lr, num_data, betas, weight_decay (delta), h_init, data_factor; the first one counts steps and draws,
    which with "seed" determine the noise.
    """

    def __init__(
        self, params: Any, defaults: dict[str, Any], seed: int | None, *, module: nn.Module | None, distributed: Any
    ) -> None:
        refuse_inside_zero(type(self).__name__)
        self._noise = NoiseSource("noise", rank_of(distributed))
        self._sampling = NoiseSource("sampling", rank_of(distributed))
        self._distributed, self._module, self._shards = distributed, module, Shards(module)
        super().__init__(params, {**defaults, "seed": new_seed(seed), "step": 0, "draws": 0})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with its own hyperparameters; those it does not name take the optimizer's."""
        check_group_names(param_group, self.defaults)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for name in ("lr", "weight_decay", "h_init"):
                check_non_negative(name, group[name])
            for name in ("num_data", "data_factor"):
                check_positive(name, group[name])
            check_betas(group["betas"])
            check_params(group["params"])
            if not group["h_init"] + group["weight_decay"] > 0:
                raise ValueError("h_init and weight_decay must not both be zero, or the first variance is infinite")
        except ValueError:
            self.param_groups.pop()
            raise

    def standard_normal_like(self, param: Tensor) -> Tensor:
        """Standard normal noise shaped like ``param`` (the whole of a sharded one); may be overridden."""
        return self._noise.normal(self._shards.whole_shape(param), work_dtype(param), param.device)

    def _draw(self, params: list[Tensor]) -> list[Tensor]:
        """The parts at hand of the noise of ``params``."""
        return [self._shards.part(p, self.standard_normal_like(p).to(work_dtype(p))) for p in params]

    def next_noise(self) -> None:
        """Begin the noise of the next step; `GraphedStep` calls it before a replay."""
        first = leading_group(self.param_groups)
        together = self._distributed is None and processes() > 1
        if first["step"] == 0 and (together or self._shards.sharded(self.trainable())):
            first["seed"] = same_on_all(first["seed"], self.trainable()[0].device)
        first["step"] += 1
        self._noise.start(first["seed"], first["step"])

    def generator(self, device: torch.device) -> torch.Generator:
        """The generator of the training noise on a device."""
        return self._noise.on(device)

    def trainable(self) -> list[Tensor]:
        """The parameters that require a gradient, in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _group_of(self) -> list[tuple[Tensor, dict[str, Any]]]:
        return [(p, group) for group in self.param_groups for p in group["params"] if p.requires_grad]

    def initial_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """What the state of a parameter begins with."""
        dtype = work_dtype(p)
        state = {
            "h": torch.full_like(p, group["h_init"], dtype=dtype),
            "momentum": torch.zeros_like(p, dtype=dtype),
            "step": torch.zeros((), dtype=torch.float32, device=p.device),
        }
        return {**state, "mean": p.detach().to(dtype)} if dtype != p.dtype else state

    def _state_of(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if "h" not in state:
            with torch.inference_mode(False):  # the state is to be trained on, wherever it is first looked at
                state.update(self.initial_state(p, group))
        return state

    @torch.no_grad()
    def _prime(self) -> bool:
        """Make the state, if torch.distributed.checkpoint asks for it by a bare step with lr 0; whether it did."""
        if self.state or any(float(group["lr"]) for group in self.param_groups):
            return False
        for p, group in self._group_of():
            self._state_of(p, group)
        return True

    def marginals(self) -> list[Marginal]:
        """(param, mean, 1/(N (h + delta))) of every parameter trained or to be trained."""
        out = []
        pairs = [(p, group) for group in self.param_groups for p in group["params"]]
        for p, group in [(p, group) for p, group in pairs if p.requires_grad or self.state.get(p)]:
            state = self._state_of(p, group)
            precision = group["num_data"] * group["data_factor"] * (state["h"] + group["weight_decay"])
            out.append(Marginal(p, state.get("mean", p.detach()), precision.reciprocal()))
        return out

    def _trained(self) -> list[Marginal]:
        """Those of `marginals` that a step is about, in the order of `trainable`."""
        return [q for q in self.marginals() if q.param.requires_grad]

    def sampling_noise(self, params: list[Tensor], generator: torch.Generator | None) -> list[Tensor]:
        """Noise of `sampled_params`: from ``generator``, or a stream of its own."""
        if generator is not None:
            return super().sampling_noise(params, generator)
        first = leading_group(self.param_groups)
        first["draws"] += 1
        self._sampling.start(first["seed"], first["draws"])
        whole = [self._sampling.normal(self._shards.whole_shape(p), work_dtype(p), p.device) for p in params]
        return [self._shards.part(p, z) for p, z in zip(params, whole, strict=True)]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`, bit for bit on the same machine.

        Raises:
            ValueError: the state is another optimizer's, or of other parameters; nothing was loaded.
        """
        names = ("h", "momentum", "step", "mean")
        load_state(self, state_dict, super().load_state_dict, names=names, needed=self.defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def __getstate__(self) -> dict[str, Any]:
        own = ("_noise", "_sampling", "_distributed", "_module", "_shards")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}
