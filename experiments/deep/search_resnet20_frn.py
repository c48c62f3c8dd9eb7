"""The searches for ResNet-20-FRN / CIFAR-10 (JPEG): the paper's methods, and the others."""

from __future__ import annotations

from experiments.deep import search, spaces
from experiments.registry import Context, Outcome, register

__all__ = ["extra", "run"]


@register("search_resnet20_frn", "Hyperparameter search, ResNet-20-FRN / CIFAR-10 (JPEG)", extras=("deep",))
def run(context: Context) -> Outcome:
    """The paper's methods, equal budgets in passes."""
    return search.outcome(context, "resnet20-frn", spaces.PAPERS)


@register(
    "search_resnet20_frn_extra",
    "The same for IVON and bSAM with sqrt(N), ResNet-20-FRN / CIFAR-10 (JPEG)",
    extras=("deep",),
)
def extra(context: Context) -> Outcome:
    """The others, with the same budget."""
    return search.outcome(context, "resnet20-frn", spaces.EXTRAS)
