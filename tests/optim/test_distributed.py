"""Two gloo processes are one process with two sub-batches, and keep equal posteriors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from optim_cases import SETTINGS, FedBSAM, closures_for, data, flat, network, state
from torch import Tensor, nn
from two_ranks import STEPS, part_noise

from fenchel.optim import BSAM, SAM


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("gloo")
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(here / "two_ranks.py")]
    processes = [subprocess.Popen([*command, str(rank), str(folder)], env=environment) for rank in (0, 1)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def alone(parts: int, clip: float | None = None) -> dict[str, Tensor]:
    net = network(seed=0)
    x, y = data()
    opt = FedBSAM(net.parameters(), 0.2, max_grad_norm=clip, **SETTINGS)
    size = flat(net).numel()
    for t in range(STEPS):
        opt.feed = torch.cat([part_noise(t, k, size) for k in range(parts)])
        opt.step(closures_for(net, opt, x, y, parts))
    return {"w": flat(net), "s": state(opt, "s")}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("sub_batches", [1, 2])
def test_two_ranks_are_one_process_with_as_many_sub_batches(ranks: Any, wrapped: bool, sub_batches: int) -> None:
    expected = alone(2 * sub_batches)
    for rank in ranks:
        for name, value in rank[f"bsam-{wrapped}-{sub_batches}"].items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12)
    for name in ("w", "s"):
        assert torch.equal(*(rank[f"bsam-{wrapped}-{sub_batches}"][name] for rank in ranks))


def test_clipping_acts_on_the_average_over_ranks(ranks: Any) -> None:
    expected = alone(2, clip=0.2)
    assert not torch.allclose(expected["w"], alone(2)["w"])
    for rank in ranks:
        torch.testing.assert_close(rank["bsam-clip"]["w"], expected["w"], rtol=0, atol=1e-12)


def test_sam_over_two_ranks(ranks: Any) -> None:
    net = network()
    x, y = data()
    opt = SAM(net.parameters(), torch.optim.SGD, 0.05, lr=0.2, momentum=0.9)
    for _ in range(STEPS):
        opt.step(closures_for(net, opt, x, y, 2))
    for rank in ranks:
        torch.testing.assert_close(rank["sam"]["w"], flat(net), rtol=0, atol=1e-12)


def test_every_rank_has_its_own_noise_and_the_same_posterior(ranks: Any) -> None:
    for name in ("noise", "noise loaded"):
        assert abs(float(torch.corrcoef(torch.stack([rank[name]["z"] for rank in ranks]))[0, 1])) < 0.6
        assert not torch.equal(*(rank[name]["z"] for rank in ranks))
    assert torch.equal(ranks[0]["noise"]["z"], ranks[0]["noise loaded"]["z"])
    for name in ("w", "s"):
        assert torch.equal(*(rank["own noise"][name] for rank in ranks))


def test_an_overflow_on_one_rank_skips_the_step_on_all(ranks: Any) -> None:
    for rank in ranks:
        assert not rank["skip"]["moved"].any()
        assert float(rank["skip"]["scale"]) == 8.0


@pytest.mark.filterwarnings("ignore:the closure of BSAM.step computed no gradient")
def test_a_parameter_used_on_one_rank_is_updated_on_all(ranks: Any) -> None:
    spare = nn.Parameter(torch.ones(2, dtype=torch.float64))
    opt = BSAM([spare], 0.1, noise=False, **SETTINGS)

    def unused() -> None:
        spare.grad = None

    def used() -> None:
        spare.grad = torch.tensor([1.0, -2.0], dtype=torch.float64)

    opt.step([unused, used])
    for rank in ranks:
        torch.testing.assert_close(rank["spare"]["w"], flat([spare]))
        torch.testing.assert_close(rank["spare"]["s"], state(opt, "s"))


def test_distributed_needs_a_process_group() -> None:
    with pytest.raises(RuntimeError, match="init_process_group"):
        BSAM([nn.Parameter(torch.ones(1))], 0.1, distributed=True, **SETTINGS)
