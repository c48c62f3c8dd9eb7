"""Judges of the claims as functions of numbers: each can come out in every way that it knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from experiments.deep import cost
from experiments.theory import fig7, theorem2

KEYS = ("relaxed", "sampled_20", "exact_f", "laplace")


def posteriors(widths: dict[str, tuple[float, float, float]], shift: float = 0.1) -> dict[str, Any]:
    """Numbers of Fig. 7 at one prior: (narrowest direction, geometric mean, widest direction) of each posterior."""
    methods = {}
    for name in KEYS:
        low, middle, high = widths.get(name, (1.0, 1.0, 1.0))
        methods[name] = {
            "width": middle,
            "width_by_seed": [middle],
            "width_min_by_seed": [low],
            "width_max_by_seed": [high],
            "mean_shift_by_seed": [shift],
            "mean_shift": shift,
            "relaxed": 0.0,
            "kl_q_p": 0.0,
            "kl_p_q": 0.0,
            "kl_two_ways": 0.0,
        }
    why = {"sampled_with_tangents_at_atoms": 1.0, "certified": 1.0, "sampled": 1.0}
    return {"methods": methods, "why": why, "log_evidence_difference": 0.0, "routes": {"posterior_difference": 0.0}}


@pytest.mark.parametrize(
    ("widths", "shift", "verdict", "by_axis"),
    [
        ({}, 0.1, "held", {"relaxed": ["1"], "sampled_20": ["1"]}),
        ({"relaxed": (0.1, 0.2, 0.4)}, 0.1, "held only if", {"sampled_20": ["1"]}),
        ({"relaxed": (0.1, 0.2, 0.4), "sampled_20": (0.3, 0.7, 1.0)}, 0.1, "held only if", {}),
        ({"relaxed": (0.1, 0.2, 0.4), "sampled_20": (0.3, 0.4, 0.5)}, 0.1, "refuted", {}),
        ({"sampled_20": (1.0, 2.1, 3.0)}, 0.1, "held only if", {"relaxed": ["1"]}),
        ({}, 1.1, "refuted", {}),
    ],
)
def test_c1(
    widths: dict[str, tuple[float, float, float]], shift: float, verdict: str, by_axis: dict[str, list[str]]
) -> None:
    claim = fig7.claim_approximation({"1": posteriors(widths, shift)}, (20,))
    assert claim.verdict == verdict
    assert claim.numbers["kept by the worst direction"] == by_axis
    assert claim.would_change


def test_c1_names_the_priors() -> None:
    narrow = dict.fromkeys(("relaxed", "sampled_20"), (0.1, 0.2, 0.3))
    claim = fig7.claim_approximation({"1": posteriors({}), "0.01": posteriors(narrow)}, (20,))
    assert claim.verdict == "held only if"
    assert claim.condition == "the certified f** (delta0 = 1); sampled f**, K = 20 (delta0 = 1)"


@pytest.mark.parametrize(
    ("residual", "valid", "verdict"), [(1e-12, 4, "held"), (1e-12, 3, "held only if"), (1e-3, 4, "refuted")]
)
def test_b3(residual: float, valid: int, verdict: str) -> None:
    columns: dict[str, Any] = {
        "pairs": [4],
        "valid_priors": [valid],
        "pair_residual": [residual],
        "pair_distance": [0.0],
        "pairs_complete": [1],
    }
    claim = theorem2._claim_pairs({name: np.array(values) for name, values in columns.items()})
    assert claim.verdict == verdict
    assert bool(claim.condition) == (verdict == "held only if")


@pytest.mark.parametrize(
    ("ratios", "noise", "verdict"),
    [
        ({"a": 1.04, "b": 1.0}, {"a": 1.0, "b": 1.05}, "held"),
        ({"a": 1.04, "b": 1.2}, {"a": 1.0, "b": 1.0}, "held only if"),
        ({"a": 1.04, "b": 1.0}, {"a": 1.1, "b": 1.2}, "refuted"),
    ],
)
def test_d1(ratios: dict[str, float], noise: dict[str, float], verdict: str) -> None:
    assert cost.verdict(ratios, noise)[0] == verdict
