"""The search for the MLP on MNIST."""

from __future__ import annotations

from experiments.deep import search
from experiments.registry import Context, Outcome, register

__all__ = ["run"]


@register("search_mlp", "Hyperparameter search, MLP / MNIST", extras=("deep",))
def run(context: Context) -> Outcome:
    """All methods, equal budgets in passes."""
    return search.outcome(context, "mlp")
