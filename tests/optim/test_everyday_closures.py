"""Mistakes in closures and checkpoints that are harder to see, and closures that only look like one."""

from __future__ import annotations

import functools
import math
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from optim_cases import closure_for, data, flat, make, network
from torch import Tensor, nn

from fenchel.optim import SAM, ClosureError, SettingsWarning

KINDS = ["bsam", "sam", "ivon"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["twice", "clipped"])
def test_gradients_never_zeroed_are_noticed_whatever_is_done_to_them(kind: str, way: str) -> None:
    net = network()
    x, y = data()
    opt = make(kind, net.parameters())

    def closure() -> Tensor:
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        if way == "twice":
            nn.functional.cross_entropy(net(x), y).backward()
        else:
            nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        return loss

    nn.functional.cross_entropy(net(x), y).backward()  # the gradient of an earlier step
    before = flat(net)
    with pytest.raises(ClosureError, match="zero_grad"):
        opt.step(closure)
    assert torch.equal(flat(net), before)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_may_be_zeroed_in_any_way(kind: str) -> None:
    x, y = data()
    ends = []
    for way in ("none", "zeros", "past the version", "by hand"):
        net = network()
        opt = make(kind, net.parameters())

        def closure(way: str = way, net: nn.Module = net, opt: Any = opt) -> Tensor:
            loss = nn.functional.cross_entropy(net(x), y)
            params = list(net.parameters())
            if way == "by hand":
                for p, g in zip(params, torch.autograd.grad(loss, params), strict=True):
                    p.grad = g if p.grad is None else p.grad.copy_(g)
                return loss
            if way == "past the version":
                for p in params:
                    if p.grad is not None:
                        p.grad.data.zero_()
            else:
                opt.zero_grad(set_to_none=way == "none")
            loss.backward()
            return loss

        for _ in range(3):
            opt.step(closure)
        ends.append(flat(net))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["new sum", "zeroed last"])
def test_sums_in_new_memory_and_gradients_zeroed_too_late_are_noticed(kind: str, way: str) -> None:
    net = network()
    x, y = data()
    opt = make(kind, net.parameters())

    def closure() -> Tensor:
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward(create_graph=way == "new sum")
        if way == "zeroed last":
            opt.zero_grad(set_to_none=False)
        return loss

    with pytest.raises(ClosureError, match="zero_grad"):
        opt.step([closure, closure])


@pytest.mark.parametrize("kind", KINDS)
def test_a_closure_that_does_nothing_is_named_once(kind: str) -> None:
    net = network()
    before, opt = flat(net), make(kind, net.parameters())
    with pytest.warns(SettingsWarning, match="no gradient"):
        opt.step(lambda: None)
    opt.step(lambda: None)
    assert torch.equal(flat(net), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [np.ones(2), np.ones(0), 1j, "1.0"])
