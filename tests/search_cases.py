"""A function h with softplus terms and bumps in three dimensions, and the models of it that the search knows."""

from __future__ import annotations

from typing import Any

import numpy as np

from fenchel import losses as L
from fenchel.losses.bounded_links import BumpLink
from fenchel.losses.links import SoftplusLink
from fenchel.search.confine import Setting, prepare

Array = np.ndarray
LAM1 = np.array([0.4, -0.3, 0.2])
LAM2 = -np.array([[0.9, 0.1, 0.0], [0.1, 0.7, -0.2], [0.0, -0.2, 1.1]])


def smooth() -> L.LinearPredictorLoss:
    rng = np.random.default_rng(0)
    groups = [
        L.Terms(link, rng.normal(size=(4, 3)), rng.normal(size=4), rng.uniform(0.3, 1.5, size=4))
        for link in (SoftplusLink(), BumpLink())
    ]
    return L.LinearPredictorLoss(groups, H=np.diag([0.1, 0.2, 0.3]), b=rng.normal(size=3), c=0.7)


def as_user(loss: L.LinearPredictorLoss, **known: Any) -> L.UserLoss:
    """The same function, of which nothing is known but what is declared."""
    return L.from_function(loss._value, loss._gradient, loss.dim, hessian=loss._hessian, curvature=30.0, **known)


def models() -> dict[str, Any]:
    loss = smooth()
    linear, bounded = prepare(loss, LAM1, LAM2), prepare(as_user(loss, bounds=(-2.0, 3.0)), LAM1, LAM2)
    declared = as_user(loss, majorizer=L.Quadratic(0.5 * np.eye(3), np.zeros(3), 400.0))
    free = prepare(declared, LAM1, LAM2)
    assert isinstance(linear, Setting)
    assert isinstance(bounded, Setting)
    assert isinstance(free, Setting)
    return {"linear": linear, "bounded": bounded, "declared": free}


def h(theta: Array) -> Array:
    return np.asarray(smooth()(theta) + theta @ LAM1 + np.einsum("ni,ij,nj->n", theta, LAM2, theta))
