"""The paper's four numbers: accuracy, NLL, ECE with 20 bins, AUROC of confidence as a detector of correct predictions.

All in float64 and from probabilities. With confidence c = max_k p_k and correctness z = (argmax = label):

- NLL: the mean of -log p(label) over the data, weighted by counts. (The authors' test script divides the sum of the
  batch means by the last batch *index*, so that B batches give B/(B - 1) times the NLL: `correct_published_nll`.)
- ECE: sum over bins of |sum z - sum c| / n. The bins are [0, 1/20), [1/20, 2/20), ..., [19/20, 1], the last one closed,
  so that a confidence of exactly 1 belongs to it.
- AUROC: the probability that a random correct prediction has a higher confidence than a random wrong one, ties counting
  one half; undefined (NaN) where all predictions are correct or all wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fenchel.errors import need_torch

need_torch("fenchel.metrics")

import torch
from torch import Tensor

__all__ = [
    "NUM_BINS",
    "Metrics",
    "Outputs",
    "RunningMetrics",
    "as_class_probabilities",
    "calibration_error",
    "confidence_auroc",
    "correct_published_nll",
    "evaluate",
    "minimal_to_logits",
    "predictive_entropy",
    "to_probabilities",
]

NUM_BINS = 20

Outputs = Literal["auto", "logits", "minimal", "binary"]
"""What a network's outputs (n, k) mean: "logits", one for each of k classes; "minimal", k of k + 1 logits, the last
fixed at 0; "binary", k = 1, the logit of class 1 of two; "auto", "binary" for k = 1 or no last axis, else "logits"."""


@dataclass(frozen=True)
class Metrics:
    """The four numbers, and how many data they are averages over."""

    accuracy: float
    nll: float
    ece: float
    auroc: float
    count: int


def as_numbers(values: Any, name: str) -> Tensor:
    """``values`` as a tensor, in float64 if they were none.

    Raises:
        ValueError: they are no numbers.
    """
    try:
        return values if isinstance(values, Tensor) else torch.as_tensor(values, dtype=torch.float64)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(f"{name} must be numbers, got {type(values).__name__}") from None


def minimal_to_logits(outputs: Tensor) -> Tensor:
    """Append the last class's logit 0: (..., classes - 1) -> (..., classes)."""
    if outputs.ndim == 0 or outputs.shape[-1] == 0:
        raise ValueError(f"outputs must have a last axis of classes - 1 logits, got shape {tuple(outputs.shape)}")
    return torch.nn.functional.pad(outputs, (0, 1))


def to_logits(outputs: Tensor, kind: Outputs = "auto") -> Tensor:
    """One logit for each class, (n, classes), from a network's outputs (n, k) or, for binary ones, (n,).

    Raises:
        ValueError: ``kind`` is unknown, or the shape does not fit it.
    """
    if kind not in get_args(Outputs):
        raise ValueError(f"outputs must be one of {get_args(Outputs)}, got {kind!r}")
    if outputs.ndim == 1 and kind in ("auto", "binary"):
        outputs = outputs[:, None]
    if outputs.ndim != 2 or outputs.shape[1] == 0:
        raise ValueError(f"a network's outputs must have shape (n, k), got {tuple(outputs.shape)}")
    width = outputs.shape[1]
    if kind == "binary" and width != 1:
        raise ValueError(f"binary outputs must have one column, got {width}")
    if kind == "logits" and width == 1:
        raise ValueError("logits must have one column for each of at least 2 classes; is the output 'binary'?")
    if kind == "binary" or (kind == "auto" and width == 1):
        return torch.nn.functional.pad(outputs, (1, 0))
    return minimal_to_logits(outputs) if kind == "minimal" else outputs


def to_probabilities(outputs: Tensor, kind: Outputs = "auto") -> Tensor:
    """Class probabilities (n, classes) from a network's outputs, by a softmax in float64 (on mps float32)."""
    logits = to_logits(outputs, kind)
    return torch.softmax(logits.to(_wide(logits)), dim=-1)


def as_class_probabilities(probabilities: Any) -> Tensor:
    """(n, classes) in float64, from that or from P(class 1) alone, (n,) or (n, 1).

    Raises:
        ValueError: wrong shape, an entry that is NaN or outside [0, 1], or rows that do not sum to 1 within 1e-4.
    """
    p = as_numbers(probabilities, "probabilities")
    p = p.to(_wide(p))
    if p.ndim == 1:
        p = p[:, None]
    if p.ndim != 2 or p.shape[1] == 0:
        raise ValueError(f"probabilities must have shape (n,) or (n, classes), got {tuple(p.shape)}")
    if not bool(((p >= 0) & (p <= 1 + 1e-6)).all()):
        raise ValueError("probabilities must lie in [0, 1] and must not be NaN")
    if p.shape[1] == 1:
        p = torch.cat([1 - p, p], dim=1)
    elif not bool(((p.sum(dim=1) - 1).abs() <= 1e-4).all()):
        raise ValueError("every row of probabilities must sum to 1")
    return p.clamp(max=1.0)


