"""Entry point of `python -m experiments`."""

import os
import sys

try:
    from experiments.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed here: run `make setup`, then .venv/bin/python -m experiments")

try:
    code = main()
    sys.stdout.flush()
except BrokenPipeError:  # the reader, such as `head`, has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    code = 0
sys.exit(code)
