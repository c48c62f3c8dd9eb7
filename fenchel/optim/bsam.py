"""BSAM: Algorithm 1, a mean and a diagonal Gaussian posterior for the price of SAM with Adam."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from fenchel.optim.diagonal import DiagonalOptimizer
from fenchel.optim.distributed import process_group
from fenchel.optim.hyperparameters import leading_group, settings_of
from fenchel.optim.kernels.bucket import Bucket, moves_of
from fenchel.optim.shards import local
from fenchel.optim.two_pass import TwoPassOptimizer

SMALL_LR = 5e-3


class BSAM(TwoPassOptimizer, DiagonalOptimizer):
    """Bayesian sharpness-aware minimization, Algorithm 1 of Moellenhoff & Khan (2023).

    Per step, on the whole minibatch or on each of m sub-batches (then g_eps and sqrt(s)|g| are averages over them):

        theta <- omega + e, e ~ N(0, 1/(N s));  g <- grad(theta);  eps <- rho g / s;  g_eps <- grad(omega + eps)
        g_m <- beta1 g_m + (1 - beta1) (g_eps + delta omega)
        s <- beta2 s + (1 - beta2) (sqrt(s) |g| + delta + gamma)
        omega <- omega - alpha g_m / s

    Args:
        params: parameters, or group dictionaries with their own lr, rho, betas, weight_decay, num_data, ...
        lr: alpha; a number, or a 0-d tensor (which schedulers then change in place).
        num_data: N, the size of the training set. rho: step of the perturbation. betas: (beta1, beta2).
        weight_decay: delta, the prior precision over N (over N times ``data_factor``, if that is used).
        damping: gamma. s_init: the first s; the first posterior variance is 1/(N s_init).
        noise: False leaves out the noise e (Table 3).
        precision_first: True is Algorithm 1; False moves omega with the old s, as in the authors' code.
        data_factor: multiplies N in the noise, for augmented data (the authors use 4 on CIFAR).
        sqrt_num_data: multiply sqrt(s)|g| by sqrt(N) in the s-update, as App. E.3 derives and Algorithm 1 drops. Then s
            is as large as the curvature, if the minibatch is the whole of the data, and without it about sqrt(N) times
            smaller; but the large gradients of a step that overshoots (lr curvature / s_init > 2) freeze it.
        max_grad_norm: clip the averaged g_eps to this total norm. maximize: ascend the objective.
        fused: one Triton launch a move on CUDA devices; None: where that can be done, True: else an error.
        capturable: keep lr in tensors, so that a step can be captured in a CUDA graph.
        seed: of the noise; None takes one from torch's global generator.
        module, batch_norm, distributed: see `TwoPassOptimizer`.

    State of a parameter: "s" and "momentum", and for bfloat16 or float16 weights "mean", all three in float32. The
    first group with parameters also counts the steps ("step") and posterior samples ("draws"), which with "seed"
    determine the noise: a `state_dict` continues it bit for bit.

    Raises:
        ValueError: a hyperparameter out of range, naming it.
    """

    state_names = ("s", "momentum", "mean")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        num_data: float,
        rho: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 1e-4,
        damping: float = 0.1,
        s_init: float = 1.0,
        noise: bool = True,
        precision_first: bool = True,
        data_factor: float = 1.0,
        sqrt_num_data: bool = False,
        max_grad_norm: float | None = None,
        maximize: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        seed: int | None = None,
        module: nn.Module | None = None,
        batch_norm: str = "both",
        distributed: Any = False,
    ) -> None:
        defaults = settings_of(locals())
        self._buckets: list[Bucket] = []
        self._moves: list[Any] = []
        self._laid_out: Any = None
        super().__init__(params, defaults, module=module, batch_norm=batch_norm, distributed=distributed)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with its own hyperparameters; those it does not name take the optimizer's."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["capturable"] and not isinstance(group["lr"], Tensor) and group["params"]:
            group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float64, device=group["params"][0].device)

    def precision(self, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """The precision over N of a parameter, s; s_init before the first step."""
        return state["s"]

    def check_settings(self, params: list[Tensor]) -> None:
        """Warn of a num_data that counts batches, and of a learning rate as for Adam."""
        super().check_settings(params)
        lr = leading_group(self.param_groups)["lr"]
        if not isinstance(lr, Tensor) and 0 < lr < SMALL_LR:
            self._watch.warn("lr", f"lr={lr:g} is small for bSAM, whose step is lr g/s, not Adam's: try 0.05 to 1")

    def _keep(self) -> None:
        if self._signature() != self._laid_out:
            self._lay_out()
        self.next_noise()

    def _signature(self) -> list[Any]:
        """What the buckets must still hold: parameters, their groups and state, devices and precisions."""
        none: dict[str, Tensor] = {}
        pairs = ((p, group, self.state.get(p, none).get("s")) for p, group in self.with_groups())
        return [(id(p), id(group), id(local(s)), p.dtype, p.device) for p, group, s in pairs]

    def _lay_out(self) -> None:
        self._buckets, number = [], 0
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.requires_grad]
            for _, run in groupby(trained, lambda p: (p.device, p.dtype)):
                params = list(run)
                states = [self._state_of(p, group) for p in params]
                for p, state in zip(params, states, strict=True):
                    for name, value in state.items():  # moves run over memory in its order
                        if value.stride() != p.stride():
                            state[name] = torch.empty_like(p, dtype=value.dtype).copy_(value)
                self._buckets.append(Bucket(group, self._shards, params, states, number, self._draw))
                number += len(params)
        self._moves = moves_of(self._buckets, own_noise=self._own_noise(), generator=self.generator)
        self._laid_out = self._signature()

    @torch.no_grad()
    def first_point(self) -> None:
        """Line 3: move the weights to omega + e."""
        self._started("first_point")
        for moves in self._moves:
            moves.noisy_point()

    @torch.no_grad()
    def second_point(self) -> None:
        """Line 5: collect |g| and move the weights to omega + rho g / s."""
        self._started("second_point")
        for moves in self._moves:
            moves.adversarial_point(self._scale)

    @torch.no_grad()
    def collect(self) -> None:
        """Line 6: add the gradient at the adversarial point to the sum."""
        self._started("collect")
        limit = leading_group(self.param_groups)["max_grad_norm"]
        last = self._expected == 1 and limit is None and process_group(self._distributed) is None
        for moves in self._moves:
            moves.collect(self._scale, last=last)
        self._parts += 1

    def _move(self, parts: int) -> None:
        """Lines 7 to 9."""
        for moves in self._moves:
            moves.update(parts, self._scale)

    def _put_back(self) -> None:
        for moves in self._moves:
            moves.put_back()

    def _sums(self) -> list[tuple[Tensor, list[Tensor]]]:
        return [pair for moves in self._moves for pair in moves.sums()]

    def _seen(self) -> list[bool]:
        return [seen for bucket in self._buckets for seen in bucket.seen]

    def _see(self, users: list[bool]) -> None:
        left = iter(users)
        for bucket in self._buckets:
            bucket.seen = [next(left) for _ in bucket.seen]

    def _close(self) -> None:
        for moves in self._moves:
            moves.clear()
        super()._close()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_buckets": [], "_moves": [], "_laid_out": None}
