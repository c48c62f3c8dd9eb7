"""`python -m experiments.benchmarks [NAME...] [--device cuda]`: runs the benchmarks of this folder in turn."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

HIDDEN = ("__main__", "interleaved", "optimizers_cuda", "throughput_cuda")


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; exit code 2 for an unknown name."""
    suffix = ""
    known = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name not in HIDDEN)
    if {"-h", "--help"} & set(names):
        print(f"{(__doc__ or '').replace('`', '')}\nNames, all by default: {', '.join(known)}.")
        return 0
    if "--device" in names:
        at = names.index("--device")
        device, names = names[at + 1 : at + 2], names[:at] + names[at + 2 :]
        if device not in (["cpu"], ["cuda"]):
            print("error: --device takes cpu or cuda", file=sys.stderr)
            return 2
        if device == ["cuda"]:
            known = ["optimizers", "throughput"]
            suffix = "_cuda"
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error: unknown benchmark {unknown[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    for name in names or known:
        print(f"== {name}", flush=True)
        importlib.import_module(f"experiments.benchmarks.{name}{suffix}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
