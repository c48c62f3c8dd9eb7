"""Typed errors: bad input is a `ValueError`, a failed computation is a `FenchelError`."""

from __future__ import annotations

import importlib.util


class FenchelError(Exception):
    """Base class of every error that is not plain bad input."""


class DomainError(FenchelError, ValueError):
    """A parameter lies outside its space (Omega, M, or the positive definite matrices)."""


class SolverError(FenchelError, RuntimeError):
    """A convex solver ended without a usable solution; the message names solver and status."""


class CertificateError(FenchelError, RuntimeError):
    """A bracket that was asked for could not be established within the budget."""


class MissingDependencyError(FenchelError, ImportError):
    """An optional library is needed; the message names the extra that installs it."""


def missing(what: str, package: str, extra: str) -> MissingDependencyError:
    """The error that ``what`` needs ``package``, which ``extra`` installs."""
    return MissingDependencyError(f"{what} needs {package}: pip install 'fenchel[{extra}]'")


def need_torch(name: str) -> None:
    """MissingDependencyError where torch, which the module ``name`` needs, is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise missing(name, "torch", "optim")
