"""Judges of the claims as functions of numbers: each can come out in every way that it knows, and NaN proves nothing.

Defaults are numbers at which a claim just holds: on its thresholds, in the second of two rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from experiments import store
from experiments.deep import cost
from experiments.registry import Claim
from experiments.theory import (
    approximation,
    biconjugates,
    convexity,
    fig1,
    fig2,
    flatness,
    max_loss_form,
    rule_checks,
    theorem1_sides,
    theorem2,
)

NAN, INF = float("nan"), float("inf")


def a1(chord: float = 1e-6, above: float = 1e-6, room: float = 1e-5) -> Claim:
    segments = {"first": {"above_chord": -1.0, "above_f": -1.0}, "second": {"above_chord": chord, "above_f": above}}
    return convexity.claim_a1(segments, {"first": {"room": 0.0}, "second": {"room": room}})


def a2(holds: bool | None = True, difference: float = 1e-9, *, finite: bool = True) -> Claim:
    row = {"both_finite": finite, "difference": 0.0, "over_theta": 1.0, "final_std": 1e-4}
    rows = [row, {**row, "difference": difference}]
    verdicts = {name: {"holds": h, "worst": 0.0, "rows": rows} for name, h in (("wells", True), ("logistic", holds))}
    return theorem1_sides.claim_a2(verdicts)


def a3(upper: float = 1.0, certified: float = 1.0, finite_values: int = 0, order: float = 3.91) -> Claim:
    growth = {"tried": 5, "finite_values": finite_values, "order": order}
    finite = {"first": {"upper": 1.0, "certified": 1.0}, "second": {"upper": upper, "certified": certified}}
    return theorem1_sides.claim_a3(finite, growth)


def a4(finite: int = 0, growing: int = 10, upper: float = 1.0, gap: float = -1e-6) -> Claim:
    probes = [{"tried": 10, "finite": f, "growing_on_a_ray": g} for f, g in ((0, 10), (finite, growing))]
    none = {"upper": INF, "gap": INF, "value": 0.0}
    boundary = {"none": none, "indicator": {"upper": upper, "gap": gap, "value": 1.0}}
    return theorem1_sides.claim_a4(dict(zip("ab", probes, strict=True)), boundary)


def a5(bernoulli: float = -1e-6, gamma: float = 2e-6, hump: float = 1e-8, wells: float = 1.1e-5) -> Claim:
    families = {
        "Bernoulli": [{"gap": 0.0, "over_theta": 0.0}, {"gap": bernoulli, "over_theta": 0.0}],
        "Gamma": [{"gap": 0.0, "over_theta": 0.0}, {"gap": gamma, "over_theta": -1.0}],
    }
    humps = [{"sd": s, "gap": 0.25 + h, "closed_form": 0.25} for s, h in ((0.5, 0.0), (1.0, hump))]
    return theorem1_sides.claim_a5(
        families, {"hump": humps, "wells": [{"sd": 1.0, "gap": 0.5}, {"sd": 0.05, "gap": wells}]}
    )


def a6(miss: float = -2e-6, raw: float = 0.011) -> Claim:
    rows = [
        {"miss_of_envelope": m, "miss_of_raw": r, "over_theta_envelope": -1.0} for m, r in ((0.0, 0.0), (miss, raw))
    ]
    return theorem1_sides.claim_a6(rows)


def a7(conjugate: float = -1e-6, biconjugate: float = 1e-6) -> Claim:
    both = [{"first": {"difference": 0.0}, "second": {"difference": d}} for d in (conjugate, biconjugate)]
    return max_loss_form.claim_a7(*both)


def a8(
    lost: float = 1.0, flat: float = INF, roots: float = 0.991, below: float = 1e-9, above: float = -1e-9,
    stays: float = 1e-9, error: float = 9e-4, order: float = 0.01, single: float = 1e-6, certified: float = 1.0,
) -> Claim:  # fmt: skip
    """``order``: the error at the sigma before the last."""
    wells = {"expected": {"A": 0.5, "C": 1.0, "B": INF}, "relaxed": {"A": 0.5, "C": lost, "B": flat}}
    barriers = {"A": {"below": 1.0, "above": -1.0}, "C": {"below": below, "above": above}}
    barriers["B"] = {"below": 1.0, "above": stays}
    limit = {"sigmas": [0.1, 0.03, 0.003], "errors": [0.1, order, error], "order": 1.0}
    checks = {"a": {"difference": 0.0, "certified": 1.0}, "b": {"difference": single, "certified": certified}}
    return fig1._claim(wells, {"A": 0.5, "C": roots, "B": INF}, barriers, limit, checks)


def a8_surface(single: float = 1e-6, excess: float = 1e-9, limit: float = 1e-2, *, certified: bool = True) -> Claim:
    numbers = {"worst_against_single_solves": single, "largest_excess_over_f": excess, "limit": limit}
    return fig2.claim_surface(numbers, 9, certified=certified)


def b1(violation: float = 2e-9, again: float = 2.0 - 2e-6, exact: float = 2.0) -> Claim:
    """The second way is not taken at the first Gaussian."""
    found = {"margin": [0.1, -1e-12, 0.0], "violation": [-0.1, violation, 0.0], "again": [NAN, again, 1.0]}
    found |= {"relaxed": [1.1, 2.0, 1.0], "exact": [1.0, exact, 1.0]}  # type: ignore[dict-item]
    return rule_checks.claim_bound({name: np.array(values) for name, values in found.items()})


def b2(
    rule: float = 2.0 + 1.9e-6, posterior: float = 1e-4, search: float = 2.0 - 1.9e-6, converged: float = 1.0,
    extra: float = 1e-6, extra_posterior: float = 1e-4,
) -> Claim:  # fmt: skip
    found = {"rule": [1.0, rule], "direct": [1.0, 2.0], "posterior_difference": [0.0, posterior]}
    found |= {"converged": [1.0, converged], "residual": [0.0, 0.0], "search": [NAN, search]}
    return rule_checks.claim_routes(
        {name: np.array(values) for name, values in found.items()},
        {"value_difference": extra, "posterior_difference": extra_posterior},
    )


def b3(residual: float = 1e-9, distance: float = 1e-7, valid: int = 4) -> Claim:
    columns: dict[str, Any] = {"pairs": [2, 2], "valid_priors": [2, valid - 2], "pairs_complete": [1, 1]}
    columns |= {"pair_residual": [0.0, residual], "pair_distance": [0.0, distance]}
    return theorem2._claim_pairs({name: np.array(values) for name, values in columns.items()})


# A cell of the atlas, by name: kink, active, prior_valid, proximal_maximizer, maps_to_global, maps_to_local, holds.
CELLS = {
    "holds": (0, 1, 1, 1, 1, 1, 1),
    "kink": (1, 1, 1, 0, 0, 0, 0),
    "no prior": (0, 1, 0, 1, 1, 1, 0),
    "no maximizer": (0, 1, 1, 0, 0, 0, 0),
    "no maximizer, yet global": (0, 1, 1, 0, 1, 1, 0),
    "another's": (0, 1, 1, 1, 0, 1, 0),
    "open": (0, 1, 1, 1, -1, 1, -1),
    "inactive": (0, 0, 1, 1, 1, 1, 0),
}


def b4(*cells: str) -> Claim:
    names = ("kink", "active", "prior_valid", "proximal_maximizer", "maps_to_global", "maps_to_local", "holds")
    columns = {name: np.array([CELLS[c][k] for c in cells], dtype=float) for k, name in enumerate(names)}
    columns |= {"dim": np.ones(len(cells)), "duality_gap": np.zeros(len(cells))}
    columns |= dict.fromkeys(("sam_deviation", "relaxed_deviation"), np.zeros(len(cells)))
    return theorem2._claim_minimizers({"pooled": theorem2._pooled(columns), "zoom_deviation": 0.0, "zoom_cells": 1})


def b5(
    monotone: int = 60, last: float = 1.0, flatter: int = 9, sharper: int = 0, *, once: bool = True, dimple: bool = True
) -> Claim:
    """``flatter``, ``sharper``: in one of six cells; ``monotone`` of 60 losses in one of them, all in the others."""
    cell = {"losses": 60, "monotone": 60, "jumps": 9, "to smaller curvature": 9, "to smaller sharpness": 9}
    cell |= {"flatter at the largest scale": 0, "sharper at the largest scale": 0}
    last_cell = cell | {
        "monotone": monotone, "flatter at the largest scale": flatter, "sharper at the largest scale": sharper
    }  # fmt: skip
    path = {"monotone": True, "first": 9.0, "last": 1.0}
    numbers: dict[str, Any] = {
        "random": dict.fromkeys(flatness.METHODS, cell),
        "clustered": dict.fromkeys(flatness.METHODS, cell) | {"Bayes": last_cell},
        "three wells": dict.fromkeys(flatness.METHODS, path)
        | {"Bayes": path | {"monotone": once, "last": last}, "thresholds": {m: [0.5, 0.6] for m in flatness.METHODS}},
        "dimple": {m: {"jumps": [{"from": 31.0, "to": 1.0}] if dimple else []} for m in flatness.METHODS},
        "checks": {"same_well": 1, "compared": 1, "sam_value": 0, "relaxed_value": 0, "bayes_value": 0},
    }
    return flatness._claim(numbers, 60)


def b6(
    rise: float = 3e-10, proved: float = 1e-12, width: float = 1e-10, again: float = 1e-6, finite: float = 1.0
) -> Claim:
    found = {"rise": [-1.0, rise], "proved_rise": [-1.0, proved], "width": [1e-9, width], "second_rise": [-INF, again]}
    found |= {"second_difference": [0.0, 0.0], "finite": [1.0, finite], "damped": [0.0, 0.0]}
    return rule_checks.claim_monotone({name: np.array(values) for name, values in found.items()})


def c4(
    whole: float = -1.0, block: float = -1.1, datum: float = -1.2, dense: float = -1.1 + 1e-3, closed: float = -1.2
) -> Claim:
    """Brackets are points; one pair of q and order is beside it in which everything is well."""
    lower = np.array([[-1.0, -1.1, -1.2], [whole, block, datum]])
    second = np.array([[-1.0, -1.1 + 1e-3, -1.2], [NAN, dense, closed]])
    return biconjugates._claim_c4({"lower": lower, "upper": lower.copy(), "second": second}, (1, 2, 60))


def c1(
    relaxed: tuple[float, ...] = (0.5, 2.0), sampled: float = 2.0, shift: float = 1.0, source: str = "certified"
) -> Claim:
    """Widths on two data sets; ``source``: what f** is on the second."""
    rows: dict[str, Any] = {}
    for k, width in enumerate(relaxed):
        each = {"mean_shift": shift, "kl_q_p": 0.0, "kl_from_exact": 0.0, "nll": 0.0, "elbo": 0.0, "relaxed_lower": 0.0}
        rows[str(k)] = {name: {**each, "width": 1.0} for name in (*approximation.METHODS, "exact")}
        rows[str(k)]["relaxed"] |= {"width": width, "source": source if k else "certified"}
        rows[str(k)]["sampled"]["width"] = sampled
        rows[str(k)] |= {"log_evidence": 0.0, "log_evidence_error": 0.0}
    return approximation.judge_on_data(rows)


OUTCOMES: list[tuple[Callable[..., Claim], dict[str, Any], str]] = [
    (a1, {}, "held"), (a1, {"chord": 1.1e-6}, "refuted"), (a1, {"above": 1.1e-6}, "refuted"),
    (a1, {"room": 1.1e-5}, "refuted"),
    (a2, {}, "held"), (a2, {"holds": False}, "refuted"), (a2, {"holds": None}, "undecided"),
    (a2, {"finite": False}, "undecided"),
    (a3, {}, "held"), (a3, {"upper": INF}, "refuted"), (a3, {"certified": 0.0}, "refuted"),
    (a3, {"finite_values": 1}, "refuted"), (a3, {"order": 3.9}, "refuted"),
    (a4, {}, "held"), (a4, {"finite": 1}, "refuted"), (a4, {"growing": 9}, "refuted"), (a4, {"upper": INF}, "refuted"),
    (a4, {"gap": -2e-6}, "refuted"), (a4, {"gap": 2e-6}, "refuted"),
    (a5, {}, "held"), (a5, {"bernoulli": -2e-6}, "refuted"), (a5, {"gamma": 3e-6}, "refuted"),
    (a5, {"hump": 2e-8}, "refuted"), (a5, {"wells": 1e-5}, "refuted"),
    (a6, {}, "held"), (a6, {"miss": -3e-6}, "refuted"), (a6, {"raw": 0.01}, "refuted"),
    (a7, {}, "held"), (a7, {"conjugate": -2e-6}, "refuted"), (a7, {"biconjugate": 2e-6}, "refuted"),
    (a8, {}, "held"), (a8, {"lost": INF}, "refuted"), (a8, {"flat": 5.0}, "refuted"), (a8, {"roots": 0.98}, "refuted"),
    (a8, {"below": 0.0}, "refuted"), (a8, {"above": 0.0}, "refuted"), (a8, {"stays": 0.0}, "refuted"),
    (a8, {"error": 1e-3}, "refuted"), (a8, {"order": 0.1}, "refuted"), (a8, {"single": 2e-6}, "refuted"),
    (a8, {"certified": 0.0}, "refuted"),
    (a8_surface, {}, "held"), (a8_surface, {"single": 2e-6}, "refuted"), (a8_surface, {"excess": 2e-9}, "refuted"),
    (a8_surface, {"limit": 0.02}, "refuted"), (a8_surface, {"certified": False}, "refuted"),
    (b1, {}, "held"), (b1, {"violation": 3e-9}, "refuted"), (b1, {"again": 2.0 - 3e-6}, "refuted"),
    (b2, {}, "held"), (b2, {"rule": 2.0 + 3e-6}, "refuted"), (b2, {"posterior": 2e-4}, "refuted"),
    (b2, {"search": 2.0 - 3e-6}, "refuted"), (b2, {"converged": 0.0}, "refuted"), (b2, {"extra": 2e-6}, "refuted"),
    (b2, {"extra_posterior": 2e-4}, "refuted"),
    (b3, {}, "held"), (b3, {"valid": 3}, "held only if"), (b3, {"residual": 2e-9}, "refuted"),
    (b3, {"distance": 2e-7, "valid": 3}, "refuted"),
    (b5, {}, "held"), (b5, {"dimple": False}, "held"), (b5, {"monotone": 59}, "held only if"),
    (b5, {"monotone": 59, "flatter": 8}, "held only if"), (b5, {"monotone": 59, "flatter": 7}, "refuted"),
    (b5, {"monotone": 59, "flatter": 0, "sharper": 9}, "refuted"), (b5, {"monotone": 59, "flatter": 0}, "refuted"),
    (b5, {"once": False}, "refuted"), (b5, {"last": 9.0}, "refuted"),
    (b6, {}, "held"), (b6, {"rise": 4e-10}, "refuted"), (b6, {"proved": 2e-12}, "refuted"),
    (b6, {"again": 2e-6}, "refuted"), (b6, {"finite": 0.0}, "refuted"),
    (b6, {"finite": 0.0, "width": NAN, "rise": NAN}, "refuted"),
    (c1, {}, "held"), (c1, {"relaxed": (0.4, 0.4)}, "held only if"), (c1, {"sampled": 2.1}, "held only if"),
    (c1, {"relaxed": (0.4, 2.1), "sampled": 2.1}, "refuted"), (c1, {"shift": 1.1}, "refuted"),
    (c1, {"relaxed": (1.0, 0.1), "source": "proved majorant"}, "held"),
    (c1, {"relaxed": (0.1, 1.0), "source": "proved majorant"}, "held only if"),
    (c4, {}, "held"), (c4, {"block": -0.9, "dense": -0.9}, "refuted"), (c4, {"dense": -1.1 - 1e-6}, "refuted"),
    (c4, {"dense": -1.1 + 3e-3}, "refuted"), (c4, {"closed": -1.2 + 1e-7}, "refuted"),
]  # fmt: skip


@pytest.mark.parametrize(("judge", "changes", "word"), OUTCOMES, ids=lambda v: getattr(v, "__name__", None))
def test_every_outcome(judge: Callable[..., Claim], changes: dict[str, Any], word: str) -> None:
    claim = judge(**changes)
    assert claim.verdict == word
    assert bool(claim.condition) == (word in ("held only if", "undecided"))


@pytest.mark.parametrize(
    ("judge", "name"),
    [
        *((a1, n) for n in ("chord", "above", "room")), (a2, "difference"),
        *((a5, n) for n in ("bernoulli", "gamma", "hump", "wells")), *((a6, n) for n in ("miss", "raw")),
        *((a7, n) for n in ("conjugate", "biconjugate")),
        *((a8, n) for n in ("lost", "roots", "below", "above", "stays", "error", "order", "single")),
        *((a8_surface, n) for n in ("single", "excess", "limit")), *((b1, n) for n in ("violation", "exact")),
        *((b2, n) for n in ("rule", "posterior", "extra", "extra_posterior")),
        *((b3, n) for n in ("residual", "distance")),
        *((b6, n) for n in ("proved", "width", "again")), *((c4, n) for n in ("whole", "block", "closed")),
    ],
)  # fmt: skip
def test_what_could_not_be_measured_decides_nothing(judge: Callable[..., Claim], name: str) -> None:
    """Wherever the NaN stands: Python's max passes over one that is not the first."""
    claim = judge(**{name: NAN})
    assert claim.verdict == "undecided"
    assert "could not be measured" in claim.condition


