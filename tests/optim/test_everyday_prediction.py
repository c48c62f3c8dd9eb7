"""Prediction as users call it: batches of every kind, frozen models, inference mode, wrapped optimizers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from optim_cases import closure_for, data, make, network
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from fenchel.predict import DiagonalGaussian, evaluate_bma, predict_bma


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.a(first) + self.b(second)


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Named(TwoInputs):
    def forward(self, first: Tensor = None, second: Tensor = None, labels: Any = None) -> Any:  # type: ignore[assignment]
        return Output(super().forward(first, second))


def test_batches_of_every_kind_predict_alike() -> None:
    torch.manual_seed(0)
    two, named = TwoInputs(), Named()
    named.load_state_dict(two.state_dict())
    x, z, y = torch.randn(6, 3), torch.randn(6, 4), torch.arange(6) % 2
    ends = [
        predict_bma(model, DiagonalGaussian(model, variance=0.2), loader, samples=3, seed=0)
        for model, loader in (
            (two, [(x, z)]),
            (two, [[x[:4], z[:4], y[:4]], [x[4:], z[4:], y[4:]]]),
            (two, [((x, z), y)]),
            (two, [{"first": x, "second": z}]),
            (named, [{"first": x, "second": z, "labels": y}]),
            (named, [({"first": x, "second": z}, y)]),
        )
    ]
    for found in ends[1:]:
        torch.testing.assert_close(found, ends[0])
    found = evaluate_bma(named, DiagonalGaussian(named), [{"first": x, "second": z, "labels": y}], 2, seed=0)
    assert found.count == 6
    with pytest.raises(TypeError, match="a batch must hold tensors"):
        predict_bma(two, None, [("a", "b")])
    with pytest.raises(TypeError, match="the model must return a tensor"):
        predict_bma(nn.Sequential(Wrong()), None, [x])


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return "no"


@pytest.mark.parametrize("kind", ["bsam", "ivon"])
def test_frozen_models_and_inference_mode(kind: str) -> None:
    net = network(dtype=torch.float32)
    x, y = data(dtype=torch.float32)
    opt = make(kind, net.parameters())
    with torch.inference_mode():
        first = predict_bma(net, opt, [x], samples=2)
    assert torch.isfinite(first).all()
    opt.step(closure_for(net, opt, x, y))
    net.requires_grad_(False)
    mean = predict_bma(net, opt, [x], samples="mean")
    assert not torch.allclose(predict_bma(net, opt, [x], samples=2), mean)
    untrained = make(kind, net.parameters())
    with pytest.raises(ValueError, match="no posterior to sample"):
        predict_bma(net, untrained, [x], samples=2)


def test_labels_are_those_of_the_pass_that_predicted() -> None:
    """A loader that gives another order each time, and labels of which a batch has too few."""
    net = network()
    x, _ = data()
    with torch.no_grad():
        y = net(x).argmax(1)
    drawn = DataLoader(TensorDataset(x, y), 5, sampler=SubsetRandomSampler(range(len(x))))
    assert evaluate_bma(net, None, drawn, "mean").accuracy == 1
    with pytest.raises(ValueError, match="labels must have shape"):
        evaluate_bma(net, None, [(x, y[:5])], "mean")


def test_one_batch_may_be_a_dictionary_and_one_of_several_empty() -> None:
    net, (x, _) = network(), data()
    expected = predict_bma(net, None, x, "mean")
    for loader in ({"input": x}, [x, x[:0]], [{"input": x, "labels": torch.tensor(1)}]):
        torch.testing.assert_close(predict_bma(net, None, loader, 0), expected)

    class Nested(nn.Module):
        def forward(self, scale: Tensor, parts: list[Tensor]) -> Tensor:
            return scale * net(torch.cat(parts))

    nested = [{"scale": torch.tensor(1.0), "parts": [x]}]
    torch.testing.assert_close(predict_bma(Nested(), None, nested, np.int64(1)), expected)


@pytest.mark.parametrize("labels", [None, {"y": torch.zeros(24)}, "a"])
def test_what_is_no_label_is_named(labels: Any) -> None:
    with pytest.raises(ValueError, match="labels must be numbers"):
        evaluate_bma(network(), None, [(data()[0], labels)], 0)


@pytest.mark.parametrize("kind", ["bsam", "ivon"])
def test_the_mean_predicts_wherever_the_weights_are(kind: str) -> None:
    net, (x, _) = network(), data()
    opt = make(kind, net.parameters())
    mean = predict_bma(net, opt, x, "mean")
    with opt.sampled_params():
        assert torch.equal(predict_bma(net, opt, x, "mean"), mean)
        assert not torch.equal(predict_bma(net, None, x), mean)


def test_a_gaussian_of_a_network_takes_numbers_of_any_kind_and_rounds_none() -> None:
    net = network()
    size = sum(p.numel() for p in net.parameters())
    for variance in (0.1, np.float64(0.1), torch.tensor(0.1, dtype=torch.float64), [0.1] * size, np.full(size, 0.1)):
        found = DiagonalGaussian(net, [0.1] * size, variance).marginals()
        assert all(bool((q.variance == 0.1).all() and (q.mean == 0.1).all()) for q in found)
    assert DiagonalGaussian(net, None, np.int64(1)).marginals()[0].variance.eq(1).all()
    for wrong in (None, "a"):
        with pytest.raises(ValueError, match="variance must be numbers"):
            DiagonalGaussian(net, None, wrong)


def test_data_sets_class_indices_and_probabilities_are_named() -> None:
    net, (x, _) = network(), data()
    for wrong in (TensorDataset(x), None):
        with pytest.raises(TypeError, match="make a DataLoader"):
            predict_bma(net, None, wrong, 1)  # type: ignore[arg-type]

    class Head(nn.Module):
        def __init__(self, last: Any) -> None:
            super().__init__()
            self.last = last

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last(net(x))
            return result

    with pytest.raises(TypeError, match="tensor of floats"):
        predict_bma(Head(lambda t: t.argmax(-1)), None, x, 1)
    with pytest.warns(UserWarning, match="leave its softmax out"):
        predict_bma(Head(lambda t: t.softmax(-1)), None, x, 1)


def test_wrapped_optimizers_are_unwrapped() -> None:
    class Wrapper:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

    net = network(dtype=torch.float32)
    x = data(dtype=torch.float32)[0]
    opt = make("bsam", net.parameters())
    a = predict_bma(net, Wrapper(Wrapper(opt)), [x], samples=2, seed=1)
    assert torch.equal(a, predict_bma(net, opt, [x], samples=2, seed=1))
