"""`python -m figures make NAME|all | report`: draws from the stored results alone; exit codes as in `experiments`."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

try:
    from experiments.console import leave_with
    from experiments.registry import InputError
    from figures.render import drawable, make
    from figures.report import write_report
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] in ("fenchel", "experiments", "figures"):
        raise
    print(f"error: figures need {error.name}, which is not installed: pip install -e '.[figures]'", file=sys.stderr)
    sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 a figure failed, 2 bad usage or input."""
    parser = argparse.ArgumentParser(prog="python -m figures", description="Draw figures from stored results.")
    commands = parser.add_subparsers(dest="command", required=True)
    make_parser = commands.add_parser("make", help="draw figures to figures/rendered")
    make_parser.add_argument("names", nargs="+", metavar="NAME", help="figure names, or all")
    make_parser.add_argument(
        "--scale",
        choices=("quick", "full"),
        default="full",
        help="full: full results, quick ones where there are no others (default); quick: quick runs alone, to a folder "
        "of their own",
    )
    commands.add_parser("report", help="write figures/report.md and figures/report.html")
    options = parser.parse_args(arguments)
    work: dict[str, Callable[[], list[Path]]] = {"the report": write_report}
    if options.command == "make":
        quick = options.scale == "quick"
        names = [*options.names, *drawable(quick=quick)] if "all" in options.names else options.names
        work = {name: partial(make, name, quick=quick) for name in names if name != "all"}
        if not work:
            print("error: nothing is stored that could be drawn: python -m experiments run all", file=sys.stderr)
            return 2
    failed, unusable = [], False
    for name, write in work.items():
        paths: list[Path] = []
        try:
            paths = write()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            unusable = True
        except Exception:
            traceback.print_exc()
            failed.append(name)
        for path in paths:
            print(path)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 2 if unusable else 1 if failed else 0


if __name__ == "__main__":
    leave_with(main)
