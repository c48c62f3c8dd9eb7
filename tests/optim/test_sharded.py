"""FSDP2, FSDP1, ZeRO and DDP on two gloo processes equal one process with the whole minibatch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sharded_ranks import data, network, optimizers, predictions, train, whole
from torch import nn

from fenchel.optim import SAM, SWAG
from fenchel.optim.shards import Shards

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform != "linux", reason="needs torch.distributed with gloo"
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("sharded_ranks.py")
    runs = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [run.communicate(timeout=300)[1] for run in runs]
    assert all(run.returncode == 0 for run in runs), errors
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def alone(name: str) -> tuple[Any, Any]:
    net = network()
    opt = optimizers()[name](net.parameters())
    train(net, opt, *data())
    return net, opt


@pytest.mark.parametrize("name", ["bsam", "sam", "asam", "ivon"])
@pytest.mark.parametrize("wrapper", ["fsdp2", "fsdp1"])
def test_sharded_equals_one_process(ranks: Any, wrapper: str, name: str) -> None:
    net, opt = alone(name)
    for rank in ranks:
        torch.testing.assert_close(rank[wrapper][name], whole(net), rtol=0, atol=1e-12)
    if wrapper == "fsdp2" and name in ("bsam", "ivon"):
        with opt.sampled_params():
            for rank in ranks:
                torch.testing.assert_close(rank[wrapper][f"{name} sample"], whole(net), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["bsam", "sam", "asam", "ivon"])
@pytest.mark.parametrize("wrapper", ["fsdp2", "fsdp1"])
def test_evaluations_between_steps_change_nothing(ranks: Any, wrapper: str, name: str) -> None:
    net, opt = alone(name)
    for rank in ranks:
        found = rank[f"{wrapper} evaluated"]
        torch.testing.assert_close(found[name], whole(net), rtol=0, atol=1e-12)
        if name in ("bsam", "ivon"):
            torch.testing.assert_close(found[f"{name} predictions"], predictions(net, opt), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["bsam", "ivon"])
def test_distributed_checkpoints_of_shards_resume_bit_for_bit(ranks: Any, name: str) -> None:
    assert all(rank["fsdp2"][f"{name} resumed"] for rank in ranks)


def test_sharded_swag_equals_one_process(ranks: Any) -> None:
    net = network()
    base, swag = torch.optim.SGD(net.parameters(), lr=0.2), SWAG(net.parameters(), seed=3)
    for _ in range(4):
        train(net, base, *data(), steps=1)
        swag.collect()
    with swag.sampled_params():
        for rank in ranks:
            torch.testing.assert_close(rank["fsdp2"]["swag"], whole(net), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["bsam", "sam", "asam", "ivon"])
def test_averaged_gradients_equal_one_process(ranks: Any, name: str) -> None:
    net, _ = alone(name)
    for rank in ranks:
        torch.testing.assert_close(rank["ddp"][name], whole(net), rtol=0, atol=1e-12)


def test_ivon_under_ddp_keeps_its_replicas_and_its_hessian(ranks: Any) -> None:
    """Processes seeded differently share the first one's noise, or with ``distributed`` average over their samples."""
    _, opt = alone("ivon")
    for rank in ranks:
        torch.testing.assert_close(rank["ddp"]["ivon h"], [s["h"] for s in opt.state.values()], rtol=0, atol=1e-12)
    both = [rank["ddp"]["ivon of several samples"] for rank in ranks]
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=0)


def test_zero_redundancy_is_a_base_of_sam_and_not_its_wrapper(ranks: Any) -> None:
    net = network()
    train(net, SAM(net.parameters(), torch.optim.SGD, 0.05, lr=0.2, momentum=0.9), *data())
    for rank in ranks:
        torch.testing.assert_close(rank["zero"]["sam"], whole(net), rtol=0, atol=1e-12)
        assert "shards the base" in rank["zero"]["refused"]
        for name in ("bsam", "ivon"):
            assert "cannot work inside ZeroRedundancyOptimizer" in rank["zero"][f"{name} refused"]


def test_weights_flattened_for_good_are_refused_with_the_remedy() -> None:
    p = nn.Parameter(torch.ones(2))
    p._fsdp_flattened = True  # type: ignore[attr-defined]  # as FSDP1 marks them
    with pytest.raises(ValueError, match="use_orig_params=True"):
        Shards(nn.Linear(1, 1)).whole_shape(p)
