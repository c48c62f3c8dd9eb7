"""What a step costs on a CUDA device: ours and its peers over two bare passes, and the optimizer alone over its limit.

Every ratio is taken within one round, in which all contenders run once, one after the other. The limit of the optimizer
alone is the memory it must move (17 numbers a weight and step for bSAM, 7 for Adam) over the bandwidth of a copy,
measured in the same process.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.benchmarks.interleaved import Call, interleaved, ratios
from experiments.deep import models
from fenchel.optim import BSAM, IVON, SAM, GraphedStep

FLOOR = "two bare passes"
BSAM_NUMBERS, ADAM_NUMBERS = 17, 7
SETTINGS: dict[str, Any] = {"num_data": 50_000, "rho": 0.01, "weight_decay": 1e-4}


@dataclass(frozen=True)
class Task:
    """A network with a minibatch, its loss, and the number of sub-batches."""

    network: nn.Module
    x: Tensor
    y: Tensor
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    parts: int


def _image(name: str, parts: int) -> Task:
    x = torch.randn(200, 3, 32, 32, device="cuda")
    y = torch.randint(0, 10, (200,), device="cuda")
    network = models.build(name, (3, 32, 32), 10, 0).cuda()
    return Task(network, x, y, lambda net, a, b: F.cross_entropy(net(a), b), parts)


def _gpt2() -> Task:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=50304, n_positions=512, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    x = torch.randint(0, 50304, (8, 512), device="cuda")

    def loss(net: nn.Module, a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            value: Tensor = net(input_ids=a, labels=b).loss
        return value

    return Task(GPT2LMHeadModel(config).cuda(), x, x, loss, 1)


TASKS: dict[str, Callable[[], Task]] = {
    "ResNet-18, batch 200": lambda: _image("resnet18", 1),
    "ResNet-20-FRN, batch 200": lambda: _image("resnet20-frn", 1),
    "ResNet-20-FRN, 8 sub-batches of 25": lambda: _image("resnet20-frn", 8),
    "GPT-2 small, 8 x 512 tokens, bfloat16 autocast": _gpt2,
}


def _pytorch_optimizer(params: Any) -> Any:
    import pytorch_optimizer

    # no ascent and hardly a step: its weights are never put back to the mean, and end as NaN, which it rejects
    return pytorch_optimizer.BSAM(params, num_data=50_000, lr=1e-12, rho=0.0)


CONTENDERS: dict[str, Callable[[Any], Any]] = {
    FLOOR: lambda params: None,
    "bSAM": lambda params: BSAM(params, 1e-3, **SETTINGS),
    "bSAM, fused=False": lambda params: BSAM(params, 1e-3, fused=False, **SETTINGS),
    "bSAM, captured": lambda params: BSAM(params, 1e-3, capturable=True, **SETTINGS),
    "SAM with SGD": lambda params: SAM(params, torch.optim.SGD, 0.05, lr=1e-3, momentum=0.9),
    "SAM with fused Adam": lambda params: SAM(params, torch.optim.Adam, 0.05, lr=1e-3, fused=True),
    "pytorch_optimizer BSAM": _pytorch_optimizer,
    "IVON (one pass)": lambda params: IVON(params, 1e-3, num_data=50_000),
    "fused Adam (one pass)": lambda params: torch.optim.Adam(params, 1e-3, fused=True),
}


def _step(name: str, task: Task) -> Call | None:
    """A call that makes one step of a contender on a copy of the network; None if it cannot run here."""
    net = copy.deepcopy(task.network)
    try:
        optimizer = CONTENDERS[name](net.parameters())
    except ImportError:
        return None
    one_pass = "one pass" in name

    def part(a: Tensor, b: Tensor) -> Call:
        def closure() -> Tensor:
            net.zero_grad()
            value = task.loss(net, a, b)
            value.backward()
            return value

        return closure

    def step(x: Tensor, y: Tensor) -> Any:
        parts = [part(a, b) for a, b in zip(x.chunk(task.parts), y.chunk(task.parts), strict=True)]
        if optimizer is None:
            return [(closure(), closure()) for closure in parts]
        if one_pass or task.parts == 1 or "pytorch" in name:
            return optimizer.step(part(x, y))
        return optimizer.step(parts)

    if "pytorch" in name:
        part(task.x, task.y)()  # its first step wants gradients to be there
    if "captured" in name:
        graphed = GraphedStep(optimizer, step, (task.x, task.y))
        return lambda: graphed(task.x, task.y)
    return lambda: step(task.x, task.y)


def _clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _alone(network: nn.Module, rounds: int) -> tuple[float, float]:
    """Milliseconds of a step whose closure does nothing: bSAM, and torch's fused Adam."""

    def params() -> list[nn.Parameter]:
        copies = [nn.Parameter(p.detach().clone()) for p in network.parameters()]
        for p in copies:
            p.grad = torch.randn_like(p) * 0.01
        return copies

    ours = BSAM(params(), 1e-3, **SETTINGS)
    adam = torch.optim.Adam(params(), 1e-3, fused=True)
    calls: dict[str, Call] = {"bSAM": lambda: ours.step(lambda: None), "Adam": adam.step}
    seconds = interleaved(calls, rounds, _clock)
    return float(np.median(seconds["bSAM"])) * 1e3, float(np.median(seconds["Adam"])) * 1e3


def _bandwidth() -> float:
    """Bytes read and written by a copy of 2 GiB in a second."""
    source = torch.empty(2**29, device="cuda")
    target = torch.empty_like(source)
    seconds = interleaved({"copy": lambda: target.copy_(source)}, 10, _clock)["copy"]
    return 2 * source.numel() * 4 / float(np.median(seconds))


def main(seconds: float = 240.0) -> None:
    """Print the table; it stops between two networks when ``seconds`` are over."""
    if not torch.cuda.is_available():
        print("not run: no CUDA device")
        return
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    begin, bandwidth = time.perf_counter(), _bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, a copy moves {bandwidth / 1e12:.2f} TB/s")
    for title, make in TASKS.items():
        if time.perf_counter() - begin > seconds:
            print(f"{title}: left out, the time is up")
            continue
        try:
            task = make()
        except ImportError as error:
            print(f"{title}: left out, {error}")
            continue
        calls = {name: call for name in CONTENDERS if (call := _step(name, task)) is not None}
        measured = interleaved(calls, 12, _clock)
        print(f"{title}: step over {FLOOR} ({np.median(measured[FLOOR]) * 1e3:.1f} ms), median [quartiles]")
        for name, (low, median, high) in ratios(measured, FLOOR).items():
            print(f"  {name:24s} {median:6.3f} [{low:.3f}, {high:.3f}]", flush=True)
        del calls
        ours, adam = _alone(task.network, 30)
        weights = sum(p.numel() for p in task.network.parameters())
        limits = [count * 4 * weights / bandwidth * 1e3 for count in (BSAM_NUMBERS, ADAM_NUMBERS)]
        print(
            f"  alone: bSAM {ours:.3f} ms = {ours / limits[0]:.2f} x its limit = {ours / adam:.2f} x fused Adam"
            f" ({adam:.3f} ms = {adam / limits[1]:.2f} x its limit), {weights / 1e6:.1f} M weights",
            flush=True,
        )
        torch.cuda.empty_cache()
