"""VOGN, variational online Gauss-Newton: per-example gradients through `torch.func`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.func import grad_and_value, vmap

from fenchel.optim.closures import Watch
from fenchel.optim.diagonal import DiagonalOptimizer
from fenchel.optim.hyperparameters import settings_of
from fenchel.optim.posterior import check_steppable
from fenchel.optim.vectorized import functional_loss, split_batch


def per_example_loss(
    module: nn.Module, criterion: Callable[..., Tensor], params: Sequence[Tensor]
) -> Callable[..., Tensor]:
    """The loss of one example for `VOGN.step`: criterion(module(x[None]), *rest[None]) as a function of parameters.

    Raises:
        ValueError: one of ``params`` is not the module's.
    """
    loss = functional_loss(module, criterion, params)
    return lambda values, example: loss(values, [t.unsqueeze(0) for t in example])


class VOGN(DiagonalOptimizer):
    """q = N(omega, 1/(N (h + delta))); with theta ~ q and g_i the gradient of example i's loss at theta:

        g_m <- beta1 g_m + (1 - beta1) (mean_i g_i + delta omega)
        h <- beta2 h + (1 - beta2) mean_i g_i^2
        omega <- omega - alpha g_m / (h + delta + gamma)

    Needs models whose examples do not mix: no batch normalization in training mode.

    Args:
        lr: alpha. num_data: N. betas: (beta1, beta2). weight_decay: delta. damping: gamma. h_init: the first h.
        samples: weight samples a step. data_factor: multiplies N.
        split: every sample sees a part of the minibatch of its own, 1/``samples`` of it, instead of all.
        damped_variance: variance 1/(N (h + delta + gamma)) as of Osawa et al. (2019): without the damping the prior
            alone bounds the variance where h is small, and deep networks do not train.
        maximize: ascend the objective. chunk_size: examples at a time, to bound memory.
        seed: of the noise; None takes one from torch's global generator.
    """

    state_names = ("h", "momentum", "step", "mean")

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
        split: bool = False,
        damped_variance: bool = False,
        data_factor: float = 1.0,
        maximize: bool = False,
        chunk_size: int | None = None,
        seed: int | None = None,
    ) -> None:
        defaults = settings_of(locals())
        self._samples, self._split, self._chunk_size = (defaults.pop(k) for k in ("samples", "split", "chunk_size"))
        if not hasattr(samples, "__index__") or samples < 1:
            raise ValueError(f"samples must be a whole number, at least 1, got {samples!r}")
        self._watch = Watch("VOGN")
        super().__init__(params, defaults)

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
        if loss_fn is None and self._is_priming():
            self.prime()
            return torch.zeros(())
        if not callable(loss_fn) or batch is None:
            raise ValueError("VOGN.step needs a per-example loss (per_example_loss) and the minibatch, not a closure")
        pairs, params = self.with_groups(), self.trainable()
        check_steppable(params, "VOGN")
        if self._shards.sharded(params):
            raise ValueError("VOGN takes gradients of single examples, which sharded parameters do not have")
        self._watch.begin(scaled=False)
        if self._watch.steps == 1:
            self.check_settings(params)
        self.next_noise()
        rounds = [split_batch(batch, self._samples)] if self._split else [split_batch(batch, 1)] * self._samples
        means = self._passes(loss_fn, rounds[0])
        for parts in rounds[1:]:
            torch._foreach_add_(means, self._passes(loss_fn, parts))
        torch._foreach_div_(means, len(rounds))
        for i, (p, group) in enumerate(pairs):
            g, square = means[i], means[len(pairs) + i]
            (beta1, beta2), delta, state = group["betas"], group["weight_decay"], self._state_of(p, group)
            mean = state.get("mean", p)
            state["step"] += 1
            state["momentum"].mul_(beta1).add_((-g if group["maximize"] else g) + delta * mean, alpha=1 - beta1)
            state["h"].mul_(beta2).add_(square, alpha=1 - beta2)
            mean.sub_(group["lr"] * state["momentum"] / (state["h"] + delta + group["damping"]))
            if mean is not p:
                p.copy_(mean)
        self._shards.changed(params)
        self._watch.finish(means[-1])
        return means[-1]

    def _passes(self, loss_fn: Any, parts: tuple[Tensor, ...]) -> list[Tensor]:
        """The means of g, of g^2 and of the loss over the examples; each of the ``parts`` at a sample of its own."""
        marginals = [self._marginal(p, group) for p, group in self.with_groups()]
        draws = [self._draw(self.trainable()) for _ in range(len(parts[0]))]
        values = [
            (q.mean + torch.stack(z) * q.variance.sqrt()).to(q.param.dtype)
            for q, z in zip(marginals, zip(*draws, strict=True), strict=True)
        ]
        of_examples = vmap(
            grad_and_value(loss_fn), in_dims=(None, 0), randomness="different", chunk_size=self._chunk_size
        )
        with torch.enable_grad():
            gradients, losses = vmap(of_examples, in_dims=(0, 0), randomness="different")(values, parts)
        found = [g.detach().to(q.mean.dtype) for q, g in zip(marginals, gradients, strict=True)]
        return [*(g.mean((0, 1)) for g in found), *(g.square_().mean((0, 1)) for g in found), losses.detach().mean()]

    def precision(self, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """The precision over N of a parameter."""
        precision: Tensor = state["h"] + group["weight_decay"]
        return precision + group["damping"] if group["damped_variance"] else precision
