"""Metrics against brute force, scikit-learn, netcal and torchmetrics, and where each of those differs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fenchel.metrics import (
    RunningMetrics,
    as_class_probabilities,
    calibration_error,
    confidence_auroc,
    correct_published_nll,
    evaluate,
    minimal_to_logits,
    predictive_entropy,
    to_logits,
    to_probabilities,
)


def predictions(seed: int, n: int = 400, classes: int = 5, *, sharp: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = torch.distributions.Categorical(logits=0.7 * logits).probs.cumsum(1)
    y = (torch.rand(n, 1, generator=generator, dtype=torch.float64) > labels).sum(1)
    return torch.softmax(logits, 1), y


def brute_ece(p: np.ndarray, y: np.ndarray, bins: int) -> float:
    total = 0.0
    for k in range(bins):
        lo, hi = k / bins, (k + 1) / bins
        members = [i for i in range(len(y)) if lo <= p[i].max() < hi or (k == bins - 1 and p[i].max() == 1.0)]
        if members:
            accuracy = np.mean([p[i].argmax() == y[i] for i in members])
            total += len(members) / len(y) * abs(accuracy - np.mean([p[i].max() for i in members]))
    return total


def brute_auroc(confidence: np.ndarray, correct: np.ndarray) -> float:
    right, wrong = confidence[correct], confidence[~correct]
    wins = sum((a > b) + 0.5 * (a == b) for a in right for b in wrong)
    return float(wins / (len(right) * len(wrong)))


@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(5, 60))
def test_all_four_equal_brute_force(seed: int, classes: int, n: int) -> None:
    p, y = predictions(seed, n, classes)
    p = torch.round(p * 40) / 40  # ties, and confidences on the edges of bins
    p = p / p.sum(1, keepdim=True)
    got = evaluate(p, y)
    q, z = p.numpy(), y.numpy()
    correct = q.argmax(1) == z
    assert got.accuracy == pytest.approx(correct.mean(), abs=1e-15)
    with np.errstate(divide="ignore"):
        assert got.nll == pytest.approx(-np.log(q[np.arange(n), z]).mean(), rel=1e-13)
    assert got.count == n
    if 0 < correct.sum() < n:
        assert got.auroc == pytest.approx(brute_auroc(q.max(1), correct), abs=1e-14)
    else:
        assert math.isnan(got.auroc)
    # A confidence within rounding of an edge may fall on either side of it; elsewhere the sums must agree.
    if np.abs(q.max(1) * 20 - np.round(q.max(1) * 20)).min() > 1e-9:
        assert got.ece == pytest.approx(brute_ece(q, z, 20), abs=1e-13)


def test_against_sklearn_and_netcal() -> None:
    from netcal.metrics import ECE
    from sklearn.metrics import log_loss, roc_auc_score

    p, y = predictions(3, 3000, 10)
    got = evaluate(p, y)
    correct = (p.argmax(1) == y).numpy()
    assert got.auroc == pytest.approx(roc_auc_score(correct, p.max(1).values.numpy()), abs=1e-12)
    assert got.nll == pytest.approx(log_loss(y.numpy(), p.numpy(), labels=range(10)), rel=1e-12)
    assert got.ece == pytest.approx(ECE(bins=20).measure(p.numpy(), y.numpy()), abs=1e-12)


def test_against_torchmetrics() -> None:
    from torchmetrics.functional.classification import binary_auroc, multiclass_accuracy, multiclass_calibration_error

    p, y = predictions(4, 2000, 6)
    got, correct = evaluate(p, y), p.argmax(1) == y
    assert got.accuracy == pytest.approx(float(multiclass_accuracy(p, y, 6, average="micro")), abs=1e-6)
    assert got.ece == pytest.approx(float(multiclass_calibration_error(p, y, 6, n_bins=20, norm="l1")), abs=1e-6)
    # Its curve is summed in float32, hence the tolerance.
    assert got.auroc == pytest.approx(float(binary_auroc(p.max(1).values, correct.long())), abs=1e-5)


def test_numbers_of_python_are_not_rounded() -> None:
    given = [[0.3, 0.7], [0.85, 0.15]]  # 0.7 in float32 would fall into the bin below
    assert evaluate(given, [1, 0]) == evaluate(np.array(given), np.array([1, 0]))
    for wrong in ("abc", None):
        with pytest.raises(ValueError, match="labels must be numbers"):
            evaluate(given, wrong)
        with pytest.raises(ValueError, match="probabilities must be numbers"):
            evaluate(wrong, [1, 0])


def test_confidence_one_belongs_to_the_last_bin() -> None:
    confidence = torch.tensor([1.0, 0.96], dtype=torch.float64)
    correct = torch.tensor([False, True])
    # Together in one bin: |1 - 1.96| / 2; in two bins it would be (1 + 0.04) / 2.
    assert calibration_error(confidence, correct) == pytest.approx(0.48, abs=1e-12)
    p = torch.eye(3, dtype=torch.float64)
    assert evaluate(p, torch.tensor([0, 1, 2])).ece == pytest.approx(0.0, abs=1e-15)
    assert evaluate(p, torch.tensor([1, 1, 2])).ece == pytest.approx(1 / 3, abs=1e-12)


def test_the_edges_are_pinned() -> None:
    edges = torch.arange(1, 20, dtype=torch.float64) / 20
    # One confidence on an edge belongs to the bin above it: paired with the middle of that bin it shares its error.
    for edge in edges:
        shared = calibration_error(torch.stack([edge, edge + 0.025]), torch.tensor([True, False]))
        assert shared == pytest.approx(abs(1 - float(2 * edge + 0.025)) / 2, abs=1e-12)


def test_wrong_and_certain_costs_infinity() -> None:
    assert evaluate(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).nll == math.inf


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 1000))
def test_batches_weigh_by_their_size(sizes: list[int], seed: int) -> None:
    p, y = predictions(seed, sum(sizes), 4)
    running = RunningMetrics()
    for chunk, labels in zip(p.split(sizes), y.split(sizes), strict=True):
        running.update(chunk, labels)
    a, b = running.compute(), evaluate(p, y)
    assert (a.accuracy, a.count) == (b.accuracy, b.count)
    assert a.nll == pytest.approx(b.nll, rel=1e-13)
    assert a.ece == pytest.approx(b.ece, abs=1e-13)
    assert a.auroc == b.auroc or (math.isnan(a.auroc) and math.isnan(b.auroc))


def test_the_published_nll_divides_by_the_last_batch_index() -> None:
    p, y = predictions(5, 1000, 10)
    batch_means = [float(-c.gather(1, t[:, None]).log().mean()) for c, t in zip(p.split(20), y.split(20), strict=True)]
    as_published = sum(batch_means) / 49
    assert as_published == pytest.approx(evaluate(p, y).nll * 50 / 49, rel=1e-12)
    assert correct_published_nll(as_published, 50) == pytest.approx(evaluate(p, y).nll, rel=1e-12)
    with pytest.raises(ValueError, match="at least 2"):
        correct_published_nll(0.2, 1)


def test_minimal_logits_and_binary_logits() -> None:
    z = torch.tensor([[0.3, -1.2], [2.0, 0.1]], dtype=torch.float64)
    full = minimal_to_logits(z)
    assert torch.equal(full[:, 2], torch.zeros(2, dtype=torch.float64))
    expected = torch.cat([z.exp(), torch.ones(2, 1)], 1) / (1 + z.exp().sum(1, keepdim=True))
    assert torch.allclose(to_probabilities(z, "minimal"), expected, atol=1e-15)
    # A single logit means class 1 of two when binary, class 0 of two when minimal.
    logit = torch.tensor([[1.3]], dtype=torch.float64)
    assert to_probabilities(logit)[0, 1] == pytest.approx(1 / (1 + math.exp(-1.3)), abs=1e-15)
    assert to_probabilities(logit, "minimal")[0, 0] == pytest.approx(1 / (1 + math.exp(-1.3)), abs=1e-15)
    assert to_probabilities(torch.tensor([0.0, 90.0])).dtype == torch.float64


def test_binary_probabilities_in_three_shapes() -> None:
    p = torch.tensor([0.1, 0.8, 0.5, 0.65], dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0])
    two = torch.stack([1 - p, p], 1)
    assert evaluate(p, y) == evaluate(p[:, None], y) == evaluate(two, y)
    entropy = -(two * two.log()).sum(1)
    assert torch.allclose(predictive_entropy(p), entropy, atol=1e-15)
    assert float(predictive_entropy(torch.tensor([1.0]))[0]) == 0.0


def test_auroc_extremes() -> None:
    c = torch.tensor([0.9, 0.8, 0.6, 0.5])
    assert confidence_auroc(c, torch.tensor([True, True, False, False])) == 1.0
    assert confidence_auroc(c, torch.tensor([False, False, True, True])) == 0.0
    assert confidence_auroc(torch.full((4,), 0.7), torch.tensor([True, False, True, False])) == 0.5
    assert math.isnan(confidence_auroc(c, torch.ones(4, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (torch.tensor([[0.5, 0.6]]), torch.tensor([0]), "sum to 1"),
        (torch.tensor([[1.5, -0.5]]), torch.tensor([0]), "lie in"),
        (torch.tensor([[float("nan"), 1.0]]), torch.tensor([0]), "NaN"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([2]), "class indices"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([-1]), "class indices"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([0.5]), "class indices"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([0, 1]), "labels must have shape"),
        (torch.zeros(2, 2, 2), torch.tensor([0, 1]), "shape"),
        (torch.zeros(0, 2), torch.zeros(0), "no data"),
    ],
)
def test_bad_input_is_named(probabilities: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(probabilities, labels)


def test_bad_outputs_are_named() -> None:
    with pytest.raises(ValueError, match="one column"):
        to_logits(torch.zeros(3, 2), "binary")
    with pytest.raises(ValueError, match="2 classes"):
        to_logits(torch.zeros(3, 1), "logits")
    with pytest.raises(ValueError, match="outputs must be one of"):
        to_logits(torch.zeros(3, 1), "softmax")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        to_logits(torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match="num_bins"):
        RunningMetrics(num_bins=0)
    assert as_class_probabilities([0.25, 0.5]).shape == (2, 2)
