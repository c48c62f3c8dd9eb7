"""One process of a sharded run; `test_sharded.py` compares with the whole network in one process."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fenchel.optim import BSAM, IVON, SAM, SWAG
from fenchel.predict import predict_bma

STEPS = 4
SETTINGS: dict[str, Any] = {"num_data": 100, "rho": 0.05, "seed": 3, "max_grad_norm": 0.4}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 5, generator=generator, dtype=torch.float64), torch.arange(8) % 3


def optimizers() -> dict[str, Callable[..., Any]]:
    """By name: from parameters and, where the wrapper is asked for what is where, the module."""
    return {
        "bsam": lambda ps, **kw: BSAM(ps, 0.2, **SETTINGS, **kw),
        "sam": lambda ps, **kw: SAM(ps, torch.optim.SGD, 0.05, lr=0.2, momentum=0.9, max_grad_norm=0.4, **kw),
        "asam": lambda ps, **kw: SAM(ps, torch.optim.Adam, 0.5, lr=0.02, adaptive=True, **kw),
        "ivon": lambda ps, **kw: IVON(ps, 0.2, num_data=100, seed=3, max_grad_norm=0.4, **kw),
    }


def train(net: nn.Module, opt: Any, x: Tensor, y: Tensor, steps: int = STEPS) -> None:
    def closure() -> Tensor:
        opt.zero_grad(set_to_none=False)
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        opt.step(closure)


def whole(net: nn.Module) -> list[Tensor]:
    """The full weights, whatever holds them."""
    return [p.full_tensor() if hasattr(p, "full_tensor") else p.detach().clone() for p in net.parameters()]


def fsdp2(x: Tensor, y: Tensor) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.fsdp import fully_shard

    out: dict[str, Any] = {}
    for name, make in optimizers().items():
        net = network()
        fully_shard(net[0])
        fully_shard(net)
        opt = make(net.parameters())
        train(net, opt, x, y)
        out[name] = whole(net)
        if name in ("bsam", "ivon"):
            with opt.sampled_params():
                out[f"{name} sample"] = whole(net)
            saved = copy.deepcopy(get_optimizer_state_dict(net, opt))
            weights = {k: v.clone() for k, v in net.state_dict().items()}
            train(net, opt, x, y, 2)
            through = whole(net)
            net.load_state_dict(weights)
            net.zero_grad()
            fresh = make(net.parameters())
            set_optimizer_state_dict(net, fresh, saved)
            train(net, fresh, x, y, 2)
            out[f"{name} resumed"] = all(torch.equal(a, b) for a, b in zip(through, whole(net), strict=True))
    net = network()
    fully_shard(net)
    base, swag = torch.optim.SGD(net.parameters(), lr=0.2), SWAG(net.parameters(), seed=3)
    for _ in range(4):
        train(net, base, x, y, 1)
        swag.collect()
    with swag.sampled_params():
        out["swag"] = whole(net)
    return out


def predictions(net: nn.Module, opt: Any) -> Tensor:
    """Averaged over posterior samples, on all data."""
    return predict_bma(net, opt, [data()[0]], samples=3, seed=5)


def evaluated(net: nn.Module, opt: Any, x: Tensor, y: Tensor) -> None:
    """Training with a forward pass that has no backward pass before every step, as evaluations are."""
    for _ in range(STEPS):
        with torch.no_grad():
            net(x)
        train(net, opt, x, y, 1)


def evaluations(kind: str, x: Tensor, y: Tensor) -> dict[str, Any]:
    """FSDP keeps gathered weights after a forward pass without a backward pass, and must not use them again."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    out: dict[str, Any] = {}
    for name, make in optimizers().items():
        net = network()
        if kind == "fsdp1":
            net = FullyShardedDataParallel(net, use_orig_params=True, device_id=torch.device("cpu"))
            opt = make(net.parameters(), module=net)
        else:
            fully_shard(net[0])
            fully_shard(net)
            opt = make(net.parameters())
        evaluated(net, opt, x, y)
        if name in ("bsam", "ivon"):
            out[f"{name} predictions"] = predictions(net, opt)
        if isinstance(net, FullyShardedDataParallel):
            with FullyShardedDataParallel.summon_full_params(net):
                out[name] = [p.detach().clone() for p in net.parameters()]
        else:
            out[name] = whole(net)
    return out


def ddp(x: Tensor, y: Tensor, rank: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, make in optimizers().items():
        net = network()
        wrapped = nn.parallel.DistributedDataParallel(net)
        if name == "ivon":
            opt = IVON(net.parameters(), 0.2, num_data=100, seed=3 + rank, max_grad_norm=0.4)
            own = IVON(net.parameters(), 0.2, num_data=100, seed=3 + rank, module=wrapped, distributed=True)
        elif name == "bsam":
            opt = BSAM(net.parameters(), 0.2, **SETTINGS)
        else:
            opt = make(net.parameters())
        train(wrapped, opt, x, y)
        out[name] = whole(net)
        if name == "ivon":
            train(wrapped, own, x, y)
            out["ivon of several samples"] = whole(net)
            out["ivon h"] = [opt.state[p]["h"].clone() for p in net.parameters()]
    return out


def zero(x: Tensor, y: Tensor) -> dict[str, Any]:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    net = network()
    wrapped = nn.parallel.DistributedDataParallel(net)
    opt = SAM(net.parameters(), ZeroRedundancyOptimizer, 0.05, optimizer_class=torch.optim.SGD, lr=0.2, momentum=0.9)
    train(wrapped, opt, x, y)
    out: dict[str, Any] = {"sam": whole(net)}
    try:
        ZeroRedundancyOptimizer(net.parameters(), SAM, base_optimizer=torch.optim.SGD, rho=0.05, lr=0.2)
    except TypeError as error:
        out["refused"] = str(error)
    for name, kind in (("bsam", BSAM), ("ivon", IVON)):
        extra = {"rho": 0.05} if kind is BSAM else {}
        try:
            ZeroRedundancyOptimizer(net.parameters(), kind, lr=0.2, num_data=100, **extra)
        except TypeError as error:
            out[f"{name} refused"] = str(error)
    return out


def fsdp1(x: Tensor, y: Tensor) -> dict[str, Any]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    out: dict[str, Any] = {}
    for name, make in optimizers().items():
        net = FullyShardedDataParallel(network(), use_orig_params=True, device_id=torch.device("cpu"))
        opt = make(net.parameters(), module=net)
        train(net, opt, x, y)
        with FullyShardedDataParallel.summon_full_params(net):
            out[name] = [p.detach().clone() for p in net.parameters()]
    return out


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x, y = (t.chunk(2)[rank] for t in data())
    found: dict[str, Any] = {}
    for name, run in (("fsdp2", fsdp2), ("zero", zero), ("fsdp1", fsdp1)):
        found[name] = run(x, y)
    for kind in ("fsdp2", "fsdp1"):
        found[f"{kind} evaluated"] = evaluations(kind, x, y)
    found["ddp"] = ddp(x, y, rank)
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]))
