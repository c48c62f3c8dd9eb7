"""What users of torch's autocast, hooks, frameworks and checkpoints do, and the mistakes that they make."""

from __future__ import annotations

import copy
import math
import warnings
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from optim_cases import closure_for, data, flat, make, minimizing, network
from torch import Tensor, nn

from fenchel.optim import BSAM, IVON, SAM, SWAG, VOGN, ClosureError, SettingsWarning, per_example_loss
from fenchel.predict import DiagonalGaussian, predict_bma

KINDS = ["bsam", "sam", "ivon"]


# ---- autocast keeps 16-bit copies of weights


def test_every_sample_is_seen_inside_an_autocast_region() -> None:
    net = network(dtype=torch.float32)
    x = data(dtype=torch.float32)[0]
    posterior = DiagonalGaussian(net, variance=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        several = predict_bma(net, posterior, [x], samples=4, seed=0)
    one = predict_bma(net, posterior, [x], samples=1, seed=0)
    apart = predict_bma(net, posterior, [x], samples=4, seed=0)
    assert (several - one).abs().max() > 0.01
    torch.testing.assert_close(several, apart, rtol=0, atol=0.02)


@pytest.mark.parametrize("kind", ["bsam", "sam"])
def test_both_passes_see_their_weights_inside_an_autocast_region(kind: str) -> None:
    p = nn.Linear(3, 1, bias=False)
    opt = make(kind, p.parameters(), **({"noise": False} if kind == "bsam" else {}))
    x, seen = torch.eye(3), []

    def closure() -> Tensor:
        opt.zero_grad()
        out = p(x)
        seen.append(out.detach().float().flatten().clone())
        loss = (out.float() - 5).square().mean()
        loss.backward()
        return loss

    with torch.autocast("cpu", torch.bfloat16):
        opt.step(closure)
        opt.step(closure)
    assert all(not torch.equal(a, b) for a, b in pairwise(seen))


def test_a_graph_of_older_weights_is_refused() -> None:
    p = nn.Parameter(torch.ones(3))
    opt = make("bsam", [p])
    old = p.square().sum()
    with pytest.warns(SettingsWarning, match="no gradient"):
        opt.step(lambda: None)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        old.backward()


# ---- closures


@pytest.mark.parametrize("kind", KINDS)
def test_closures_that_do_not_do_their_part_are_refused_and_move_nothing(kind: str) -> None:
    net = network()
    x, y = data()
    opt = make(kind, net.parameters())
    before = flat(net)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(net(x), y)

    def without_zero_grad() -> Tensor:
        value = loss()
        value.backward()
        return value

    def without_backward() -> Tensor:
        opt.zero_grad()
        return loss()

    def a_dictionary() -> Any:
        opt.zero_grad()
        value = loss()
        value.backward()
        return {"loss": value}

    for closure, error, words in (
        (without_zero_grad, ClosureError, "zero_grad"),
        (without_backward, ClosureError, "backward"),
        (a_dictionary, TypeError, "must return the loss"),
        (lambda: (a_dictionary(), 1), TypeError, "must return the loss"),
    ):
        net.zero_grad()
        if closure is without_zero_grad:
            without_zero_grad()  # as a framework does that accumulates gradients
        for closures in (closure, [closure, closure]):
            with pytest.raises(error, match=words):
                opt.step(closures)
            assert torch.equal(flat(net), before)


def test_ivon_with_a_scaler_is_ivon_without() -> None:
    ends = []
    for scale in (None, 2.0**12):
        net = network(dtype=torch.float32)
        x, y = data(dtype=torch.float32)
        opt = make("ivon", net.parameters(), max_grad_norm=0.3)
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        for _ in range(5):
            opt.step(closure_for(net, opt, x, y, scaler), grad_scaler=scaler)
            if scaler is not None:
                scaler.update()
        ends.append((flat(net), torch.cat([s["h"].flatten() for s in opt.state.values()])))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)


