"""Invariants of BSAM that hold for every loss, and what happens to the mean when something goes wrong."""

from __future__ import annotations

import copy
import gc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_cases import SETTINGS, FedBSAM, closure_for, closures_for, data, flat, network, state
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from fenchel.optim import BSAM, functional_loss, kernels, split_batch


def train(steps: int = 5, parts: int = 2, net_seed: int = 0, **kwargs: Any) -> tuple[nn.Module, BSAM]:
    net = network(net_seed)
    x, y = data()
    opt = BSAM(net.parameters(), **{"lr": 0.2, "seed": 3, **SETTINGS, **kwargs})
    for _ in range(steps):
        opt.step(closures_for(net, opt, x, y, parts))
    return net, opt


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("precision_first", [True, False])
def test_lr_zero_moves_nothing(parts: int, precision_first: bool) -> None:
    net, opt = train(steps=4, parts=parts, lr=0.0, precision_first=precision_first)
    assert torch.equal(flat(net), flat(network(0)))
    assert not torch.equal(state(opt, "s"), torch.ones_like(flat(net)))


def newton(h: Any, b: Any, w: Any, steps: int, order: bool, lr: float, beta2: float, delta: float, gamma: float) -> Any:
    """rho = 0, no noise, beta1 = 0 on 1/2 h w^2 - b w: line 8 and 9 with g = h w - b, in numpy."""
    s = np.ones_like(w)
    for _ in range(steps):
        g = h * w - b
        new = beta2 * s + (1 - beta2) * (np.sqrt(s) * abs(g) + delta + gamma)
        w = w - lr * (g + delta * w) / (new if order else s)
        s = new
    return w, s


