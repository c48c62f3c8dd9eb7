"""IVON, the improved variational online Newton method (Shen et al., 2024): the exact Bayes objective at Adam's cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fenchel.optim.diagonal import DiagonalOptimizer
from fenchel.optim.functional import ivon_hessian
from fenchel.optim.hyperparameters import settings_of
from fenchel.optim.shards import local
from fenchel.optim.stepping import ClosureOptimizer


class IVON(ClosureOptimizer, DiagonalOptimizer):
    """q = N(m, sigma^2), sigma^2 = 1/(lambda (h + delta)), lambda = num_data (Algorithm 1 of Shen et al., 2024).

    With theta = m + sigma z, g = grad(theta) and t the step, averages over the samples understood:

        h_hat <- g (theta - m) / sigma^2
        g_m <- beta1 g_m + (1 - beta1) g
        h <- beta2 h + (1 - beta2) h_hat + (1 - beta2)^2 (h - h_hat)^2 / (2 (h + delta))
        m <- m - alpha (g_m / (1 - beta1^t) + delta m) / (h + delta)

    The quadratic term keeps h + delta positive. One gradient for each sample.

    Args:
        lr: alpha. num_data: N (lambda). betas: (beta1, beta2). weight_decay: delta. h_init: the first h.
        rescale_lr: multiply alpha by h_init + delta, so that its first steps are those of SGD with alpha.
        data_factor: multiplies N. max_grad_norm: clip the averaged g to this total norm.
        maximize: ascend the objective.
        seed: of the noise; None takes one from torch's global generator.
        module: the network; needed for ``distributed`` over DistributedDataParallel, and under FSDP1.
        distributed: True or a process group: every process has samples of its own, whose g and h_hat are averaged.
            None: gradients may be averages over processes, so if there are several all take the first one's noise,
            without which h_hat would be wrong. False: this process is on its own.
    """

    state_names = ("h", "momentum", "step", "mean")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        num_data: float,
        betas: tuple[float, float] = (0.9, 0.99999),
        weight_decay: float = 1e-4,
        h_init: float = 1.0,
        rescale_lr: bool = True,
        data_factor: float = 1.0,
        max_grad_norm: float | None = None,
        maximize: bool = False,
        seed: int | None = None,
        module: nn.Module | None = None,
        distributed: Any = None,
    ) -> None:
        defaults = settings_of(locals())
        self._draws: list[tuple[Tensor, Tensor]] = []
        super().__init__(params, defaults, module=module, distributed=distributed)

    def precision(self, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """The precision over N of a parameter, h + delta."""
        precision: Tensor = state["h"] + group["weight_decay"]
        return precision

    def _keep(self) -> None:
        super()._keep()
        self.prime()
        self.next_noise()

    @torch.no_grad()
    def first_point(self) -> None:
        """Move the weights to m + sigma z, and keep z and sigma."""
        self._started("first_point")
        self._draws = []
        for (p, group), mean, z in zip(self.with_groups(), self._mean, self._draw(self._params), strict=True):
            state = self.state[p]
            deviation = local(self.variance(state, group)).sqrt()
            local(p).copy_(local(state.get("mean", mean)) + z * deviation)
            self._draws.append((z, deviation))
        self._shards.changed(self._params)

    def terms(self, i: int, gradient: Tensor) -> list[Tensor]:
        """g and h_hat = g (theta - m) / sigma^2."""
        z, deviation = self._draws[i]
        return [gradient.clone(), gradient * z / deviation]

    def _move(self, parts: int) -> None:
        """Update h, the momentum and the mean by the averages."""
        averages = self._averages(parts) or {}
        for p, group in self.with_groups():
            if p in averages:
                g, h_hat = averages[p] if not group["maximize"] else [-t for t in averages[p]]
                (beta1, beta2), delta, state = group["betas"], group["weight_decay"], self.state[p]
                mean, momentum, h = local(state.get("mean", p)), local(state["momentum"]), local(state["h"])
                state["step"] += 1
                momentum.mul_(beta1).add_(g, alpha=1 - beta1)
                h.copy_(ivon_hessian(h, h_hat, beta2, delta))
                debiased = momentum / (1 - beta1 ** state["step"].double()).to(momentum)
                lr = group["lr"] * ((group["h_init"] + delta) if group["rescale_lr"] else 1.0)
                mean.sub_(lr * (debiased + delta * mean) / (h + delta))
                if "mean" in state:
                    local(p).copy_(mean)
        self._shards.changed(self._params)

    def _close(self) -> None:
        super()._close()
        self._draws = []