def warned(opt: Any, closure: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            opt.step(closure)
    assert all(issubclass(w.category, SettingsWarning) for w in caught)
    return [str(w.message) for w in caught]


def test_likely_mistakes_are_named_once() -> None:
    x, y = data()

    def run(factor: float = 1.0, **kwargs: Any) -> list[str]:
        net = network()
        opt = BSAM(net.parameters(), **{"lr": 0.1, "num_data": 5000, "rho": 0.01, "seed": 0, **kwargs})
        closure = minimizing(opt, lambda: factor * nn.functional.cross_entropy(net(x), y))
        return warned(opt, closure)

    assert run() == []
    for kwargs, words in (
        ({"lr": 1e-3}, "lr=0.001 is small"),
        ({"num_data": 1}, "size N of the training set"),
        ({"num_data": 4}, "number of training examples, not of batches"),
        ({"factor": 200.0}, "mean over the minibatch"),
        ({"factor": float("nan")}, "NaN"),
    ):
        (message,) = run(**kwargs)
        assert words in message


@pytest.mark.parametrize("kind", ["ivon", "vogn"])
def test_the_other_posteriors_name_a_number_of_batches_and_a_loss_that_is_none(kind: str) -> None:
    net, (x, y) = network(), data()

    def run(num_data: float, rows: Tensor) -> list[str]:
        opt: Any = (IVON if kind == "ivon" else VOGN)(net.parameters(), 0.0, num_data=num_data, seed=0)
        if kind == "ivon":
            return warned(opt, closure_for(net, opt, rows, y))
        loss = per_example_loss(net, nn.functional.cross_entropy, opt.trainable())
        return warned(SimpleNamespace(step=lambda _: opt.step(loss, (rows, y))), lambda: torch.zeros(()))

    assert run(5000, x) == []
    for num_data, rows, words in ((1, x, "size N"), (2, x, "not of batches"), (5000, x * math.nan, "NaN")):
        (message,) = run(num_data, rows)
        assert words in message


# ---- settings and checkpoints


def test_misspelt_hyperparameters_are_named() -> None:
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="did you mean 'rho'"):
        make("bsam", [{"params": [p], "rhoo": 0.1}])
    with pytest.raises(ValueError, match="did you mean 'rho'"):
        make("sam", [{"params": [p], "rhoo": 0.1}])
    with pytest.raises(ValueError, match="did you mean 'num_data'"):
        make("ivon", [{"params": [p], "numdata": 3}])
    make("bsam", [{"params": [p], "lr_scale": 0.1, "name": "head"}])  # schedulers' own keys


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_cannot_have_a_setting_of_the_whole_for_itself(kind: str) -> None:
    net = network()
    with pytest.raises(ValueError, match="max_grad_norm is the whole optimizer's"):
        make(kind, [{"params": net[0].parameters()}, {"params": net[2].parameters(), "max_grad_norm": 0.1}])
    opt = make(kind, net[0].parameters(), max_grad_norm=0.1)
    opt.add_param_group({"params": net[2].parameters(), "max_grad_norm": 0.1})
    make(kind, opt.param_groups)  # as they were
    if kind != "sam":
        with pytest.raises(ValueError, match="seed is the whole optimizer's"):
            make(kind, [{"params": net[0].parameters()}, {"params": net[2].parameters(), "seed": 5}])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_train_sparse_and_foreign_states_give_one_sentence(kind: str) -> None:
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        make(kind, [frozen]).step(lambda: torch.zeros(()))
    if kind != "ivon":
        with pytest.raises(ValueError, match="no parameter requires a gradient"):
            make(kind, [frozen]).step_vectorized(lambda _, batch: batch.sum(), [torch.ones(1, 2)])
    table = nn.Embedding(4, 2, sparse=True)
    opt = make(kind, table.parameters())
    closure = minimizing(opt, lambda: table(torch.tensor([1])).sum())
    with pytest.raises(ValueError, match="sparse gradients"):
        opt.step(closure)
    if kind == "sam":
        return
    p = nn.Parameter(torch.ones(2))
    adam = torch.optim.Adam([p])
    p.grad = torch.ones(2)
    adam.step()
    with pytest.raises(ValueError, match="not saved by"):
        make(kind, [p]).load_state_dict(adam.state_dict())


