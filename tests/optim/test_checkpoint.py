"""Saving and continuing bit for bit, through torch.save and a killed process."""

from __future__ import annotations

import copy
import io
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optim_cases import SETTINGS, closures_for, data, flat, network
from torch import Tensor, nn

from fenchel.optim import BSAM, IVON, SAM, SWAG, VOGN, UncorrectedAdam, per_example_loss
from fenchel.optim.cuda_graph import _snapshot

SCRIPT = Path(__file__).parent / "killed_training.py"


def bsam(net: nn.Module) -> Any:
    return BSAM([{"params": net[0].parameters(), "lr": 0.1}, {"params": net[2].parameters()}], 0.2, **SETTINGS)


def sam(net: nn.Module) -> Any:
    return SAM(net.parameters(), torch.optim.Adam, 0.05, lr=0.02)


def sam_uncorrected(net: nn.Module) -> Any:
    return SAM(net.parameters(), UncorrectedAdam, 0.05, lr=0.02)


def ivon(net: nn.Module) -> Any:
    return IVON(net.parameters(), 0.1, num_data=60, h_init=0.1, betas=(0.9, 0.99))


def vogn(net: nn.Module) -> Any:
    return VOGN(net.parameters(), 0.02, num_data=60)


MAKERS = [bsam, sam, sam_uncorrected, ivon, vogn]


def advance(net: nn.Module, opt: Any, schedule: Any, steps: int) -> None:
    x, y = data()
    for _ in range(steps):
        if isinstance(opt, VOGN):
            opt.step(per_example_loss(net, nn.functional.cross_entropy, opt.trainable()), (x, y))
        else:
            opt.step(closures_for(net, opt, x, y, 2))
        schedule.step()


def through_torch(saved: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("how", ["memory", "torch"])
@pytest.mark.parametrize("make", MAKERS)
def test_continues_bit_for_bit(make: Any, how: str) -> None:
    torch.manual_seed(5)
    net = network()
    opt = make(net)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 8)
    advance(net, opt, schedule, 3)
    saved = {"net": net.state_dict(), "opt": opt.state_dict(), "schedule": schedule.state_dict()}
    saved = copy.deepcopy(saved) if how == "memory" else through_torch(saved)
    advance(net, opt, schedule, 4)

    torch.manual_seed(6)
    again = network(9)
    other = make(again)
    again_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(other, 8)
    again.load_state_dict(saved["net"])
    other.load_state_dict(saved["opt"])
    again_schedule.load_state_dict(saved["schedule"])
    advance(again, other, again_schedule, 4)
    assert torch.equal(flat(again), flat(net))
    if not isinstance(opt, SAM):
        with opt.sampled_params(), other.sampled_params():
            assert torch.equal(flat(again), flat(net))
            assert not torch.equal(flat(again), flat(network()))


@pytest.mark.parametrize("kind", ["bsam", "ivon", "sam"])
def test_numbers_of_numpy_are_saved_as_such_of_python(kind: str) -> None:
    net = network()
    given: dict[str, Any] = {"num_data": np.int64(60), "betas": (np.float64(0.9), 0.99), "weight_decay": np.array(0.25)}
    opt: Any
    if kind == "sam":
        opt = SAM(net.parameters(), torch.optim.SGD, np.float32(0.05), lr=np.float64(0.1))  # type: ignore[arg-type]
    elif kind == "bsam":
        opt = BSAM(net.parameters(), 0.1, rho=np.float64(0.05), **given)
    else:
        opt = IVON(net.parameters(), 0.1, **given)
    opt.param_groups[0]["lr"] = np.float64(0.3)  # as schedules in numpy leave it
    buffer = io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    buffer.seek(0)
    (group,) = torch.load(buffer, weights_only=True)["param_groups"]
    assert group["lr"] == 0.3
    assert kind == "sam" or (group["num_data"], group["betas"], group["weight_decay"]) == (60, (0.9, 0.99), 0.25)


@pytest.mark.parametrize("make", [bsam, ivon])
def test_a_loaded_state_is_not_shared_with_the_dictionary(make: Any) -> None:
    net = network()
    opt = make(net)
    advance(net, opt, torch.optim.lr_scheduler.ConstantLR(opt), 2)
    saved = copy.deepcopy(opt.state_dict())
    kept = copy.deepcopy(saved)
    opt.load_state_dict(saved)
    advance(net, opt, torch.optim.lr_scheduler.ConstantLR(opt), 2)
    for i, values in kept["state"].items():
        for name, t in values.items():
            assert torch.equal(saved["state"][i][name], t)


@pytest.mark.parametrize("wrong", [torch.ones(()), np.ones((7, 4)), 1.0, None])
@pytest.mark.parametrize("make", [bsam, ivon])
def test_what_is_no_state_of_a_parameter_is_refused(make: Any, wrong: Any) -> None:
    net = network()
    opt = make(net)
    opt.prime()
    saved = copy.deepcopy(opt.state_dict())
    saved["state"][0]["momentum"] = wrong
    with pytest.raises(ValueError, match="'momentum' has shape"):
        opt.load_state_dict(saved)
    assert not opt.state[opt.trainable()[0]]["momentum"].any()


