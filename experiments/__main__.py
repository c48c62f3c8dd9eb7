"""Entry point of `python -m experiments`."""

import sys

try:
    from experiments.cli import main
    from fenchel.console import leave_with
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed here: run `make setup`, then .venv/bin/python -m experiments")

leave_with(main)
