"""A training run that checkpoints after every step; run by test_checkpoint.py, killed, and run again."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fenchel.optim import BSAM


def save(path: Path, value: Any) -> None:
    """A whole file, or the one before it."""
    temporary = path.with_suffix(".tmp")
    torch.save(value, temporary)
    temporary.replace(path)


def main(folder: Path, steps: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.randn(64, 4), torch.randint(0, 3, (64,))
    opt = BSAM(net.parameters(), 0.1, num_data=64, rho=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    path, first = folder / "checkpoint.pt", 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        torch.set_rng_state(saved["generator"])
        net.load_state_dict(saved["net"])
        opt.load_state_dict(saved["opt"])
        schedule.load_state_dict(saved["schedule"])
        first = saved["step"] + 1
    for step in range(first, steps):
        with (folder / "log").open("a") as log:
            print(step, file=log, flush=True)
        rows = torch.randperm(64).chunk(4)

        def closure(part: torch.Tensor) -> torch.Tensor:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(x[part]), y[part])
            loss.backward()
            time.sleep(0.002)
            return loss

        opt.step([lambda part=part: closure(part) for part in rows])
        schedule.step()
        parts = {"net": net.state_dict(), "opt": opt.state_dict(), "schedule": schedule.state_dict(), "step": step}
        save(path, {**parts, "generator": torch.get_rng_state()})
    save(folder / "weights.pt", nn.utils.parameters_to_vector(net.parameters()).detach())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
