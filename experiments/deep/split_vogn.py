"""VOGN as the paper runs it: every sub-batch has a weight sample of its own, and the damping widens the precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from fenchel.optim import VOGN
from fenchel.optim.posterior import Marginal

__all__ = ["SplitVOGN"]


class SplitVOGN(VOGN):
    """`fenchel.optim.VOGN` with variance 1/(N (h + delta + gamma)), as Osawa et al. (2019), and sub-batches.

    Without damping the prior alone bounds the variance, which at deep learning's small h is far too wide to train.
    """

    def marginals(self) -> list[Marginal]:
        """(param, mean, variance) of every parameter that requires a gradient."""
        widened = []
        pairs = zip(super().marginals(), self._group_of(), strict=True)
        for (param, mean, variance), (_, group) in pairs:
            damping = group["num_data"] * group["data_factor"] * group["damping"]
            widened.append(Marginal(param, mean, (variance.reciprocal() + damping).reciprocal()))
        return widened

    @torch.no_grad()
    def step_parts(self, loss_fn: Callable[..., Tensor], pieces: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """One step on sub-batches (inputs, labels), each at its own sample; returns the mean loss."""
        gradients = vmap(grad_and_value(loss_fn), in_dims=(None, 0), randomness="different")
        self.next_noise()
        marginals = self.marginals()
        first = [torch.zeros_like(q.mean) for q in marginals]
        second = [torch.zeros_like(q.mean) for q in marginals]
        total = torch.zeros((), device=pieces[0][1].device)
        for piece in pieces:
            values = [q.mean + self.standard_normal_like(q.param) * q.variance.sqrt() for q in marginals]
            with torch.enable_grad():
                per_example, losses = gradients(values, piece)
            for a, b, g in zip(first, second, per_example, strict=True):
                a.add_(g.detach().mean(0), alpha=1 / len(pieces))
                b.add_(g.detach().square().mean(0), alpha=1 / len(pieces))
            total += losses.detach().mean() / len(pieces)
        for (p, group), g, square in zip(self._group_of(), first, second, strict=True):
            (beta1, beta2), delta = group["betas"], group["weight_decay"]
            state = self._state_of(p, group)
            state["step"] += 1
            state["momentum"].mul_(beta1).add_(g + delta * p, alpha=1 - beta1)
            state["h"].mul_(beta2).add_(square, alpha=1 - beta2)
            p.sub_(group["lr"] * state["momentum"] / (state["h"] + delta + group["damping"]))
        return total
