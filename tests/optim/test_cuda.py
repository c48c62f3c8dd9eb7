"""On a CUDA device: agreement with the CPU, loss scaling, graph capture, several streams and devices, resuming."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from fused_cases import CASES, check_case, check_noise, check_versions
from torch import Tensor, nn

from fenchel.optim import BSAM, IVON, SAM
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


@pytest.mark.parametrize(("dtype", "parts", "kwargs"), CASES, ids=str)
def test_fused_equals_eager(dtype: torch.dtype, parts: int, kwargs: dict[str, Any]) -> None:
    check_case(dtype, "cuda", parts, kwargs)


def test_fused_noise() -> None:
    check_noise("cuda", 200_001)


def test_fused_steps_are_seen_by_autograd() -> None:
    check_versions("cuda")


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
    skipped = 0
    while scaler.get_scale() > 2.0**12 and skipped < 60:  # back off to where nothing overflows
        opt.step(closures(net, opt, x, y, parts, scaler, half=True), grad_scaler=scaler)
        scaler.update()
        skipped += 1
    begin = weights(net)
    with torch.no_grad():
        plain = network()
        nn.utils.vector_to_parameters(begin.to(device="cuda", dtype=torch.float32), plain.parameters())
    for _ in range(5):
        opt.step(closures(net, opt, x, y, parts, scaler, half=True), grad_scaler=scaler)
        scaler.update()
    after = weights(net)
    assert torch.isfinite(after).all()
    losses = [float(nn.functional.cross_entropy(model(x), y).detach()) for model in (plain, net)]
    assert losses[1] < losses[0]
    assert bool(first.isfinite())


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
        opt._opt_called = True  # the schedule asks whether a step was made before it, which a replay does not tell
        assert torch.equal(weights(net), before)
        for i in range(12):
            shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(i)).cuda()
            value = run(x[shuffled], y[shuffled])
            schedule.step()
        ends.append(weights(net))
        finals.append(float(value))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-11)
    assert finals[1] == pytest.approx(finals[0], abs=1e-11)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("kind", ["bsam", "bsam-16-bit", "sam-sgd", "sam-adam", "sgd", "adam", "ivon"])
def test_any_optimizer_in_a_graph(kind: str, parts: int) -> None:
    """Replays equal eager steps in float32 and bfloat16, fused noise included, and follow the learning rate."""
    ends = []
    for graphed in (False, True):
        dtype = torch.bfloat16 if "16" in kind else torch.float32
        net = network(dtype)
        x, y = data(dtype)
        lr = torch.tensor(0.05, device="cuda")
        makers: dict[str, Any] = {
            "bsam": lambda ps, lr=lr: BSAM(ps, lr, seed=0, capturable=True, **SETTINGS),
            "sam-sgd": lambda ps, lr=lr: SAM(ps, torch.optim.SGD, 0.05, lr=lr, momentum=0.9, fused=True),
            "sam-adam": lambda ps, lr=lr: SAM(ps, torch.optim.Adam, 0.05, lr=lr, capturable=True),
            "sgd": lambda ps, lr=lr: torch.optim.SGD(ps, lr=lr, momentum=0.9, fused=True),
            "adam": lambda ps, lr=lr: torch.optim.Adam(ps, lr=lr, capturable=True),
            "ivon": lambda ps, lr=lr: IVON(ps, lr, num_data=200, seed=0),
        }
        opt = makers[kind.removesuffix("-16-bit")](net.parameters())

        def step(a: Tensor, b: Tensor, net: Any = net, opt: Any = opt) -> Any:
            parts_ = closures(net, opt, a, b, parts)
            return opt.step(parts_ if isinstance(opt, BSAM | SAM | IVON) else parts_[0])

        run: Any = GraphedStep(opt, step, (x, y), module=net) if graphed else step
        for i in range(6):
            run(x.roll(i, 0), y.roll(i, 0))
            lr.mul_(0.8)
        ends.append(weights(net))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-6 if "16" not in kind else 2e-2)


def test_a_graph_refuses_changed_hyperparameters() -> None:
    net = network()
    x, y = data()
    opt = BSAM(net.parameters(), 0.2, seed=5, capturable=True, **SETTINGS)
    step = GraphedStep(opt, lambda a, b: opt.step(closures(net, opt, a, b, 1)), (x, y))
    step(x, y)
    opt.param_groups[0]["rho"] = 0.1
    with pytest.raises(RuntimeError, match="hyperparameter"):
        step(x, y)


@pytest.mark.parametrize("kind", ["bsam", "sam-sgd", "sam-adam"])
def test_graph_continues_from_a_checkpoint_on_the_cpu(kind: str) -> None:
    """The schedule goes on: the learning rate changes after the second capture."""

    def run(steps: range, saved: Any = None) -> tuple[Tensor, Any]:
        net = network()
        x, y = data()
        lr = torch.tensor(0.2 if kind == "bsam" else 0.01, device="cuda")
        opt: Any = {
            "bsam": lambda ps: BSAM(ps, lr, seed=5, capturable=True, **SETTINGS),
            "sam-sgd": lambda ps: SAM(ps, torch.optim.SGD, 0.05, lr=lr, momentum=0.9, fused=True),
            "sam-adam": lambda ps: SAM(ps, torch.optim.Adam, 0.05, lr=lr, fused=True, capturable=True),
        }[kind](net.parameters())
        if saved is not None:
            file = io.BytesIO(saved)
            model, state = torch.load(file, map_location="cpu", weights_only=True)
            net.load_state_dict(model)
            opt.load_state_dict(state)
        step = GraphedStep(opt, lambda a, b: opt.step(closures(net, opt, a, b, 4)), (x, y))
        for _ in steps:
            step(x, y)
            opt.param_groups[0]["lr"].mul_(0.7)
        file = io.BytesIO()
        torch.save((net.state_dict(), opt.state_dict()), file)
        return weights(net), file.getvalue()

    whole, _ = run(range(9))
    _, saved = run(range(4))
    resumed, _ = run(range(4, 9), saved)
    assert torch.equal(resumed, whole)


def test_a_graph_refuses_a_learning_rate_on_the_cpu() -> None:
    net = network()
    x, y = data()
    opt = torch.optim.SGD(net.parameters(), lr=torch.tensor(0.1), momentum=0.9, fused=True)
    with pytest.raises(ValueError, match="lr as a tensor on the device"):
        GraphedStep(opt, lambda a, b: opt.step(closures(net, opt, a, b, 1)[0]), (x, y))


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