@pytest.mark.parametrize("order", [True, False])
@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    lr=st.floats(0.01, 0.5),
    beta2=st.floats(0.0, 0.999),
    delta=st.floats(0.0, 0.5),
    gamma=st.floats(0.05, 1.0),
)
def test_newton_like_step_on_quadratics(
    order: bool, seed: int, lr: float, beta2: float, delta: float, gamma: float
) -> None:
    rng = np.random.default_rng(seed)
    h, b, w = rng.uniform(0.2, 2, 5), rng.normal(size=5), rng.normal(size=5)
    p = nn.Parameter(torch.tensor(w))
    opt = BSAM(
        [p], lr, num_data=7, rho=0.0, betas=(0.0, beta2), weight_decay=delta, damping=gamma, noise=False,
        precision_first=order,
    )  # fmt: skip

    def closure() -> Tensor:
        opt.zero_grad()
        loss = (0.5 * torch.tensor(h) * p**2 - torch.tensor(b) * p).sum()
        loss.backward()
        return loss

    for _ in range(6):
        opt.step(closure)
    mean, s = newton(h, b, w, 6, order, lr, beta2, delta, gamma)
    np.testing.assert_allclose(p.detach().numpy(), mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(opt.state[p]["s"].numpy(), s, rtol=1e-12)


def fed_run(
    order: list[int], groups: bool, parts_order: list[int], noise: dict[tuple[int, int, int], Tensor]
) -> Tensor:
    """Train with parameters, groups and sub-batches arranged differently but the same noise for each."""
    net = network(1)
    params = list(net.parameters())
    arranged = [params[i] for i in order]
    opt = FedBSAM([{"params": [p]} for p in arranged] if groups else arranged, 0.2, **SETTINGS)
    x, y = data()
    xs, ys = x.chunk(3), y.chunk(3)
    for t in range(4):
        opt.feed = torch.cat([noise[t, k, i].reshape(-1) for k in parts_order for i in order])
        opt.step([closure_for(net, opt, xs[k], ys[k]) for k in parts_order])
    return flat(params)


def test_order_of_parameters_groups_and_sub_batches_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [p.shape for p in network(1).parameters()]
    noise = {
        (t, k, i): torch.randn(shape, generator=generator, dtype=torch.float64)
        for t in range(4)
        for k in range(3)
        for i, shape in enumerate(shapes)
    }
    base = fed_run([0, 1, 2, 3], False, [0, 1, 2], noise)
    for order, groups, parts in (([3, 1, 0, 2], False, [0, 1, 2]), ([2, 3, 0, 1], True, [0, 1, 2])):
        torch.testing.assert_close(fed_run(order, groups, parts, noise), base, rtol=0, atol=1e-14)
    torch.testing.assert_close(fed_run([0, 1, 2, 3], False, [2, 0, 1], noise), base, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kwargs", [{}, {"precision_first": False}, {"lr": torch.tensor(0.2)}, {"maximize": True}])
@pytest.mark.parametrize("parts", [1, 3])
def test_foreach_equals_loop(parts: int, kwargs: dict[str, Any]) -> None:
    ends = [train(parts=parts, foreach=foreach, **kwargs)[0] for foreach in (True, False)]
    torch.testing.assert_close(flat(ends[0]), flat(ends[1]), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("backend", "precision_first"), [("inductor", True), ("aot_eager", False)])
def test_compiled_equals_eager(backend: str, precision_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the default compiler, and by tracing alone; a schedule does not compile anew."""
    counted = CompileCounterWithBackend(backend)
    monkeypatch.setattr(
        kernels, "update_kernel", lambda _: torch.compile(kernels.update, dynamic=False, backend=counted)
    )
    ends = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(kernels, "update_kernel", lambda _: kernels.update)
        p = nn.Parameter(torch.linspace(-1, 1, 40, dtype=torch.float64))
        opt = BSAM([p], 0.2, seed=3, compiled=compiled, precision_first=precision_first, **SETTINGS)
        schedule = torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)

        def closure(p: Any = p, opt: Any = opt) -> Tensor:
            opt.zero_grad()
            loss = torch.cosh(p - 0.3).log().sum()
            loss.backward()
            return loss

        for step in range(5):
            opt.step([closure, closure])
            schedule.step()
            if step == 1:
                compilations = counted.frame_count
        ends.append(flat([p]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-13)
    assert counted.frame_count == compilations > 0


def test_tensor_lr_equals_number_and_follows_schedules() -> None:
    ends = []
    for lr in (0.2, torch.tensor(0.2, dtype=torch.float64)):
        net = network()
        x, y = data()
        opt = BSAM(net.parameters(), lr, seed=3, **SETTINGS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 5)
        for _ in range(5):
            opt.step(closure_for(net, opt, x, y))
            schedule.step()
        ends.append(flat(net))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-14)


def test_maximize_is_minimizing_the_negative() -> None:
    ends = []
    for maximize in (False, True):
        net = network()
        x, y = data()
        opt = BSAM(net.parameters(), 0.05, seed=3, maximize=maximize, **SETTINGS)

        def part(net: Any, opt: Any, sign: int, x: Tensor, y: Tensor) -> Any:
            def closure() -> Tensor:
                opt.zero_grad()
                loss = sign * nn.functional.cross_entropy(net(x), y)
                loss.backward()
                return loss

            return closure

        for _ in range(5):
            opt.step([part(net, opt, -1 if maximize else 1, x, y)] * 2)
        ends.append(flat(net))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-14)


def test_equal_sub_batches_without_noise_are_one() -> None:
    """m copies of one sub-batch average to it, if there is no noise to tell them apart."""
    ends = []
    for m in (1, 4):
        net = network()
        x, y = data()
        opt = BSAM(net.parameters(), 0.2, noise=False, **SETTINGS)
        for _ in range(4):
            opt.step([closure_for(net, opt, x, y)] * m)
        ends.append(flat(net))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-14)


def test_groups_have_their_own_hyperparameters() -> None:
    """Two groups in one optimizer are two optimizers side by side, as the loss is a sum of separate terms."""
    a, b = nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([0.5, 3.0, 1.0]))
    own: dict[str, Any] = {
        "lr": 0.3,
        "rho": 0.2,
        "num_data": 5,
        "weight_decay": 0.1,
        "betas": (0.5, 0.9),
        "damping": 0.4,
    }
    other = {"s_init": 2.0, "precision_first": False, "data_factor": 3.0, "sqrt_num_data": True, "noise": False}

    def run(groups: list[dict[str, Any]]) -> Tensor:
        values = [nn.Parameter(p.detach().clone()) for p in (a, b)]
        for group in groups:
            group["params"] = [values[i] for i in group.pop("which")]
        opts = [BSAM([group], 0.1, noise=False, **SETTINGS) for group in groups] if len(groups) > 1 else []
        both = BSAM(
            [{**own, "params": [values[0]]}, {**other, "params": [values[1]]}], 0.1, **{**SETTINGS, "noise": False}
        )

        def closure() -> Tensor:
            for p in values:
                p.grad = None
            loss = sum((torch.cosh(p - 0.3).log().sum() for p in values), torch.zeros(()))
            loss.backward()
            return loss

        for _ in range(5):
            for opt in opts or [both]:
                opt.step(closure)
        return flat(values)

    together = run([{"which": [0, 1]}])
    apart = run([{"which": [0], **own}, {"which": [1], **other}])
    torch.testing.assert_close(together, apart)


def test_sqrt_num_data_and_data_factor_enter_where_they_should() -> None:
    """One step from s = 1: s = beta2 + (1 - beta2) (sqrt(N f) |g| + delta + gamma), variance 1/(N f s)."""
    p = nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.float64))
    opt = BSAM(
        [p], 0.0, num_data=50, data_factor=2.0, rho=0.0, betas=(0.9, 0.8), weight_decay=0.01, damping=0.2, noise=False,
        sqrt_num_data=True,
    )  # fmt: skip

    def closure() -> Tensor:
        opt.zero_grad()
        loss = (p**2).sum() / 2
        loss.backward()
        return loss

    opt.step(closure)
    expected = 0.8 + 0.2 * (10 * torch.tensor([2.0, 3.0], dtype=torch.float64) + 0.21)
    torch.testing.assert_close(opt.state[p]["s"], expected)
    torch.testing.assert_close(opt.posterior_variance()[0], 1 / (100 * expected))


def test_noise_has_the_posterior_variance() -> None:
    """The first point of a step is omega + z / sqrt(N f s): from the variance of many weights."""
    p = nn.Parameter(torch.full((100_000,), 5.0))
    opt = BSAM([p], 0.1, num_data=10, data_factor=2.0, rho=0.1, s_init=0.5, seed=0)
    opt.begin()
    opt.first_point()
    deviation = p.detach() - 5.0
    opt.restore()
    assert float(deviation.var()) == pytest.approx(0.1, rel=0.02)
    assert float(deviation.mean()) == pytest.approx(0.0, abs=5 * (0.1 / 100_000) ** 0.5)


class Broken(RuntimeError):
    pass


@pytest.mark.parametrize("fail_at", range(6))
@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_an_exception_leaves_everything_as_it_was(fail_at: int, error: type[BaseException]) -> None:
    net, opt = train(steps=2)
    x, y = data()
    before, s, momentum = flat(net), state(opt, "s"), state(opt, "momentum")
    calls = 0

    def failing(closure: Any) -> Any:
        def wrapped() -> Any:
            nonlocal calls
            calls += 1
            if calls == fail_at + 1:
                raise error
            return closure()

        return wrapped

    with pytest.raises(error):
        opt.step([failing(c) for c in closures_for(net, opt, x, y, 3)])
    assert torch.equal(flat(net), before)
    assert torch.equal(state(opt, "s"), s)
    assert torch.equal(state(opt, "momentum"), momentum)
    opt.step(closures_for(net, opt, x, y, 3))
    assert not torch.equal(flat(net), before)


def test_vectorized_exception_leaves_the_mean() -> None:
    net, opt = train(steps=1)
    before = flat(net)

    def loss(values: Any, batch: Any) -> Tensor:
        raise Broken

    with pytest.raises(Broken):
        opt.step_vectorized(loss, split_batch(data(), 2))
    assert torch.equal(flat(net), before)
    with pytest.raises(RuntimeError, match="begin first"):
        opt.collect()


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("kwargs", [{}, {"noise": False}, {"maximize": True}, {"max_grad_norm": 0.1}])
def test_vectorized_equals_sequential(parts: int, kwargs: dict[str, Any]) -> None:
    ends = []
    for vectorized in (False, True):
        net = network()
        x, y = data()
        opt = BSAM(net.parameters(), 0.2, seed=3, **SETTINGS, **kwargs)
        loss = functional_loss(net, nn.functional.cross_entropy, opt.trainable())
        for _ in range(4):
            if vectorized:
                value = opt.step_vectorized(loss, split_batch((x, y), parts))
            else:
                value = opt.step(closures_for(net, opt, x, y, parts))
        ends.append((flat(net), state(opt, "s"), value))
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_frozen_and_unused_parameters() -> None:
    net = network()
    net[0].weight.requires_grad_(False)
    spare = nn.Parameter(torch.ones(3, dtype=torch.float64))
    x, y = data()
    opt = BSAM([*net.parameters(), spare], 0.2, seed=3, **SETTINGS)
    frozen = net[0].weight.detach().clone()
    for _ in range(3):
        opt.step(closures_for(net, opt, x, y, 2))
    assert torch.equal(net[0].weight, frozen)
    assert net[0].weight not in opt.state
    assert torch.equal(spare.detach(), torch.ones(3, dtype=torch.float64))
    assert torch.equal(opt.state[spare]["s"], torch.ones(3, dtype=torch.float64))
    assert len(opt.posterior_variance()) == 4
    assert not torch.equal(net[2].weight, network()[2].weight)


def test_a_gradient_missing_in_one_sub_batch_counts_as_zero() -> None:
    def run(missing: bool) -> Tensor:
        p, q = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([2.0]))
        opt = BSAM([p, q], 0.1, num_data=3, rho=0.1, noise=False)

        def one() -> Tensor:
            opt.zero_grad()
            loss = (p**2).sum() if missing else (p**2).sum() + 0 * q.sum()
            loss.backward()
            return loss

        def two() -> Tensor:
            opt.zero_grad()
            loss = (p * q**2).sum()
            loss.backward()
            return loss

        for _ in range(3):
            opt.step([one, two])
        return flat([p, q])

    torch.testing.assert_close(run(True), run(False))


def test_zero_grad_filling_with_zeros_is_as_good_as_none() -> None:
    ends = []
    for to_none in (True, False):
        net = network()
        x, y = data()
        opt = BSAM(net.parameters(), 0.2, seed=3, **SETTINGS)

        def part(a: Tensor, b: Tensor, net: Any = net, opt: Any = opt, to_none: bool = to_none) -> Any:
            def closure() -> Tensor:
                opt.zero_grad(set_to_none=to_none)
                loss = nn.functional.cross_entropy(net(a), b)
                loss.backward()
                return loss

            return closure

        for _ in range(3):
            opt.step([part(a, b) for a, b in zip(x.chunk(3), y.chunk(3), strict=True)])
        ends.append(flat(net))
    assert torch.equal(ends[0], ends[1])


def test_gradient_clipping_bounds_the_averaged_gradient() -> None:
    p = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    opt = BSAM([p], 0.0, num_data=3, rho=0.0, betas=(0.0, 0.9), weight_decay=0.0, noise=False, max_grad_norm=0.5)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = (p**2).sum() / 2
        loss.backward()
        return loss

    opt.step([closure, closure])
    torch.testing.assert_close(
        opt.state[p]["momentum"], torch.tensor([0.3, 0.4], dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_gradients_the_user_holds_are_not_written_to() -> None:
    p = nn.Parameter(torch.tensor([1.0, -1.0]))
    opt = BSAM([p], 0.1, num_data=3, rho=0.1)
    fixed = torch.tensor([-2.0, 5.0])

    def closure() -> None:
        p.grad = fixed

    opt.step([closure, closure])
    opt.step(closure)
    assert torch.equal(fixed, torch.tensor([-2.0, 5.0]))


def test_step_without_closure_says_what_is_missing() -> None:
    _, opt = train(steps=0)
    with pytest.raises(ValueError, match=r"BSAM\.step needs a closure"):
        opt.step()
    with pytest.raises(ValueError, match="empty list"):
        opt.step([])
    with pytest.raises(TypeError, match="callables"):
        opt.step([1])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -0.1), ("lr", float("nan")), ("rho", -1.0), ("rho", float("inf")), ("num_data", 0),
        ("betas", (1.0, 0.9)),
        ("betas", (0.9, -0.1)), ("betas", 0.9), ("weight_decay", -1e-3), ("damping", -1.0), ("s_init", 0.0),
        ("data_factor", 0.0), ("num_data", "many"),
    ],
)  # fmt: skip
def test_bad_hyperparameters_are_named(name: str, value: Any) -> None:
    kwargs: dict[str, Any] = {"lr": 0.1, **SETTINGS, name: value}
    with pytest.raises(ValueError, match=name):
        BSAM([nn.Parameter(torch.ones(2))], **kwargs)
    good = BSAM([nn.Parameter(torch.ones(2))], 0.1, **SETTINGS)
    with pytest.raises(ValueError, match=name):
        good.add_param_group({"params": [nn.Parameter(torch.ones(2))], name: value})
    assert len(good.param_groups) == 1


def test_bad_parameters_and_noise() -> None:
    with pytest.raises(ValueError, match="real floating point"):
        BSAM([nn.Parameter(torch.ones(2, dtype=torch.complex64))], 0.1, **SETTINGS)
    with pytest.raises(ValueError, match="max_grad_norm"):
        BSAM([nn.Parameter(torch.ones(2))], 0.1, max_grad_norm=0.0, **SETTINGS)
    opt = FedBSAM([nn.Parameter(torch.ones(2, 3))], 0.1, **SETTINGS)
    opt.standard_normal_like = lambda param: torch.zeros(2)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="standard_normal_like returned shape"):
        opt.step(lambda: None)


def test_hooks_and_profiling_names_work() -> None:
    net, opt = train(steps=0)
    seen: list[str] = []
    opt.register_step_pre_hook(lambda *_: seen.append("pre"))
    opt.register_step_post_hook(lambda *_: seen.append("post"))
    x, y = data()
    loss = opt.step(closure_for(net, opt, x, y))
    assert seen == ["pre", "post"]
    assert not loss.requires_grad


def test_two_state_tensors_and_no_growth() -> None:
    _, opt = train(steps=3)
    assert all(set(s) == {"s", "momentum"} for s in opt.state.values())
    held = [v for v in vars(opt).values() if isinstance(v, (Tensor, list)) and v and v is not opt.param_groups]
    assert not held


def live_bytes() -> int:
    gc.collect()
    return sum(t.numel() * t.element_size() for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter))


def test_memory_does_not_grow_with_the_steps() -> None:
    net, opt = train(steps=3)
    x, y = data()
    seen = []
    for _ in range(2):
        for _ in range(20):
            opt.step(closures_for(net, opt, x, y, 2))
        seen.append(live_bytes())
    assert seen[0] == seen[1]


def test_copies_of_the_optimizer_go_on_alike() -> None:
    """Copied together with the parameters."""
    p = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    opt = BSAM([p], 0.1, **SETTINGS)

    def go(o: Any) -> Tensor:
        (q,) = o.trainable()

        def closure() -> Tensor:
            o.zero_grad()
            loss = (q**4).sum()
            loss.backward()
            return loss

        for _ in range(3):
            o.step(closure)
        return q.detach().clone()

    go(opt)
    twin = copy.deepcopy(opt)
    assert torch.equal(go(twin), go(opt))