def test_what_is_no_loss_is_refused_before_the_weights_move(kind: str, wrong: Any) -> None:
    net = network()
    before, opt = flat(net), make(kind, net.parameters())
    good = closure_for(net, opt, *data())

    def closure() -> Any:
        good()
        return wrong

    with pytest.raises(TypeError, match="return the loss alone"):
        opt.step([good, closure])
    assert torch.equal(flat(net), before)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_several_kinds_have_a_mean(kind: str) -> None:
    net = network()
    opt = make(kind, net.parameters())
    good = closure_for(net, opt, *data())

    def returning(value: Any) -> Any:
        def closure() -> Any:
            good()
            return value

        return closure

    kinds = [torch.tensor(1.0), torch.tensor([2.0]), np.float32(3.0), 4, torch.tensor(5)]
    assert float(opt.step([returning(value) for value in kinds])) == 3.0
    opt.step(returning(torch.tensor([1, 2])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [torch.ones(()), torch.ones(2), 3.0, ["loss"]])
def test_a_loss_is_no_closure(kind: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match="needs closures, that is callables"):
        make(kind, network().parameters()).step(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_a_closure_that_steps_is_refused_and_moves_nothing(kind: str) -> None:
    net = network()
    before, opt = flat(net), make(kind, net.parameters())
    inner = closure_for(net, opt, *data())

    def again() -> Any:
        return opt.step(again)

    for closure in (again, lambda: opt.step(inner)):
        with pytest.raises(RuntimeError, match="in the middle of a step"):
            opt.step(closure)
        assert torch.equal(flat(net), before)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_a_closure_changes_are_named(kind: str) -> None:
    net, (x, y) = network(), data()
    opt, other = make(kind, net.parameters()), torch.optim.SGD(net.parameters(), 0.1)
    closure = closure_for(net, opt, x, y)

    def stepping() -> Tensor:
        loss = closure()
        other.step()
        return loss

    with pytest.warns(SettingsWarning, match="changed weights, which the step undoes"):
        opt.step(stepping)
    opt.step(closure)


@pytest.mark.parametrize("kind", KINDS)
def test_moves_out_of_order_leave_the_mean(kind: str) -> None:
    net = network()
    opt, before = make(kind, net.parameters()), flat(net)
    opt.begin()
    opt.first_point()
    with pytest.raises(RuntimeError, match="before any sub-batch"):
        opt.update()
    assert torch.equal(flat(net), before)


def test_a_scaler_of_another_thread_is_none_of_the_closures_business() -> None:
    net = network()
    opt = make("bsam", net.parameters())
    scaler, good = torch.amp.GradScaler("cpu"), closure_for(net, opt, *data())

    def closure() -> Tensor:
        other = threading.Thread(target=scaler.scale, args=(torch.ones(()),))
        other.start()
        other.join()
        return good()

    opt.step(closure)


def test_accumulation_of_another_accelerator_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are shared by all of a process: what counts is whether it calls."""

    class State:
        _shared_state = ("num_steps",)
        num_steps = 4

    class Wrapper:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

        def step(self, closure: Any) -> None:
            self.optimizer.step(closure)

    monkeypatch.setitem(sys.modules, "accelerate.state", SimpleNamespace(GradientState=State))
    monkeypatch.setitem(sys.modules, "accelerate.optimizer", SimpleNamespace(AcceleratedOptimizer=Wrapper))
    net = network()
    opt = make("bsam", net.parameters())
    opt.step(closure_for(net, opt, *data()))
    with pytest.raises(ClosureError, match="gradient_accumulation_steps=1"):
        Wrapper(opt).step(closure_for(net, opt, *data()))


@pytest.mark.parametrize("kind", KINDS)
def test_two_backward_passes_after_zeroing_are_fine(kind: str) -> None:
    net = network()
    x, y = data()
    opt = make(kind, net.parameters())

    def closure() -> Tensor:
        opt.zero_grad(set_to_none=False)
        total = torch.zeros((), dtype=torch.float64)
        for a, b in zip(x.chunk(2), y.chunk(2), strict=True):
            loss = nn.functional.cross_entropy(net(a), b) / 2
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        return total

    for _ in range(3):
        opt.step(closure)


class Trainer:
    """Holds the scaler that its method uses."""

    def __init__(self, net: nn.Module, opt: Any, scaler: Any) -> None:
        self.net, self.opt, self.scaler = net, opt, scaler

    def scaled(self) -> Tensor:
        x, y = data(dtype=torch.float32)
        self.opt.zero_grad()
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.scaler.scale(loss).backward()
        return loss

    def plain(self) -> Tensor:
        x, y = data(dtype=torch.float32)
        self.opt.zero_grad()
        loss = nn.functional.cross_entropy(self.net(x), y)
        loss.backward()
        return loss


@pytest.mark.parametrize("kind", KINDS)
def test_a_forgotten_scaler_is_noticed_in_methods_partials_and_helpers(kind: str) -> None:
    for hide in (lambda t: t.scaled, lambda t: functools.partial(Trainer.scaled, t), lambda t: lambda: t.scaled()):
        net = network(dtype=torch.float32)
        opt = make(kind, net.parameters())
        trainer = Trainer(net, opt, torch.amp.GradScaler("cpu"))
        before = flat(net)
        for _ in range(2):  # whether the scaler has been used before or not
            with pytest.raises(ClosureError, match="grad_scaler=scaler"):
                opt.step(hide(trainer))
            assert torch.equal(flat(net), before)
        opt.step(hide(trainer), grad_scaler=trainer.scaler)
        trainer.scaler.update()


@pytest.mark.parametrize("kind", KINDS)
def test_a_scaler_that_is_only_in_sight_is_no_reason_to_refuse(kind: str) -> None:
    net = network(dtype=torch.float32)
    opt = make(kind, net.parameters())
    opt.step(Trainer(net, opt, torch.amp.GradScaler("cpu")).plain)


@pytest.mark.parametrize("kind", KINDS)
def test_an_infinite_loss_is_named(kind: str) -> None:
    net = network()
    x, y = data()
    opt = make(kind, net.parameters())

    def closure() -> Tensor:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss * math.inf

    with pytest.warns(SettingsWarning, match="infinite"):
        opt.step(closure)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["learning_rate", "weight_deacy"])
def test_keys_that_nearly_name_a_hyperparameter_are_refused(kind: str, key: str) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        make(kind, [{"params": list(network().parameters()), key: 0.1}])


@pytest.mark.parametrize(
    ("base", "foreign"), [(torch.optim.SGD, torch.optim.Adam), (torch.optim.Adam, torch.optim.SGD)]
)
def test_sam_loads_nothing_of_a_foreign_state_or_of_other_shapes(base: Any, foreign: Any) -> None:
    net = network()
    opt = SAM(net.parameters(), base, 0.05, lr=0.1)
    with pytest.raises(ValueError, match="was not saved by SAM"):
        opt.load_state_dict(foreign(net.parameters(), lr=0.2).state_dict())
    same = SAM(
        network(inputs=5).parameters(), base, 0.05, lr=0.2, **({"momentum": 0.9} if base is torch.optim.SGD else {})
    )
    same.prime()
    for p in same.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    same.prime()
    with pytest.raises(ValueError, match="shape"):
        opt.load_state_dict(same.state_dict())
    assert opt.param_groups[0]["lr"] == 0.1
    assert not opt.state


@pytest.mark.parametrize("kind", ["bsam", "ivon"])
def test_an_empty_first_group_changes_nothing(kind: str) -> None:
    ends = []
    for groups in (False, True):
        net = network()
        x, y = data()
        params = list(net.parameters())
        opt = make(kind, [{"params": []}, {"params": params}] if groups else params)

        def closure(opt: Any = opt, net: nn.Module = net, x: Tensor = x, y: Tensor = y) -> Tensor:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            return loss

        for _ in range(3):
            opt.step(closure)
        ends.append(flat(net))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-13)
    assert opt.param_groups[1]["step"] == 3
