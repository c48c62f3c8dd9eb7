"""Small networks, data, closures and fed noise shared by the tests of the optimizers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fenchel.optim import BSAM, IVON, SAM

REFERENCE = Path(__file__).parent / "reference"
SETTINGS: dict[str, Any] = {"num_data": 60, "rho": 0.05, "weight_decay": 1e-3, "damping": 0.1}


class FedBSAM(BSAM):
    """BSAM whose noise is handed in: `feed` is consumed in parameter order."""

    feed: Tensor

    def standard_normal_like(self, param: Tensor) -> Tensor:
        z = self.feed[: param.numel()].view_as(param)
        self.feed = self.feed[param.numel() :]
        return z


def network(seed: int = 0, dtype: torch.dtype = torch.float64, inputs: int = 4, outputs: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 7), nn.Tanh(), nn.Linear(7, outputs)).to(dtype)


def data(
    rows: int = 24, dtype: torch.dtype = torch.float64, inputs: int = 4, outputs: int = 3
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(rows, inputs, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, outputs, (rows,), generator=generator)


def make(kind: str, params: Any, **kwargs: Any) -> Any:
    """bSAM, IVON or SAM over SGD."""
    if kind == "bsam":
        return BSAM(params, 0.1, num_data=100, rho=0.05, seed=0, **kwargs)
    if kind == "ivon":
        return IVON(params, 0.1, num_data=100, seed=0, **kwargs)
    return SAM(params, torch.optim.SGD, 0.05, lr=0.1, **kwargs)


def closure_for(net: nn.Module, opt: Any, x: Tensor, y: Tensor, scaler: Any = None) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        (loss if scaler is None else scaler.scale(loss)).backward()
        return loss

    return closure


def minimizing(opt: Any, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A closure, as `step` wants it, of a loss as a function."""

    def closure() -> Tensor:
        opt.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def closures_for(net: nn.Module, opt: Any, x: Tensor, y: Tensor, parts: int, scaler: Any = None) -> list[Any]:
    return [closure_for(net, opt, a, b, scaler) for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True)]


def flat(module_or_params: Any) -> Tensor:
    params = module_or_params.parameters() if isinstance(module_or_params, nn.Module) else module_or_params
    return torch.cat([p.detach().reshape(-1) for p in params]).clone()


def state(opt: Any, name: str) -> Tensor:
    return torch.cat([opt.state[p][name].reshape(-1) for g in opt.param_groups for p in g["params"]]).clone()


def train(steps: int = 5, parts: int = 2, net_seed: int = 0, **kwargs: Any) -> tuple[nn.Module, BSAM]:
    net = network(net_seed)
    x, y = data()
    opt = BSAM(net.parameters(), **{"lr": 0.2, "seed": 3, **SETTINGS, **kwargs})
    for _ in range(steps):
        opt.step(closures_for(net, opt, x, y, parts))
    return net, opt


class Trajectory:
    """One reference file: the problem, its sub-batches and its hyperparameters."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float64) -> None:
        with np.load(REFERENCE / f"{name}.npz", allow_pickle=False) as stored:
            self.arrays = {key: stored[key] for key in stored.files}
        self.dtype = dtype
        self.kind, self.parts, self.steps = str(self["kind"]), max(int(self["m"]), 1), int(self["steps"])
        self.x = torch.tensor(self["X"], dtype=dtype)
        self.y = torch.tensor(self["y"], dtype=dtype)

    def __getitem__(self, key: str) -> Any:
        return self.arrays[key]

    def number(self, key: str) -> float:
        return float(self[key])

    def model(self) -> nn.Module:
        net: nn.Module
        if str(self["problem"]) == "logreg":
            net = nn.Linear(2, 1, bias=False)
        else:
            net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        net = net.to(self.dtype)
        nn.utils.vector_to_parameters(torch.tensor(self["omega0"], dtype=self.dtype), net.parameters())
        return net

    def bsam(self, net: nn.Module, order: str, cls: type[BSAM] = FedBSAM, **kwargs: Any) -> Any:
        return cls(
            net.parameters(),
            self.number("lr"),
            num_data=self.number("N"),
            rho=self.number("rho"),
            betas=(self.number("beta1"), self.number("beta2")),
            weight_decay=self.number("weight_decay"),
            damping=self.number("damping"),
            s_init=self.number("s_init"),
            precision_first=order == "paper",
            **kwargs,
        )

    def rows(self, t: int) -> list[Tensor]:
        return [torch.as_tensor(part) for part in np.split(self["batch_idx"][t], self.parts)]

    def noise(self, t: int) -> Tensor:
        return torch.tensor(self["noise"][t], dtype=self.dtype).reshape(-1)

    def closures(self, net: nn.Module, opt: Any, t: int) -> list[Callable[[], Tensor]]:
        def loss(rows: Tensor) -> Tensor:
            return nn.functional.binary_cross_entropy_with_logits(net(self.x[rows]).squeeze(-1), self.y[rows])

        return [minimizing(opt, partial(loss, rows)) for rows in self.rows(t)]

    def set_lr(self, opt: Any, t: int) -> None:
        for group in opt.param_groups:
            group["lr"] = self.number("lr") * float(self["lrfactor"][t])


def relative(value: Tensor, reference: Any) -> float:
    """Largest deviation over the largest reference entry."""
    ref = torch.as_tensor(np.asarray(reference))
    return float((value.detach().double() - ref).abs().max() / ref.abs().max())
