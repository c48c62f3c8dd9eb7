"""Entry point of `python -m experiments`."""

import os
import signal
import sys
import warnings

# Sums depend on how many threads share them; more cores are for more processes (--jobs). Read when numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

try:
    from experiments.cli import main
    from experiments.console import leave_with
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed here: run `make setup`, then .venv/bin/python -m experiments")

# What a batch system sends to end a job is taken as Ctrl-C is: workers stop, and finished pieces are kept.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# joblib replaces a worker that has grown large, and says so.
warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
leave_with(main)
