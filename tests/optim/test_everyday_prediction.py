"""Prediction as users call it: batches of every kind, frozen models, inference mode, wrapped optimizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optim_cases import closure_for, data, make, network
from torch import Tensor, nn

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


def test_wrapped_optimizers_are_unwrapped() -> None:
    class Wrapper:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

    net = network(dtype=torch.float32)
    x = data(dtype=torch.float32)[0]
    opt = make("bsam", net.parameters())
    a = predict_bma(net, Wrapper(Wrapper(opt)), [x], samples=2, seed=1)
    assert torch.equal(a, predict_bma(net, opt, [x], samples=2, seed=1))