@pytest.mark.parametrize(
    ("changes", "condition"),
    [
        ({"relaxed": (0.4, 0.4)}, "f** is the sampled program"),
        ({"relaxed": (1.0, 0.4)}, "f** is the true one on 0 or the sampled program"),
        ({"sampled": 2.1}, "f** is the true one"),
    ],
)
def test_c1_says_with_which_biconjugate_and_where(changes: dict[str, Any], condition: str) -> None:
    assert c1(**changes).condition == condition


@pytest.mark.parametrize(
    ("cells", "word", "condition"),
    [
        (("holds", "holds"), "held", ""),
        (("holds", "kink", "no prior", "no maximizer", "inactive"), "held only if", "no kink"),
        (("holds", "no maximizer, yet global"), "held only if", "no kink"),
        (("holds", "another's"), "refuted", ""),
        (("holds", "open", "another's"), "refuted", ""),
        (("holds", "holds", "open"), "undecided", "1 of 3"),
        (("kink", "no prior"), "refuted", ""),
    ],
)
def test_b4(cells: tuple[str, ...], word: str, condition: str) -> None:
    claim = b4(*cells)
    assert claim.verdict == word
    assert condition in claim.condition
    assert bool(claim.condition) == bool(condition)


def test_b4_counts_what_it_says() -> None:
    found = b4(
        "holds", "holds", "kink", "no maximizer", "no maximizer, yet global", "no prior", "inactive", "open"
    ).numbers
    assert found["pair"] == 6
    assert found["pair with a prior"] == 5
    assert found["pair, prior, proximal maximizer"] == 3
    assert found["of these the global relaxed minimizer"] == 2
    assert found["of these not even a local relaxed minimizer"] == 1
    assert found["of these still the global relaxed minimizer"] == 1
    assert (found["kink, P = 1"], found["kink, P = 2"], found["inactive"]) == (1, 0, 1)
    assert (found["holds"], found["fails"], found["undecided"], found["cells"]) == (2, 5, 1, 8)


