"""Two processes under torchrun share every batch and leave one row, the same as one process with twice the parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from experiments.deep import data, evaluate, training
from experiments.deep.config import Config

ROOT = Path(__file__).parents[2]
BASE = Config(
    "digits", "lenet5", "bsam", epochs=1, batch_size=20, limit=60, lr=0.2, rho=0.01, noise=False, samples=(1,)
)
CODE = """
import sys, torch
from pathlib import Path
from experiments.deep import distributed, sweep
from experiments.deep.rows import RowStore
sys.path.insert(0, "tests/deep")
from test_torchrun import BASE
from dataclasses import replace
sweep.run([BASE, replace(BASE, method="sgd", lr=0.01)], RowStore(Path(sys.argv[1])), device="cpu")
distributed.finish()
"""


def test_two_processes_equal_one(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(CODE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, str(script), str(tmp_path / "rows")], cwd=ROOT, env=environment, check=True, timeout=300)
    split = data.split(data.load("digits"), select=False, limit=60)
    torch.set_num_threads(1)
    for config in (BASE, replace(BASE, method="sgd", lr=0.01)):
        row = json.loads((tmp_path / "rows" / f"{config.key()}.json").read_text())
        alone = training.train(replace(config, parts=2 if config.method == "bsam" else 1), split)
        there = row["metrics"]["mean"]["nll"]
        here = evaluate.evaluate(alone)["mean"]["nll"]
        assert abs(there - here) < 1e-5
        assert "torchrun, 2 processes" in row["ran"]
