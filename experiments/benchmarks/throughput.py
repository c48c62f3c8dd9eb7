"""Training throughput of the runner against a bare PyTorch loop with the same forward and backward passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from experiments.deep import data, models, training
from experiments.deep.config import Config
from experiments.deep.feed import data_order

BATCH, STEPS, ROUNDS = 100, 12, 7


def main() -> None:
    """Print the ratio (bare loop's time over the runner's) for SGD and bSAM; the bar is 0.95."""
    torch.set_num_threads(2)
    digits = data.split(data.load("digits"), select=False)
    # LeNet-5 at the size of FashionMNIST: the embedded digits, enlarged.
    images = F.interpolate(digits.images, size=28)
    split = data.Split(images, digits.labels, images[:10], digits.labels[:10], 10)
    for method, parts in (("sgd", 1), ("bsam", 1), ("bsam", 4)):
        config = Config("digits", "lenet5", method, epochs=1, batch_size=BATCH, lr=0.01, rho=0.01, parts=parts)
        passes = 2 if method == "bsam" else 1
        bare = _bare(config, split, passes)
        ratios = []
        for _ in range(ROUNDS + 1):
            before, ours = bare(), _timed(lambda c=config: training.train(c, split, max_steps=STEPS))  # type: ignore[misc]
            ratios.append((before + bare()) / 2 / ours)
        # The first round pays for imports and caches.
        print(
            f"lenet5 {method:5s} m={parts}: throughput {median(ratios[1:]):.3f} of the bare loop (bar 0.95)", flush=True
        )


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _bare(config: Config, split: data.Split, passes: int) -> Callable[[], float]:
    """The same network, batches, passes and optimizer arithmetic, without configuration, methods or bookkeeping."""

    def loop() -> None:
        model: nn.Module = models.build(config.model, (1, 28, 28), 10, config.seed)
        optimizer: torch.optim.Optimizer
        if passes == 1:
            optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9, weight_decay=1e-4)
        else:
            from fenchel.optim import BSAM

            optimizer = BSAM(model.parameters(), config.lr, num_data=len(split.labels), rho=config.rho)
        for batch in data_order(len(split.labels), BATCH, 0, 0)[:STEPS]:
            x, y = split.images[batch], split.labels[batch]
            if passes == 1:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                continue
            closures = []
            for a, b in zip(x.chunk(config.parts), y.chunk(config.parts), strict=True):

                def closure(a: torch.Tensor = a, b: torch.Tensor = b) -> torch.Tensor:
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(a), b)
                    loss.backward()
                    return loss

                closures.append(closure)
            optimizer.step(closures)

    return lambda: _timed(loop)


if __name__ == "__main__":
    main()
