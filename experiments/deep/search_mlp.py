"""The searches for MLP / MNIST: the paper's methods, and the others."""

from __future__ import annotations

from experiments.deep import search, spaces
from experiments.registry import Context, Outcome, register

__all__ = ["extra", "run"]


@register("search_mlp", "Hyperparameter search, MLP / MNIST", extras=("deep",))
def run(context: Context) -> Outcome:
    """The paper's methods, equal budgets in passes."""
    return search.outcome(context, "mlp", spaces.PAPERS)


@register("search_mlp_extra", "The same for IVON and bSAM with sqrt(N), MLP / MNIST", extras=("deep",))
def extra(context: Context) -> Outcome:
    """The others, with the same budget."""
    return search.outcome(context, "mlp", spaces.EXTRAS)
