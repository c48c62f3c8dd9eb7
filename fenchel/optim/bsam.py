"""BSAM: Algorithm 1, a mean and a diagonal Gaussian posterior for the price of SAM with Adam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fenchel.optim.amp import any_non_finite, record
from fenchel.optim.bucket import Bucket
from fenchel.optim.distributed import process_group, rank_of, sum_across_ranks, sum_counts
from fenchel.optim.functional import posterior_variance
from fenchel.optim.hyperparameters import check_bsam_group, check_params
from fenchel.optim.kernels.choice import choose
from fenchel.optim.noise import NoiseSource, work_dtype
from fenchel.optim.posterior import DiagonalPosterior, Marginal
from fenchel.optim.two_pass import TwoPassOptimizer, without_gradients
from fenchel.optim.vectorized import VectorizedStep
from fenchel.optim.workspace import Workspace

__all__ = ["BSAM"]


class BSAM(DiagonalPosterior, VectorizedStep, TwoPassOptimizer):
    """Bayesian sharpness-aware minimization, Algorithm 1 of Moellenhoff & Khan (2023).

    Per step, on the whole minibatch or on each of m sub-batches (then g_eps and sqrt(s)|g| are averages over them):

        theta <- omega + e, e ~ N(0, 1/(N s));  g <- grad(theta);  eps <- rho g / s;  g_eps <- grad(omega + eps)
        g_m <- beta1 g_m + (1 - beta1) (g_eps + delta omega)
        s <- beta2 s + (1 - beta2) (sqrt(s) |g| + delta + gamma)
        omega <- omega - alpha g_m / s

    Args:
        params: parameters, or group dictionaries with their own lr, rho, betas, weight_decay, num_data, ...
        lr: alpha; a number, or a 0-d tensor (which schedulers then change in place).
        num_data: N, the size of the training set.
        rho: step of the perturbation.
        betas: (beta1, beta2).
        weight_decay: delta, the prior precision over N (over N times ``data_factor``, if that is used).
        damping: gamma.
        s_init: the first s; the first posterior variance is 1/(N s_init).
        noise: False leaves out the noise e (Table 3).
        precision_first: True is Algorithm 1; False moves omega with the old s, as in the authors' code.
        data_factor: multiplies N in the noise, for augmented data (the authors use 4 on CIFAR).
        sqrt_num_data: multiply sqrt(s)|g| by sqrt(N) in the s-update, as App. E.3 derives and Algorithm 1 drops.
        max_grad_norm: clip the averaged g_eps to this total norm.
        maximize: ascend the objective.
        foreach: kernels over lists, or (False) a loop; None chooses by device.
        fused: compiled passes, for float32 on CPUs; None uses them where they can be used and ``foreach`` is None.
        compiled: fuse lines 7 to 9 by `torch.compile`.
        capturable: keep lr in tensors, so that a step can be captured in a CUDA graph.
        seed: of the noise; None takes one from torch's global generator.
        module, batch_norm, distributed: see `TwoPassOptimizer`.

    State of a parameter: "s" and "momentum", and for bfloat16 or float16 weights "mean", all three in float32. On a CPU
    the optimizer also keeps the memory of the mean's copy and of the noise (with sub-batches that of the two sums too)
    between steps, since to page it in anew costs as much as the step.

    Raises:
        ValueError: a hyperparameter out of range, naming it.
    """

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
        foreach: bool | None = None,
        fused: bool | None = None,
        compiled: bool = False,
        capturable: bool = False,
        seed: int | None = None,
        module: nn.Module | None = None,
        batch_norm: str = "both",
        distributed: Any = False,
    ) -> None:
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive or None, got {max_grad_norm!r}")
        defaults = {
            "lr": lr,
            "num_data": num_data,
            "rho": rho,
            "betas": betas,
            "weight_decay": weight_decay,
            "damping": damping,
            "s_init": s_init,
            "noise": noise,
            "precision_first": precision_first,
            "data_factor": data_factor,
            "sqrt_num_data": sqrt_num_data,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "compiled": compiled,
            "capturable": capturable,
        }
        check_bsam_group(defaults)
        self._max_grad_norm = max_grad_norm
        self._noise = NoiseSource(seed, rank_of(distributed))
        self._sampling = NoiseSource(self._noise.seed ^ 1, self._noise.rank)
        self._workspace = Workspace()
        self._buckets: list[Bucket] = []
        self._vectors: list[Tensor] = []
        self._expected: int | None = None
        super().__init__(params, defaults, module=module, batch_norm=batch_norm, distributed=distributed)

    # ---- what the group holds -------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with its own hyperparameters; those it does not name take the optimizer's."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_bsam_group(group)
            check_params(group["params"])
        except ValueError:
            self.param_groups.pop()
            raise
        if group["capturable"] and not isinstance(group["lr"], Tensor):
            group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float64, device=group["params"][0].device)

    def _state_of(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if "s" not in state:
            dtype = work_dtype(p)
            state["s"] = torch.full_like(p, group["s_init"], dtype=dtype, memory_format=torch.preserve_format)
            state["momentum"] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
        if work_dtype(p) != p.dtype:
            if "mean" not in state:
                state["mean"] = p.detach().to(work_dtype(p))
            else:  # the weights were changed from outside: they are what counts
                mean = state["mean"]
                mean.copy_(torch.where(mean.to(p.dtype) == p, mean, p.to(mean.dtype)))
        return state

    def standard_normal_like(self, param: Tensor) -> Tensor:
        """Standard normal noise shaped like ``param``, for the noisy point.

        May be overridden; it is then called once per parameter that requires a gradient, in parameter order, for each
        sub-batch. Not overridden, the noise of all parameters comes from one flat draw, which is faster.
        """
        return self._noise.like([param])[0]

    def _custom_noise(self) -> bool:
        overridden = type(self).standard_normal_like is not BSAM.standard_normal_like
        return overridden or "standard_normal_like" in self.__dict__

    def _draw(self, params: list[Tensor]) -> list[Tensor]:
        if not self._custom_noise():
            return self._noise.like(params)
        noise = []
        for p in params:
            z = self.standard_normal_like(p)
            if z.shape != p.shape:
                raise ValueError(f"standard_normal_like returned shape {tuple(z.shape)} for {tuple(p.shape)}")
            noise.append(z.to(device=p.device, dtype=work_dtype(p)))
        return noise

    def _draw_rows(self, params: list[Tensor], rows: int) -> list[Tensor]:
        """``rows`` draws, one after the other as `step` makes them: for each parameter a tensor (rows, *shape)."""
        draws = [self._draw(params) for _ in range(rows)]
        return [torch.stack(same) for same in zip(*draws, strict=True)]

    def trainable(self) -> list[Tensor]:
        """The parameters that require a gradient, in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    # ---- the moves of a step --------------------------------------------------------------------------------------

    @without_gradients
    def begin(self, grad_scaler: Any = None, parts: int | None = None) -> None:
        """Start a step: remember the mean.

        Args:
            grad_scaler: the scaler whose scaled losses are to come.
            parts: how many sub-batches there will be, if known (1 saves a copy).
        """
        if self._open:
            self.restore()
        self._buckets = []
        for group in self.param_groups:
            places: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
            for p in group["params"]:
                if p.requires_grad:
                    places.setdefault((p.device, p.dtype), []).append(p)
            for params in places.values():
                states = [self._state_of(p, group) for p in params]
                masters = [state["mean"] for state in states if "mean" in state]
                kept = [t for state in states for t in state.values()]
                kernels = choose(group, params, kept)
                self._buckets.append(
                    Bucket(
                        group=group,
                        kernels=kernels,
                        params=params,
                        mean=kernels.held(masters or self._workspace.copies(f"mean {len(self._buckets)}", params)),
                        s=kernels.held([state["s"] for state in states]),
                        momentum=kernels.held([state["momentum"] for state in states]),
                        seen=[False] * len(params),
                    )
                )
        self._open, self._parts, self._expected, self._overflow = True, 0, parts, False
        self._scaler = grad_scaler

    @without_gradients
    def first_point(self) -> None:
        """Line 3: the weights become omega + e."""
        self._started("first_point")
        custom = self._custom_noise()
        kept = not custom and all(b.kernels.keeps_memory for b in self._buckets)
        if custom:
            params = self._noisy()
            drawn = dict(zip(params, self._draw(params), strict=True))
            for b in self._buckets:
                b.noise = b.kernels.readable([drawn[p] for p in b.params]) if b.group["noise"] else None
        else:
            if not self._vectors:
                self._make_room()
            for vector in self._vectors:
                self._noise.normal_(vector)
        for b in self._buckets:
            if b.noise is not None:
                b.kernels.noisy_point(b.params, b.mean, b.noise, b.s, b.num_data**-0.5)
            elif self._parts:
                b.put_back()
            b.spare = b.noise if b.kernels.keeps_memory and not custom else None
            b.noise = b.noise if kept else None
        if not kept:
            self._vectors = []

    def _noisy(self) -> list[Tensor]:
        return [p for group in self.param_groups if group["noise"] for p in group["params"] if p.requires_grad]

    def _make_room(self) -> None:
        """Memory for the noise, for the whole step where it is kept anyway."""
        params = self._noisy()
        self._vectors, pieces = self._noise.rooms(params, self._workspace)
        room = dict(zip(params, pieces, strict=True))
        for b in self._buckets:
            if b.group["noise"]:
                b.noise = b.kernels.held([room[p] for p in b.params])

    @without_gradients
    def second_point(self) -> None:
        """Line 5: collect |g| and move the weights to omega + rho g / s."""
        self._started("second_point")
        for i, b in enumerate(self._buckets):
            gradient = b.gradients()
            room = b.spare
            if b.absolute is None and self._expected != 1:  # a sum, which the next noise must not overwrite
                room = self._workspace.like(f"absolute {i}", gradient) if b.kernels.keeps_memory else None
            rho = b.sign * b.group["rho"] * self._unscaling()
            b.absolute = b.kernels.adversarial_point(b.params, b.mean, gradient, b.s, rho, total=b.absolute, room=room)
        if self._scaler is not None:
            self._overflow |= any_non_finite(t for b in self._buckets for t in b.absolute or [])

    @without_gradients
    def collect(self) -> None:
        """Line 6: add the gradient at the adversarial point to the sum."""
        self._started("collect")
        for i, b in enumerate(self._buckets):
            gradient = b.gradients()
            if b.gradient is not None:
                b.kernels.accumulate(b.gradient, gradient)
            else:
                b.gradient = (
                    gradient
                    if self._expected == 1
                    else b.kernels.held(self._workspace.copies(f"gradient {i}", gradient))
                )
        self._parts += 1

    @without_gradients
    def restore(self) -> None:
        """Give the step up: the weights become the mean again, bit for bit; s and momentum are untouched."""
        for b in self._buckets:
            b.put_back()
        self._buckets, self._vectors, self._open = [], [], False

    @without_gradients
    def update(self) -> None:
        """Lines 7 to 9, from the averages over the sub-batches (of all ranks)."""
        self._started("update")
        scaler, parts = self._scaler, self._parts
        ranks = process_group(self._distributed)
        if scaler is not None:
            self._overflow |= any_non_finite(t for b in self._buckets for t in b.gradient or [])
            if ranks is not None:
                self._overflow = sum_counts([int(self._overflow)], self._buckets[0].params[0].device, ranks)[0] > 0
        if self._overflow:
            self.restore()
            record(scaler, self, overflow=True)
            return
        if ranks is not None:
            parts = self._reduce(ranks)
        scale = self._unscaling()
        if self._max_grad_norm is not None:
            self._clip(self._max_grad_norm, parts, scale)
        try:
            for b in self._buckets:
                b.finish(parts, scale)
        finally:
            self._buckets, self._vectors, self._open = [], [], False
        if scaler is not None:
            record(scaler, self, overflow=False)

    def _unscaling(self) -> float:
        return 1.0 if self._scaler is None else 1.0 / float(self._scaler.get_scale())

    def _reduce(self, ranks: Any) -> int:
        """Sum g_eps, |g| and the number of sub-batches over the ranks; the number."""
        tensors = [t for b in self._buckets for t in (*(b.absolute or []), *(b.gradient or []))]
        if self._expected == 1:  # the sums are the gradients themselves, which stay this rank's own
            for b in self._buckets:
                b.gradient = [g.clone() for g in b.gradient or []]
            tensors = [t for b in self._buckets for t in (*(b.absolute or []), *(b.gradient or []))]
        sum_across_ranks(tensors, ranks)
        flags = [int(seen) for b in self._buckets for seen in b.seen]
        parts, *seen = sum_counts([self._parts, *flags], self._buckets[0].params[0].device, ranks)
        flags_left = iter(seen)
        for b in self._buckets:
            b.seen = [next(flags_left) > 0 for _ in b.seen]
        return parts

    def _clip(self, limit: float, parts: int, scale: float) -> None:
        gradients = [g for b in self._buckets for g in b.gradient or []]
        device = gradients[0].device
        norms = [n.to(device) for n in torch._foreach_norm(gradients)]
        factor = (limit / (torch.linalg.vector_norm(torch.stack(norms)) * (scale / parts) + 1e-6)).clamp(max=1.0)
        for b in self._buckets:
            b.gradient = [g * factor.to(g.device) for g in b.gradient or []]

    # ---- posterior and checkpoints --------------------------------------------------------------------------------

    def marginals(self) -> list[Marginal]:
        """(param, mean, 1/(N s)) of every parameter that requires a gradient; before the first step s is s_init."""
        if self._open:
            raise RuntimeError("the posterior cannot be read in the middle of a step")
        out = []
        for group in self.param_groups:
            for p in group["params"]:
                if p.requires_grad:
                    state = self._state_of(p, group)
                    variance = posterior_variance(state["s"], group["num_data"] * group["data_factor"])
                    out.append(Marginal(p, state.get("mean", p.detach()), variance))
        return out

    def sampling_noise(self, params: list[Tensor], generator: torch.Generator | None) -> list[Tensor]:
        """Noise of `sampled_params`: from ``generator``, the overridden `standard_normal_like` or an own stream."""
        if generator is not None:
            return super().sampling_noise(params, generator)
        return self._draw(params) if self._custom_noise() else self._sampling.like(params)

    def generator(self, device: torch.device) -> torch.Generator:
        """The generator of the training noise on a device (on a CPU: of small or double-precision draws)."""
        return self._noise.on(device)

    def noise_state(self) -> dict[str, Any]:
        """The state of the noise streams, as in `state_dict`."""
        return {"noise": self._noise.state_dict(), "sampling": self._sampling.state_dict()}

    def load_noise_state(self, state: dict[str, Any]) -> None:
        """Continue the noise streams of a `noise_state` (or a whole `state_dict`)."""
        for source, name in ((self._noise, "noise"), (self._sampling, "sampling")):
            if name in state:
                source.load_state_dict(state[name])

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with the noise streams under "noise" and "sampling": tensors and numbers only."""
        return {**super().state_dict(), **self.noise_state()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`, bit for bit on the same machine; s, momentum and mean keep their precision."""
        super().load_state_dict(state_dict)
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(ids, params, strict=True):
            for name, saved in state_dict["state"].get(i, {}).items():
                if isinstance(saved, Tensor):
                    self.state[p][name] = saved.to(device=p.device, dtype=work_dtype(p), copy=True)
        self.load_noise_state(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("fused", None)  # saved before there was a choice

    def __getstate__(self) -> dict[str, Any]:
        own = ("_max_grad_norm", "_noise", "_sampling", "_workspace", "_buckets", "_vectors", "_expected")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}
