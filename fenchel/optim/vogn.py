"""VOGN, variational online Gauss-Newton: per-example gradients through `torch.func`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.func import functional_call, grad_and_value, vmap

from fenchel.optim.diagonal import DiagonalVariational
from fenchel.optim.noise import work_dtype
from fenchel.optim.weights import changed

__all__ = ["VOGN", "per_example_loss"]


def per_example_loss(
    module: nn.Module, criterion: Callable[..., Tensor], params: Sequence[Tensor]
) -> Callable[..., Tensor]:
    """The loss of one example for `VOGN.step`: criterion(module(x[None]), *rest[None]) as a function of parameters.

    Raises:
        ValueError: one of ``params`` is not the module's.
    """
    names = {id(p): name for name, p in module.named_parameters()}
    missing = [i for i, p in enumerate(params) if id(p) not in names]
    if missing:
        raise ValueError(f"parameters number {missing} of the optimizer are not among the module's")
    keys = [names[id(p)] for p in params]

    def loss(values: Sequence[Tensor], example: Sequence[Tensor]) -> Tensor:
        inputs, *rest = (t.unsqueeze(0) for t in example)
        return criterion(functional_call(module, dict(zip(keys, values, strict=True)), (inputs,)), *rest)

    return loss


class VOGN(DiagonalVariational):
    """q = N(omega, 1/(N (h + delta))); with theta ~ q and g_i the gradient of example i's loss at theta:

        g_m <- beta1 g_m + (1 - beta1) (mean_i g_i + delta omega)
        h <- beta2 h + (1 - beta2) mean_i g_i^2
        omega <- omega - alpha g_m / (h + delta + gamma)

    Needs models whose examples do not mix: no batch normalization in training mode.

    Args:
        lr: alpha. num_data: N. betas: (beta1, beta2). weight_decay: delta. damping: gamma. h_init: the first h.
        samples: weight samples a step. data_factor: multiplies N.
        maximize: ascend the objective. chunk_size: examples at a time, to bound memory.
        seed: of the noise; None takes one from torch's global generator.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        num_data: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 1e-4,
        damping: float = 1e-3,
        h_init: float = 1.0,
        samples: int = 1,
        data_factor: float = 1.0,
        maximize: bool = False,
        chunk_size: int | None = None,
        seed: int | None = None,
    ) -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples!r}")
        if damping < 0:
            raise ValueError(f"damping must not be negative, got {damping!r}")
        self._samples, self._chunk_size = samples, chunk_size
        defaults = {
            "lr": lr,
            "num_data": num_data,
            "betas": betas,
            "weight_decay": weight_decay,
            "damping": damping,
            "h_init": h_init,
            "data_factor": data_factor,
            "maximize": maximize,
        }
        super().__init__(params, defaults, seed, module=None, distributed=False)

    @_disable_dynamo
    @torch.no_grad()
    def step(self, loss_fn: Any = None, batch: Sequence[Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """One step.

        Args:
            loss_fn: ``loss_fn(params, example) -> scalar``, see `per_example_loss`; ``params`` in the order of
                `trainable()`.
            batch: tensors whose first axis runs over the examples.

        Returns:
            The mean loss at the sampled weights.

        Raises:
            ValueError: there is no per-example loss or no batch.
        """
        if loss_fn is None and self._prime():
            return torch.zeros(())
        if not callable(loss_fn) or batch is None:
            raise ValueError("VOGN.step needs a per-example loss (per_example_loss) and the minibatch, not a closure")
        batch = tuple(batch)
        pairs = self._group_of()
        if not pairs:
            raise ValueError("VOGN.step: no parameter requires a gradient")
        if self._shards.sharded(self.trainable()):
            raise ValueError("VOGN takes gradients of single examples, which sharded parameters do not have")
        self.next_noise()
        gradients = vmap(
            grad_and_value(loss_fn), in_dims=(None, 0), randomness="different", chunk_size=self._chunk_size
        )
        first = [torch.zeros_like(q.mean) for q in self._trained()]
        second = [torch.zeros_like(q.mean) for q in self._trained()]
        total = torch.zeros((), device=batch[0].device)
        for _ in range(self._samples):
            values = []
            for p, mean, variance in self._trained():
                z = self.standard_normal_like(p).to(work_dtype(p))
                values.append((mean + z * variance.sqrt()).to(p.dtype))
            with torch.enable_grad():
                per_example, losses = gradients(values, batch)
            for a, b, g in zip(first, second, per_example, strict=True):
                g = g.detach().to(a.dtype)
                a.add_(g.mean(0), alpha=1 / self._samples)
                b.add_(g.square_().mean(0), alpha=1 / self._samples)
            total = total + losses.detach().mean() / self._samples
        for (p, group), g, square in zip(pairs, first, second, strict=True):
            (beta1, beta2), delta = group["betas"], group["weight_decay"]
            state = self._state_of(p, group)
            mean = state.get("mean", p)
            state["step"] += 1
            state["momentum"].mul_(beta1).add_((-g if group["maximize"] else g) + delta * mean, alpha=1 - beta1)
            state["h"].mul_(beta2).add_(square, alpha=1 - beta2)
            mean.sub_(group["lr"] * state["momentum"] / (state["h"] + delta + group["damping"]))
            if mean is not p:
                p.copy_(mean)
        changed()
        return total

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_samples": self._samples, "_chunk_size": self._chunk_size}