def test_sam_refuses_bases_that_evaluate_closures_or_have_its_names_and_rates_that_are_no_numbers() -> None:
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match="LBFGS"):
        SAM([p], torch.optim.LBFGS, 0.1)
    with pytest.raises(TypeError, match="Adadelta, whose 'rho'"):
        SAM([p], torch.optim.Adadelta, 0.1)
    with pytest.raises(ValueError, match="lr must be"):
        SAM([p], torch.optim.SGD, 0.1, lr=float("nan"))


@pytest.mark.parametrize("kind", KINDS)
def test_load_hooks_work_as_torch_documents(kind: str) -> None:
    def trained(seed: int) -> tuple[nn.Module, Any]:
        net = network()
        x, y = data()
        opt = make(kind, net.parameters(), **({"momentum": 0.9} if kind == "sam" else {}))
        for _ in range(seed):
            opt.step(closure_for(net, opt, x, y))
        return net, opt

    _, source = trained(3)
    _, target = trained(1)
    calls: list[str] = []

    def replace(optimizer: Any, state: Any) -> Any:
        calls.append("pre")
        changed = copy.deepcopy(source.state_dict())
        changed["param_groups"][0]["lr"] = 0.25
        return changed

    target.register_load_state_dict_pre_hook(replace)
    target.register_load_state_dict_post_hook(lambda optimizer: calls.append("post"))
    target.load_state_dict({"state": {}, "param_groups": target.state_dict()["param_groups"]})
    assert calls == ["pre", "post"]
    assert target.param_groups[0]["lr"] == 0.25
    for p, q in zip(source.param_groups[0]["params"], target.param_groups[0]["params"], strict=True):
        for name, value in source.state[p].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(target.state[q][name]))


def test_groups_restore_what_they_hold_and_lack_what_is_new() -> None:
    p = nn.Parameter(torch.ones(2))
    saved = make("bsam", [p], max_grad_norm=0.5).state_dict()
    fresh = make("bsam", [p])
    fresh.load_state_dict(saved)
    assert fresh.param_groups[0]["max_grad_norm"] == 0.5
    for name in ("fused", "max_grad_norm", "step"):
        del saved["param_groups"][0][name]
    fresh.load_state_dict(saved)
    fresh.step(minimizing(fresh, lambda: p.square().sum()))


@pytest.mark.parametrize("kind", KINDS)
def test_distributed_checkpoints_resume_bit_for_bit(kind: str) -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    def go(net: nn.Module, opt: Any, steps: int) -> None:
        x, y = data()
        for _ in range(steps):
            opt.step(closure_for(net, opt, x, y))

    extra: dict[str, Any] = {"momentum": 0.9} if kind == "sam" else {}
    whole = network()
    opt = make(kind, whole.parameters(), **extra)
    go(whole, opt, 3)
    weights = copy.deepcopy(whole.state_dict())
    saved = copy.deepcopy(get_optimizer_state_dict(whole, opt))
    go(whole, opt, 3)
    resumed = network()
    resumed.load_state_dict(weights)
    fresh = make(kind, resumed.parameters(), **extra)
    set_optimizer_state_dict(resumed, fresh, saved)
    go(resumed, fresh, 3)
    assert torch.equal(flat(resumed), flat(whole))


# ---- numerics


