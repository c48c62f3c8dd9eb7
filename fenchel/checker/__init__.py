"""The checker of certificates: ball arithmetic and rationals, nothing of the solver. Needs python-flint."""

from fenchel.checker.check import VERSION, Checked, check_record

__all__ = ["VERSION", "Checked", "check_record"]
