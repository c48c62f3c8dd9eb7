"""What the diagonal variational methods VOGN and IVON share: state in float32, sampling, checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fenchel.optim.hyperparameters import check_betas, check_non_negative, check_params, check_positive
from fenchel.optim.noise import NoiseSource, work_dtype
from fenchel.optim.posterior import DiagonalPosterior, Marginal

__all__ = ["DiagonalVariational"]


class DiagonalVariational(DiagonalPosterior, torch.optim.Optimizer):
    """Base class: q = N(omega, 1/(N (h + delta))), with h in ``state[p]["h"]`` and the momentum in "momentum".

    A group has lr, num_data, betas, weight_decay (delta), h_init, data_factor.
    """

    def __init__(self, params: Any, defaults: dict[str, Any], seed: int | None) -> None:
        self._noise = NoiseSource(seed)
        self._sampling = NoiseSource(self._noise.seed ^ 1)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with its own hyperparameters; those it does not name take the optimizer's."""
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
        """Standard normal noise shaped like ``param``; may be overridden."""
        return self._noise.like([param])[0]

    def trainable(self) -> list[Tensor]:
        """The parameters that require a gradient, in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _group_of(self) -> list[tuple[Tensor, dict[str, Any]]]:
        return [(p, group) for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _state_of(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if "h" not in state:
            dtype = work_dtype(p)
            state["h"] = torch.full_like(p, group["h_init"], dtype=dtype)
            state["momentum"] = torch.zeros_like(p, dtype=dtype)
            state["step"] = torch.zeros((), dtype=torch.float64)
            if dtype != p.dtype:
                state["mean"] = p.detach().to(dtype)
        return state

    def marginals(self) -> list[Marginal]:
        """(param, mean, 1/(N (h + delta))) of every parameter that requires a gradient."""
        out = []
        for p, group in self._group_of():
            state = self._state_of(p, group)
            precision = group["num_data"] * group["data_factor"] * (state["h"] + group["weight_decay"])
            out.append(Marginal(p, state.get("mean", p.detach()), precision.reciprocal()))
        return out

    def sampling_noise(self, params: list[Tensor], generator: torch.Generator | None) -> list[Tensor]:
        """Noise of `sampled_params`: from ``generator``, or a stream of its own."""
        return self._sampling.like(params) if generator is None else super().sampling_noise(params, generator)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with the noise streams: tensors and numbers only."""
        return {**super().state_dict(), "noise": self._noise.state_dict(), "sampling": self._sampling.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`, bit for bit on the same machine."""
        super().load_state_dict(state_dict)
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(ids, params, strict=True):
            for name, saved in state_dict["state"].get(i, {}).items():
                if name != "step":
                    self.state[p][name] = saved.to(device=p.device, dtype=work_dtype(p), copy=True)
                else:
                    self.state[p][name] = saved.detach().cpu().clone()
        for source, name in ((self._noise, "noise"), (self._sampling, "sampling")):
            if name in state_dict:
                source.load_state_dict(state_dict[name])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_noise": self._noise, "_sampling": self._sampling}
