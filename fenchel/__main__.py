"""``python -m fenchel check FILE...``: prove the claims of certificates again."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from fenchel.certificates import check
from fenchel.errors import MissingDependencyError


def main(arguments: Sequence[str] | None = None) -> int:
    """One line a file. 0: every claim is proved; 1: one is not; 2: a file cannot be read, or flint is missing."""
    parser = argparse.ArgumentParser(prog="python -m fenchel", description="Tools for certificates.")
    commands = parser.add_subparsers(dest="command", required=True)
    checker = commands.add_parser("check", help="prove the claims of certificates again, in ball arithmetic")
    checker.add_argument("files", nargs="+", metavar="FILE", help="certificates as JSON, of Certificate.save")
    found = [_check(file) for file in parser.parse_args(arguments).files]
    return max(found)


def _check(file: str) -> int:
    try:
        from fenchel.certificates.record import Certificate

        certificate = Certificate.load(file)
        result = check(certificate)
    except (OSError, ValueError, MissingDependencyError) as error:
        text = f"{file}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        print(text if file in text else f"{file}: {text}", file=sys.stderr)
        return 2
    quantity = certificate.record["claim"].get("quantity") if isinstance(certificate.record["claim"], dict) else "?"
    if result.valid:
        print(f"{file}: valid, {quantity} in [{result.lower!r}, {result.upper!r}] ({result.seconds:.2g} s)")
        return 0
    print(f"{file}: NOT VALID: {result.message}")
    return 1


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # a reader that has seen enough, such as `head`, is no failure
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        sys.exit(main())
    except OSError as error:  # its output is on a full disk
        sys.exit(f"error: {error}")