@pytest.mark.parametrize("offset", [0.0, 1.0, 10.0])
def test_swag_variances_do_not_cancel(offset: float) -> None:
    p = nn.Parameter(torch.zeros(500))
    swag = SWAG([p], max_rank=0, seed=0)
    values = torch.randn(200, 500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e-4 + offset
    for row in values:
        with torch.no_grad():
            p.copy_(row)
        swag.collect()
    exact = values.float().double().var(0, unbiased=False)
    torch.testing.assert_close(swag.posterior_variance()[0].double(), exact, rtol=0.01, atol=0)
    with pytest.raises(ValueError, match="shapes"):
        SWAG([nn.Parameter(torch.zeros(1))]).load_state_dict(swag.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sam_takes_norms_of_16_bit_gradients_in_float32(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.zeros(1000, dtype=dtype))
    opt = SAM([p], torch.optim.SGD, 1.0, lr=0.0)
    opt.begin()
    opt.first_point()
    p.grad = torch.full_like(p, 300.0)  # the sum of squares overflows float16
    opt.second_point()
    torch.testing.assert_close(p.detach().float(), torch.full((1000,), 1000**-0.5), rtol=0.01, atol=0)
    opt.restore()


@pytest.mark.parametrize("kind", KINDS)
def test_maximize_equals_minimizing_minus_the_loss(kind: str) -> None:
    ends = []
    for maximize in (False, True):
        p = nn.Parameter(torch.tensor([0.4, -0.3], dtype=torch.float64))
        opt = make(kind, [p], maximize=maximize)

        def closure(p: Any = p, opt: Any = opt, sign: float = 1.0 if maximize else -1.0) -> Tensor:
            opt.zero_grad()
            loss = -sign * (p.cos().sum() - p.square().sum()) * -1
            loss.backward()
            return loss

        for _ in range(5):
            opt.step(closure)
        ends.append(p.detach().clone())
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)


def test_vogn_maximizes() -> None:
    ends = []
    for maximize in (False, True):
        net = nn.Linear(2, 1, bias=False).double()
        nn.init.ones_(net.weight)
        opt = VOGN(net.parameters(), 0.1, num_data=50, seed=0, maximize=maximize)
        sign = -1.0 if maximize else 1.0

        def criterion(out: Tensor, y: Tensor, sign: float = sign) -> Tensor:
            return sign * (out.squeeze(-1) - y).square().mean()

        loss = per_example_loss(net, criterion, opt.trainable())
        x = torch.arange(8.0, dtype=torch.float64).view(4, 2)
        for _ in range(3):
            opt.step(loss, (x, x.sum(1)))
        ends.append(net.weight.detach().clone())
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)


def test_adaptive_sam_scales_the_perturbation_with_the_weights() -> None:
    p = nn.Parameter(torch.tensor([2.0, -0.5], dtype=torch.float64))
    opt = SAM([p], torch.optim.SGD, 0.3, lr=0.0, adaptive=True)
    g = torch.tensor([1.0, 2.0], dtype=torch.float64)
    opt.begin()
    opt.first_point()
    p.grad = g.clone()
    opt.second_point()
    w = torch.tensor([2.0, -0.5], dtype=torch.float64)
    torch.testing.assert_close(p.detach() - w, 0.3 * w.square() * g / (w.abs() * g).norm())
    opt.restore()


def test_sam_clips_the_averaged_gradient() -> None:
    p = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    opt = SAM([p], torch.optim.SGD, 0.0, lr=1.0, max_grad_norm=0.5)
    closure = minimizing(opt, lambda: 0.5 * p.square().sum())
    opt.step(closure)
    torch.testing.assert_close(p.detach(), torch.tensor([2.7, 3.6], dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_layer_frozen_after_training_leaves_ivon_going() -> None:
    net = network()
    x, y = data()
    opt = make("ivon", net.parameters())
    opt.step(closure_for(net, opt, x, y))
    first = next(iter(net.parameters()))
    first.requires_grad_(False)
    before = first.detach().clone()
    opt.step(closure_for(net, opt, x, y))
    assert torch.equal(first, before)
    assert len(opt.posterior_variance()) == len(list(net.parameters()))
