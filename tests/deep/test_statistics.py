"""Statistics, verdicts that can come out either way, schedules, the selection rule, and the committed choice."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments.deep import (
    best,
    large,
    plans,
    search,
    sensitivity,
    spaces,
    sqrtn,
    table3,
    table4,
    table5,
    verdicts,
)
from experiments.deep.config import Config
from experiments.deep.statistics import paired
from experiments.deep.summary import NAMES, Groups
from experiments.registry import Context

METRICS = ("accuracy", "nll", "ece", "auroc")


def test_paired_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=6), rng.normal(size=6) + 1
    found, reference = paired(a, b), stats.ttest_rel(a, b)
    interval = reference.confidence_interval(0.95)
    assert found.p == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.bootstrap_low < found.mean < found.bootstrap_high
    with pytest.raises(ValueError, match="equal numbers"):
        paired(a, b[:3])


GOOD = {"accuracy": 1, "nll": -1, "ece": -1, "auroc": 1}


def shifted(shift: float, seed: int, noise: float = 0.001) -> dict[str, np.ndarray]:
    """Metrics of five seeds, better than another's by ``shift``."""
    rng = np.random.default_rng(seed)
    return {m: 0.5 + GOOD[m] * shift + noise * rng.normal(size=5) for m in METRICS}


OUTCOMES = [(0.1, 0.001, "held"), (-0.1, 0.001, "refuted"), (0.0, 1e-5, "refuted"), (0.0, 0.05, "undecided")]


@pytest.mark.parametrize(("shift", "noise", "word"), OUTCOMES)
def test_verdicts_follow_the_numbers(shift: float, noise: float, word: str) -> None:
    """Better, worse, shown to be no different, and not shown."""
    pair: Groups = {("T", table3.WITHOUT): shifted(0, 0, noise), ("T", table3.WITH): shifted(shift, 1, noise)}
    assert table3.judge(pair, pair).verdict == word
    factor: Groups = {("T", sqrtn.WITH): shifted(0, 0, noise), ("T", sqrtn.WITHOUT): shifted(shift, 1, noise)}
    assert sqrtn.judge(factor, factor).verdict == word
    counts: Groups = {("T", k): shifted(s, i, noise) for i, (k, s) in enumerate([("mean", 0), ("1", 0), ("8", shift)])}
    assert table4.judge(counts, ["1", "8"]).verdict == word
    parts: Groups = {
        (name, m): shifted(s, 10 * i + j, noise)
        for i, name in enumerate(("bSAM", "SAM-SGD"))
        for j, (m, s) in enumerate([("1", 0), ("2", shift / 2), ("4", shift)])
    }
    assert table5.judge(parts).verdict == word


def test_a_weak_search_refutes_nothing_and_holds_with_a_condition() -> None:
    """The doubt about the search is the condition of D7."""
    words = {}
    for shift in (0.1, -0.1):
        factor: Groups = {("T", sqrtn.WITH): shifted(0, 0), ("T", sqrtn.WITHOUT): shifted(shift, 1)}
        claim = sqrtn.judge(factor, factor, doubt="few draws")
        words[shift] = claim.verdict, claim.condition
    assert words == {0.1: ("held only if", "at the settings found: few draws"), -0.1: ("undecided", "few draws")}


def test_the_other_methods_are_searched_as_much_as_the_papers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Beside a stored search of the paper's methods its plan holds; without one the usual plan."""
    few = asdict(search.Plan(draws=12, first=8))
    log = [{"entry": "bsam", "rung": 1}] * 12
    numbers = {"chosen": {"bsam": dict.fromkeys("abcd", 1.0)}, "at the edge in the end": {"bsam": {}}, "log": log}
    stored = {"search_lenet5": {"settings": {**few, "device": "cpu"}, "numbers": numbers}}
    monkeypatch.setattr(plans, "_search", lambda name: stored.get(name, {}))
    full = Context("full", 0, None, 1, tmp_path, False)
    assert search._plan(full, "lenet5", spaces.EXTRAS) == search.Plan(draws=12, first=8)
    assert search._plan(full, "lenet5", spaces.PAPERS) == search._plan(full, "mlp", spaces.EXTRAS) == search.Plan()
    assert plans.weakness("lenet5") == "lenet5: a search of 12 draws over 4 settings may have missed bSAM's best"
    assert not plans.weakness("lenet5", "bsam-sqrt-n")