@pytest.mark.parametrize("make", [bsam, sam, ivon])
@pytest.mark.parametrize("wrong", ["0.1", -1.0, None, math.nan])
def test_loaded_hyperparameters_are_checked(make: Any, wrong: Any) -> None:
    opt = make(network())
    saved = opt.state_dict()
    saved["param_groups"][0]["lr"] = wrong
    with pytest.raises(ValueError, match="lr must be"):
        opt.load_state_dict(saved)
    assert opt.param_groups[0]["lr"] > 0


@pytest.mark.parametrize("make", [bsam, sam])
def test_a_learning_rate_on_a_device_stays_there(make: Any) -> None:
    """Checkpoints are read to the CPU; a captured step takes a rate from there for a constant."""
    net = network()
    opt = make(net)
    saved = copy.deepcopy(opt.state_dict())
    saved["param_groups"][0]["lr"] = torch.tensor(0.1)
    opt.param_groups[0]["lr"] = torch.tensor(0.1, device="meta")
    opt.load_state_dict(saved)
    assert opt.param_groups[0]["lr"].device.type == "meta"
    if isinstance(opt, SAM):
        assert opt.base_optimizer.param_groups[0]["lr"] is opt.param_groups[0]["lr"]


def test_the_base_optimizer_of_sam_stays_linked() -> None:
    net = network()
    opt = sam(net)
    advance(net, opt, torch.optim.lr_scheduler.ConstantLR(opt), 2)
    opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert opt.param_groups is opt.base_optimizer.param_groups
    assert opt.state is opt.base_optimizer.state
    opt.param_groups[0]["lr"] = 0.0
    before = flat(net)
    advance(net, opt, torch.optim.lr_scheduler.LambdaLR(opt, lambda _: 0.0), 1)
    assert torch.equal(flat(net), before)


@pytest.mark.parametrize("make", [bsam, sam, ivon, lambda net: torch.optim.Adam(net.parameters())])
@pytest.mark.parametrize("before", [0, 2])
def test_the_warm_up_steps_of_a_graph_are_undone(make: Any, before: int) -> None:
    """In place, buffers and counts included; what the steps made anew becomes what an optimizer begins with."""
    x, y = data()
    net = nn.Sequential(network(), nn.BatchNorm1d(3).double())
    opt = make(net[0])

    def go(steps: int) -> Any:
        for _ in range(steps):
            opt.step(closures_for(net, opt, x, y, 1)[0])
        return copy.deepcopy((net.state_dict(), opt.state_dict()))

    weights, state = go(before)
    put_back = _snapshot(opt, net)
    begun = getattr(opt, "initial_state", lambda p, group: {})
    for i, p in enumerate(net[0].parameters()):
        state["state"].setdefault(i, begun(p, opt.param_groups[0]))
    go(3)
    put_back()
    weights_after, state_after = go(0)
    for name, value in weights.items():
        assert torch.equal(value, weights_after[name])
    for i, entry in state_after["state"].items():
        for name, value in entry.items():
            expected = state["state"][i].get(name, 0.0)
            assert torch.equal(torch.as_tensor(value), torch.zeros_like(torch.as_tensor(value)) + expected)
    assert [g.get("step") for g in state_after["param_groups"]] == [g.get("step") for g in state["param_groups"]]


def test_swag_continues() -> None:
    p = nn.Parameter(torch.zeros(3))
    swag = SWAG([p], max_rank=2, seed=1)
    for i in range(4):
        p.data = torch.tensor([1.0, 2.0, 3.0]) * i
        swag.collect()
    again = SWAG([p], max_rank=2, seed=2)
    again.load_state_dict(through_torch(swag.state_dict()))
    samples = []
    for s in (swag, again):
        with s.sampled_params():
            samples.append(p.detach().clone())
    assert torch.equal(*samples)


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL at a random moment, wherever that is in a step or a write; resume; compare with an undisturbed run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), "60"], env=environment)

    whole = start(tmp_path / "whole")
    killed = start(tmp_path / "killed")
    log = tmp_path / "killed" / "log"
    while not (log.exists() and len(log.read_text().splitlines()) >= 5):
        assert killed.poll() is None
        time.sleep(0.005)
    time.sleep(random.SystemRandom().uniform(0, 0.1))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "weights.pt").exists()
    assert start(tmp_path / "killed").wait() == 0
    assert whole.wait() == 0
    ends: list[Tensor] = [torch.load(tmp_path / n / "weights.pt", weights_only=True) for n in ("whole", "killed")]
    assert torch.equal(*ends)
    steps = [int(line) for line in log.read_text().splitlines()]
    assert steps.count(0) == 1  # the second start went on, it did not begin anew
