"""`python -m experiments list | run NAME...`: exit code 0 done, 1 failed, 2 bad input, 3 stopped in time."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from experiments import store
from experiments.catalogue import EXPERIMENTS
from experiments.registry import Context, Experiment, InputError, Scale, Stopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "list":
            return _list()
        if options.command == "merge":
            return _merge(options.directory)
        return _run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments", description="Run the experiments of the paper.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name every experiment, its claims, and what is stored")
    run = commands.add_parser("run", help="run experiments; a finished one is not repeated")
    run.add_argument("names", nargs="+", metavar="NAME", help="names as in `list`, or all")
    run.add_argument(
        "--scale",
        choices=("quick", "full"),
        default="quick",
        help="quick: about a minute at most (default); full: as in the report",
    )
    run.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    run.add_argument(
        "--data",
        type=Path,
        default=None,
        metavar="DIR",
        help="data directory (default: FENCHEL_DATA, else embedded)",
    )
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="worker processes (default: 1)")
    run.add_argument("--scheduler", default=None, metavar="ADDRESS", help="run sweeps on this Dask cluster")
    run.add_argument("--force", action="store_true", help="compute again what is finished")
    run.add_argument(
        "--max-seconds", type=float, default=None, metavar="S", help="stop sweeps after this time, to be continued"
    )
    run.add_argument("--plan", action="store_true", help="print what sweeps would train, and what it would take here")
    run.add_argument(
        "--device", default=None, metavar="NAME", help="of deep runs: cpu, cuda, cuda:1 (default: a GPU if any)"
    )
    run.add_argument("--precision", choices=("float32", "tf32", "bf16"), default=None, help="of all deep runs")
    run.add_argument(
        "--dataset", action="append", default=[], metavar="NAME=PATH", help="images of your own, for table1"
    )
    run.add_argument("--allow-dirty", action="store_true", help="full runs from a tree with local changes")
    run.add_argument("--quiet", action="store_true", help="no progress bars")
    merge = commands.add_parser("merge", help="take finished runs over from another machine's folder of rows")
    merge.add_argument(
        "directory", type=Path, metavar="DIR", help="its experiments/results/partial/rows, or results/begun"
    )
    return parser


def _list() -> int:
    width = max(map(len, EXPERIMENTS))
    for name, experiment in EXPERIMENTS.items():
        print(f"{name:{width}s}  {store.state(name):13s}  {', '.join(experiment.claims):26s}  {experiment.title}")
    return 0


def _merge(directory: Path) -> int:
    from experiments.deep import rows

    ours = rows.RowStore(store.results_directory() / "partial" / "rows", rows.committed_directory())
    new, begun = rows.merge(directory, ours)
    print(f"{new} finished runs and {begun} begun ones taken over")
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {options.jobs}")
    if not 0 <= options.seed < 2**31:
        raise InputError(f"--seed must be in 0..2^31 - 1, got {options.seed}")
    data = options.data or (Path(os.environ["FENCHEL_DATA"]) if os.environ.get("FENCHEL_DATA") else None)
    if data is not None and not data.is_dir():
        raise InputError(f"data directory {str(data)!r} does not exist")
    if options.scale == "full" and not options.allow_dirty and store.is_dirty():
        raise InputError("full results come from committed code: commit your changes, or give --allow-dirty")
    unknown = [name for name in options.names if name not in EXPERIMENTS and name != "all"]
    if unknown:
        raise InputError(f"unknown experiment {unknown[0]!r}; `python -m experiments list` names them all")
    names = list(EXPERIMENTS) if "all" in options.names else list(dict.fromkeys(options.names))
    if options.dataset and "table1" not in names:
        raise InputError("--dataset is for table1; the others have data of their own")
    if options.dataset and options.scale == "quick":
        raise InputError("--dataset needs --scale full; quick runs read the embedded digits alone")
    experiments = [EXPERIMENTS[name] for name in names]
    store.check_writable()
    if options.max_seconds is not None and not options.max_seconds > 0:
        raise InputError(f"--max-seconds must be positive, got {options.max_seconds}")
    deadline = None if options.max_seconds is None else time.monotonic() + options.max_seconds
    options.dataset_names = _own_sets(options.dataset)
    if options.device is not None:
        _check_device(options.device)
    failed, stopped = [], []
    for position, experiment in enumerate(experiments, start=1):
        label = f"[{position}/{len(experiments)}] {experiment.name}"
        key = {"scale": options.scale, "seed": options.seed, "data": data is not None}
        if options.dataset_names and experiment.name == "table1":
            key["datasets"] = options.dataset_names
        if options.precision and experiment.trains:
            key["precision"] = options.precision
        if options.plan and not experiment.trains:
            print(f"{label}: trains nothing")
            continue
        try:
            stored = not (options.force or options.plan) and _finished(experiment.name, key)
            done = "already stored, not repeated (--force repeats it)"
            if not stored:
                seconds, path = _run_one(experiment, options, data, key, deadline)
                whole = options.scale == "quick" or _finished(experiment.name, key)
                word = "done" if whole else "stored in part, with runs left to do (--plan names them),"
                done = f"{word} in {seconds:.1f} s -> {path}"
        except InputError as error:
            if len(experiments) == 1:
                raise
            print(f"{label}: {error}", file=sys.stderr)
            failed.append(experiment.name)
            continue
        except Stopped as reason:
            print(f"{label}: {reason}", flush=True)
            stopped.append(experiment.name)
            continue
        except KeyboardInterrupt:
            print(f"{label}: interrupted; finished pieces are kept and the next run resumes", file=sys.stderr)
            return 130
        except Exception:
            traceback.print_exc()
            print(f"{label}: failed", file=sys.stderr)
            failed.append(experiment.name)
            continue
        print(f"{label}: {done}", flush=True)
    if failed:
        print(f"{len(failed)} of {len(experiments)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 3 if stopped and not options.plan else 0


def _own_sets(texts: Sequence[str]) -> list[str]:
    if not texts:
        return []
    from experiments.deep.data import own_set

    return [own_set(text) for text in texts]


def _check_device(name: str) -> None:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        raise InputError(f"--device {name!r} is no device that torch has here") from error


def _run_one(
    experiment: Experiment,
    options: argparse.Namespace,
    data: Path | None,
    key: dict[str, object],
    deadline: float | None,
) -> tuple[float, Path]:
    scale: Scale = options.scale
    partial = store.results_directory() / "partial" / f"{experiment.name}-{scale}-{options.seed}"
    context = Context(
        scale=scale,
        seed=options.seed,
        data=data,
        jobs=options.jobs,
        partial=partial,
        progress=sys.stderr.isatty() and not options.quiet,
        scheduler=options.scheduler,
        precision=options.precision,
        device=options.device,
        datasets=tuple(options.dataset_names),
        deadline=deadline,
        plan=options.plan,
        force=options.force,
    )
    if options.force and partial.exists():
        for stale in partial.glob("*.npz"):
            stale.unlink()
    resumed = any(partial.glob("*.npz"))
    start = time.perf_counter()
    outcome = experiment.run(context)
    if options.plan:
        raise Stopped("nothing is left to train")
    seconds = time.perf_counter() - start
    command = f"python -m experiments run {experiment.name} --scale {scale} --seed {options.seed}"
    command += " --data DIR" if data is not None else ""
    command += f" --jobs {options.jobs}" if options.jobs != 1 else ""
    command += "".join(f" --dataset {name.rpartition('-')[0]}=PATH" for name in options.dataset_names)
    for name in ("precision", "device", "scheduler"):
        command += f" --{name} {getattr(options, name)}" if getattr(options, name) is not None else ""
    stamp = store.provenance(command, options.seed, seconds, outcome.settings.get("device"))
    return seconds, store.save(experiment, outcome, {**stamp, "resumed": resumed, "key": key}, scale)


def _finished(name: str, key: dict[str, object]) -> bool:
    path = store.result_path(name, str(key["scale"]))
    if not path.exists():
        return False
    stored = store.load(path)
    return stored.provenance.get("key") == key and bool(stored.settings.get("complete", True))
