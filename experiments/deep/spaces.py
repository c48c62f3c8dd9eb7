"""The search spaces of the hyperparameters: equally many random draws for every method, all on a log scale."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from experiments.deep.config import Config

__all__ = ["SEARCHED", "SPACES", "TASKS", "base", "draws", "ranked"]

TASKS = {"mlp": "mnist", "lenet5": "fashion-mnist"}

_DECAY = (1e-5, 2e-3)
SPACES: dict[str, dict[str, tuple[float, float]]] = {
    "sgd": {"lr": (3e-3, 0.3), "weight_decay": _DECAY},
    "sam-sgd": {"lr": (3e-3, 0.3), "weight_decay": _DECAY, "rho": (0.01, 0.3)},
    "swag": {"lr": (3e-3, 0.3), "weight_decay": _DECAY, "swag_lr": (0.05, 0.7)},
    "vogn": {"lr": (3e-3, 0.1), "weight_decay": _DECAY, "damping": (0.03, 0.3)},
    "adam": {"lr": (1e-4, 1e-2), "weight_decay": _DECAY},
    "sam-adam": {"lr": (1e-4, 1e-2), "weight_decay": _DECAY, "rho": (0.01, 0.3)},
    "bsam": {"lr": (0.02, 1.0), "weight_decay": _DECAY, "rho": (1e-4, 0.1)},
    "bsam-sqrt-n": {"lr": (0.02, 1.0), "weight_decay": _DECAY, "rho": (1e-4, 0.1)},
    "ivon": {"lr": (3e-3, 0.2), "weight_decay": _DECAY, "s_init": (0.03, 1.0)},
}
SEARCHED = tuple(SPACES)

# What a method is given besides its searched settings; m = 8 wherever a step has perturbations or weight samples.
FIXED: dict[str, dict[str, object]] = {
    "sgd": {},
    "sam-sgd": {"parts": 8},
    "swag": {},
    "vogn": {"parts": 8, "s_init": 0.1},
    "adam": {},
    "sam-adam": {"parts": 8},
    "bsam": {"parts": 8},
    "bsam-sqrt-n": {"parts": 8, "sqrt_n": True},
    "ivon": {"parts": 8, "beta2": 0.9999},
}


def base(model: str, entry: str, dataset: str | None = None) -> Config:
    """The unsearched settings of ``entry`` (a method, or bsam-sqrt-n) on the task of ``model``."""
    method = entry.removesuffix("-sqrt-n")
    return Config(dataset or TASKS[model], model, method, **FIXED[entry])  # type: ignore[arg-type]


def draws(model: str, entry: str, budget: int, epochs: int, seed: int = 0) -> list[Config]:
    """``budget`` configurations of ``entry``, each setting log-uniform in its range, the same on every machine."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{model}/{entry}".encode())])
    found = []
    for _ in range(budget):
        values = {
            name: float(f"{np.exp(rng.uniform(np.log(low), np.log(high))):.3g}")
            for name, (low, high) in SPACES[entry].items()
        }
        start = replace(base(model, entry), epochs=epochs, select=True, seed=seed)
        found.append(replace(start, **values))  # type: ignore[arg-type]
    return found


def ranked(candidates: list[tuple[Config, dict[str, float]]], held_out: int) -> list[Config]:
    """(configuration, validation metrics) in the order of preference.

    As in the paper validation accuracy decides; accuracies within one binomial standard error of the best are a tie,
    which the lower validation NLL breaks. The same rule then picks the next among the rest. Runs that diverged are
    left out.

    Raises:
        ValueError: there are no candidates with finite metrics.
    """
    rest = [(c, m) for c, m in candidates if np.isfinite(m["nll"]) and np.isfinite(m["accuracy"])]
    if not rest:
        raise ValueError("no candidate has finite validation metrics")
    order = []
    while rest:
        best = max(m["accuracy"] for _, m in rest)
        error = float(np.sqrt(best * (1 - best) / held_out))
        tied = [(c, m) for c, m in rest if m["accuracy"] >= best - error]
        pick = min(tied, key=lambda item: item[1]["nll"])
        order.append(pick[0])
        rest.remove(pick)
    return order
