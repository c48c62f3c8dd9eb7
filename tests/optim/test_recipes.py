"""The recipes of the documentation run as printed and learn; the Trainer's mixin equals a plain loop."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fenchel.integrations import ClosureTrainerMixin
from fenchel.optim import BSAM, SAM

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
NEEDS = {"huggingface_trainer": "transformers", "lightning_module": "lightning", "accelerate_loop": "accelerate"}
NAMES = ("plain_loop", "lightning_module", "accelerate_loop", "huggingface_trainer", "image_training", "fsdp_processes")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_as_printed_and_learns(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    environment = os.environ | {"PYTHONPATH": str(RECIPES.parents[1]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(RECIPES / f"{name}.py")],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    accuracy = float(run.stdout.rsplit("accuracy on the training data:", 1)[1])
    assert accuracy >= 0.85


def test_the_recipe_for_several_processes_runs_on_two(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(RECIPES.parents[1]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, str(RECIPES / "fsdp_processes.py")],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300, check=False,
    )  # fmt: skip
    # After the script's last line gloo's threads sometimes abort the interpreter on its way out.
    assert run.returncode == 0 or "terminate called without an active exception" in run.stderr, run.stderr[-2000:]
    assert float(run.stdout.rsplit(":", 1)[1]) >= 0.85


class _Regression(nn.Module):
    """What `Trainer` asks of a model: a dictionary in, ``.loss`` out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        out = self.net(x).squeeze(-1)
        return {"loss": nn.functional.mse_loss(out, labels), "logits": out}


def _trainer(model: nn.Module, optimizer: Any, folder: Path, data: list[dict[str, Tensor]], **changes: Any) -> Any:
    transformers = pytest.importorskip("transformers")

    class Trainer(ClosureTrainerMixin, transformers.Trainer):  # type: ignore[misc, name-defined]
        pass

    settings: dict[str, Any] = {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "num_train_epochs": 2, "max_grad_norm": 0.0,
        "report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "use_cpu": True,
        "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential", "seed": 0,
    }  # fmt: skip
    arguments = transformers.TrainingArguments(str(folder), **(settings | changes))
    return Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None))


def _data() -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    torch.manual_seed(1)
    x, y = torch.randn(24, 3), torch.randn(24)
    return x, y, [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]


def _optimizer(kind: str, model: nn.Module) -> Any:
    if kind == "bsam":
        return BSAM(model.parameters(), 0.1, num_data=24, rho=0.02, weight_decay=1e-3, seed=3)
    return SAM(model.parameters(), torch.optim.SGD, 0.05, lr=0.1, momentum=0.9)


@pytest.mark.filterwarnings("ignore")  # transformers' own, about its arguments and its data loaders
@pytest.mark.parametrize("kind", ["bsam", "sam"])
def test_the_trainer_mixin_equals_a_plain_loop(kind: str, tmp_path: Path) -> None:
    """Two epochs of two steps with three micro-batches each: m-sharpness with m = 3."""
    torch.manual_seed(0)
    model = _Regression()
    alone = copy.deepcopy(model)
    x, y, data = _data()
    _trainer(model, _optimizer(kind, model), tmp_path, data).train()

    optimizer = _optimizer(kind, alone)

    def closure_of(a: Tensor, b: Tensor) -> Any:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = alone(a, b)["loss"]
            loss.backward()
            return loss

        return closure

    for _ in range(2):
        for step in range(2):
            parts = [slice(12 * step + 4 * k, 12 * step + 4 * k + 4) for k in range(3)]
            optimizer.step([closure_of(x[part], y[part]) for part in parts])
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_mixin_says_what_it_cannot_do(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _Regression()
    _, _, data = _data()
    with pytest.raises(ValueError, match="max_grad_norm"):
        _trainer(model, _optimizer("bsam", model), tmp_path, data, max_grad_norm=1.0).train()
    with pytest.raises(TypeError, match="closures"):
        _trainer(model, torch.optim.SGD(model.parameters(), 0.1), tmp_path, data).train()


@pytest.mark.filterwarnings("ignore")
def test_an_interrupted_trainer_and_the_optimizer_go_on(tmp_path: Path) -> None:
    """After an interruption between micro-batches, then with another optimizer, then with that one in a plain loop."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    x, y, data = _data()
    model = _Regression()
    trainer = _trainer(model, _optimizer("bsam", model), tmp_path, data, num_train_epochs=1)

    class Once(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_substep_end(self, *_: Any, **__: Any) -> None:
            trainer.remove_callback(self)
            raise KeyboardInterrupt

    trainer.add_callback(Once())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    other = _optimizer("bsam", model)
    trainer.optimizer, trainer.lr_scheduler = other, None
    alone = copy.deepcopy(model)
    trainer.train()
    again = _optimizer("bsam", alone)

    def closure_of(net: nn.Module, optimizer: Any, part: slice) -> Any:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = net(x[part], y[part])["loss"]
            loss.backward()
            return loss

        return closure

    for step in range(3):
        parts = [slice(12 * (step % 2) + 4 * k, 12 * (step % 2) + 4 * k + 4) for k in range(3)]
        again.step([closure_of(alone, again, part) for part in parts])
        if step == 2:
            other.step([closure_of(model, other, part) for part in parts])
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_training_goes_on_from_a_trainer_checkpoint(tmp_path: Path) -> None:
    """Stopped after two of four steps and resumed: the weights of an uninterrupted run."""
    _, _, data = _data()
    ends = []
    for stop in (False, True):
        torch.manual_seed(0)
        model = _Regression()
        folder = tmp_path / str(stop)
        settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
        if stop:
            _trainer(model, _optimizer("bsam", model), folder, data, **(settings | {"max_steps": 2})).train()
            model = _Regression()
        trainer = _trainer(model, _optimizer("bsam", model), folder, data, **settings)
        trainer.train(resume_from_checkpoint=stop or None)
        ends.append(model)
    for p, q in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)
