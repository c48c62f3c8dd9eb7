"""Figure 8: all four metrics of the SAM variants over rho."""

from __future__ import annotations

from experiments.deep import sensitivity
from experiments.deep.evaluate import METRICS
from experiments.registry import Context, Outcome

__all__ = ["run"]


def run(context: Context) -> Outcome:
    """The curves over rho."""
    return sensitivity.outcome(context, METRICS)