def evaluate(probabilities: Any, labels: Any, *, num_bins: int = NUM_BINS) -> Metrics:
    """The four numbers of predictions for a whole data set.

    Args:
        probabilities: (n, classes), or P(class 1) as (n,) or (n, 1).
        labels: (n,), class indices.
        num_bins: of the calibration error.

    Raises:
        ValueError: shapes differ, there are no data, a probability or a label is out of range.
    """
    running = RunningMetrics(num_bins=num_bins)
    running.update(probabilities, labels)
    return running.compute()


class RunningMetrics:
    """The four numbers, batch by batch: each datum counts once, whatever the sizes of the batches.

    Keeps confidence and correctness of every prediction, 9 bytes a datum.
    """

    def __init__(self, *, num_bins: int = NUM_BINS) -> None:
        if num_bins < 1:
            raise ValueError(f"num_bins must be at least 1, got {num_bins}")
        self._num_bins = num_bins
        self._confidence: list[Tensor] = []
        self._correct: list[Tensor] = []
        self._log_loss: list[Tensor] = []

    @torch.no_grad()
    def update(self, probabilities: Any, labels: Any) -> None:
        """Add a batch; arguments as for `evaluate`."""
        p = as_class_probabilities(probabilities)
        y = as_numbers(labels, "labels").to(p.device)
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.shape != p.shape[:1]:
            raise ValueError(f"labels must have shape ({len(p)},), one for each prediction, got {tuple(y.shape)}")
        index = y.long()
        if not bool((index == y).all()) or not bool(((index >= 0) & (index < p.shape[1])).all()):
            raise ValueError(f"labels must be class indices in 0..{p.shape[1] - 1}")
        confidence, prediction = p.max(dim=1)
        self._confidence.append(confidence)
        self._correct.append(prediction == index)
        self._log_loss.append(-p.gather(1, index[:, None])[:, 0].log().sum())

    @torch.no_grad()
    def compute(self) -> Metrics:
        """The numbers of all batches so far.

        Raises:
            ValueError: there was no datum.
        """
        count = sum(len(c) for c in self._confidence)
        if count == 0:
            raise ValueError("metrics of no data are undefined; call update first")
        confidence, correct = torch.cat(self._confidence), torch.cat(self._correct)
        return Metrics(
            accuracy=float(correct.double().mean()) if correct.device.type != "mps" else float(correct.float().mean()),
            nll=float(torch.stack(self._log_loss).sum()) / count,
            ece=calibration_error(confidence, correct, num_bins=self._num_bins),
            auroc=confidence_auroc(confidence, correct),
            count=count,
        )


def calibration_error(confidence: Tensor, correct: Tensor, *, num_bins: int = NUM_BINS) -> float:
    """ECE from confidences (n,) in [0, 1] and correctness (n,), in ``num_bins`` bins with edges exactly k / num_bins.

    torchmetrics computes the same up to two details: it puts a confidence of exactly 1 in a bin of its own, and its
    edges come from a linspace, some of them a rounding error away from k / num_bins.
    """
    wide = confidence.to(_wide(confidence))
    edges = torch.arange(1, num_bins, dtype=wide.dtype, device=wide.device) / num_bins
    place = torch.bucketize(wide, edges, right=True)
    gap = torch.zeros(num_bins, dtype=wide.dtype, device=wide.device)
    gap.scatter_add_(0, place, correct.to(wide.dtype) - wide)
    return float(gap.abs().sum()) / len(wide)


def confidence_auroc(confidence: Tensor, correct: Tensor) -> float:
    """AUROC of confidence (n,) as a detector of correctness (n,); NaN where all are correct or all wrong.

    From the ranks (Mann and Whitney), ties counting one half: exact, where torchmetrics sums a curve in float32.
    """
    right = int(correct.sum())
    wrong = correct.numel() - right
    if not right or not wrong:
        return math.nan
    _, place, ties = torch.unique(confidence, sorted=True, return_inverse=True, return_counts=True)
    rights = torch.zeros_like(ties).scatter_add_(0, place, correct.long())
    wrongs = ties - rights
    below = wrongs.cumsum(0) - wrongs
    # Integers: twice the number of concordant pairs, plus the number of ties.
    return int((rights * (2 * below + wrongs)).sum()) / (2 * right * wrong)


def correct_published_nll(published: float, num_batches: int) -> float:
    """The NLL behind a number published with the authors' test script, which divided by the last batch index.

    With B equal batches the script reports B/(B - 1) times the NLL: 50/49, 2 % too high, for 50 batches.

    Raises:
        ValueError: fewer than two batches, where the script divides by zero.
    """
    if num_batches < 2:
        raise ValueError(f"num_batches must be at least 2, got {num_batches}")
    return published * (num_batches - 1) / num_batches


def predictive_entropy(probabilities: Any) -> Tensor:
    """Entropy in nats of each prediction, (n,); probabilities as for `evaluate`."""
    p = as_class_probabilities(probabilities)
    entropy: Tensor = torch.special.entr(p).sum(dim=1)
    return entropy


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64
