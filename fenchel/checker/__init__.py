"""The checker of certificates: ball arithmetic and rationals, nothing of the solver. Needs python-flint."""

try:
    from fenchel.checker.check import VERSION, Checked, check_record
except ModuleNotFoundError as error:
    if error.name != "flint":
        raise
    # Not an error of fenchel's own: the checker imports nothing of the rest.
    raise ImportError("fenchel.checker needs python-flint: pip install 'fenchel[check]'") from error

__all__ = ["VERSION", "Checked", "check_record"]
