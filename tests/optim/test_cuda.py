"""On a CUDA device: agreement with the CPU, loss scaling, graph capture, several streams and devices, resuming."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fenchel.optim import BSAM, SAM
from fenchel.optim.cuda_graph import GraphedStep
from fenchel.optim.vectorized import functional_loss, split_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SETTINGS: dict[str, Any] = {"num_data": 200, "rho": 0.05, "weight_decay": 1e-3, "damping": 0.1}


class Fed(BSAM):
    """Noise made on the CPU, so that devices can be compared."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.feed = torch.Generator().manual_seed(3)

    def standard_normal_like(self, param: Tensor) -> Tensor:
        return torch.randn(param.shape, generator=self.feed, dtype=torch.float64).to(param)


def network(dtype: torch.dtype = torch.float32, device: str = "cuda") -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to(device=device, dtype=dtype)


def data(dtype: torch.dtype = torch.float32, device: str = "cuda") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(24, 6, generator=generator)
    return x.to(device=device, dtype=dtype), torch.randint(0, 3, (24,), generator=generator).to(device)


def closures(
    net: nn.Module, opt: Any, x: Tensor, y: Tensor, parts: int, scaler: Any = None, half: bool = False
) -> list:
    def one(xs: Tensor, ys: Tensor) -> Any:
        def closure() -> Tensor:
            opt.zero_grad()
            with torch.autocast("cuda", torch.float16, enabled=half):
                loss = nn.functional.cross_entropy(net(xs).float() if half else net(xs), ys)
            (loss if scaler is None else scaler.scale(loss)).backward()
            return loss

        return closure

    return [one(a, b) for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True)]


def weights(net: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(net.parameters()).detach().double().cpu()


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("precision_first", [True, False])
def test_cpu_and_cuda_agree(parts: int, precision_first: bool) -> None:
    ends = []
    for device in ("cpu", "cuda"):
        net = network(torch.float64, device)
        x, y = data(torch.float64, device)
        opt = Fed(net.parameters(), 0.2, precision_first=precision_first, seed=0, **SETTINGS)
        for _ in range(20):
            opt.step(closures(net, opt, x, y, parts))
        ends.append(weights(net))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("parts", [1, 4])
def test_foreach_and_loop_agree(parts: int) -> None:
    ends = []
    for foreach in (True, False):
        net = network(torch.float64)
        x, y = data(torch.float64)
        opt = BSAM(net.parameters(), 0.2, foreach=foreach, seed=0, **SETTINGS)
        for _ in range(20):
            opt.step(closures(net, opt, x, y, parts))
        ends.append(weights(net))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("parts", [1, 4])
def test_the_loss_scale_does_not_matter(parts: int) -> None:
    """float32 with power-of-two scales: the scaled step is the unscaled one up to rounding."""
    ends = []
    for scale in (None, 2.0**4, 2.0**16):
        net = network()
        x, y = data()
        opt = BSAM(net.parameters(), 0.2, seed=0, **SETTINGS)
        scaler = None if scale is None else torch.amp.GradScaler("cuda", init_scale=scale)
        for _ in range(10):
            opt.step(closures(net, opt, x, y, parts, scaler), grad_scaler=scaler)
            if scaler is not None:
                scaler.update()
        ends.append(weights(net))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=2e-6)
    torch.testing.assert_close(ends[2], ends[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["bsam", "sam"])
@pytest.mark.parametrize("parts", [1, 3])
def test_float16_autocast_with_a_scaler(kind: str, parts: int) -> None:
    """A far too large first scale overflows: the step is skipped bit for bit, the scale backs off, training works."""
    net = network()
    x, y = data()
    opt = (
        BSAM(net.parameters(), 0.1, seed=0, **SETTINGS)
        if kind == "bsam"
        else SAM(net.parameters(), torch.optim.SGD, 0.05, lr=0.1)
    )
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
    before = weights(net)
    first = opt.step(closures(net, opt, x, y, parts, scaler, half=True), grad_scaler=scaler)
    scaler.update()
    assert torch.equal(weights(net), before)
    assert scaler.get_scale() == 2.0**39
    for _ in range(150):
        loss = opt.step(closures(net, opt, x, y, parts, scaler, half=True), grad_scaler=scaler)
        scaler.update()
    assert scaler.get_scale() < 2.0**30
    assert torch.isfinite(weights(net)).all()
    assert float(loss) < 0.8 * float(first)


def test_disabled_scaler_changes_nothing() -> None:
    ends = []
    for scaler in (None, torch.amp.GradScaler("cuda", enabled=False)):
        net = network()
        x, y = data()
        opt = BSAM(net.parameters(), 0.2, seed=0, **SETTINGS)
        for _ in range(5):
            opt.step(closures(net, opt, x, y, 1, scaler), grad_scaler=scaler)
            if scaler is not None:
                scaler.update()
        ends.append(weights(net))
    assert torch.equal(ends[0], ends[1])


@pytest.mark.parametrize("parts", [1, 4])
def test_vectorized_equals_sequential(parts: int) -> None:
    ends = []
    for vectorized in (False, True):
        net = network(torch.float64)
        x, y = data(torch.float64)
        opt = BSAM(net.parameters(), 0.2, seed=0, **SETTINGS)
        loss = functional_loss(net, nn.functional.cross_entropy, opt.trainable())
        for _ in range(10):
            if vectorized:
                opt.step_vectorized(loss, split_batch((x, y), parts))
            else:
                opt.step(closures(net, opt, x, y, parts))
        ends.append(weights(net))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("vectorized", [True, False])
def test_graph_equals_eager(vectorized: bool) -> None:
    """Replays draw the noise an eager run draws, follow the schedule, and capturing changes nothing."""
    ends, finals = [], []
    for graphed in (False, True):
        net = network(torch.float64)
        x, y = data(torch.float64)
        opt = BSAM(net.parameters(), 0.2, seed=0, capturable=True, **SETTINGS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 12)
        loss = functional_loss(net, nn.functional.cross_entropy, opt.trainable())

        def step(a: Tensor, b: Tensor, net: Any = net, opt: Any = opt, loss: Any = loss) -> Any:
            if vectorized:
                return opt.step_vectorized(loss, split_batch((a, b), 4))
            return opt.step(closures(net, opt, a, b, 4))

        before = weights(net)
        run: Any = GraphedStep(opt, step, (x, y)) if graphed else step
        assert torch.equal(weights(net), before)
        for i in range(12):
            shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(i)).cuda()
            value = run(x[shuffled], y[shuffled])
            schedule.step()
        ends.append(weights(net))
        finals.append(float(value))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-11)
    assert finals[1] == pytest.approx(finals[0], abs=1e-11)