KEYS = ("relaxed", "sampled_20", "exact_f", "laplace")


def at_one_prior(widths: dict[str, tuple[float, float, float]], shift: float = 0.1) -> dict[str, Any]:
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
    claim = approximation.judge_sampled({"1": at_one_prior(widths, shift)}, (20,))
    assert claim.verdict == verdict
    assert claim.numbers["kept by the worst direction"] == by_axis
    assert claim.would_change


def test_c1_names_the_priors() -> None:
    narrow = dict.fromkeys(("relaxed", "sampled_20"), (0.1, 0.2, 0.3))
    claim = approximation.judge_sampled({"1": at_one_prior({}), "0.01": at_one_prior(narrow)}, (20,))
    assert claim.verdict == "held only if"
    assert claim.condition == "the certified f** (delta0 = 1); sampled f**, K = 20 (delta0 = 1)"


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


@pytest.mark.parametrize(
    ("name", "id_", "judge"),
    [
        ("fig7", "C1", lambda numbers: approximation.judge_sampled(numbers, (20, 100, 400))),
        ("posteriors", "C1", approximation.judge_on_data),
        ("theorem2", "B4", theorem2._claim_minimizers),
    ],
)
def test_stored_verdicts_are_those_of_the_judges(name: str, id_: str, judge: Callable[[Any], Claim]) -> None:
    record = json.loads((Path(store.__file__).parent / "results" / f"{name}.json").read_text())
    stored = next(claim for claim in record["claims"] if claim["id"] == id_)
    claim = judge(record["numbers"])
    assert (claim.verdict, claim.condition, claim.statement) == tuple(
        stored[key] for key in ("verdict", "condition", "statement")
    )