def test_a_condition_names_the_task() -> None:
    """Better in half of the places and worse in none: held; worse in another task: held only if, with the task.

    One place of four is not enough.
    """
    pair: Groups = {
        ("A", table3.WITHOUT): shifted(0, 0),
        ("A", table3.WITH): shifted(0.1, 1),
        ("B", table3.WITHOUT): shifted(0, 2, 0.05),
        ("B", table3.WITH): shifted(0, 3, 0.05),
    }
    claim = table3.judge(pair, pair)
    assert (claim.verdict, claim.condition) == ("held", "")
    pair["B", table3.WITH] = {m: v - GOOD[m] * 0.5 for m, v in pair["B", table3.WITH].items()}
    claim = table3.judge(pair, pair)
    assert (claim.verdict, claim.condition) == ("held only if", "on A")
    one = {("A", table3.WITHOUT): shifted(0, 0, 0.05), ("A", table3.WITH): shifted(0, 1, 0.05)}
    one["A", table3.WITH] = {**one["A", table3.WITH], "nll": one["A", table3.WITHOUT]["nll"] - 0.1}
    assert table3.judge(one, one).verdict == "undecided"


@pytest.mark.parametrize(
    ("shifts", "word", "condition"),
    [
        ({"A": 0.1, "B": 0.1}, "held", ""),
        ({"A": 0.0, "B": 0.0}, "held", ""),
        ({"A": -0.1, "B": -0.1}, "refuted", ""),
        ({"A": -0.1, "B": 0.1}, "refuted", ""),
    ],
)
def test_best_or_tied(shifts: dict[str, float], word: str, condition: str) -> None:
    groups: Groups = {(t, n): shifted(0, i, 1e-4) for t in shifts for i, n in enumerate(("SGD", "Adam", "IVON"))}
    groups |= {(task, "bSAM"): shifted(shift, 9, 1e-4) for task, shift in shifts.items()}
    claim = best.judge(groups, groups)
    assert claim.verdict == word
    groups["A", "IVON"] = shifted(0.5, 3)  # ours, and not among those that the claim is about
    assert best.judge(groups, groups).verdict == word


def test_best_on_one_task_only_and_open() -> None:
    groups: Groups = {(t, n): shifted(0, i, 1e-4) for t in "AB" for i, n in enumerate(("SGD", "Adam"))}
    groups["A", "bSAM"] = shifted(0.1, 9)
    groups["B", "bSAM"] = {m: (v - GOOD[m] * 0.1 * (m == "ece")) for m, v in shifted(0.1, 9).items()}
    groups["B", "bSAM"]["ece"] = groups["B", "SGD"]["ece"] + 0.1
    claim = best.judge(groups, groups)
    assert (claim.verdict, claim.condition) == ("held only if", "on A")
    wide: Groups = {("A", "SGD"): shifted(0, 0, 0.05), ("A", "bSAM"): shifted(-0.03, 1, 0.05)}
    assert best.judge(wide, wide).verdict == "undecided"


def test_a_best_that_may_not_be_at_its_best_is_not_refuted() -> None:
    groups: Groups = {("A", "SGD"): shifted(0.1, 0), ("A", "bSAM"): shifted(0, 1)}
    claim = best.judge(groups, groups, doubt="rho at an edge")
    assert (claim.verdict, claim.condition) == ("undecided", "rho at an edge")
    groups["A", "bSAM"] = shifted(0.2, 1)
    assert best.judge(groups, groups, doubt="rho at an edge").verdict == "held"


def test_most_places_but_not_all() -> None:
    """Not refuted by one place beaten of four: held but for that one, which is named."""
    groups: Groups = {("A", "SGD"): shifted(0, 0), ("A", "bSAM"): shifted(0.1, 1)}
    groups["A", "bSAM"]["ece"] = groups["A", "SGD"]["ece"] + 0.1
    claim = best.judge(groups, groups)
    assert (claim.verdict, claim.condition) == ("held only if", "not judged by A, ece")


