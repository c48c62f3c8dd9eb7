"""What is searched for each method, all on a log scale and equally wide where methods share a setting's meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from experiments.deep.config import Config

Space = Mapping[str, tuple[float, float]]

TASKS = {"lenet5": "fashion-mnist", "mlp": "mnist", "resnet20-frn": "cifar10-jpeg"}
SMALL = ("lenet5", "mlp")
"""Trained in float32; larger networks in bfloat16."""
EDGE = 0.03
"""A value in this outer share of its range counts as being at the edge."""

_DECAY = (1e-5, 3e-3)
_SGD: Space = {"lr": (5e-3, 0.5), "weight_decay": _DECAY}
_ADAM: Space = {"lr": (1e-4, 1e-2), "weight_decay": _DECAY}
# The first s is not searched: after thousands of steps with beta2 = .999 nothing is left of it.
# Two decades of rho for everybody; SAM's is a radius, bSAM's a step in units of g/s, so their middles differ.
_SAM_RHO, _BSAM_RHO = (5e-3, 0.5), (1e-3, 0.1)
_DAMPING = (0.02, 0.5)
_BSAM: Space = {"lr": (0.03, 3.0), "weight_decay": _DECAY, "rho": _BSAM_RHO, "damping": _DAMPING}
SPACES: dict[str, Space] = {
    "sgd": _SGD,
    "sam-sgd": {**_SGD, "rho": _SAM_RHO},
    "swag": {**_SGD, "swag_lr": (0.05, 0.9)},
    "vogn": {"lr": (5e-3, 0.5), "weight_decay": _DECAY, "damping": _DAMPING},
    "adam": _ADAM,
    "sam-adam": {**_ADAM, "rho": _SAM_RHO},
    "bsam": _BSAM,
    "bsam-sqrt-n": _BSAM,
    "ivon": {"lr": (5e-3, 0.5), "weight_decay": _DECAY},
}
PAPERS = ("sgd", "sam-sgd", "swag", "vogn", "adam", "sam-adam", "bsam")
"""The methods of the paper's tables."""
EXTRAS = ("ivon", "bsam-sqrt-n")
"""A further one, and the variant of App. E.3."""

# What a method is given besides its searched settings; m = 8 wherever a step has sub-batches.
_FIXED: dict[str, dict[str, object]] = {
    "sgd": {},
    "sam-sgd": {"parts": 8},
    "swag": {},
    "vogn": {"parts": 8, "s_init": 0.1},
    "adam": {},
    "sam-adam": {"parts": 8},
    "bsam": {"parts": 8},
    "bsam-sqrt-n": {"parts": 8, "sqrt_n": True},
    "ivon": {"beta2": 0.9999, "s_init": 0.1},
}


def base(model: str, entry: str, dataset: str | None = None) -> Config:
    """The unsearched settings of ``entry`` (a method, or bsam-sqrt-n) on the task of ``model``."""
    method = entry.removesuffix("-sqrt-n")
    config = Config(dataset or TASKS[model], model, method, **_FIXED[entry])  # type: ignore[arg-type]
    # Gradients of single examples are taken by torch.func, outside of autocast.
    return config if model in SMALL else replace(config, precision="tf32" if method == "vogn" else "bf16")


def middle(space: Space) -> dict[str, float]:
    """The middle of every range, which a quick run takes where nothing was searched."""
    return {name: float(f"{np.sqrt(low * high):.3g}") for name, (low, high) in space.items()}


def at_edges(config: Config, space: Space) -> dict[str, int]:
    """The settings of ``config`` at an edge of ``space``: -1 at the lower, 1 at the upper one."""
    found = {}
    for name, (low, high) in space.items():
        place = np.log(getattr(config, name) / low) / np.log(high / low)
        if place < EDGE or place > 1 - EDGE:
            found[name] = -1 if place < EDGE else 1
    return found


def widened(space: Space, edges: Mapping[str, int], factor: float = 4.0) -> dict[str, tuple[float, float]]:
    """``space`` with the given edges moved outwards; a share stays below one."""
    wider = dict(space)
    for name, side in edges.items():
        low, high = space[name]
        high = min(high * factor, 0.999) if name == "swag_lr" else high * factor
        wider[name] = (low / factor, space[name][1]) if side < 0 else (low, high)
    return wider


def ranked(candidates: Sequence[tuple[Config, dict[str, float]]], held_out: int) -> list[Config]:
    """(configuration, validation metrics) in the order of preference.

    As in the paper validation accuracy decides; accuracies within one binomial standard error of the best are a tie,
    which the lower validation NLL breaks. The same rule then picks the next among the rest. Runs that diverged are
    left out.
    """
    rest = [(c, m) for c, m in candidates if np.isfinite(m["nll"]) and np.isfinite(m["accuracy"])]
    order = []
    while rest:
        best = max(m["accuracy"] for _, m in rest)
        error = float(np.sqrt(best * (1 - best) / held_out))
        tied = [(c, m) for c, m in rest if m["accuracy"] >= best - error]
        pick = min(tied, key=lambda item: item[1]["nll"])
        order.append(pick[0])
        rest.remove(pick)
    return order


def with_values(config: Config, values: Mapping[str, float]) -> Config:
    """``config`` with searched settings."""
    return replace(config, **values)  # type: ignore[arg-type]