def test_graph_continues_from_a_checkpoint() -> None:
    def run(graph_steps: int, saved: Any = None) -> tuple[Tensor, Any]:
        net = network()
        x, y = data()
        opt = BSAM(net.parameters(), 0.2, seed=5, capturable=True, **SETTINGS)
        loss = functional_loss(net, nn.functional.cross_entropy, opt.trainable())
        if saved is not None:
            net.load_state_dict(saved[0])
            opt.load_state_dict(saved[1])
        step = GraphedStep(opt, lambda a, b: opt.step_vectorized(loss, split_batch((a, b), 4)), (x, y))
        for _ in range(graph_steps):
            step(x, y)
        return weights(net), copy.deepcopy((net.state_dict(), opt.state_dict()))

    whole, _ = run(9)
    _, saved = run(4)
    resumed, _ = run(5, saved)
    assert torch.equal(resumed, whole)


def test_on_a_side_stream() -> None:
    ends = []
    for side in (False, True):
        net = network()
        x, y = data()
        opt = BSAM(net.parameters(), 0.2, seed=0, **SETTINGS)
        stream = torch.cuda.Stream() if side else torch.cuda.current_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(10):
                opt.step(closures(net, opt, x, y, 2))
        torch.cuda.synchronize()
        ends.append(weights(net))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-6)


def test_parameters_on_cpu_and_cuda_in_one_optimizer() -> None:
    """The split network's weights equal those of the same network on one device."""
    ends = []
    for where in (("cpu", "cpu"), ("cuda", "cpu"), ("cpu", "cuda")):
        net = network(torch.float64, "cpu")
        parts = list(net.children())
        first, last = nn.Sequential(parts[0], parts[1]).to(where[0]), parts[2].to(where[1])
        x, y = data(torch.float64, "cpu")
        opt = Fed([*first.parameters(), *last.parameters()], 0.2, max_grad_norm=0.5, seed=0, **SETTINGS)

        def closure(
            opt: Any = opt, first: Any = first, last: Any = last, where: Any = where, x: Any = x, y: Any = y
        ) -> Tensor:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(last(first(x.to(where[0])).to(where[1])), y.to(where[1]))
            loss.backward()
            return loss

        for _ in range(10):
            opt.step(closure)
        ends.append(torch.cat([p.detach().cpu().flatten() for p in opt.trainable()]))
        assert [v.device.type for v in opt.posterior_variance()] == [where[0]] * 2 + [where[1]] * 2
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-11)
    torch.testing.assert_close(ends[2], ends[0], rtol=0, atol=1e-11)


def test_bfloat16_weights_keep_float32_state() -> None:
    net = network(torch.bfloat16)
    x, y = data(torch.bfloat16)
    opt = BSAM(net.parameters(), 1e-3, seed=0, **SETTINGS)
    for _ in range(50):
        opt.step(closures(net, opt, x, y, 2))
    for p in net.parameters():
        state = opt.state[p]
        assert {t.dtype for t in state.values()} == {torch.float32}
        assert torch.equal(state["mean"].to(torch.bfloat16), p)
        assert not torch.equal(state["mean"], p.float())  # steps below bfloat16's resolution are not lost


def test_noise_is_standard_normal_and_resumes() -> None:
    p = nn.Parameter(torch.zeros(200_000, device="cuda"))
    opt = BSAM([p], 0.1, seed=7, num_data=1, rho=0.0)
    z = opt.standard_normal_like(p)
    assert z.device == p.device
    assert abs(float(z.mean())) < 5 / 200_000**0.5
    assert abs(float(z.var()) - 1) < 5 * (2 / 200_000) ** 0.5
    saved = copy.deepcopy(opt.state_dict())
    again = BSAM([p], 0.1, seed=8, num_data=1, rho=0.0)
    again.load_state_dict(saved)
    assert torch.equal(again.standard_normal_like(p), opt.standard_normal_like(p))


def test_no_memory_growth() -> None:
    net = network()
    x, y = data()
    opt = BSAM(net.parameters(), 0.1, seed=0, **SETTINGS)
    for _ in range(10):
        opt.step(closures(net, opt, x, y, 4))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(200):
        opt.step(closures(net, opt, x, y, 4))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before