@pytest.mark.parametrize("order", [("diverged", "SGD"), ("SGD", "diverged")])
@pytest.mark.parametrize(("shift", "word"), [(0.1, "held"), (-0.01, "undecided"), (-0.1, "refuted")])
def test_another_that_diverged_is_not_ahead_wherever_it_stands(order: tuple[str, str], shift: float, word: str) -> None:
    values = {"SGD": shifted(0, 0, 0.01), "diverged": dict.fromkeys(METRICS, np.full(5, np.nan))}
    groups: Groups = {("A", name): values[name] for name in order}
    groups["A", "bSAM"] = shifted(shift, 1, 0.01)
    assert best.judge(groups, groups).verdict == word


def test_nothing_to_compare_with_and_a_diverged_network_decide_nothing() -> None:
    alone: Groups = {("A", "bSAM"): shifted(0, 0)}
    assert best.judge(alone, alone).verdict == "undecided"
    found, rhos = curves(0.01, 0.2)
    claim = sensitivity.judge({"bSAM": found["bSAM"]}, {"bSAM": rhos["bSAM"]}, METRICS, 10)
    assert (claim.verdict, claim.condition) == ("undecided", "nothing to compare with")
    gone: Groups = {("A", "SGD"): shifted(0, 0), ("A", "bSAM"): dict.fromkeys(METRICS, np.full(5, np.nan))}
    assert best.judge(gone, gone).verdict == "undecided"
    pair: Groups = {("A", table3.WITHOUT): shifted(0, 0), ("A", table3.WITH): gone["A", "bSAM"]}
    assert table3.judge(pair, pair).verdict == "undecided"


def test_helps_in_half_of_the_places_with_a_reversal() -> None:
    pair: Groups = {("A", table3.WITHOUT): shifted(0, 0), ("A", table3.WITH): shifted(0.1, 1)}
    pair["A", table3.WITH]["nll"] = pair["A", table3.WITHOUT]["nll"] + 0.1
    claim = table3.judge(pair, pair)
    assert claim.verdict == "held only if"
    assert claim.condition.endswith("it is the reverse in A, nll")
    assert "A, accuracy" in claim.condition


def test_a_table_that_is_not_finished_is_not_run() -> None:
    """D3 on the tasks of which every method of the paper has its seeds."""
    names = [NAMES[m] for m in large.METHODS if m != "ivon"]
    groups: Groups = {("A", name): shifted(0.1 * (name == "bSAM"), i) for i, name in enumerate(names)}
    few = {m: v[: large.SEEDS - 1] for m, v in groups["A", "SGD"].items()}
    claim = large._claim(groups | {("A", "SGD"): few}, groups, "5 of 9 runs", "python -m experiments run table1")
    assert (claim.verdict, claim.numbers["command"]) == ("not run", "python -m experiments run table1")
    other: Groups = {("B", label[1]): v for label, v in groups.items() if label[1] != "SGD"}
    claim = large._claim(groups | other, groups | other, "", "")
    assert claim.verdict == "held"
    assert {place.split(",")[0] for place in claim.numbers["places"]} == {"A"}


def curves(flat: float, steep: float, noise: float = 1e-4) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Parabolas in log rho; bSAM's with the curvature ``flat``."""
    rng = np.random.default_rng(0)
    x = np.arange(-3, 4) / 3
    found = {}
    for method, curvature in (("SAM-SGD", steep), ("SAM-Adam", steep), ("bSAM", flat)):
        found[method] = {
            m: (0.5 - GOOD[m] * curvature * x**2)[:, None] + noise * rng.normal(size=(7, 3)) for m in METRICS
        }
    return found, dict.fromkeys(found, 10.0**x)


@pytest.mark.parametrize(
    ("flat", "steep", "noise", "word"),
    [(0.01, 0.2, 1e-4, "held"), (0.2, 0.01, 1e-4, "refuted"), (0.1, 0.1, 0.03, "undecided")],
)
def test_sensitivity(flat: float, steep: float, noise: float, word: str) -> None:
    assert sensitivity.judge(*curves(flat, steep, noise), METRICS, 10).verdict == word


