"""What the learning rules refuse, in one sentence each."""

from __future__ import annotations

from typing import Any

from fenchel.bayes.learning_result import family_member
from fenchel.checks import check_count, check_problem, check_tolerance
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.losses.inputs import shown


def check_rule(
    loss: Loss,
    prior: Gaussian,
    max_iterations: int,
    tol: float,
    parameter_tol: float,
    family: str,
    memory: int,
    callback: Any,
) -> None:
    check_problem(loss, prior=prior)
    check_count(max_iterations, "max_iterations")
    check_tolerance(tol)
    check_tolerance(parameter_tol, "parameter_tol")
    check_count(memory, "acceleration", 0)
    family_member(prior, family)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {shown(callback)}.")


def check_initial(loss: Loss, initial: Gaussian) -> Gaussian:
    """``initial`` itself, a Gaussian of the loss's dimension."""
    check_problem(loss, initial=initial)
    return initial
