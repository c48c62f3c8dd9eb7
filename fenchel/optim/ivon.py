"""IVON, the improved variational online Newton method (Shen et al., 2024): the exact Bayes objective at Adam's cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from fenchel.optim.diagonal import DiagonalVariational
from fenchel.optim.functional import ivon_hessian
from fenchel.optim.noise import work_dtype
from fenchel.optim.posterior import held
from fenchel.optim.two_pass import as_closures, mean_loss

__all__ = ["IVON"]


class IVON(DiagonalVariational):
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
        data_factor: multiplies N. seed: of the noise; None takes one from torch's global generator.
    """

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
        seed: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "num_data": num_data,
            "betas": betas,
            "weight_decay": weight_decay,
            "h_init": h_init,
            "rescale_lr": rescale_lr,
            "data_factor": data_factor,
        }
        super().__init__(params, defaults, seed)

    @_disable_dynamo
    def step(self, closure: Callable[[], Any] | Iterable[Callable[[], Any]] | None = None) -> Any:
        """One step: a closure evaluates one sample, several closures several (each with its own noise).

        Returns:
            The mean of the losses at the samples.

        Raises:
            ValueError: no closure was given.
        """
        closures = as_closures(closure, "IVON")
        pairs = self._group_of()
        states = [self._state_of(p, group) for p, group in pairs]
        params = [p for p, _ in pairs]
        total: list[Tensor | None] = [None] * len(params)
        hessian: list[Tensor | None] = [None] * len(params)
        losses = []
        for evaluate in closures:
            marginals = self.marginals()
            noise = [self.standard_normal_like(p).to(work_dtype(p)) for p in params]
            values = [q.mean + z * q.variance.sqrt() for q, z in zip(marginals, noise, strict=True)]
            with held(params, values):
                with torch.enable_grad():
                    losses.append(evaluate())
                for i, (p, z, q) in enumerate(zip(params, noise, marginals, strict=True)):
                    if p.grad is not None:
                        g = p.grad.detach().to(z.dtype)
                        h_hat = g * z / q.variance.sqrt()
                        old_g, old_h = total[i], hessian[i]
                        total[i] = g.clone() if old_g is None else old_g + g
                        hessian[i] = h_hat if old_h is None else old_h + h_hat
        for (p, group), state, g_sum, h_sum in zip(pairs, states, total, hessian, strict=True):
            if g_sum is not None and h_sum is not None:
                self._update(p, group, state, g_sum / len(closures), h_sum / len(closures))
        return mean_loss(losses)

    @staticmethod
    @torch.no_grad()
    def _update(p: Tensor, group: dict[str, Any], state: dict[str, Tensor], g: Tensor, h_hat: Tensor) -> None:
        (beta1, beta2), delta = group["betas"], group["weight_decay"]
        mean = state.get("mean", p)
        state["step"] += 1
        state["momentum"].mul_(beta1).add_(g, alpha=1 - beta1)
        state["h"].copy_(ivon_hessian(state["h"], h_hat, beta2, delta))
        debias = 1 - beta1 ** float(state["step"])
        lr = group["lr"] * ((group["h_init"] + delta) if group["rescale_lr"] else 1.0)
        mean.sub_(lr * (state["momentum"] / debias + delta * mean) / (state["h"] + delta))
        if mean is not p:
            p.copy_(mean)
