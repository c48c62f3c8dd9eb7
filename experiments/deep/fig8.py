"""Figure 8: all four metrics of the SAM variants over rho."""

from __future__ import annotations

from experiments.deep import sensitivity
from experiments.deep.evaluate import METRICS
from experiments.registry import Context, Outcome, register

__all__ = ["run"]


@register("fig8", "Figure 8: sensitivity of all metrics to rho", claims=("D2",), extras=("deep",))
def run(context: Context) -> Outcome:
    """The curves over rho."""
    return sensitivity.outcome(context, METRICS)
