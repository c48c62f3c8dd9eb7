"""Sweeps: rows, skipping, kill -9, a Dask cluster; and exact resuming of one run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.deep import data, evaluate, plans, queue, sweep, training
from experiments.deep.config import METHODS, Config
from experiments.deep.rows import RowStore, merge
from experiments.registry import Context, InputError, Stopped

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
sweep.run(TWELVE, RowStore(Path(sys.argv[1])), jobs=2, device="cpu")
"""


def metrics_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["key"]: (row["metrics"], row["train_loss"]) for row in rows}


def test_a_killed_sweep_ends_with_the_same_rows_and_repeats_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SWEEP, str(tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    while len(list((tmp_path / "killed").glob("digits*.json"))) < 5 and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)  # the pipe is closed once the workers have ended by themselves
    finished = {p: p.read_text() for p in (tmp_path / "killed").glob("digits*.json")}
    assert len(finished) >= 5
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    store = RowStore(tmp_path / "killed")
    rows = [row for row in map(store.get, TWELVE) if row is not None]
    assert len(rows) == len(list((tmp_path / "killed").glob("digits*.json"))) == 12
    for path, text in finished.items():
        assert path.read_text() == text, "a finished run was started again"  # its seconds would differ
    torch.set_num_threads(1)
    whole = sweep.run(TWELVE, RowStore(tmp_path / "whole"), device="cpu")
    assert metrics_of(whole) == metrics_of(rows)
    assert not list((tmp_path / "killed").glob("*.pt"))


