"""Statistics, verdicts that can come out either way, schedules, the selection rule, and the committed choice."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from experiments import store
from experiments.deep import plans, spaces, table3, table4, table6
from experiments.deep.config import Config
from experiments.deep.statistics import paired
from experiments.deep.summary import Groups

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


def shifted(shift: float, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    good = {"accuracy": 1, "nll": -1, "ece": -1, "auroc": 1}
    return {m: 0.5 + good[m] * shift + 0.001 * rng.normal(size=5) for m in METRICS}


@pytest.mark.parametrize(("shift", "verdict"), [(0.1, "held"), (-0.1, "refuted")])
def test_verdicts_follow_the_numbers(shift: float, verdict: str) -> None:
    groups: Groups = {("T", name): shifted(0, i) for i, name in enumerate(("SGD", "Adam", "SAM-Adam", "IVON"))}
    groups["T", "bSAM"] = shifted(shift, 9)
    assert table6.judge(groups, groups).verdict == verdict
    pair: Groups = {("T", table3.WITHOUT): shifted(0, 0), ("T", table3.WITH): shifted(shift, 1)}
    assert table3.judge(pair, pair).verdict == verdict
    counts: Groups = {("T", "mean"): shifted(0, 0), ("T", "1"): shifted(0, 1), ("T", "8"): shifted(shift, 2)}
    assert table4.judge(counts, ["1", "8"]).verdict == verdict


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


def test_the_tables_use_what_the_search_chose() -> None:
    path = store.result_path("search", "full")
    assert json.loads(plans.HYPERPARAMETERS.read_text()) == json.loads(path.read_text())["numbers"]["chosen"]
