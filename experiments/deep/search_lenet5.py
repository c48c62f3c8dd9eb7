"""The search for LeNet-5 on FashionMNIST."""

from __future__ import annotations

from experiments.deep import search
from experiments.registry import Context, Outcome, register

__all__ = ["run"]


@register("search_lenet5", "Hyperparameter search, LeNet-5 / FashionMNIST", extras=("deep",))
def run(context: Context) -> Outcome:
    """All methods, equal budgets in passes."""
    return search.outcome(context, "lenet5")
