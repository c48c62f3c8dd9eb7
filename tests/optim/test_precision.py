"""16-bit weights, autocast and loss scaling."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from optim_cases import SETTINGS, closure_for, closures_for, data, flat, minimizing, network, state
from torch import Tensor, nn

from fenchel.optim import BSAM, IVON, SAM, VOGN, functional_loss, per_example_loss, split_batch


def make(kind: str, net: nn.Module, **kwargs: Any) -> Any:
    if kind == "bsam":
        return BSAM(net.parameters(), 0.2, seed=3, **SETTINGS, **kwargs)
    return SAM(net.parameters(), torch.optim.SGD, 0.05, lr=0.2, momentum=0.9, **kwargs)


class Scaled(nn.Module):
    """A layer whose parameter is 0-d."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.factor * x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_keep_float32_state_also_after_loading(dtype: torch.dtype) -> None:
    net = network(dtype=dtype)
    net[1] = Scaled().to(dtype)
    x, y = data(dtype=dtype)
    opt = make("bsam", net)
    for _ in range(3):
        opt.step(closures_for(net, opt, x, y, 2))
    again_net = copy.deepcopy(net)
    again = make("bsam", again_net)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    for o, n in ((opt, net), (again, again_net)):
        for p in n.parameters():
            assert {name: t.dtype for name, t in o.state[p].items()} == dict.fromkeys(
                ("s", "momentum", "mean"), torch.float32
            )
            assert torch.equal(o.state[p]["mean"].to(dtype), p)
            assert not torch.equal(o.state[p]["mean"], p.float())
    for _ in range(3):
        opt.step(closures_for(net, opt, x, y, 2))
        again.step(closures_for(again_net, again, x, y, 2))
    assert torch.equal(flat(net), flat(again_net))
    assert torch.equal(state(opt, "mean"), state(again, "mean"))


def test_bfloat16_weights_follow_the_float32_algorithm() -> None:
    """With gradients that do not depend on the weights, the mean of bfloat16 weights is the float32 run's."""
    gradient = torch.linspace(-1, 1, 64)
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        p = nn.Parameter(torch.linspace(-2, 2, 64).to(torch.bfloat16).to(dtype))
        opt = BSAM([p], 1e-3, seed=3, **SETTINGS)

        def closure(p: Any = p, dtype: torch.dtype = dtype) -> None:
            p.grad = gradient.to(torch.bfloat16).to(dtype)

        for _ in range(20):
            opt.step([closure, closure])
        ends.append((opt.state[p].get("mean", p.detach()), opt.state[p]["s"], p.detach()))
    torch.testing.assert_close(ends[1][0], ends[0][0], rtol=0, atol=1e-6)
    torch.testing.assert_close(ends[1][1], ends[0][1], rtol=0, atol=1e-6)
    assert torch.equal(ends[1][2], ends[1][0].to(torch.bfloat16))


def test_a_network_converted_between_steps_has_a_mean_if_and_only_if_it_is_16_bit() -> None:
    """What float32 state can go on with goes on; what it cannot is refused in one sentence, and loads anew."""
    for kind in (BSAM, IVON):
        net, (x, y) = network(dtype=torch.float32), data(dtype=torch.float32)
        opt = kind(net.parameters(), 0.1, num_data=100, **({"rho": 0.05} if kind is BSAM else {}))
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float32):
            net.to(dtype)
            opt.step(closure_for(net, opt, x.to(dtype), y))
            wide = dtype == torch.float32
            assert all(("mean" in opt.state[p]) != wide and opt.state[p]["momentum"].any() for p in net.parameters())
        net.double()
        with pytest.raises(ValueError, match=r"float64 on cpu now, its state torch\.float32 on cpu: convert or move"):
            opt.step(closure_for(net, opt, x.double(), y))
        opt.load_state_dict(opt.state_dict())
        opt.step(closure_for(net, opt, x.double(), y))


def test_16_bit_weights_changed_from_outside_are_what_counts() -> None:
    net = network(dtype=torch.bfloat16)
    x, y = data(dtype=torch.bfloat16)
    opt = make("bsam", net)
    opt.step(closure_for(net, opt, x, y))
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    opt.begin()
    opt.first_point()
    assert torch.equal(state(opt, "mean"), torch.zeros_like(state(opt, "mean")))
    opt.restore()
    assert not flat(net).any()


def _vogn(net: nn.Module) -> tuple[VOGN, Any]:
    opt = VOGN(net.parameters(), 0.01, num_data=60, seed=1)
    return opt, per_example_loss(net, nn.functional.cross_entropy, opt.trainable())


@pytest.mark.parametrize("kind", ["bsam", "ivon", "vogn"])
def test_16_bit_weights_changed_from_outside_are_where_all_go_on_and_sample(kind: str) -> None:
    net, (x, y) = network(dtype=torch.bfloat16), data(dtype=torch.bfloat16)
    opt: Any
    if kind == "vogn":
        opt, loss = _vogn(net)
    else:
        opt = make("bsam", net) if kind == "bsam" else IVON(net.parameters(), 0.01, num_data=60, seed=1)

    def step() -> None:
        opt.step(loss, (x, y)) if kind == "vogn" else opt.step(closure_for(net, opt, x, y))

    step()
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(5.0)
    with opt.sampled_params():
        assert abs(float(flat(net).mean()) - 5.0) < 0.1
    assert torch.equal(flat(net), torch.full_like(flat(net), 5.0))
    step()
    assert abs(float(flat(net).mean()) - 5.0) < 0.1


