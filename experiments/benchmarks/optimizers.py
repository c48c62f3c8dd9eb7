"""What a step costs: ours, plain SAM, pytorch_optimizer's BSAM, IVON and Adam, over two bare forward/backward passes.

Every ratio is taken within one round, in which all contenders run once, one after the other; reported are the median
and the quartiles over the rounds. Networks and data are those the bars of the project are stated for: LeNet-5 and an
MLP 784-500-300-10, random images, batch 200, one minibatch or eight sub-batches of 25.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.interleaved import Call, interleaved, ratios
from fenchel.optim import BSAM, IVON, SAM, UncorrectedAdam, functional_loss, split_batch

BATCH = 200


def _lenet() -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]

    layers = [
        *block(1, 6),
        *block(6, 16),
        *block(16, 120),
        nn.Flatten(),
        nn.Linear(480, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    ]
    return nn.Sequential(*layers)


def _mlp() -> nn.Module:
    layers = [nn.Linear(784, 500), nn.ELU(), nn.Linear(500, 300), nn.ELU(), nn.Linear(300, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


NETWORKS: dict[str, Callable[[], nn.Module]] = {"LeNet-5": _lenet, "MLP 784-500-300": _mlp}


def _make(name: str, params: Any) -> Any:
    """The optimizer behind a contender's name; None for the bare passes."""
    bsam: dict[str, Any] = {"num_data": 60000, "rho": 0.01, "weight_decay": 1e-4}
    adam: dict[str, Any] = {"lr": 1e-3, "weight_decay": 1e-4}
    makers: dict[str, Callable[[], Any]] = {
        "bSAM": lambda: BSAM(params, 1e-3, **bsam),
        "bSAM without noise": lambda: BSAM(params, 1e-3, noise=False, **bsam),
        "bSAM vectorized": lambda: BSAM(params, 1e-3, **bsam),
        "SAM with SGD": lambda: SAM(params, torch.optim.SGD, 0.05, lr=1e-3, momentum=0.9),
        "SAM with Adam": lambda: SAM(params, torch.optim.Adam, 0.05, **adam),
        "SAM with Adam of Alg. 1": lambda: SAM(params, UncorrectedAdam, 0.05, **adam),
        "IVON (one pass)": lambda: IVON(params, 1e-3, num_data=60000),
        "torch Adam (one pass)": lambda: torch.optim.Adam(params, **adam),
    }
    if name == "pytorch_optimizer BSAM":
        import pytorch_optimizer

        # no ascent and hardly a step, or its weights, never put back to the mean, end as NaN, which it rejects
        return pytorch_optimizer.BSAM(params, num_data=60000, lr=1e-12, rho=0.0)
    return makers[name]() if name in makers else None


FLOOR = "two bare passes"
ALWAYS = (FLOOR, "bSAM", "bSAM without noise", "SAM with SGD", "SAM with Adam", "SAM with Adam of Alg. 1")
ONCE = ("pytorch_optimizer BSAM", "IVON (one pass)", "torch Adam (one pass)")


def names(m: int) -> tuple[str, ...]:
    """The contenders for ``m`` sub-batches that can run here."""
    if m > 1:
        return (*ALWAYS, f"{FLOOR} of each sub-batch", "bSAM vectorized")
    try:
        import pytorch_optimizer  # noqa: F401
    except ImportError:
        return (*ALWAYS, *(name for name in ONCE if "pytorch_optimizer" not in name))
    return (*ALWAYS, *ONCE)


def contender(name: str, network: nn.Module, m: int) -> Call:
    """A call that makes one step of the contender on a network of its own."""
    torch.manual_seed(0)
    net = copy.deepcopy(network)
    x, y = torch.randn(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))
    criterion = nn.CrossEntropyLoss()
    opt = _make(name, net.parameters())

    def closure_of(a: Tensor, b: Tensor) -> Call:
        def closure() -> Tensor:
            net.zero_grad()
            loss: Tensor = criterion(net(a), b)
            loss.backward()
            return loss

        return closure

    whole = closure_of(x, y)
    parts = [closure_of(a, b) for a, b in zip(x.chunk(m), y.chunk(m), strict=True)]
    if name == FLOOR:
        return lambda: (whole(), whole())
    if name.startswith(FLOOR):
        return lambda: [(part(), part()) for part in parts]
    if name == "bSAM vectorized":
        loss = functional_loss(net, criterion, opt.trainable())
        return lambda: opt.step_vectorized(loss, split_batch((x, y), m))
    if name == "pytorch_optimizer BSAM":
        whole()  # its first step wants gradients to be there
        return lambda: opt.step(whole)
    if "one pass" in name or m == 1:
        return lambda: opt.step(whole)
    return lambda: opt.step(parts)


def contenders(network: nn.Module, m: int) -> dict[str, Call]:
    """Every contender's step, by name."""
    return {name: contender(name, network, m) for name in names(m)}


def optimizer_only(network: nn.Module, rounds: int, clock: Callable[[], float]) -> list[float]:
    """Quartiles of (a bSAM step whose closures do nothing) over (one bare normal draw of as many numbers)."""
    params = [nn.Parameter(p.detach().clone()) for p in network.parameters()]
    for p in params:
        p.grad = torch.randn_like(p) * 0.01
    opt = BSAM(params, 1e-3, num_data=60000, rho=0.01)
    size = sum(p.numel() for p in params)
    calls = {"step": lambda: opt.step(lambda: None), "draw": lambda: torch.randn(size)}
    return ratios(interleaved(calls, rounds, clock), "draw")["step"]


def peak_memory(name: str, network: str, m: int) -> float:
    """Megabytes of resident memory that 20 steps of a contender add, in a process of its own."""
    command = [sys.executable, "-m", "experiments.benchmarks.optimizers", name, network, str(m)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def _resident(key: str) -> float:
    """Megabytes of ``key`` (VmRSS or its peak VmHWM) in the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def _measure_memory(name: str, network: str, m: int) -> None:
    contender(name, nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), m)()  # what is imported at a first step
    net = NETWORKS[network]()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = _resident("VmRSS")
    step = contender(name, net, m)
    for _ in range(20):
        step()
    print(json.dumps(_resident("VmHWM") - before))


def main() -> None:
    """Print the ratios, optimizer-only time and peak memory."""
    torch.set_num_threads(2)
    for network, make in NETWORKS.items():
        rounds = 15 if network == "LeNet-5" else 40
        for m in (1, 8):
            print(f"{network}, m = {m}: step over {FLOOR}, median [quartiles]")
            measured = ratios(interleaved(contenders(make(), m), rounds, time.perf_counter), FLOOR)
            for name, (low, median, high) in measured.items():
                memory = f"   +{peak_memory(name, network, m):.0f} MB"
                print(f"  {name:34s} {median:6.3f} [{low:.3f}, {high:.3f}]{memory}", flush=True)
        low, median, high = optimizer_only(make(), 60, time.perf_counter)
        print(f"  optimizer alone over one normal draw: {median:.2f} [{low:.2f}, {high:.2f}]", flush=True)


if __name__ == "__main__":
    _measure_memory(sys.argv[1], sys.argv[2], int(sys.argv[3]))
