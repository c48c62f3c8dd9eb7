"""One of two gloo processes; started by test_distributed.py, writes what it ends with to a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from optim_cases import SETTINGS, FedBSAM, closure_for, closures_for, data, flat, network, state
from torch import Tensor, nn

from fenchel.optim import BSAM, SAM, broadcast_module

STEPS = 4
NOISE_SEED = 42


def part_noise(t: int, part: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(NOISE_SEED + 100 * t + part)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def trained(rank: int, *, wrapped: bool, sub_batches: int, clip: float | None) -> dict[str, Tensor]:
    """bSAM with fed noise on this rank's share of the rows."""
    net: nn.Module = network(seed=rank)  # the ranks start apart and are brought together
    model: nn.Module = net
    if wrapped:
        model = nn.parallel.DistributedDataParallel(net)
    else:
        broadcast_module(net)
    x, y = (t.chunk(2)[rank] for t in data())
    opt = FedBSAM(
        model.parameters(), 0.2, module=model if wrapped else None, distributed=True, max_grad_norm=clip, **SETTINGS
    )
    size = sum(p.numel() for p in net.parameters())
    for t in range(STEPS):
        opt.feed = torch.cat([part_noise(t, rank * sub_batches + k, size) for k in range(sub_batches)])
        opt.step(closures_for(model, opt, x, y, sub_batches))
    return {"w": flat(net), "s": state(opt, "s")}


def main(rank: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    out: dict[str, Any] = {}
    for wrapped in (False, True):
        for sub_batches in (1, 2):
            out[f"bsam-{wrapped}-{sub_batches}"] = trained(rank, wrapped=wrapped, sub_batches=sub_batches, clip=None)
    out["bsam-clip"] = trained(rank, wrapped=False, sub_batches=1, clip=0.2)

    net = network()
    x, y = (t.chunk(2)[rank] for t in data())
    sam = SAM(net.parameters(), torch.optim.SGD, 0.05, distributed=True, lr=0.2, momentum=0.9)
    for _ in range(STEPS):
        sam.step(closure_for(net, sam, x, y))
    out["sam"] = {"w": flat(net)}

    # own noise: the same seed on both ranks, different draws, and different again after loading rank 0's state
    torch.manual_seed(0)
    net = network()
    opt = BSAM(net.parameters(), 0.2, distributed=True, **SETTINGS)
    saved: list[Any] = [opt.state_dict()]
    out["noise"] = {"z": opt.standard_normal_like(torch.zeros(50))}
    opt.step(closure_for(net, opt, x, y))
    out["own noise"] = {"w": flat(net), "s": state(opt, "s")}
    dist.broadcast_object_list(saved, src=0)
    opt.load_state_dict(saved[0])
    out["noise loaded"] = {"z": opt.standard_normal_like(torch.zeros(50))}

    # rank 1 alone overflows: both skip
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    before = flat(net)

    def closure() -> Tensor:
        loss = closure_for(net, opt, x, y, scaler)()
        if rank == 1:
            net[0].bias.grad.fill_(float("inf"))  # type: ignore[operator, union-attr]
        return loss

    opt.step(closure, grad_scaler=scaler)
    scaler.update()
    out["skip"] = {"moved": flat(net) - before, "scale": torch.tensor(scaler.get_scale())}

    # a parameter only rank 1's sub-batch uses
    spare = nn.Parameter(torch.ones(2, dtype=torch.float64))
    opt = BSAM([spare], 0.1, noise=False, distributed=True, **SETTINGS)

    def sometimes() -> None:
        spare.grad = None if rank == 0 else torch.tensor([1.0, -2.0], dtype=torch.float64)

    opt.step(sometimes)
    out["spare"] = {"w": flat([spare]), "s": state(opt, "s")}
    torch.save(out, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]))
