"""Invariants of BSAM that hold for every loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_cases import SETTINGS, FedBSAM, closure_for, data, flat, minimizing, network, state, train
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from fenchel.optim import BSAM


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
    closure = minimizing(opt, lambda: (0.5 * torch.tensor(h) * p**2 - torch.tensor(b) * p).sum())
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_within_a_compiled_function(dtype: torch.dtype) -> None:
    """It runs as it is; a model compiled inside the closure stays compiled."""
    found = []
    for compiled in (False, True):
        counted = CompileCounterWithBackend("aot_eager")
        net = network(dtype=dtype)
        opt = BSAM(net.parameters(), 0.2, seed=3, **SETTINGS)
        x, y = data(dtype=dtype)
        model = torch.compile(net, backend=counted) if compiled else net

        def step(opt: Any = opt, model: Any = model, x: Tensor = x, y: Tensor = y) -> Tensor:
            z, half = x * 2 - x, len(x) // 2
            halves = [closure_for(model, opt, z[:half], y[:half]), closure_for(model, opt, z[half:], y[half:])]
            loss: Tensor = opt.step(halves)
            return loss + 1

        run = torch.compile(step, backend="aot_eager") if compiled else step
        losses = [float(run()) for _ in range(3)]
        found.append((flat(net), torch.tensor(losses)))
        assert (counted.frame_count > 0) == compiled
    torch.testing.assert_close(found[0], found[1])


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

        def signed(net: Any = net, x: Tensor = x, y: Tensor = y, sign: int = -1 if maximize else 1) -> Tensor:
            return sign * nn.functional.cross_entropy(net(x), y)

        for _ in range(5):
            opt.step([minimizing(opt, signed)] * 2)
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
    closure = minimizing(opt, lambda: (p**2).sum() / 2)
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
