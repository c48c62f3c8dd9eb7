"""Hypothesis profiles; results of test runs go to a temporary directory, never over the stored ones."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Nothing is timed in a test: a slow machine must not turn a correct example into a failure.
_quiet = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("same", derandomize=True, print_blob=True, **_quiet)  # type: ignore[arg-type]
settings.register_profile("random", print_blob=True, **_quiet)  # type: ignore[arg-type]
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
