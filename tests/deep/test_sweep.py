"""Sweeps: rows, skipping, kill -9, a Dask cluster; and exact resuming of one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.deep import data, runner, sweep
from experiments.deep.config import Config
from experiments.deep.rows import RowStore

ROOT = Path(__file__).parents[2]
BASE = Config("digits", "lenet5", "bsam", epochs=2, batch_size=20, limit=40, lr=0.2, rho=0.01, parts=2, samples=(2,))
TWELVE = [replace(BASE, seed=seed, rho=rho) for seed in range(4) for rho in (0.0, 0.01, 0.05)]
SWEEP = """
import sys, torch
from pathlib import Path
from experiments.deep import sweep
from experiments.deep.rows import RowStore
sys.path.insert(0, "tests/deep")
from test_sweep import TWELVE
torch.set_num_threads(1)
sweep.run(TWELVE, RowStore(Path(sys.argv[1])), jobs=2, device="cpu", stack=False)
"""


def metrics_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["key"]: (row["metrics"], row["train_loss"]) for row in rows}


def test_a_killed_sweep_ends_with_the_same_rows_and_repeats_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SWEEP, str(tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    while len(list((tmp_path / "killed").glob("digits*.json"))) < 5 and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {p: p.read_text() for p in (tmp_path / "killed").glob("digits*.json")}
    assert len(finished) >= 5
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    store = RowStore(tmp_path / "killed")
    rows = [row for row in map(store.get, TWELVE) if row is not None]
    assert len(rows) == len(list((tmp_path / "killed").glob("digits*.json"))) == 12
    for path, text in finished.items():
        assert path.read_text() == text
    events = [json.loads(line) for line in (tmp_path / "killed" / "journal.log").read_text().splitlines()]
    for row in rows:
        after = [e["event"] for e in events if e["key"] == row["key"]]
        assert "finished" not in after[:-1], "a finished run was started again"
    torch.set_num_threads(1)
    whole = sweep.run(TWELVE, RowStore(tmp_path / "whole"), device="cpu", stack=False)
    assert metrics_of(whole) == metrics_of(rows)
    assert not list((tmp_path / "killed").glob("*.pt"))


def test_a_dask_cluster_gives_equal_rows(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    torch.set_num_threads(1)
    here = sweep.run(TWELVE, RowStore(tmp_path / "here"), device="cpu", stack=False)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        there = sweep.run(TWELVE, RowStore(tmp_path / "there"), scheduler=cluster.scheduler_address)
    assert metrics_of(here) == metrics_of(there)


@pytest.mark.parametrize("method", ["sgd", "swag", "vogn", "adam", "sam-sgd", "sam-adam", "bsam", "ivon"])
def test_resuming_equals_training_through(method: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = replace(BASE, method=method, epochs=4, lr=0.01, parts=1 if method in ("sgd", "adam", "swag") else 2)
    split = data.split(data.load("digits"), select=False, limit=config.limit)
    through = runner.train(config, split)

    class Stopped(Exception):
        pass

    def stop(epoch: int) -> None:
        if epoch == 1:
            raise Stopped

    checkpoint = tmp_path / "run.pt"
    with pytest.raises(Stopped):
        runner.train(config, split, checkpoint=checkpoint, on_epoch=stop)
    torch.manual_seed(99)
    resumed = runner.train(config, split, checkpoint=checkpoint)
    for a, b in zip(through.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert through.train_loss == resumed.train_loss
