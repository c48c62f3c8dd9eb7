"""The experiment house: registry, store, resuming, exit codes, the report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fenchel
from experiments import catalogue, cli, store
from experiments.files import written_whole
from experiments.pieces import piece, pieces
from experiments.registry import Claim, Context, Experiment, Outcome


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FENCHEL_RESULTS", str(tmp_path))
    monkeypatch.delenv("FENCHEL_DATA", raising=False)
    before = dict(catalogue.EXPERIMENTS)
    yield tmp_path
    catalogue.EXPERIMENTS.clear()
    catalogue.EXPERIMENTS.update(before)


def register(name: str, title: str) -> Callable[[Callable[[Context], Outcome]], Callable[[Context], Outcome]]:
    def decorate(run: Callable[[Context], Outcome]) -> Callable[[Context], Outcome]:
        catalogue.EXPERIMENTS[name] = Experiment(name, title, run)
        return run

    return decorate


def claim(verdict: str = "held") -> Claim:
    return Claim("A1", verdict, "measured", {"gap": 1e-9}, "1e-8", "a second way")


def test_a_run_is_stored_with_provenance_and_not_repeated(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    @register("toy", "A toy")
    def run(context: Context) -> Outcome:
        calls.append(context.seed)
        return Outcome({"n": 3}, {"x": np.float64(np.inf)}, (claim(),), {"grid": np.arange(3.0)})

    assert cli.main(["run", "toy", "--seed", "4"]) == 0
    assert cli.main(["run", "toy", "--seed", "4"]) == 0
    assert calls == [4]
    assert "not repeated" in capsys.readouterr().out
    stored = store.load(results / "toy.quick.json")
    assert stored.numbers == {"x": "inf"}
    assert stored.claims == (claim(),)
    assert np.array_equal(stored.arrays["grid"], np.arange(3.0))
    stamp = stored.provenance
    assert stamp["command"] == "python -m experiments run toy --scale quick --seed 4"
    assert {"versions", "revision", "wall_seconds", "date", "device"} <= set(stamp)
    assert cli.main(["run", "toy", "--seed", "4", "--force"]) == 0
    assert cli.main(["run", "toy", "--seed", "5"]) == 0
    assert calls == [4, 4, 5]


def test_a_quick_run_never_replaces_a_full_result(results: Path) -> None:
    @register("toy", "A toy")
    def run(context: Context) -> Outcome:
        return Outcome({}, {"scale": context.scale})

    for scale in ("full", "quick", "quick"):
        assert cli.main(["run", "toy", "--scale", scale]) == 0
    assert store.load(results / "toy.json").numbers == {"scale": "full"}
    assert store.load(results / "toy.quick.json").numbers == {"scale": "quick"}
    assert store.load_all()["toy"].scale == "full"
    (results / "toy.json").unlink()
    assert store.load_all()["toy"].scale == "quick"


def test_an_interrupted_run_resumes(results: Path) -> None:
    computed = []

    @register("toy", "A toy")
    def run(context: Context) -> Outcome:
        def first() -> dict[str, float]:
            computed.append("first")
            return {"value": 1.0}

        value = piece(context, "first", first)["value"]
        if len(computed) == 1 and not (context.partial / "second.npz").exists():
            piece(context, "second", lambda: {"value": 2.0})
            raise RuntimeError("killed")
        return Outcome({}, {"value": float(value)})

    assert cli.main(["run", "toy"]) == 1
    assert not (results / "toy.quick.json").exists()
    assert cli.main(["run", "toy"]) == 0
    assert computed == ["first"]


def test_pieces_hold_plain_arrays_only(tmp_path: Path) -> None:
    context = Context("quick", 0, None, 1, tmp_path, False)
    with pytest.raises(TypeError, match="object arrays"):
        piece(context, "bad", lambda: {"value": np.array([object()])})


def _square(k: int) -> dict[str, float]:
    if k > 2:
        raise ValueError(f"no square of {k}")
    return {"square": k * k, "process": os.getpid()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_pieces_are_computed_by_so_many_processes_and_kept_where_another_fails(jobs: int, tmp_path: Path) -> None:
    context = Context("quick", 0, None, jobs, tmp_path, False)
    with pytest.raises(ValueError, match="no square of 3"):
        pieces(context, {f"p{k}": partial(_square, k) for k in (1, 2, 3)})
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert jobs > 1 or set(kept) == {"p1.npz", "p2.npz"}  # in processes, those that were done before
    found = pieces(context, {f"p{k}": partial(_square, k) for k in (2, 1, 0)})
    assert [(key, int(arrays["square"])) for key, arrays in found.items()] == [("p2", 4), ("p1", 1), ("p0", 0)]
    again = pieces(context, {f"q{k}": partial(_square, k) for k in (1, 2)})
    assert all((int(arrays["process"]) == os.getpid()) == (jobs == 1) for arrays in again.values())
    assert all((tmp_path / name).stat().st_mtime_ns == time_ for name, time_ in kept.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "no-such-thing"], "unknown experiment"),
        (["run", "fig1", "--device", "gpu7"], "--device"),
        (["run", "toy", "--jobs", "0"], "--jobs"),
        (["run", "toy", "--seed", "-1"], "--seed"),
        (["run", "toy", "--seed", "9999999999999"], "--seed"),
        (["run", "all", "nonsense"], "unknown experiment"),
        (["run", "table6", "--dataset", "mine=/tmp"], "table1"),
        (["run", "toy", "--data", "/no/such/directory"], "does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert words in error[-1]
    assert "Traceback" not in "".join(error)


def test_bad_usage_exits_with_2() -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "toy", "--scale", "huge"])
    assert stop.value.code == 2


def test_verdicts_are_named() -> None:
    with pytest.raises(ValueError, match="verdict of claim A1"):
        claim("probably")


def test_results_hold_plain_numbers_only() -> None:
    assert store.plain({"a": np.float64(1.0), "b": (np.nan, [np.int64(2)])}) == {"a": 1.0, "b": ["nan", [2]]}
    with pytest.raises(TypeError, match="plain numbers"):
        store.plain({"a": object()})
    json.dumps(store.plain({"a": -np.inf}), allow_nan=False)


def _report_of(verdict: str, identity: str = "A1", scale: str = "full", **more: str) -> str:
    pytest.importorskip("matplotlib")
    from figures.report import render_markdown

    @register("toy", "A toy")
    def run(context: Context) -> Outcome:
        return Outcome({}, {}, (replace(claim(verdict), id=identity, **more),))

    assert cli.main(["run", "toy", "--scale", scale, "--force"]) == 0
    return render_markdown(quick=scale == "quick")


def test_the_report_states_every_claim_once_with_its_verdict(results: Path) -> None:
    from figures.claims import CLAIMS

    text = _report_of("held only if", condition="on small networks")
    assert all(text.count(f'<h2 id="{identity.lower()}">') == 1 for identity in CLAIMS)
    assert text.count('<b class="v only">held only if</b> on small networks') == 2  # in the summary and the section
    assert text.count("\n# ") + text.startswith("# ") == 1
    assert "1e-09" in text


def test_quick_runs_give_no_verdict_in_the_report(results: Path) -> None:
    text = _report_of("refuted", scale="quick")
    assert "refuted</b>" not in text
    assert "not judged</b> a quick run" in text


def test_a_withdrawn_verdict_is_undecided_with_the_reason_until_a_newer_test(results: Path) -> None:
    text = _report_of("refuted", "D6")
    assert "refuted</b>" not in text
    assert "undecided</b> an earlier verdict is withdrawn" in text
    assert "refuted</b>" in _report_of("refuted", "D6", would_change="one more seed")


def _register_toy() -> None:
    @register("toy", "A toy")
    def run(context: Context) -> Outcome:
        return Outcome({"n": 3}, {"x": 1.0}, (claim(),), {"grid": np.arange(300.0)})


def test_damaged_files_are_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("FENCHEL_RESULTS", str(tmp_path))
    _register_toy()
    assert cli.main(["run", "toy", "--quiet"]) == 0
    whole = (tmp_path / "toy.quick.json").read_text()
    record = json.loads(whole)
    parts = [json.dumps(record | {part: 3}) for part in record]
    one = record["claims"][0]
    parts += [json.dumps(record | {"claims": [one | {part: [3]}]}) for part in one]
    parts += [
        json.dumps(record | {"provenance": {}}),
        json.dumps(record | {"name": "fig1"}),
        whole[:-2] + ', "claims": []}',
    ]
    for damaged in (whole[: len(whole) // 2], "[]", '{"name": "toy"}', "", "[" * 100_000, *parts):
        (tmp_path / "toy.quick.json").write_text(damaged)
        capsys.readouterr()
        assert cli.main(["list"]) == 0
        assert "toy.quick.json" in capsys.readouterr().err
        assert cli.main(["run", "toy", "--quiet"]) == 2
        assert "toy.quick.json" in capsys.readouterr().err
        assert set(store.load_all()) == set()
    (tmp_path / "toy.quick.json").write_text(whole)
    (tmp_path / "toy.quick.npz").write_bytes((tmp_path / "toy.quick.npz").read_bytes()[:100])
    assert cli.main(["list"]) == 0
    assert "toy.quick.json" in capsys.readouterr().err
    (tmp_path / "toy.quick.json").unlink()
    (tmp_path / "toy.quick.json").symlink_to("toy.quick.json")
    assert cli.main(["list"]) == 0
    assert "toy.quick.json" in capsys.readouterr().err


def test_a_damaged_result_does_not_stop_the_others(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _register_toy()
    catalogue.EXPERIMENTS["second"] = replace(catalogue.EXPERIMENTS["toy"], name="second")
    (results / "toy.quick.json").write_text("{")
    assert cli.main(["run", "toy", "second"]) == 1
    assert "toy.quick.json" in capsys.readouterr().err
    assert store.load(results / "second.quick.json").numbers == {"x": 1.0}


def test_what_fails_to_be_written_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with written_whole(tmp_path / "new" / "file.json") as temporary:
            temporary.write_text("a part")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        write()
    assert list((tmp_path / "new").iterdir()) == []


def test_full_results_come_from_committed_code(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv("FENCHEL_RESULTS", raising=False)
    monkeypatch.setattr(store, "revision", lambda: "abc with local changes")
    assert cli.main(["run", "fig1", "--scale", "full"]) == 2
    assert "--allow-dirty" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["| head -0", ">&-", "> /dev/full"])
@pytest.mark.parametrize("command", ["experiments list", "figures make fig1", "fenchel check {}/proof.json"])
def test_a_reader_may_stop_early(command: str, end: str, results: Path) -> None:
    home = Path(__file__).parents[1]
    for path in (home / "experiments" / "results").glob("fig1.*"):
        shutil.copy(path, results)
    if "proof" in command:
        pytest.importorskip("flint")
        found = fenchel.biconjugate(fenchel.losses.ReLU(), fenchel.Gaussian([0.5], 1.0))
        found.certificate().save(results / "proof.json")
    script = f"{sys.executable} -m {command.format(results)} {end}"
    done = subprocess.run(script, shell=True, capture_output=True, text=True, cwd=home)
    assert "Traceback" not in done.stderr
    assert "full" not in end or "No space left" in done.stderr


def test_listing_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "experiments", "list"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True).stderr
    imported = {line.rpartition("|")[2].strip() for line in told.splitlines()}
    assert "numpy" in imported
    assert not imported & {"fenchel", "scipy", "torch", "matplotlib", "cvxpy"}


def test_benchmarks_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    from experiments.benchmarks.__main__ import main as bench

    assert bench(["--help"]) == 0
    told = capsys.readouterr().out
    assert "--device cuda" in told
    assert "optimizers" in told


def test_the_end_that_a_batch_system_sends_is_an_interruption(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments", "run", "theorem1"]
    environment = {**os.environ, "FENCHEL_RESULTS": str(tmp_path)}
    process = subprocess.Popen(
        command, cwd=Path(cli.__file__).parents[1], env=environment, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("partial/theorem1*")) and process.poll() is None:
        time.sleep(0.02)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "finished pieces are kept" in told
    assert "Traceback" not in told


def test_a_table_with_runs_left_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    @register("half", "Stored with half of its runs")
    def half(context: Context) -> Outcome:
        return Outcome(settings={"complete": False}, numbers={}, claims=())

    for scale, word in (("full", "stored in part, with runs left to do"), ("quick", "done in")):
        assert cli.main(["run", "half", "--scale", scale, "--allow-dirty"]) == 0
        assert f"half: {word}" in capsys.readouterr().out