def test_a_dask_cluster_gives_equal_rows(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    torch.set_num_threads(1)
    here = sweep.run(TWELVE, RowStore(tmp_path / "here"), device="cpu")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        there = sweep.run(TWELVE, RowStore(tmp_path / "there"), device="cpu", scheduler=cluster.scheduler_address)
    assert metrics_of(here) == metrics_of(there)


METHOD_LR = {"bsam": 0.2}


def of_method(method: str, **values: Any) -> Config:
    parts = 1 if method in ("sgd", "adam", "swag") else 2
    return replace(BASE, method=method, parts=parts, lr=METHOD_LR.get(method, 0.01), **values)


def weights(run: training.Training) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(run.model.parameters()).detach()


@pytest.mark.parametrize("method", METHODS)
def test_resuming_equals_training_through(method: str, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch, with another state of torch's global generator."""
    torch.set_num_threads(1)
    config = of_method(method, epochs=4, swag_start=0.25)
    split = data.split(data.load("digits"), select=False, limit=100)
    through = training.train(config, split)
    checkpoint = tmp_path / "run.pt"
    begun = training.Training(config, split, checkpoint=checkpoint)
    for _ in range(13):
        begun.advance()
    begun.save()
    torch.manual_seed(99)
    resumed = training.Training(config, split, checkpoint=checkpoint)
    while not resumed.finished:
        resumed.advance()
    assert torch.equal(weights(through), weights(resumed))
    assert through.train_loss == resumed.train_loss
    assert evaluate.evaluate(through) == evaluate.evaluate(resumed)


def test_runs_alone_and_in_a_group_of_sixteen_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their steps are interleaved, as on a GPU; each ends with the weights it has alone, in float64."""
    torch.set_num_threads(1)
    digits = data.split(data.load("digits"), select=False, limit=60)
    split = data.Split(digits.images.double(), digits.labels, digits.eval_images.double(), digits.eval_labels, 10)
    configs = [of_method(method, seed=seed, epochs=2) for method in METHODS for seed in (0, 1)]
    alone = [weights(training.train(config, split)) for config in configs]
    together = [training.Training(config, split) for config in configs]
    while not all(run.finished for run in together):
        for run in together:
            run.advance()
    for a, run in zip(alone, together, strict=True):
        assert float((a - weights(run)).norm() / a.norm()) < 1e-10


def test_jobs_change_nothing(tmp_path: Path) -> None:
    few = TWELVE[:4]
    one = sweep.run(few, RowStore(tmp_path / "one"), device="cpu", jobs=1)
    two = sweep.run(few, RowStore(tmp_path / "two"), device="cpu", jobs=2)
    assert metrics_of(one) == metrics_of(two)


def test_a_sweep_stopped_three_times_and_moved_ends_with_the_same_rows(tmp_path: Path) -> None:
    whole = sweep.run(TWELVE, RowStore(tmp_path / "whole"), device="cpu")
    places = ("first", "second", "third", "last")
    for stop, (place, next_place) in enumerate(pairwise(places)):
        steps = iter(range(10**6))
        with pytest.MonkeyPatch.context() as patch:
            # A clock that moves one second a look: the deadline falls into the middle of a run.
            patch.setattr(queue.time, "monotonic", lambda steps=steps: float(next(steps)))
            with pytest.raises(Stopped, match="to go"):
                sweep.run(TWELVE, RowStore(tmp_path / place), device="cpu", deadline=37.0 + 11 * stop)
        assert list((tmp_path / place).glob("*.pt")), "no run was under way"
        shutil.copytree(tmp_path / place, tmp_path / next_place)
    rows = sweep.run(TWELVE, RowStore(tmp_path / "last"), device="cpu")
    assert metrics_of(rows) == metrics_of(whole)


def test_rows_are_merged_and_checked(tmp_path: Path) -> None:
    there, here = RowStore(tmp_path / "there"), RowStore(tmp_path / "here")
    sweep.run(TWELVE[:2], there, device="cpu")
    assert merge(tmp_path / "there", here) == (2, 0)
    assert merge(tmp_path / "there", here) == (0, 0)
    row = here.get(TWELVE[0])
    assert row is not None
    row["metrics"]["mean"]["nll"] += 1
    here.put(row)
    with pytest.raises(InputError, match="other metrics"):
        merge(tmp_path / "there", here)
    path = tmp_path / "there" / f"{TWELVE[0].key()}.json"
    whole = path.read_text()
    for damaged in (
        whole.replace('"epochs": 2', '"epochs": 3'),
        "{",
        "[]",
        '{"key": 3}',
        whole.replace('"nll"', '"n"'),
    ):
        path.write_text(damaged)
        new = RowStore(tmp_path / f"new {len(damaged)}")
        with pytest.raises(InputError, match=f"{path.name}.*1 finished runs"):
            merge(tmp_path / "there", new)
        assert len(new.every()) == 1
    with pytest.raises(InputError, match="not a folder"):
        merge(tmp_path / "nowhere", here)


def test_a_plan_counts_what_is_left(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    sweep.run(TWELVE[:2], store, device="cpu")
    lines = sweep.estimate(TWELVE, store, None, device="cpu")
    assert "10 runs" in lines[0]
    assert "2 finished runs" in lines[0]
    assert lines[-1].startswith("  10 runs")


def test_force_trains_again_and_only_once_in_a_run(tmp_path: Path) -> None:
    context = Context("quick", 0, None, 1, tmp_path, False, force=True)
    few = [replace(c, limit=40) for c in TWELVE[:2]]
    first = plans.execute(replace(context, force=False), few)
    path = tmp_path / "rows" / f"{few[0].key()}.json"
    path.write_text(path.read_text().replace(first[0]["date"], "2001-01-01"))
    assert plans.execute(replace(context, force=False), few)[0]["date"] == "2001-01-01"
    assert plans.execute(context, few)[0]["date"] == first[0]["date"]
    path.write_text(path.read_text().replace(first[0]["date"], "2001-01-01"))
    assert plans.execute(context, few)[0]["date"] == "2001-01-01"


def test_what_a_cpu_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--precision float32"):
        sweep.run([replace(BASE, precision="bf16")], RowStore(tmp_path), device="cpu")
    assert replace(BASE, precision="bf16").key() != BASE.key()


def test_a_diverged_run_ends_early_and_says_so(tmp_path: Path) -> None:
    config = of_method("sgd", epochs=50)
    rows = sweep.run([replace(config, lr=1e30)], RowStore(tmp_path), device="cpu")
    assert rows[0]["diverged"]
    assert rows[0]["metrics"]["mean"]["nll"] == "nan"


def test_what_a_stopped_sweep_finished_is_kept_with_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FENCHEL_RESULTS", str(tmp_path))
    context = Context("full", 0, None, 1, tmp_path / "partial" / "x", False)
    rows = RowStore(plans.working_directory(context))
    sweep.run(TWELVE[:2], rows, device="cpu")
    with pytest.raises(Stopped):
        plans.execute(replace(context, deadline=0.0), TWELVE[:4])
    kept = RowStore(tmp_path / "elsewhere", tmp_path / "rows")
    assert [kept.get(config) is not None for config in TWELVE[:4]] == [True, True, False, False]
