"""What happens to BSAM's mean and state when gradients are missing, input is bad or something goes wrong."""

from __future__ import annotations

import copy
import gc
import mmap
from pathlib import Path
from typing import Any

import pytest
import torch
from optim_cases import SETTINGS, FedBSAM, closure_for, closures_for, data, flat, minimizing, network, state, train
from torch import Tensor, nn

from fenchel.optim import BSAM, functional_loss, split_batch


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


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        (torch.ones(2, 3), TypeError, "a sequence of tensors"),
        ([[1.0, 2.0]], TypeError, "a sequence of tensors"),
        (None, TypeError, "a sequence of tensors"),
        ([], ValueError, r"one length m >= 1, got \[\]"),
        ([torch.ones(())], ValueError, r"got \[0\]"),
        ([torch.ones(2, 3), torch.ones(3)], ValueError, r"got \[2, 3\]"),
    ],
)
def test_sub_batches_of_another_form_are_refused(batches: Any, error: type[Exception], message: str) -> None:
    net, opt = train(steps=1)
    before = flat(net)
    with pytest.raises(error, match=message):
        opt.step_vectorized(lambda values, batch: batch[0].sum(), batches)
    assert torch.equal(flat(net), before)


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
    closure = minimizing(opt, lambda: (p**2).sum() / 2)
    opt.step([closure, closure])
    torch.testing.assert_close(
        opt.state[p]["momentum"], torch.tensor([0.3, 0.4], dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_gradients_the_user_holds_are_not_written_to() -> None:
    p = nn.Parameter(torch.tensor([1.0, -1.0]))
    opt = BSAM([p], 0.1, num_data=3, rho=0.1)
    fixed = torch.tensor([-2.0, 5.0])

    def closure() -> None:
        p.grad = fixed.view(2)

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
        ("data_factor", 0.0), ("num_data", "many"), ("lr", "1e-3"), ("rho", b"1"), ("betas", (0.9, "0.9")),
        pytest.param("num_data", 10**400, id="huge"), ("damping", torch.ones(1)), ("lr", torch.ones(2)),
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


def test_tensors_and_empty_parameters_are_as_good_as_numbers_and_none() -> None:
    ends = []
    for lr, betas, empty in ((0.1, (0.9, 0.99), 0), (torch.tensor([0.1]), (torch.tensor(0.9), torch.tensor(0.99)), 1)):
        p, none = nn.Parameter(torch.tensor(2.0)), [nn.Parameter(torch.ones(0, 3)) for _ in range(empty)]
        opt = BSAM([{"params": none}, {"params": p}] if none else [p], lr, betas=betas, seed=0, **SETTINGS)
        for _ in range(2):
            opt.step(minimizing(opt, p.square))
        ends.append(p.detach())
    torch.testing.assert_close(*ends)
    alone = nn.Parameter(torch.ones(0))
    opt = BSAM([alone], 0.1, **SETTINGS)
    opt.step(minimizing(opt, alone.sum))


def test_an_optimizer_may_be_made_on_the_meta_device() -> None:
    with torch.device("meta"):
        BSAM(nn.Linear(2, 2).parameters(), 0.1, **SETTINGS)


def test_bad_parameters_and_noise() -> None:
    with pytest.raises(ValueError, match="real floating point"):
        BSAM([nn.Parameter(torch.ones(2, dtype=torch.complex64))], 0.1, **SETTINGS)
    with pytest.raises(ValueError, match="max_grad_norm"):
        BSAM([nn.Parameter(torch.ones(2))], 0.1, max_grad_norm=0.0, **SETTINGS)
    opt = FedBSAM([nn.Parameter(torch.ones(2, 3))], 0.1, **SETTINGS)
    opt.standard_normal_like = lambda param: torch.zeros(2)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="standard_normal_like returned shape"):
        opt.step(lambda: None)


def test_two_state_tensors_and_no_growth() -> None:
    _, opt = train(steps=3)
    assert all(set(s) == {"s", "momentum"} for s in opt.state.values())
    assert all(not (b.mean or b.absolute or b.gradient) for b in opt._buckets)


def live_bytes() -> int:
    gc.collect()
    return sum(t.numel() * t.element_size() for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter))


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * mmap.PAGESIZE / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_over_a_thousand_steps() -> None:
    """Neither in tensors nor in the process: one vector lost at every tenth step would be 11 MB."""
    net = network(dtype=torch.float32, inputs=4000)
    x, y = data(rows=2, dtype=torch.float32, inputs=4000)
    opt = BSAM(net.parameters(), 0.01, **SETTINGS)
    size = sum(p.numel() * p.element_size() for p in net.parameters())
    seen = []
    for steps in (100, 1000):
        for _ in range(steps):
            opt.step(closures_for(net, opt, x, y, 2))
        seen.append((live_bytes(), resident_megabytes()))
    assert seen[0][0] == seen[1][0]
    assert seen[1][1] - seen[0][1] < 100 * size / 2**20


def test_copies_of_the_optimizer_go_on_alike() -> None:
    """Copied together with the parameters."""
    p = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    opt = BSAM([p], 0.1, seed=3, **SETTINGS)

    def go(o: Any) -> Tensor:
        (q,) = o.trainable()
        closure = minimizing(o, lambda: q.cosh().log().sum())  # a bounded gradient, so that no noise makes it diverge
        for _ in range(3):
            o.step(closure)
        return q.detach().clone()

    before = go(opt)
    twin = copy.deepcopy(opt)
    after = go(twin)
    assert torch.equal(after, go(opt))
    assert after.isfinite().all()
    assert not torch.equal(after, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_may_be_accumulated_within_a_closure(dtype: torch.dtype) -> None:
    """Micro-batches whose gradients add up are one minibatch."""
    x, y = data(dtype=dtype)
    ends = []
    for pieces in (1, 4):
        net = network(dtype=dtype)
        opt = BSAM(net.parameters(), 0.2, seed=3, **SETTINGS)

        def closure(net: nn.Module = net, opt: BSAM = opt, pieces: int = pieces) -> Tensor:
            opt.zero_grad()
            total = torch.zeros((), dtype=dtype)
            for a, b in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
                loss = nn.functional.cross_entropy(net(a), b) / pieces
                loss.backward()
                total += loss.detach()
            return total

        losses = [float(opt.step([closure, closure])) for _ in range(4)]
        ends.append((flat(net), state(opt, "s"), torch.tensor(losses)))
    tolerance = 1e-6 if dtype is torch.float32 else 1e-13
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_schedules_that_cycle_the_momentum_reach_the_step() -> None:
    """OneCycleLR moves lr and beta1; the same by hand."""
    x, y = data()
    ends = []
    by_hand: list[tuple[float, Any]] = []
    for scheduled in (True, False):
        net = network()
        opt = BSAM(net.parameters(), 0.2, seed=3, **SETTINGS)
        schedule = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.3, total_steps=8) if scheduled else None
        for t in range(6):
            group = opt.param_groups[0]
            if schedule is None:
                group["lr"], group["betas"] = by_hand[t]
            else:
                by_hand.append((group["lr"], group["betas"]))
            opt.step(closure_for(net, opt, x, y))
            if schedule is not None:
                schedule.step()
        ends.append(flat(net))
    assert len({betas[0] for _, betas in by_hand}) > 3
    assert torch.equal(ends[0], ends[1])
