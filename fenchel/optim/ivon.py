"""IVON, the improved variational online Newton method (Shen et al., 2024): the exact Bayes objective at Adam's cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from fenchel.optim.amp import LossScale, enabled, true_gradient
from fenchel.optim.closures import Watch, as_closures, mean_loss
from fenchel.optim.diagonal import DiagonalVariational
from fenchel.optim.distributed import local_gradients, process_group, sum_across_ranks, sum_counts
from fenchel.optim.functional import ivon_hessian
from fenchel.optim.hyperparameters import check_positive, leading_group
from fenchel.optim.noise import work_dtype
from fenchel.optim.posterior import held
from fenchel.optim.shards import local

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
        data_factor: multiplies N. max_grad_norm: clip the averaged g to this total norm.
        maximize: ascend the objective.
        seed: of the noise; None takes one from torch's global generator.
        module: the network; needed for ``distributed`` over DistributedDataParallel, and under FSDP1.
        distributed: True or a process group: every process has samples of its own, whose g and h_hat are averaged.
            None: gradients may be averages over processes, so if there are several all take the first one's noise,
            without which h_hat would be wrong. False: this process is on its own.
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
        max_grad_norm: float | None = None,
        maximize: bool = False,
        seed: int | None = None,
        module: nn.Module | None = None,
        distributed: Any = None,
    ) -> None:
        if max_grad_norm is not None:
            check_positive("max_grad_norm", max_grad_norm)
        defaults = {
            "lr": lr,
            "num_data": num_data,
            "betas": betas,
            "weight_decay": weight_decay,
            "h_init": h_init,
            "rescale_lr": rescale_lr,
            "data_factor": data_factor,
            "max_grad_norm": max_grad_norm,
            "maximize": maximize,
        }
        self._watch = Watch("IVON")
        super().__init__(params, defaults, seed, module=module, distributed=distributed)

    @_disable_dynamo
    def step(
        self, closure: Callable[[], Any] | Iterable[Callable[[], Any]] | None = None, *, grad_scaler: Any = None
    ) -> Any:
        """One step: a closure evaluates one sample, several closures several (each with its own noise).

        Args:
            closure: zeroes the gradients, evaluates the loss, calls backward and returns the loss.
            grad_scaler: a `torch.amp.GradScaler`, if the closures call ``grad_scaler.scale(loss).backward()``. Call
                ``grad_scaler.update()`` afterwards. A step with an infinity is skipped.

        Returns:
            The mean of the losses at the samples.

        Raises:
            ValueError: no closure was given. ClosureError: a closure did not zero the gradients, or not call backward.
        """
        if closure is None and self._prime():
            return None
        closures = as_closures(closure, "IVON")
        scaler, ranks = enabled(grad_scaler), process_group(self._distributed)
        self._watch.begin(closures, scaler)
        pairs = self._group_of()
        if not pairs:
            raise ValueError("IVON.step: no parameter requires a gradient")
        scale = None if scaler is None else LossScale(scaler)
        params = [p for p, _ in pairs]
        for p, group in pairs:
            self._state_of(p, group)
        sums: list[tuple[Tensor, Tensor] | None] = [None] * len(params)
        losses = []
        self.next_noise()
        with torch.no_grad():
            for evaluate in closures:
                marginals, noise = self._trained(), self._draw(params)
                deviations = [local(q.variance).sqrt() for q in marginals]
                values = [local(q.mean) + z * d for q, z, d in zip(marginals, noise, deviations, strict=True)]
                with held(params, values, self._shards):
                    with self._watch.looking(params) as check:
                        with torch.enable_grad(), local_gradients(None if ranks is None else self._module):
                            losses.append(evaluate())
                        check(losses[-1])
                    for i, (p, z, d) in enumerate(zip(params, noise, deviations, strict=True)):
                        g = true_gradient(p, self._shards, scale)
                        if g is not None:
                            old = sums[i]
                            new = (g.clone(), g * z / d)
                            sums[i] = new if old is None else (old[0].add_(new[0]), old[1].add_(new[1]))
            self._finish(pairs, sums, len(closures), scale, ranks)
        loss = mean_loss(losses)
        self._watch.finish(loss, scaler)
        return loss

    def _finish(
        self,
        pairs: list[tuple[Tensor, dict[str, Any]]],
        sums: list[tuple[Tensor, Tensor] | None],
        parts: int,
        scale: LossScale | None,
        ranks: Any,
    ) -> None:
        """Average over the samples of all processes, and update."""
        if scale is not None:
            scale.share(ranks)
            scale.record(self)
            if scale.found():
                return
        if ranks is not None:
            parts, *users = sum_counts([parts, *(int(t is not None) for t in sums)], pairs[0][0].device, ranks)
            for i, ((p, _), used) in enumerate(zip(pairs, users, strict=True)):
                if used and sums[i] is None:
                    sums[i] = (torch.zeros_like(p, dtype=work_dtype(p)), torch.zeros_like(p, dtype=work_dtype(p)))
            sum_across_ranks([t for both in sums if both is not None for t in both], ranks)
        used_pairs = [(p, both[0]) for (p, _), both in zip(pairs, sums, strict=True) if both is not None]
        limit, factor = leading_group(self.param_groups)["max_grad_norm"], None
        if limit is not None and used_pairs:
            norm = self._shards.norm([p for p, _ in used_pairs], [g for _, g in used_pairs]) / parts
            factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        for (p, group), both in zip(pairs, sums, strict=True):
            if both is not None:
                g, h_hat = both[0] / parts, both[1] / parts
                if group["maximize"]:
                    g, h_hat = -g, -h_hat
                self._update(p, group, g if factor is None else g * factor.to(g), h_hat)
        self._shards.changed([p for p, _ in pairs])

    def _update(self, p: Tensor, group: dict[str, Any], g: Tensor, h_hat: Tensor) -> None:
        (beta1, beta2), delta, state = group["betas"], group["weight_decay"], self.state[p]
        mean, momentum, h = local(state.get("mean", p)), local(state["momentum"]), local(state["h"])
        state["step"] += 1
        momentum.mul_(beta1).add_(g, alpha=1 - beta1)
        h.copy_(ivon_hessian(h, h_hat, beta2, delta))
        debias = 1 - torch.pow(torch.full_like(state["step"], beta1, dtype=torch.float64), state["step"])
        lr = group["lr"] * ((group["h_init"] + delta) if group["rescale_lr"] else 1.0)
        mean.sub_(lr * (momentum / debias.to(momentum) + delta * mean) / (h + delta))
        if "mean" in state:
            local(p).copy_(mean)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_watch": self._watch}
