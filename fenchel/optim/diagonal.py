"""What BSAM, IVON and VOGN share: a diagonal Gaussian as state, its noise, samples and checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from fenchel.optim.base import BaseOptimizer
from fenchel.optim.closures import Watch
from fenchel.optim.cuda_graph import capturing
from fenchel.optim.distributed import process_group, processes, same_on_all
from fenchel.optim.functional import posterior_variance
from fenchel.optim.hyperparameters import leading_group
from fenchel.optim.noise import NoiseSource, follow, new_seed, normal, normal_parts, work_dtype
from fenchel.optim.posterior import DiagonalPosterior, Marginal, mean_of
from fenchel.optim.shards import local


class DiagonalOptimizer(DiagonalPosterior, BaseOptimizer):
    """Base class: q = N(omega, 1/(N precision)), whose state lies in ``state[p]`` in float32 at least.

    A group has num_data and data_factor, whose product is N. The first group with parameters also counts the steps
    ("step") and posterior samples ("draws"), which with "seed" determine the noise.
    """

    _watch: Watch
    state_names: ClassVar[tuple[str, ...]]
    """The curvature, which begins as the hyperparameter of its name and "_init"; "momentum"; "mean"; perhaps "step"."""

    def __init__(self, params: Any, defaults: dict[str, Any], *, distributed: Any = False, **options: Any) -> None:
        group = process_group(distributed)
        rank = 0 if group is None else dist.get_rank(group)
        self._noise, self._sampling = NoiseSource("noise", rank), NoiseSource("sampling", rank)
        counted = {**defaults, "seed": new_seed(defaults["seed"]), "step": 0, "draws": 0}
        super().__init__(params, counted, distributed=distributed, **options)
        self._noise.start(leading_group(self.param_groups)["seed"], 0)

    def check_settings(self, params: list[Tensor]) -> None:
        """Warn of a num_data that counts batches."""
        first, curvature = leading_group(self.param_groups), self.state_names[0]
        if first["num_data"] <= 1:
            self._watch.warn("data", f"num_data is {first['num_data']}: it is the size N of the training set")
        elif first.get("noise", True) and not capturing(params[0].device):
            parts = [local(p.detach()) for p in params]
            weight = float(torch.nn.utils.get_total_norm(parts)) / max(sum(p.numel() for p in parts), 1) ** 0.5
            precision = first[f"{curvature}_init"] + (first["weight_decay"] if curvature == "h" else 0.0)
            deviation = (first["num_data"] * first["data_factor"] * precision) ** -0.5
            if deviation > weight > 0:
                self._watch.warn(
                    "data",
                    f"the first noise has a standard deviation of {deviation:.2g}, the weights one of {weight:.2g}: "
                    "num_data is the number of training examples, not of batches",
                )

    # ---- noise ----------------------------------------------------------------------------------------------------

    def standard_normal_like(self, param: Tensor) -> Tensor:
        """Standard normal noise shaped like ``param`` (the whole of a sharded one).

        May be overridden; it is then called once per parameter that requires a gradient, in parameter order, for each
        sub-batch.
        """
        return normal(param, self._shards, self._noise.on(param.device))

    def _own_noise(self) -> bool:
        """Whether `standard_normal_like` was not overridden."""
        own = DiagonalOptimizer.standard_normal_like
        return type(self).standard_normal_like is own and "standard_normal_like" not in self.__dict__

    def _draw(self, params: Sequence[Tensor]) -> list[Tensor]:
        """The parts at hand of the noise of ``params``."""
        noise = []
        for p in params:
            z, shape = self.standard_normal_like(p), self._shards.whole_shape(p)
            if z.shape != shape:
                raise ValueError(f"standard_normal_like returned shape {tuple(z.shape)} for {tuple(shape)}")
            noise.append(self._shards.part(p, z.to(device=p.device, dtype=work_dtype(p))))
        return noise

    def next_noise(self) -> None:
        """Begin the noise of the next step; `GraphedStep` calls it before a replay."""
        first = leading_group(self.param_groups)
        if first["step"] == 0:
            params = self.trainable()
            if (self._distributed is None and processes() > 1) or self._shards.sharded(params):
                first["seed"] = same_on_all(first["seed"], params[0].device)
        first["step"] += 1
        self._noise.start(first["seed"], first["step"])

    def generator(self, device: torch.device) -> torch.Generator:
        """The generator of the training noise on a device."""
        return self._noise.on(device)

    def sampling_noise(self, params: list[Tensor], generator: torch.Generator | None) -> list[Tensor]:
        """Noise of `sampled_params`: from ``generator``, the overridden `standard_normal_like` or an own stream."""
        if generator is not None:
            return super().sampling_noise(params, generator)
        if not self._own_noise():
            return self._draw(params)
        first = leading_group(self.param_groups)
        first["draws"] += 1
        self._sampling.start(first["seed"], first["draws"])
        return normal_parts(params, self._shards, self._sampling.on)

    # ---- state ----------------------------------------------------------------------------------------------------

    def initial_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """What the state of a parameter begins with."""
        dtype, curvature = work_dtype(p), self.state_names[0]
        state = {
            curvature: torch.full_like(p, group[f"{curvature}_init"], dtype=dtype),
            "momentum": torch.zeros_like(p, dtype=dtype),
        }
        if "step" in self.state_names:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
        return state

    def _state_of(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """The state of a parameter, made if need be; only 16-bit weights have a "mean", whenever they became so.

        Raises:
            ValueError: the parameter has another precision or device than its state.
        """
        state: dict[str, Tensor] = self.state[p]
        dtype = work_dtype(p)
        with torch.inference_mode(False):  # the state is to be trained on, wherever it is first looked at
            if "momentum" not in state:
                state.update(self.initial_state(p, group))
            if dtype == p.dtype:
                state.pop("mean", None)
            elif "mean" not in state:
                state["mean"] = p.detach().to(dtype)
            else:
                follow(local(state["mean"]), local(mean_of(p)))
        kept: Tensor = state["momentum"]
        if (kept.dtype, kept.device) != (dtype, p.device):
            raise ValueError(
                f"a parameter is {p.dtype} on {p.device} now, its state {kept.dtype} on {kept.device}: convert or move "
                "the network before the first step, or load the optimizer's state_dict() into a new optimizer"
            )
        return state

    @torch.no_grad()
    def prime(self) -> None:
        """Make the state of all parameters, and move nothing."""
        for p, group in self.with_groups():
            self._state_of(p, group)

    @abstractmethod
    def precision(self, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """The precision over N of a parameter."""

    def variance(self, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """The posterior variance of a parameter."""
        return posterior_variance(self.precision(state, group), group["num_data"] * group["data_factor"])

    def _marginal(self, p: Tensor, group: dict[str, Any]) -> Marginal:
        state = self._state_of(p, group)
        return Marginal(p, state.get("mean", mean_of(p)), self.variance(state, group))

    def marginals(self) -> list[Marginal]:
        """(param, mean, variance) of every parameter trained or to be trained."""
        if getattr(self, "_open", False):
            raise RuntimeError("the posterior cannot be read in the middle of a step")
        pairs = [(p, group) for group in self.param_groups for p in group["params"]]
        return [self._marginal(p, group) for p, group in pairs if p.requires_grad or self.state.get(p)]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `BaseOptimizer.load_state_dict`; the noise goes on too."""
        super().load_state_dict(state_dict)
        first = leading_group(self.param_groups)
        self._noise.start(first["seed"], first["step"])
