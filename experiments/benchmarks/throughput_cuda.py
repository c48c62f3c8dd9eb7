"""On a CUDA device: many runs at once, seconds a step, against bare captured passes of the same networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from experiments.deep import data, models, spaces
from experiments.deep.config import Config
from experiments.deep.data import Split
from experiments.deep.training import Training

RESNETS, SMALL = 16, 32
STEPS = 30


def main() -> None:
    """Print milliseconds a step and run; for bSAM on ResNet-20-FRN also the share of the bare passes' speed."""
    digits = data.split(data.load("digits"), select=False)
    for model, side, channels in (("lenet5", 28, 1), ("mlp", 28, 1), ("resnet20-frn", 32, 3)):
        images = F.interpolate(digits.images, size=side).expand(-1, channels, -1, -1).repeat(4, 1, 1, 1).contiguous()
        split = Split(images, digits.labels.repeat(4), images[:10], digits.labels[:10], 10).to("cuda")
        for entry in spaces.SPACES:
            if entry == "bsam-sqrt-n":
                continue
            config = replace(spaces.base(model, entry, "digits"), lr=1e-3, rho=1e-3, epochs=10**6)
            count = SMALL if model in spaces.SMALL else RESNETS
            try:
                ours = _ours(config, split, count)
            except RuntimeError as error:
                print(f"{model} {entry} m={config.parts}: {str(error).splitlines()[0]}", flush=True)
                continue
            line = f"{model:13s} {entry:9s} m={config.parts}: {1e3 * ours:.3f} ms a step and run, {count} at once"
            if model == "resnet20-frn" and entry == "bsam":
                bare = _bare(config, split, count)
                passes = config.passes * config.parts
                line += f"; a bare pass {1e3 * bare:.3f} ms: {bare * passes / ours:.2f} of its speed (bar 0.80)"
            print(line, flush=True)
            torch.cuda.empty_cache()


def _seconds(step: Callable[[], None], count: int) -> float:
    """Of one call, for one of the ``count`` runs that it moves."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / STEPS / count


def _ours(config: Config, split: Split, count: int) -> float:
    runs = [Training(replace(config, seed=seed), split) for seed in range(count)]

    def step() -> None:
        for run in runs:
            run.advance()

    return _seconds(step, count)


def _bare(config: Config, split: Split, count: int) -> float:
    size = config.batch_size // config.parts
    images = split.images[:size].to(memory_format=torch.channels_last)
    replays = []
    for _ in range(count):
        net = models.build(config.model, (3, 32, 32), 10, 0).cuda().to(memory_format=torch.channels_last)
        replays.append((_captured(net, images, split.labels[:size]), torch.cuda.Stream()))

    def step() -> None:
        for graph, stream in replays:
            with torch.cuda.stream(stream):
                graph.replay()

    return _seconds(step, count)


def _captured(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.cuda.CUDAGraph:
    compiled = torch.compile(net, dynamic=False)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)

    def both() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            scores = compiled(images)
        F.cross_entropy(scores.float(), labels).backward()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            both()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        both()
    return graph


if __name__ == "__main__":
    main()
