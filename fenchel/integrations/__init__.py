"""What frameworks without closures need. Recipes for those with closures are in the documentation's gallery."""

from fenchel.errors import need_torch

need_torch("fenchel.integrations")

from fenchel.integrations.huggingface import ClosureTrainerMixin

__all__ = ["ClosureTrainerMixin"]
