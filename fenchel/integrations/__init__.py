"""What frameworks without closures need. Recipes for those with closures are in the documentation's gallery."""

from fenchel.integrations.huggingface import ClosureTrainerMixin

__all__ = ["ClosureTrainerMixin"]
