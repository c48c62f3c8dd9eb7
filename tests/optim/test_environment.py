"""Noise streams, the posterior, batch normalization and other frameworks' training loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optim_cases import SETTINGS, FedBSAM, closure_for, closures_for, data, flat, make, minimizing, network
from scipy import stats
from torch import Tensor, nn

from fenchel.optim import BSAM, SAM, SWAG, frozen_statistics, functional_loss, reestimate_statistics, split_batch
from fenchel.optim.noise import NoiseSource, new_seed
from fenchel.predict import predict_bma

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [1000, 131_085])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_standard_normal_and_independent(size: int, dtype: torch.dtype) -> None:
    source, draws = NoiseSource(), torch.empty(4, size, dtype=dtype)
    for k in range(4):  # two steps of two sub-batches
        if k % 2 == 0:
            source.start(1, k)
        draws[k] = torch.randn(size, dtype=dtype, generator=source.on(CPU))
    assert draws.dtype == dtype
    z = draws.flatten().double()
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-4
    for k, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        error = (float((z ** (2 * k)).mean()) / z.numel()) ** 0.5
        assert abs(float((z**k).mean()) - moment) < 5 * error
    correlations = torch.corrcoef(draws.double()) - torch.eye(4, dtype=torch.float64)
    assert correlations.abs().max() < 5 / size**0.5
    cut = size // 4
    pieces = draws[:, : 4 * cut].reshape(16, cut).double()
    assert (torch.corrcoef(pieces) - torch.eye(16, dtype=torch.float64)).abs().max() < 5.5 / cut**0.5


def test_streams_differ_by_seed_step_rank_and_purpose_and_nothing_else() -> None:
    def draw(seed: int, count: int, **kwargs: Any) -> Tensor:
        source = NoiseSource(**kwargs)
        source.start(seed, count)
        return torch.randn(20, generator=source.on(CPU))

    draws = [draw(1, 1), draw(2, 1), draw(1, 2), draw(1, 1, rank=1), draw(1, 1, purpose="sampling")]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    assert torch.equal(draws[0], draw(1, 1))
    torch.manual_seed(3)
    first = new_seed(None)
    torch.manual_seed(3)
    assert new_seed(None) == first != new_seed(None)


def test_posterior_samples_have_the_mean_and_variance() -> None:
    p = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    opt = BSAM([p], 0.1, **{**SETTINGS, "num_data": 10})
    assert torch.allclose(opt.posterior_variance()[0], torch.full((3,), 0.1, dtype=torch.float64))
    closure = minimizing(opt, lambda: (torch.tensor([1.0, 3.0, 9.0]) * p**2).sum())
    for _ in range(20):
        opt.step(closure)
    mean, variance = p.detach().clone(), opt.posterior_variance()[0]
    torch.testing.assert_close(variance, 1 / (10 * opt.state[p]["s"]))
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(4000):
        with opt.sampled_params(generator):
            samples.append(p.detach().clone())
    assert torch.equal(p.detach(), mean)
    drawn = torch.stack(samples)
    assert ((drawn.mean(0) - mean).abs() < 5 * (variance / 4000).sqrt()).all()
    assert ((drawn.var(0) / variance - 1).abs() < 5 * (2 / 4000) ** 0.5).all()


def test_sampling_is_restored_by_exceptions_keeps_gradients_on_and_leaves_training_alone() -> None:
    ends = []
    for sampled in (False, True):
        net = network()
        x, y = data()
        opt = BSAM(net.parameters(), 0.2, seed=3, **SETTINGS)
        for _ in range(3):
            opt.step(closure_for(net, opt, x, y))
            if sampled:
                before = flat(net)
                with opt.sampled_params():
                    assert torch.is_grad_enabled()
                    assert not torch.equal(flat(net), before)
                with pytest.raises(KeyboardInterrupt):
                    interrupted(opt.sampled_params(), lambda: None)
                assert torch.equal(flat(net), before)
        ends.append(flat(net))
    assert torch.equal(*ends)
    fed = FedBSAM(network().parameters(), 0.2, **SETTINGS)
    fed.feed = torch.zeros(1000, dtype=torch.float64)
    with fed.sampled_params():
        assert torch.equal(flat(fed.trainable()), flat(network()))
    fed.begin()
    with pytest.raises(RuntimeError, match="middle of a step"):
        fed.posterior_variance()


@pytest.mark.parametrize("kind", ["bsam", "ivon"])
def test_samples_are_of_the_mean_wherever_the_weights_are(kind: str) -> None:
    net = network()
    x, y = data()
    opt = make(kind, net.parameters())
    closure = closure_for(net, opt, x, y)
    opt.step(closure)
    swag = SWAG(net.named_parameters(), seed=0)
    swag.collect()
    before, alone = flat(net), predict_bma(net, opt, x, samples=2, seed=1)
    for away in (opt.sampled_params, swag.mean_params):
        with away(), away():
            torch.testing.assert_close(predict_bma(net, opt, x, samples=2, seed=1), alone, rtol=0, atol=1e-12)
            for lost in (lambda: opt.step(closure), swag.collect):
                with pytest.raises(RuntimeError, match="outside of sampled_params"):
                    lost()
        assert torch.equal(flat(net), before)
    opt.step(closure)


def interrupted(context: Any, action: Any) -> None:
    with context:
        action()
        raise KeyboardInterrupt


def normalized() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=0.5), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize(
    ("policy", "moves"),
    [
        ("both", [True] * 4),
        ("first", [True, False, True, False]),
        ("second", [False, True, False, True]),
        ("none", [False] * 4),
        ("official", [True, True, False, False]),
    ],
)
@pytest.mark.parametrize("kind", ["bsam", "sam"])
def test_batch_norm_policy(policy: Any, moves: list[bool], kind: str) -> None:
    net = normalized()
    x, y = data(dtype=torch.float32)
    kwargs: dict[str, Any] = {"module": net, "batch_norm": policy}
    opt: Any = (
        BSAM(net.parameters(), 0.1, **SETTINGS, **kwargs)
        if kind == "bsam"
        else SAM(net.parameters(), torch.optim.SGD, 0.1, lr=0.1, **kwargs)
    )
    seen: list[bool] = []

    def watched(closure: Any) -> Any:
        def wrapped() -> Any:
            before = [b.clone() for b in net[1].buffers()]
            loss = closure()
            seen.append(not torch.equal(before[0], net[1].running_mean))
            return loss

        return wrapped

    opt.step([watched(c) for c in closures_for(net, opt, x, y, 2)])
    assert seen == moves
    assert net[1].momentum == 0.5
    assert int(net[1].num_batches_tracked) == sum(moves)


def test_batch_norm_policy_needs_its_module_and_a_name() -> None:
    with pytest.raises(ValueError, match="needs module="):
        BSAM(normalized().parameters(), 0.1, batch_norm="first", **SETTINGS)
    with pytest.raises(ValueError, match="batch_norm must be one of"):
        BSAM(normalized().parameters(), 0.1, batch_norm="sometimes", **SETTINGS)


def test_instance_normalization_has_statistics_too() -> None:
    layer = nn.InstanceNorm1d(2, track_running_stats=True).double()
    x = torch.arange(12.0, dtype=torch.float64).reshape(2, 2, 3)
    with frozen_statistics(layer):
        layer(x)
    assert not layer.running_mean.any()
    layer(x)
    assert layer.running_mean.any()


def test_frozen_statistics_come_back_after_an_exception_and_can_be_reestimated() -> None:
    net = normalized()
    x, _ = data(dtype=torch.float32)
    with pytest.raises(KeyboardInterrupt):
        interrupted(frozen_statistics(net), lambda: net(x))
    assert net[1].momentum == 0.5
    assert not net[1].running_mean.any()
    net.eval()
    reestimate_statistics(net, [x[:12], (x[12:], None)])
    hidden = net[0](x).detach()
    torch.testing.assert_close(net[1].running_mean, hidden.mean(0))
    assert not net.training
    assert net[1].momentum == 0.5


def test_functional_loss_and_split_batch_refuse_what_does_not_fit() -> None:
    net = network()
    with pytest.raises(ValueError, match="not among the module's"):
        functional_loss(net, nn.functional.cross_entropy, [nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="cannot be split"):
        split_batch(data(rows=10), 3)
    x, y = split_batch(data(rows=12), 3)
    assert x.shape == (3, 4, 4)
    assert y.shape == (3, 4)


@pytest.mark.filterwarnings("ignore")  # lightning's own, about its dependencies and its data loaders
def test_lightning_automatic_optimization() -> None:
    """Lightning hands its own closure; two passes a step, a scheduler, and the weights a plain loop gives."""
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = network(dtype=torch.float32)

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> Any:
            opt = BSAM(self.parameters(), 0.2, seed=3, **SETTINGS)
            return [opt], [torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)]

    x, y = data(dtype=torch.float32)
    batches = list(zip(x.chunk(3), y.chunk(3), strict=True))
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))

    net = network(dtype=torch.float32)
    opt = BSAM(net.parameters(), 0.2, seed=3, **SETTINGS)
    schedule = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    for _ in range(2):
        for a, b in batches:
            opt.step(closure_for(net, opt, a, b))
        schedule.step()
    torch.testing.assert_close(flat(module.net), flat(net), rtol=0, atol=1e-6)
