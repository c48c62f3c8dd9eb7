"""Laplace approximations of networks through laplace-torch: generalized Gauss-Newton curvature, linearized predictive.

With the weights w at which it is fitted, the Jacobian J(x) of the logits and a weight sample w + d, the linearized
predictive averages softmax(f(x) + J(x) d) (Immer et al., 2021). J(x) d is a forward-mode derivative, so no Jacobian is
stored, and the same samples d serve every input.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from fenchel.errors import missing
from fenchel.metrics import Outputs, to_logits
from fenchel.optim.hyperparameters import trainable
from fenchel.optim.posterior import held
from fenchel.predict.batches import logits_of
from fenchel.predict.gaussian import split_like


class ClassLogits(nn.Module):
    """A network's outputs as one logit for each class (fixed zero logits appended), as laplace-torch expects them."""

    def __init__(self, network: nn.Module, outputs: Outputs = "auto") -> None:
        super().__init__()
        self.network = network
        self.outputs: Outputs = outputs

    def forward(self, inputs: Tensor) -> Tensor:
        return to_logits(self.network(inputs), self.outputs)


class LaplacePosterior:
    """A fitted laplace-torch object over all weights of a network, with the two ways to predict from it.

    Args:
        laplace: a fitted `laplace.ParametricLaplace` over all weights.
        network: the network that it was fitted to, possibly wrapped in `ClassLogits`.
        linearized: predict with the linearized network, as the paper does, or with sampled networks.

    Raises:
        ValueError: the object is over other weights than all that require a gradient.
    """

    def __init__(self, laplace: Any, network: nn.Module | None = None, *, linearized: bool = True) -> None:
        self.laplace = laplace
        self.network: nn.Module = laplace.model if network is None else network
        self.linearized = linearized
        self._params = trainable(self.network)
        total = sum(p.numel() for p in self._params)
        if not hasattr(laplace, "sample") or tuple(getattr(laplace, "mean", torch.empty(0)).shape) != (total,):
            raise ValueError(
                f"the Laplace approximation must be fitted and over all {total} weights; "
                "for subnetworks and last layers call the laplace-torch object itself"
            )
        self._mean = split_like(laplace.mean, self._params, "mean")

    @property
    def prior_precision(self) -> float | list[float]:
        """delta0, as passed or as tuned."""
        values = self.laplace.prior_precision.flatten().tolist()
        return float(values[0]) if len(values) == 1 else [float(v) for v in values]

    def trainable(self) -> list[Tensor]:
        """The parameters the posterior is over."""
        return list(self._params)

    def draw(self, generator: torch.Generator | None = None) -> list[Tensor]:
        """One sample of the weights, a tensor for each parameter."""
        return split_like(self.laplace.sample(1, generator=generator)[0], self._params, "sample")

    def sampled_params(self, generator: torch.Generator | None = None) -> AbstractContextManager[None]:
        """Inside, the network holds one sample of the weights (not linearized); afterwards what it held before."""
        return held(self._params, self.draw(generator))

    def mean_params(self) -> AbstractContextManager[None]:
        """Inside, the network holds the weights of the fit; afterwards what it held before."""
        return held(self._params, self._mean)

    @torch.no_grad()
    def linearized_outputs(self, network: nn.Module, sample: list[Tensor], *inputs: Any, **named: Any) -> Tensor:
        """f(x; w) + J(x) (sample - w) for a batch, in the shape of the network's own outputs."""
        names = {id(p): name for name, p in network.named_parameters()}
        weights = {names[id(p)]: m for p, m in zip(self._params, self._mean, strict=True)}
        direction = {names[id(p)]: v - m for p, v, m in zip(self._params, sample, self._mean, strict=True)}
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # torch's first jvp scripts functions, which torch discourages
            value, derivative = jvp(
                lambda w: logits_of(functional_call(network, w, inputs, named)), (weights,), (direction,)
            )[:2]
        shifted: Tensor = value + derivative
        return shifted

    def logit_moments(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, classes) and covariance (n, classes, classes) of the linearized logits at ``inputs``."""
        jacobians, mean = self.laplace.backend.jacobians(inputs)
        return mean.detach(), self.laplace.functional_variance(jacobians).detach()


def fit_laplace(
    network: nn.Module,
    loader: Iterable[Any],
    *,
    prior_precision: float,
    structure: str = "diag",
    outputs: Outputs = "auto",
    tune: bool = False,
    linearized: bool = True,
) -> LaplacePosterior:
    """N(w, (GGN + prior_precision I)^-1) at the network's present weights w, by laplace-torch.

    Args:
        network: classifier; left as it is.
        loader: a `DataLoader` of (inputs, class indices): the training data, each once.
        prior_precision: delta0, of the total loss: N times a weight decay on the mean loss. Used as it is.
        structure: "diag", "kron" or "full" curvature.
        outputs: what the network's outputs mean; see `fenchel.metrics.Outputs`.
        tune: maximize the marginal likelihood over the prior precision, starting from the one given.

    Raises:
        ValueError: ``prior_precision`` is not positive, or ``structure`` unknown.
        MissingDependencyError: laplace-torch is not installed (extra ``experiments``).
    """
    if not prior_precision > 0:
        raise ValueError(f"prior_precision must be positive, got {prior_precision!r}")
    if structure not in ("diag", "kron", "full"):
        raise ValueError(f"structure must be diag, kron or full, got {structure!r}")
    gradients = [None if p.grad is None else p.grad.detach().clone() for p in network.parameters()]
    modes = [(module, module.training) for module in network.modules()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # its imports script functions, which torch discourages
            warnings.filterwarnings("ignore", message="By default `link_approx`")  # plays no role in tuning
            laplace = _fit(ClassLogits(network, outputs), loader, structure, float(prior_precision), tune)
    finally:
        for module, training in modes:
            module.training = training
        for p, gradient in zip(network.parameters(), gradients, strict=True):
            p.grad = gradient
    return LaplacePosterior(laplace, network, linearized=linearized)


def _fit(network: nn.Module, loader: Iterable[Any], structure: str, prior_precision: float, tune: bool) -> Any:
    try:
        from laplace import Laplace
    except ImportError as error:
        raise missing("a Laplace approximation", "laplace-torch", "experiments") from error
    laplace = Laplace(
        network,
        "classification",
        subset_of_weights="all",
        hessian_structure=structure,
        prior_precision=prior_precision,
    )
    laplace.fit(loader)
    if tune:
        laplace.optimize_prior_precision(method="marglik", pred_type="glm", init_prior_prec=prior_precision)
    return laplace