@pytest.mark.parametrize("kind", ["bsam", "ivon"])
def test_a_state_of_wider_weights_continues_in_16_bit(kind: str) -> None:
    wide, (x, y) = network(dtype=torch.float32), data(dtype=torch.float32)

    def make_one(net: nn.Module) -> Any:
        return make("bsam", net) if kind == "bsam" else IVON(net.parameters(), 0.1, num_data=60)

    first = make_one(wide)
    first.step(closure_for(wide, first, x, y))
    net = copy.deepcopy(wide).bfloat16()
    opt = make_one(net)
    opt.load_state_dict(first.state_dict())
    opt.step(closure_for(net, opt, x.bfloat16(), y))
    assert all(opt.state[p]["mean"].dtype == torch.float32 for p in net.parameters())


def test_exception_with_16_bit_weights_restores_them() -> None:
    net = network(dtype=torch.bfloat16)
    opt = make("bsam", net)
    before = flat(net)

    def closure() -> None:
        assert not torch.equal(flat(net), before)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opt.step(closure)
    assert torch.equal(flat(net), before)


def test_two_precisions_in_one_group() -> None:
    a, b = nn.Parameter(torch.ones(3, dtype=torch.bfloat16)), nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = BSAM([a, b], 0.1, seed=0, **SETTINGS)
    closure = minimizing(opt, lambda: (a.double() ** 2).sum() + (b**2).sum())
    for _ in range(5):
        loss = opt.step([closure, closure])
    assert float(loss) < 6
    assert opt.state[a]["s"].dtype == torch.float32
    assert opt.state[b]["s"].dtype == torch.float64


@pytest.mark.parametrize("kind", ["bsam", "sam"])
def test_bfloat16_autocast(kind: str) -> None:
    """Float32 weights under autocast: near the float32 run."""
    ends = []
    for enabled in (False, True):
        net = network(dtype=torch.float32)
        x, y = data(dtype=torch.float32)
        opt = make(kind, net)

        def closure(net: Any = net, opt: Any = opt, enabled: bool = enabled, x: Tensor = x, y: Tensor = y) -> Tensor:
            opt.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = nn.functional.cross_entropy(net(x).float(), y)
            loss.backward()
            return loss

        for _ in range(5):
            opt.step(closure)
        ends.append(flat(net))
        assert all(p.dtype == torch.float32 for p in net.parameters())
    assert not torch.equal(ends[0], ends[1])
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0.03)


@pytest.mark.parametrize("kind", ["bsam", "sam"])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_the_loss_scale_changes_nothing(kind: str, parts: int, clip: float | None) -> None:
    if kind == "sam" and clip is not None:
        clip = None
    kwargs = {} if clip is None else {"max_grad_norm": clip}
    ends, gradients = [], []
    for scale in (None, 2.0**3, 1000.0, 2.0**20):
        net = network()
        x, y = data()
        opt = make(kind, net, **kwargs)
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        for _ in range(5):
            opt.step(closures_for(net, opt, x, y, parts, scaler), grad_scaler=scaler)
            if scaler is not None:
                scaler.update()
        ends.append(flat(net))
        gradients.append(flat([p.grad for p in net.parameters()]))
    for end, gradient in zip(ends[1:], gradients[1:], strict=True):
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-7)  # the scaler keeps 1/scale in float32
        torch.testing.assert_close(gradient, gradients[0], rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["bsam", "sam"])
@pytest.mark.parametrize("bad_call", range(4))
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_infinity_in_either_pass_skips_the_step(kind: str, bad_call: int, value: float) -> None:
    """Sub-batch 0 or 1, first or second pass: weights and state stay bit for bit, the scale backs off once."""
    net = network()
    x, y = data()
    opt = make(kind, net)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    opt.step(closures_for(net, opt, x, y, 2, scaler), grad_scaler=scaler)
    scaler.update()
    before, kept = flat(net), copy.deepcopy([dict(opt.state[p]) for p in net.parameters()])
    calls = 0

    def spoiled(closure: Any) -> Any:
        def wrapped() -> Any:
            nonlocal calls
            loss = closure()
            if calls == bad_call:
                net[2].bias.grad[0] = value
            calls += 1
            return loss

        return wrapped

    opt.step([spoiled(c) for c in closures_for(net, opt, x, y, 2, scaler)], grad_scaler=scaler)
    scaler.update()
    assert torch.equal(flat(net), before)
    for p, saved in zip(net.parameters(), kept, strict=True):
        for name, t in saved.items():
            assert torch.equal(torch.as_tensor(opt.state[p][name]), torch.as_tensor(t))
    assert scaler.get_scale() == 2.0**9
    opt.step(closures_for(net, opt, x, y, 2, scaler), grad_scaler=scaler)
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert not torch.equal(flat(net), before)


