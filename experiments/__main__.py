"""Entry point of `python -m experiments`."""

import os
import sys

from experiments.cli import main

try:
    code = main()
    sys.stdout.flush()
except BrokenPipeError:  # the reader, such as `head`, has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    code = 0
sys.exit(code)