def test_least_sensitive_of_some_only() -> None:
    found, rhos = curves(0.05, 0.2)
    found["SAM-Adam"] = {m: v.copy() for m, v in curves(0.01, 0.2)[0]["bSAM"].items()}
    claim = sensitivity.judge(found, rhos, METRICS, 10)
    assert (claim.verdict, claim.condition) == ("held only if", "against SAM-SGD")


def test_a_grid_that_ends_too_early_decides_nothing() -> None:
    found, rhos = curves(0.01, 0.2)
    found["bSAM"] = {m: v[:4] for m, v in found["bSAM"].items()}
    rhos["bSAM"] = rhos["bSAM"][:4]
    claim = sensitivity.judge(found, rhos, METRICS, 10)
    assert claim.verdict == "undecided"
    assert "the grid ends within the window of bSAM" in claim.condition


def test_a_collapsed_network_is_no_ones_best() -> None:
    found, rhos = curves(0.01, 0.2)
    found["SAM-SGD"]["accuracy"][-1] = 0.1
    found["SAM-SGD"]["ece"][-1] = 0.0
    claim = sensitivity.judge(found, rhos, METRICS, 10)
    assert claim.numbers["best rho"]["SAM-SGD, ece"] == 1.0
    assert verdicts.collapsed(0.1, 10)
    assert verdicts.collapsed(float("nan"), 10)
    assert not verdicts.collapsed(0.3, 10)


def test_holm_agrees_with_the_definition() -> None:
    assert verdicts.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert verdicts.holm([float("nan"), 0.01]) == pytest.approx([1.0, 0.02])


def test_the_detectable_difference_is_found_with_that_power() -> None:
    rng = np.random.default_rng(1)
    d = paired(rng.normal(size=40), np.zeros(40))
    spread = (d.high - d.low) / 2 / stats.t.ppf(0.975, 39) * np.sqrt(40)
    trials = rng.normal(d.detectable, spread, size=(4000, 40))
    assert float(np.mean(stats.ttest_1samp(trials, 0, axis=1).pvalue < 0.05)) == pytest.approx(0.8, abs=0.03)


def test_schedules() -> None:
    cosine = Config("digits", "mlp", "sgd", epochs=10, warmup=2)
    factors = [cosine.lr_factor(e) for e in range(10)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert all(a >= b for a, b in pairwise(factors[2:]))
    assert cosine.lr_factor(10) == pytest.approx(0)
    step = Config("digits", "mlp", "sgd", epochs=10, schedule="step", milestones=(4, 8))
    assert [step.lr_factor(e) for e in (3, 4, 8)] == pytest.approx([1, 0.1, 0.01])
    swag = Config("digits", "mlp", "swag", epochs=20, swag_lr=0.3)
    assert [swag.lr_factor(e) for e in range(15, 20)] == [0.3] * 5


def test_settings_round_trip_and_keys_differ() -> None:
    config = Config("digits", "mlp", "bsam", rho=0.1, samples=(1, 2), milestones=(3,))
    assert Config.from_settings(config.settings()) == config
    assert config.key() != Config("digits", "mlp", "bsam", rho=0.2, samples=(1, 2), milestones=(3,)).key()
    with pytest.raises(ValueError, match="unknown fields"):
        Config.from_settings({"dataset": "digits", "surprise": 1})
    with pytest.raises(ValueError, match="method must be"):
        Config("digits", "mlp", "sam")


def test_selection_prefers_accuracy_then_nll() -> None:
    a, b, c = (Config("digits", "mlp", "sgd", lr=lr) for lr in (0.1, 0.2, 0.3))
    measured = [(a, {"accuracy": 0.95, "nll": 0.3}), (b, {"accuracy": 0.9501, "nll": 0.5})]
    measured.append((c, {"accuracy": 0.90, "nll": 0.1}))
    assert spaces.ranked(measured, 10_000) == [a, b, c]


def test_edges_and_widening() -> None:
    space = {"lr": (0.01, 1.0), "rho": (0.01, 1.0)}
    config = Config("digits", "mlp", "bsam", lr=0.95, rho=0.1)
    edges = spaces.at_edges(config, space)
    assert edges == {"lr": 1}
    assert spaces.widened(space, edges) == {"lr": (0.01, 4.0), "rho": (0.01, 1.0)}
    assert spaces.at_edges(config, spaces.widened(space, edges)) == {}
