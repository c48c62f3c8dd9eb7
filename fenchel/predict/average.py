"""`predict_bma`: the average over posterior samples of the predicted probabilities, in one pass a sample."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from fenchel.gaussian import Gaussian
from fenchel.metrics import Metrics, Outputs, evaluate, to_probabilities
from fenchel.optim.batch_norm import reestimate_statistics
from fenchel.predict.batches import labels_of, logits_of, split
from fenchel.predict.gaussian import DiagonalGaussian
from fenchel.predict.laplace import ClassLogits, LaplacePosterior

Samples = int | Literal["mean"]


def predict_bma(
    model: nn.Module,
    optimizer_or_posterior: Any,
    loader: Iterable[Any] | Tensor,
    samples: Samples = 32,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    outputs: Outputs = "auto",
    device: torch.device | str | None = None,
    batch_norm_loader: Iterable[Any] | None = None,
) -> Tensor:
    """Probabilities averaged over samples of the posterior, (n, classes) in float64, in the order of the loader.

    Each weight sample is drawn once and predicts the whole data set; probabilities, not logits, are averaged, and
    nothing is kept but their sum. The model is evaluated in eval mode and left as it was, bit for bit. It is taken for
    a classifier; outputs that are numbers to predict are averaged inside ``sampled_params()`` instead.

    Args:
        model: the network, at the posterior mean.
        optimizer_or_posterior: `BSAM`, `VOGN`, `IVON`, `SWAG` or anything else with a `sampled_params()` context;
            a `DiagonalGaussian`; a `fenchel.Gaussian` over all weights, in the order of the model's parameters;
            a `LaplacePosterior` or a fitted laplace-torch object; None for the weights as they are.
        loader: batches, or one tensor or dictionary of inputs; see `fenchel.predict.batches.split` for what a batch
            may be. It is gone through once a sample and must give the same batches each time: no shuffling, no random
            augmentation.
        samples: how many; 0 or "mean" predicts once, at the posterior mean.
        generator, seed: where the samples come from; without either, the optimizer's own stream (or torch's).
        outputs: what the network's outputs mean; see `fenchel.metrics.Outputs`. Binary outputs give two columns.
        device: where the inputs are moved; None is where the model's parameters are.
        batch_norm_loader: re-estimate batch normalization's statistics over these batches for every sample (and for
            the mean), on a copy of the model.

    Raises:
        ValueError: ``samples`` is negative, the posterior is over other parameters than the model's, both generator
            and seed are given, or the loader is empty, shuffles or cannot be gone through again.
        TypeError: the posterior is of no kind that can be sampled, or the loader gives no batches.
    """
    count = _check_samples(samples)
    if generator is not None and seed is not None:
        raise ValueError("generator and seed exclude each other")
    batches = _check_loader(loader)
    first = next(model.parameters(), None)
    place = torch.device(device) if device is not None else (first.device if first is not None else torch.device("cpu"))
    posterior = _as_posterior(model, optimizer_or_posterior)
    if seed is not None:
        generator = torch.Generator(device=first.device if first is not None else place).manual_seed(seed)
    linearized = isinstance(posterior, LaplacePosterior) and posterior.linearized and count > 0
    if linearized and batch_norm_loader is not None:
        raise ValueError("batch_norm_loader has no meaning for a linearized network")
    sums = _Sum()
    with torch.no_grad(), _eval_mode(model):
        for _ in range(max(count, 1)):
            if linearized:
                sample = posterior.draw(generator)
                sums.add_pass(model, batches, place, partial(posterior.linearized_outputs, model, sample), outputs)
                continue
            with _weights(posterior, count, generator):
                network = model if batch_norm_loader is None else _reestimated(model, batch_norm_loader)
                sums.add_pass(model, batches, place, network, outputs)
    return sums.mean()


def evaluate_bma(
    model: nn.Module,
    optimizer_or_posterior: Any,
    loader: Iterable[Any],
    samples: Samples = 32,
    **options: Any,
) -> Metrics:
    """Accuracy, NLL, ECE and AUROC of `predict_bma` on batches (inputs, labels, ...); same arguments."""
    batches, labels = _check_loader(loader), list[Tensor]()

    class Noted:
        """The batches, whose labels are noted as they come: gone through again, a loader may give another order."""

        def __iter__(self) -> Iterator[Any]:
            labels.clear()
            for batch in batches:
                labels.append(labels_of(model, batch))
                yield batch

    probabilities = predict_bma(model, optimizer_or_posterior, Noted(), samples, **options)
    return evaluate(probabilities, torch.cat(labels))


class _Sum:
    """Sum of the probabilities over passes through the same batches; notices when they are not the same."""

    def __init__(self) -> None:
        self._total: list[Tensor] = []
        self._prints: list[Tensor] = []
        self._passes = 0

    def add_pass(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        device: torch.device,
        predict: Callable[..., Any],
        outputs: Outputs,
    ) -> None:
        """Add the probabilities of one pass; ``model`` tells how many inputs a batch has."""
        prints: list[Tensor] = []
        for i, batch in enumerate(batches):
            inputs = split(model, batch)[0].to(device)
            tensors = inputs.tensors()
            logits = logits_of(predict(*inputs.positional, **inputs.named))
            if self._passes == i == 0 and _are_probabilities(logits):
                warnings.warn(
                    "the model's outputs look like probabilities, and are taken for logits: leave its softmax out",
                    stacklevel=4,
                )
            prints.append(torch.cat([_fingerprint(t) for t in tensors]))
            probabilities = to_probabilities(logits, outputs)
            size = next((len(t) for t in tensors if t.dim()), 1)
            if len(probabilities) != size:
                raise ValueError(f"the model gave {len(probabilities)} predictions for {size} inputs")
            if self._passes == 0:
                self._total.append(probabilities)
            elif i < len(self._total):
                self._total[i] += probabilities
        if not prints:
            raise ValueError("loader gave no batch" + (" in the second pass; make it a list" if self._passes else ""))
        if self._passes == 0:
            self._prints = prints
        elif len(prints) != len(self._prints) or not bool((torch.stack(prints) == torch.stack(self._prints)).all()):
            raise ValueError(
                "loader must give the same inputs in the same order in every pass, or probabilities of different "
                "inputs are averaged; it shuffles or augments at random"
            )
        self._passes += 1

    def mean(self) -> Tensor:
        """(n, classes)."""
        return torch.cat(self._total) / self._passes


def _fingerprint(inputs: Tensor) -> Tensor:
    """Two numbers that betray a change of the inputs or of their order."""
    flat = inputs.reshape(*(inputs.shape or (1,)), 1).to(torch.float32).nan_to_num().flatten(1).sum(dim=1)
    weights = torch.arange(1, len(flat) + 1, device=flat.device, dtype=flat.dtype) / len(flat)
    return torch.stack([flat.sum(), (flat * weights).sum()])


def _are_probabilities(outputs: Tensor) -> bool:
    """Whether rows of several numbers add up to one."""
    several = outputs.dim() > 1 and outputs.shape[-1] > 1 and outputs.numel() > 0
    return several and bool((outputs >= 0).all() & ((outputs.sum(-1) - 1).abs() < 1e-3).all())


def _check_samples(samples: Any) -> int:
    if samples == "mean":
        return 0
    if isinstance(samples, bool) or not isinstance(samples, Integral):
        raise TypeError(f"samples must be an integer or 'mean', got {samples!r}")
    if samples < 0:
        raise ValueError(f"samples must not be negative, got {samples}")
    return int(samples)


def _check_loader(loader: Any) -> Iterable[Any]:
    if isinstance(loader, Tensor | Mapping):
        return [loader]
    if not isinstance(loader, Iterable):
        kind = type(loader).__name__
        raise TypeError(f"loader must give batches, which a {kind} does not; make a DataLoader of a data set")
    if isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler):
        raise ValueError("loader shuffles; every pass must give the same batches, so make it with shuffle=False")
    if iter(loader) is loader:
        raise ValueError("loader is an iterator and can be gone through only once; pass a DataLoader or a list")
    return loader


def _as_posterior(model: nn.Module, given: Any) -> Any:
    """Something with `sampled_params` (and perhaps `mean_params`), over parameters of this model; None stays None."""
    if given is None:
        return None
    if isinstance(given, Gaussian):
        if given.structure == "full":
            raise ValueError(
                "the Gaussian must be diagonal or isotropic; a full covariance over all weights is not kept"
            )
        variance = given.cov.diagonal().copy()
        return DiagonalGaussian(model, torch.from_numpy(given.mean.copy()), torch.from_numpy(variance))
    if not isinstance(given, LaplacePosterior) and hasattr(given, "posterior_precision"):
        network = given.model.network if isinstance(given.model, ClassLogits) else given.model
        given = LaplacePosterior(given, network)
    while not hasattr(given, "sampled_params") and hasattr(given, "optimizer"):  # wrapped by Accelerate or Lightning
        given = given.optimizer
    if not hasattr(given, "sampled_params"):
        raise TypeError(
            f"cannot sample from a {type(given).__name__}: it has no sampled_params(); "
            "pass None to predict with the weights as they are"
        )
    own = {id(p) for p in model.parameters()}
    groups = getattr(given, "param_groups", None)
    theirs = (
        [p for g in groups for p in g["params"]] if groups else given.trainable() if hasattr(given, "trainable") else []
    )
    if any(id(p) not in own for p in theirs):
        raise ValueError("the posterior is over parameters that are not the model's")
    return given


def _weights(posterior: Any, count: int, generator: torch.Generator | None) -> AbstractContextManager[Any]:
    """The context in which the model holds a sample (``count`` > 0) or the mean."""
    if posterior is None:
        return nullcontext()
    if count == 0:
        return posterior.mean_params() if hasattr(posterior, "mean_params") else nullcontext()
    if generator is None:
        return posterior.sampled_params()  # type: ignore[no-any-return]
    if "generator" not in inspect.signature(posterior.sampled_params).parameters:
        raise ValueError(
            f"{type(posterior).__name__}.sampled_params takes no generator; "
            "leave generator and seed out and seed torch instead"
        )
    return posterior.sampled_params(generator=generator)  # type: ignore[no-any-return]


def _reestimated(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    network = copy.deepcopy(model)
    reestimate_statistics(network, batches)
    return network.eval()


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode; afterwards every submodule is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
