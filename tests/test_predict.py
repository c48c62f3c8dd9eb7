"""`predict_bma` against closed forms and quadrature, for every kind of posterior; the model stays as it was."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fenchel import Gaussian
from fenchel.metrics import evaluate
from fenchel.optim import BSAM, IVON, SWAG, VOGN
from fenchel.predict import DiagonalGaussian, LaplacePosterior, evaluate_bma, fit_laplace, predict_bma

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def gauss_sigmoid(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """E sigmoid(a), a ~ N(mean, variance)."""
    a = mean[:, None] + np.sqrt(variance)[:, None] * NODES
    return (1 / (1 + np.exp(-a))) @ WEIGHTS


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(23, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def linear(*, bias: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 1, bias=bias, dtype=torch.float64)


def network(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, outputs)).double()


def train_bsam(model: nn.Module, x: Tensor, y: Tensor, steps: int = 3) -> BSAM:
    optimizer = BSAM(model.parameters(), lr=0.1, num_data=len(x), rho=0.05, seed=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return optimizer


def make_posterior(kind: str, model: nn.Module, x: Tensor) -> Any:
    y = torch.arange(len(x)) % 3
    if kind == "bsam":
        return train_bsam(model, x, y)
    if kind == "ivon":
        optimizer = IVON(model.parameters(), lr=0.1, num_data=len(x))

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        return optimizer
    if kind == "vogn":
        return VOGN(model.parameters(), lr=0.1, num_data=len(x))
    if kind == "swag":
        swag = SWAG(model.parameters(), seed=1)
        for _ in range(4):
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(0.1 * torch.randn_like(p))
            swag.collect()
        return swag
    if kind == "gaussian":
        return DiagonalGaussian(model, variance=0.3)
    if kind == "theory":
        total = sum(p.numel() for p in model.parameters())
        return Gaussian(np.zeros(total), np.full(total, 0.2))
    loader = DataLoader(TensorDataset(x, y), batch_size=7)
    posterior = fit_laplace(model, loader, prior_precision=2.0)
    return posterior.laplace if kind == "laplace-torch" else posterior


KINDS = ("bsam", "ivon", "vogn", "swag", "gaussian", "theory", "laplace", "laplace-torch")


@pytest.mark.parametrize("kind", KINDS)
def test_every_posterior_leaves_the_model_as_it_was(kind: str, inputs: Tensor) -> None:
    model = network()
    model.train()
    model[0].eval()
    posterior = make_posterior(kind, model, inputs)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    gradients = [p.grad for p in model.parameters()]
    loader = DataLoader(TensorDataset(inputs), batch_size=5)
    p = predict_bma(model, posterior, loader, samples=4, seed=7)
    assert p.shape == (23, 3)
    assert p.dtype == torch.float64
    assert torch.allclose(p.sum(1), torch.ones(23, dtype=torch.float64), atol=1e-12)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert all(a is b for a, b in zip(gradients, (p.grad for p in model.parameters()), strict=True))
    # Seeded: the same samples whatever the batches, so the same predictions.
    again = predict_bma(model, posterior, [inputs[:20], inputs[20:]], samples=4, seed=7)
    assert torch.allclose(p, again, atol=1e-12)
    other = predict_bma(model, posterior, loader, samples=4, seed=8)
    # bSAM's, say, posterior is narrow after three steps, but not a point.
    assert kind == "vogn" or not torch.allclose(p, other, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_one_prediction(kind: str, inputs: Tensor) -> None:
    model = network()
    posterior = make_posterior(kind, model, inputs)
    if kind == "swag":
        with posterior.mean_params():
            expected = plain(model, inputs)
    elif kind == "theory":
        expected = torch.full((23, 3), 1 / 3, dtype=torch.float64)  # its mean is zero, so are the logits
    else:
        expected = plain(model, inputs)
    for samples in (0, "mean"):
        assert torch.allclose(predict_bma(model, posterior, inputs, samples), expected, atol=1e-14)
    assert torch.equal(predict_bma(model, None, inputs, 0), plain(model, inputs))


def plain(model: nn.Module, x: Tensor) -> Tensor:
    training = model.training
    model.eval()
    with torch.no_grad():
        p = torch.softmax(model(x), 1)
    model.train(training)
    return p


def test_probabilities_are_averaged_not_logits(inputs: Tensor) -> None:
    model = network()
    posterior = DiagonalGaussian(model, variance=2.0)
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros(23, 3, dtype=torch.float64)
    for _ in range(6):
        with posterior.sampled_params(generator):
            total += plain(model, inputs)
    got = predict_bma(model, posterior, inputs, 6, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(got, total / 6, atol=1e-15)


def test_logistic_regression_against_quadrature(inputs: Tensor) -> None:
    """sum_j theta_j x_j is N(m.x, sum_j v_j x_j^2): many samples must agree within their standard error."""
    model = linear()
    mean, variance = torch.tensor([0.7, -1.1], dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64)
    n = 4_000
    small = inputs[:6]
    got = predict_bma(model, DiagonalGaussian(model, mean, variance), small, n, seed=0)
    exact = gauss_sigmoid((small @ mean).numpy(), (small**2 @ variance).numpy())
    assert np.abs(got[:, 1].numpy() - exact).max() < 5 * 0.5 / np.sqrt(n)
    theory = Gaussian(mean.numpy(), variance.numpy())
    assert torch.allclose(
        predict_bma(model, theory, small, 50, seed=0),
        predict_bma(model, DiagonalGaussian(model, mean, variance), small, 50, seed=0),
    )


def test_minimal_outputs_equal_full_logits(inputs: Tensor) -> None:
    model = network(2)
    padded = nn.Sequential(model, nn.ConstantPad1d((0, 1), 0.0))
    posterior = DiagonalGaussian(model, variance=0.4)
    a = predict_bma(model, posterior, inputs, 5, seed=2, outputs="minimal")
    b = predict_bma(padded, posterior, inputs, 5, seed=2)
    assert a.shape == (23, 3)
    assert torch.allclose(a, b, atol=1e-15)


@pytest.mark.parametrize("outputs", ["binary", "minimal"])
def test_diagonal_laplace_of_a_logistic_regression(outputs: Any, inputs: Tensor) -> None:
    """Precision delta0 + sum_i p_i (1 - p_i) x_ij^2; linearized = exact here, so the predictive is a 1-D integral."""
    model = linear()
    y = (inputs[:, 0] > 0).long()
    loader = DataLoader(TensorDataset(inputs, y), batch_size=6)
    posterior = fit_laplace(model, loader, prior_precision=0.7, outputs=outputs)
    with torch.no_grad():
        f = model(inputs)[:, 0]
        p = torch.sigmoid(f)
        precision = 0.7 + ((p * (1 - p))[:, None] * inputs**2).sum(0)
    assert torch.allclose(posterior.laplace.posterior_precision, precision, rtol=1e-10)
    mean, cov = posterior.logit_moments(inputs)
    column = 1 if outputs == "binary" else 0
    assert torch.allclose(mean[:, column], f, atol=1e-12)
    assert torch.allclose(cov[:, column, column], inputs**2 @ (1 / precision), rtol=1e-10)
    got = predict_bma(model, posterior, inputs, 1500, seed=0, outputs=outputs)[:, column]
    exact = gauss_sigmoid(f.numpy(), (inputs**2 @ (1 / precision)).numpy())
    assert np.abs(got.numpy() - exact).max() < 5 * 0.5 / np.sqrt(1500)
    assert posterior.prior_precision == pytest.approx(0.7)


def test_linearized_predictive_has_the_moments_of_the_jacobian(inputs: Tensor) -> None:
    model = network(3).eval()
    loader = DataLoader(TensorDataset(inputs, torch.arange(23) % 3), batch_size=8)
    posterior = fit_laplace(model, loader, prior_precision=5.0)
    mean, cov = posterior.logit_moments(inputs[:4])
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [posterior.linearized_outputs(model, posterior.draw(generator), inputs[:4]) for _ in range(1200)]
    )
    spread = cov.diagonal(dim1=1, dim2=2).sqrt()
    assert ((draws.mean(0) - mean).abs() < 5 * spread / 1200**0.5).all()
    centred = draws - draws.mean(0)
    sampled = torch.einsum("snc,snk->nck", centred, centred) / 1199
    scale = spread[:, :, None] * spread[:, None, :]
    assert ((sampled - cov).abs() < 6 * scale * (2 / 1200) ** 0.5).all()
    # A sampled network is something else: not linear in the weights.
    nonlinear = LaplacePosterior(posterior.laplace, model, linearized=False)
    a, b = (predict_bma(model, q, inputs, 40, seed=3) for q in (posterior, nonlinear))
    assert not torch.allclose(a, b, atol=1e-3)


def test_tuning_the_prior_raises_the_marginal_likelihood(inputs: Tensor) -> None:
    model = network(3).eval()
    loader = DataLoader(TensorDataset(inputs, torch.arange(23) % 3), batch_size=8)
    fixed = fit_laplace(model, loader, prior_precision=30.0)
    tuned = fit_laplace(model, loader, prior_precision=30.0, tune=True)
    assert fixed.prior_precision == pytest.approx(30.0)
    assert tuned.prior_precision != pytest.approx(30.0)
    assert float(tuned.laplace.log_marginal_likelihood()) > float(fixed.laplace.log_marginal_likelihood())


def test_batch_norm_is_reestimated_on_a_copy() -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(64, 2) + 1
    model = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    posterior = DiagonalGaussian(model, variance=0.5)
    before = copy.deepcopy(model.state_dict())
    got = predict_bma(model, posterior, x, 3, seed=1, batch_norm_loader=[x])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    generator, total = torch.Generator().manual_seed(1), torch.zeros(64, 2, dtype=torch.float64)
    for _ in range(3):
        with posterior.sampled_params(generator), torch.no_grad():
            hidden = model[0](x)
            centred = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=True) + 1e-5).sqrt()
            total += torch.softmax(model[3](torch.relu(centred * model[1].weight + model[1].bias)).double(), 1)
    assert torch.allclose(got, total / 3, atol=1e-5)
    assert not torch.allclose(got, predict_bma(model, posterior, x, 3, seed=1), atol=1e-2)


def test_streams_of_an_optimizer_and_reproducibility(inputs: Tensor) -> None:
    model = network()
    optimizer = train_bsam(model, inputs, torch.arange(23) % 3)
    first, second = predict_bma(model, optimizer, inputs, 2), predict_bma(model, optimizer, inputs, 2)
    assert not torch.equal(first, second)  # the stream goes on
    state = copy.deepcopy(optimizer.state_dict())
    predict_bma(model, optimizer, inputs, 2, seed=0)
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(saved["s"], after[k]["s"]) for k, saved in state["state"].items())


def test_evaluate_bma_takes_labels_from_the_loader(inputs: Tensor) -> None:
    model, y = network(), torch.arange(23) % 3
    posterior = DiagonalGaussian(model, variance=0.3)
    loader = DataLoader(TensorDataset(inputs, y), batch_size=10)
    found = evaluate_bma(model, posterior, loader, 4, seed=0)
    expected = evaluate(predict_bma(model, posterior, loader, 4, seed=0), y)
    # The probabilities are summed batch by batch in one, at once in the other.
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(expected), rel=1e-12, abs=1e-12)
    with pytest.raises(ValueError, match="labels"):
        evaluate_bma(model, posterior, [inputs], 1)


class Shuffling:
    """Batches in another order at every pass."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.passes = x, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        yield self.x.roll(self.passes, 0)


