"""Figure 4: accuracy of the SAM variants over rho."""

from __future__ import annotations

from experiments.deep import sensitivity
from experiments.registry import Context, Outcome, register

__all__ = ["run"]


@register("fig4", "Figure 4: sensitivity of accuracy to rho", claims=("D2",), extras=("deep",))
def run(context: Context) -> Outcome:
    """The curves over rho."""
    return sensitivity.outcome(context, ("accuracy",))
