"""The search for ResNet-20-FRN on CIFAR-10 (JPEG)."""

from __future__ import annotations

from experiments.deep import search
from experiments.registry import Context, Outcome, register

__all__ = ["run"]


@register("search_resnet20_frn", "Hyperparameter search, ResNet-20-FRN / CIFAR-10 (JPEG)", extras=("deep",))
def run(context: Context) -> Outcome:
    """All methods, equal budgets in passes; without augmentation, as Table 1."""
    return search.outcome(context, "resnet20-frn")
