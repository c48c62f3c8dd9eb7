"""Table 1: CIFAR without augmentation on ResNet-20-FRN."""

from __future__ import annotations

from experiments.deep import large
from experiments.registry import Context, Outcome

__all__ = ["run"]


def run(context: Context) -> Outcome:
    """Complete configurations; run where there is a GPU and the data (quick: a few steps on small images)."""
    return large.outcome(context, "table1", large.table1, [])
