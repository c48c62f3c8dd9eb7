"""The searches for LeNet-5 / FashionMNIST: the paper's methods, and the others."""

from __future__ import annotations

from experiments.deep import search, spaces
from experiments.registry import Context, Outcome, register

__all__ = ["extra", "run"]


@register("search_lenet5", "Hyperparameter search, LeNet-5 / FashionMNIST", extras=("deep",))
def run(context: Context) -> Outcome:
    """The paper's methods, equal budgets in passes."""
    return search.outcome(context, "lenet5", spaces.PAPERS)


@register("search_lenet5_extra", "The same for IVON and bSAM with sqrt(N), LeNet-5 / FashionMNIST", extras=("deep",))
def extra(context: Context) -> Outcome:
    """The others, with the same budget."""
    return search.outcome(context, "lenet5", spaces.EXTRAS)
