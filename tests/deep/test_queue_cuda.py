"""On a CUDA device: captured runs equal eager ones and each other, alone or many at once; stopped ones go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.deep import data, queue, training
from experiments.deep.config import METHODS, Config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LR = {"bsam": 0.2, "ivon": 0.01, "vogn": 0.01, "adam": 1e-3, "sam-adam": 1e-3}
ROUNDING = 2e-3


def config_of(method: str, model: str = "lenet5") -> Config:
    parts = 1 if method in ("sgd", "adam", "swag", "ivon") else 4
    return Config(
        "digits", model, method, epochs=2, batch_size=48, limit=480, parts=parts, rho=0.01, lr=LR.get(method, 0.01)
    )


def trained(config: Config, device: str) -> torch.Tensor:
    split = data.split(data.load("digits"), select=False, limit=config.limit).to(device)
    return weights(training.train(config, split))


def weights(run: training.Training) -> torch.Tensor:
    torch.cuda.synchronize()
    return torch.cat([p.detach().flatten() for p in run.model.parameters()]).double().cpu()


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("model", ["mlp", "lenet5"])
@pytest.mark.parametrize("method", ["sgd", "adam", "sam-sgd", "sam-adam", "bsam"])
def test_captured_runs_equal_eager_ones_on_a_cpu(method: str, model: str) -> None:
    """Methods that draw nothing (bSAM without its noise)."""
    config = replace(config_of(method, model), noise=False)
    assert difference(trained(config, "cuda"), trained(config, "cpu")) < ROUNDING


@pytest.mark.parametrize("method", METHODS)
def test_alone_and_in_a_group_of_sixteen(method: str) -> None:
    """Graphs replayed at once on streams of their own disturb each other in nothing."""
    config = config_of(method)
    split = data.split(data.load("digits"), select=False, limit=config.limit).to("cuda")
    alone = weights(training.train(config, split))
    others = [config_of(m) for m in METHODS for _ in range(2)]
    group = [training.Training(c, split) for c in (config, *others[:15])]
    while not all(run.finished for run in group):
        for run in group:
            if not run.finished:
                run.advance()
    assert difference(weights(group[0]), alone) < ROUNDING


def test_a_residual_network_in_bfloat16() -> None:
    config = replace(config_of("bsam", "resnet20-frn"), dataset="digits-rgb", precision="bf16", epochs=1)
    split = data.split(data.load("digits-rgb"), select=False, limit=config.limit).to("cuda")
    run = training.train(config, split)
    assert run.train_loss < 2.6
    assert bool(torch.isfinite(weights(run)).all())


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    config = config_of("bsam")
    split = data.split(data.load("digits"), select=False, limit=config.limit).to("cuda")
    through = weights(training.train(config, split))
    begun = training.Training(config, split, checkpoint=tmp_path / "run.pt")
    for _ in range(7):
        begun.advance()
    begun.save()
    resumed = training.Training(config, split, checkpoint=tmp_path / "run.pt")
    while not resumed.finished:
        resumed.advance()
    assert difference(weights(resumed), through) < ROUNDING


def test_a_queue_on_the_device() -> None:
    device = torch.device("cuda", 0)
    rows: list[dict[str, object]] = []
    configs = [replace(config_of(m), seed=s, samples=(4,)) for s in range(5) for m in METHODS]
    assert queue.train_all(configs, None, device, rows.append) == []
    assert {row["key"] for row in rows} == {config.key() for config in configs}