@pytest.mark.parametrize("kind", ["bsam", "sam"])
def test_an_infinity_of_the_first_pass_alone_is_noticed(kind: str) -> None:
    """Even where the second pass has finite gradients all the same."""
    p = nn.Parameter(torch.ones(2))
    opt = make(kind, nn.ParameterList([p]))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(()))
    gradients = iter([torch.tensor([float("inf"), 1.0]), torch.tensor([4.0, 4.0])])

    def closure() -> None:
        p.grad = next(gradients)

    opt.step(closure, grad_scaler=scaler)
    scaler.update()
    assert torch.equal(p.detach(), torch.ones(2))
    assert scaler.get_scale() == 2.0


def test_moves_with_a_scaler() -> None:
    """The four moves, made by hand under a scaler, are `step`."""
    ends = []
    for by_hand in (False, True):
        net = network()
        x, y = data()
        opt = make("bsam", net)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        for _ in range(3):
            closures = closures_for(net, opt, x, y, 2, scaler)
            if by_hand:
                opt.begin(scaler)
                for closure in closures:
                    opt.first_point()
                    closure()
                    opt.second_point()
                    closure()
                    opt.collect()
                opt.update()
            else:
                opt.step(closures, grad_scaler=scaler)
            scaler.update()
        ends.append(flat(net))
    assert torch.equal(ends[0], ends[1])


def vectorized(net: nn.Module, opt: BSAM, parts: int, scaler: Any, spoil: int | None = None) -> Tensor:
    x, y = data()
    calls = 0

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        loss = nn.functional.cross_entropy(outputs, targets)
        return loss * float("inf") if calls - 1 == spoil else loss

    return opt.step_vectorized(
        functional_loss(net, criterion, opt.trainable()), split_batch((x, y), parts), grad_scaler=scaler
    )


@pytest.mark.parametrize("clip", [None, 0.3])
def test_the_loss_scale_changes_nothing_in_a_vectorized_step(clip: float | None) -> None:
    x, y = data()
    ends = []
    for way in ("step", "vectorized"):
        net = network()
        opt = BSAM(net.parameters(), 0.2, seed=3, max_grad_norm=clip, **SETTINGS)
        scaler = torch.amp.GradScaler("cpu", init_scale=1000.0)
        losses = []
        for _ in range(4):
            if way == "step":
                losses.append(opt.step(closures_for(net, opt, x, y, 3)))
            else:
                losses.append(vectorized(net, opt, 3, scaler))
                scaler.update()
        ends.append((flat(net), torch.stack(losses)))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-7)  # the scaler keeps 1/scale in float32


def test_a_vectorized_step_leaves_the_averaged_unscaled_gradient() -> None:
    """Which is the momentum, if that keeps nothing and there is no decay."""
    net = network()
    opt = BSAM(net.parameters(), 0.2, seed=3, **{**SETTINGS, "betas": (0.0, 0.9), "weight_decay": 0.0})
    scaler = torch.amp.GradScaler("cpu", init_scale=1000.0)
    vectorized(net, opt, 3, scaler)
    gradient = flat([p.grad for p in net.parameters()])
    torch.testing.assert_close(gradient, state(opt, "momentum"), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad_pass", [0, 1])
def test_an_infinity_in_either_pass_skips_a_vectorized_step(bad_pass: int) -> None:
    net = network()
    opt = BSAM(net.parameters(), 0.2, seed=3, **SETTINGS)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    vectorized(net, opt, 2, scaler)
    scaler.update()
    before, s = flat(net), state(opt, "s")
    vectorized(net, opt, 2, scaler, spoil=bad_pass)
    scaler.update()
    assert torch.equal(flat(net), before)
    assert torch.equal(state(opt, "s"), s)
    assert scaler.get_scale() == 2.0**9
    vectorized(net, opt, 2, scaler)
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert not torch.equal(flat(net), before)


def test_the_noise_of_every_precision_is_drawn_anew_for_every_sub_batch() -> None:
    size, num_data, s = 4000, 50, 2.0
    params = [nn.Parameter(torch.zeros(size, dtype=dtype)) for dtype in (torch.float32, torch.float64, torch.bfloat16)]
    opt = BSAM(params, 0.1, num_data=num_data, rho=0.0, s_init=s, seed=1)
    points: list[list[Tensor]] = []

    def closure() -> None:
        points.append([p.detach().to(torch.float64, copy=True) for p in params])
        for p in params:
            p.grad = torch.zeros_like(p)

    opt.step([closure, closure])
    noise = torch.cat([torch.stack(points[i]) for i in (0, 2)]) * (num_data * s) ** 0.5
    assert (noise.mean(1).abs() < 5 / size**0.5).all()
    assert ((noise.var(1) - 1).abs() < 5 * (2 / size) ** 0.5).all()
    correlations = torch.corrcoef(noise) - torch.eye(6)
    assert (correlations.abs() < 5 / size**0.5).all()
