"""Results of f**: the one place where a bracket is put in order and called certified."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fenchel.closed.closed_forms import closed_form_biconjugate
from fenchel.closed.quadratic_forms import expectation_rounding
from fenchel.gaussian import Gaussian
from fenchel.losses import Loss
from fenchel.moments.moment_frame import MomentFrame
from fenchel.moments.quadratics import quadratic_moment_problem
from fenchel.moments.rounds import State
from fenchel.results import BiconjugateResult, Natural

__all__ = ["of_closed_form", "of_quadratic", "of_state"]

Array = NDArray[np.float64]


def of_state(frame: MomentFrame, state: State, tol: float, begin: float) -> BiconjugateResult:
    """The result of the last state of the rounds, which began at ``begin``."""
    lower, upper = state.lower, state.upper
    low = -np.inf if lower is None or state.unbounded else lower.value
    high = np.inf if upper is None else upper.value
    return _bracketed(
        frame,
        -np.inf if state.unbounded else _value(-np.inf if lower is None else lower.value, high, state.local_lower, tol),
        low,
        high,
        tol,
        begin,
        method="cutting-plane",
        natural=None if lower is None else frame.blocks(lower.lam1, lower.lam2),
        atoms=None if upper is None else upper.points,
        weights=None if upper is None else upper.weights,
        iterations=state.rounds,
        unproved=state.message,
        remark="" if lower is None else lower.limited,
        info={
            "boxes": state.boxes,
            "columns": state.values.size,
            "coefficients": None if lower is None else lower.coefficients,
            "majorant_offset": None if lower is None else lower.offset(frame),
        },
    )


def _value(lower: float, upper: float, local_lower: float, tol: float) -> float:
    """The upper end once the bracket has closed at least locally, else the proved lower end."""
    scale = max(1.0, abs(upper)) if np.isfinite(upper) else 1.0
    if upper - max(lower, local_lower) <= max(tol, 1e-6) * scale or not np.isfinite(lower):
        return upper
    return lower


def of_quadratic(loss: Any, frame: MomentFrame, tol: float, begin: float) -> BiconjugateResult:
    """A quadratic loss: exact, up to rounding that the bracket allows for."""
    inside = loss.compose(frame.factor, frame.mean)
    scale = max(1.0, abs(float(loss(frame.mean))), float(np.abs(inside.H).sum()))
    points, w = quadratic_moment_problem(inside.H, frame.structure, 0.01 * tol * scale)
    weights = np.full(points.shape[0], 1.0 / points.shape[0])
    theta = frame.to_theta(points)
    slack = 2.0 * expectation_rounding(loss.H, loss.b, loss.c, frame.mean, frame.factor @ frame.factor.T)
    slack += float(loss.rounding(theta, 1).max() + frame.drift * np.abs(inside.H).sum())
    high = -float(weights @ loss._value(theta)) + slack
    low = -(inside.c + float(np.trace(w))) - slack
    if frame.structure == "full" or np.array_equal(np.atleast_1d(w), 0.5 * inside.H):
        lam1, lam2 = -loss.b, -0.5 * loss.H
    else:
        _, lam1, lam2 = frame.to_natural(frame.coefficients(inside.c, inside.b, w))
    offset = frame.pairing(lam1, lam2)[0] - low
    return _bracketed(
        frame,
        0.5 * (low + high),
        low,
        high,
        tol,
        begin,
        method="cutting-plane",
        natural=frame.blocks(lam1, lam2),
        atoms=theta,
        weights=weights,
        iterations=1,
        info={"boxes": 0, "majorant_offset": offset},
    )


def of_closed_form(loss: Loss, q: Gaussian, frame: MomentFrame, tol: float, begin: float) -> BiconjugateResult:
    """The closed form, with a bracket that allows for the rounding of its evaluation.

    Raises:
        ValueError: the loss has no closed form in this family.
    """
    found = closed_form_biconjugate(loss, q, frame.structure)
    if found is None:
        raise ValueError(f"{loss!r} has no closed form of f** in the {frame.structure} family; use another method.")
    value, natural, atoms, weights, error = found
    slack = error + 1e-13 * max(1.0, abs(value))
    return _bracketed(
        frame,
        float(value),
        float(value) - slack,
        float(value) + slack,
        tol,
        begin,
        method="closed-form",
        natural=natural,
        atoms=atoms,
        weights=weights,
        iterations=0,
        unproved=f"rounding may have moved the value by {slack:.2g}",
        remark="" if atoms is not None else "the worst case is not attained",
        info={},
    )


def _bracketed(
    frame: MomentFrame,
    value: float,
    low: float,
    high: float,
    tol: float,
    begin: float,
    *,
    method: str,
    natural: Natural | None,
    atoms: Array | None,
    weights: Array | None,
    iterations: int,
    unproved: str = "",
    remark: str = "",
    info: dict[str, Any],
) -> BiconjugateResult:
    """The result with these ends; ``unproved`` is said where it is not certified, ``remark`` in any case."""
    scale = max(1.0, abs(value)) if np.isfinite(value) else 1.0
    low, high, clash = _in_order(low, high, scale)
    certified = bool(np.isfinite(low) and high - low <= tol * scale and not clash)
    message = "" if certified else clash or unproved or f"the bracket is {high - low:.2g} wide"
    return BiconjugateResult(
        value=value,
        lower=low,
        upper=high,
        certified=certified,
        natural=natural,
        atoms=np.zeros((0, frame.mean.size)) if atoms is None else atoms,
        weights=np.zeros(0) if weights is None else weights,
        iterations=iterations,
        seconds=time.perf_counter() - begin,
        method=method,
        structure=frame.structure,
        message="; ".join(text for text in (message, remark) if text),
        info=info,
    )


def _in_order(low: float, high: float, scale: float) -> tuple[float, float, str]:
    """The ends in order, and what to say if the lower lies above the upper by more than rounding.

    Then one of the two proofs is wrong: a gradient that is not the loss's own, or rounding beyond the margins.
    """
    if not low > high:
        return low, high, ""
    if low - high <= 1e-12 * scale:
        return high, low, ""
    clash = f"the bracket is inverted (lower end {low:.8g}, upper end {high:.8g}): a wrong gradient, or rounding"
    return low, high, clash