class Third:
    """A third-party posterior: a context without a generator."""

    @contextmanager
    def sampled_params(self) -> Iterator[None]:
        yield


def test_third_party_posteriors(inputs: Tensor) -> None:
    model = network()
    assert torch.allclose(predict_bma(model, Third(), inputs, 3), plain(model, inputs), atol=1e-15)
    with pytest.raises(ValueError, match="no generator"):
        predict_bma(model, Third(), inputs, 3, seed=0)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "negative", lambda m, q, x: predict_bma(m, q, x, -1)),
        (TypeError, "integer", lambda m, q, x: predict_bma(m, q, x, 2.5)),
        (TypeError, "integer", lambda m, q, x: predict_bma(m, q, x, True)),
        (TypeError, "sampled_params", lambda m, q, x: predict_bma(m, torch.optim.SGD(m.parameters(), lr=1.0), x, 2)),
        (ValueError, "not the model's", lambda m, q, x: predict_bma(network(), q, x, 2)),
        (ValueError, "exclude", lambda m, q, x: predict_bma(m, q, x, 2, seed=1, generator=torch.Generator())),
        (ValueError, "no batch", lambda m, q, x: predict_bma(m, q, [], 2)),
        (ValueError, "iterator", lambda m, q, x: predict_bma(m, q, iter([x]), 2)),
        (ValueError, "shuffles", lambda m, q, x: predict_bma(m, q, DataLoader(TensorDataset(x), shuffle=True), 2)),
        (ValueError, "same order", lambda m, q, x: predict_bma(m, q, Shuffling(x), 2)),
        (ValueError, "outputs must be", lambda m, q, x: predict_bma(m, q, x, 2, outputs="tanh")),
        (ValueError, "one column", lambda m, q, x: predict_bma(m, q, x, 2, outputs="binary")),
        (ValueError, "diagonal", lambda m, q, x: predict_bma(m, Gaussian(np.zeros(2), np.eye(2)), x, 2)),
        (ValueError, "mean must have shape", lambda m, q, x: predict_bma(m, Gaussian(np.zeros(2), np.ones(2)), x, 2)),
        (ValueError, "prior_precision", lambda m, q, x: fit_laplace(m, [], prior_precision=0.0)),
        (ValueError, "structure", lambda m, q, x: fit_laplace(m, [], prior_precision=1.0, structure="block")),
        (ValueError, "negative", lambda m, q, x: DiagonalGaussian(m, variance=-1.0)),
        (ValueError, "finite", lambda m, q, x: DiagonalGaussian(m, variance=float("nan"))),
        (ValueError, "shaped like", lambda m, q, x: DiagonalGaussian(m, mean=[torch.zeros(2)])),
        (ValueError, "no parameter", lambda m, q, x: DiagonalGaussian([])),
    ],
)
def test_bad_input_is_named(
    error: type[Exception], message: str, call: Callable[[nn.Module, Any, Tensor], object], inputs: Tensor
) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        call(model, DiagonalGaussian(model, variance=0.1), inputs)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
