"""A step captured in a CUDA graph gives the numbers of the same step on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from experiments.deep import data, stacked
from experiments.deep.config import Config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("model", ["mlp", "lenet5"])
def test_captured_training_equals_the_cpu(model: str) -> None:
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    split = data.split(data.load("digits"), select=False, limit=200)
    start = Config("digits", model, "bsam", epochs=2, batch_size=40, parts=4, lr=0.2, rho=0.02, noise=False)
    configs = [start, replace(start, method="sam-sgd", lr=0.03)]
    weights = []
    for device in ("cpu", "cuda"):
        stack = stacked.train(configs, [0, 1], split.to(device))
        weights.append([rule.mean.cpu() for rule in stack.rules])
    for here, there in zip(*weights, strict=True):
        assert float((here - there).norm() / here.norm()) < 1e-4
