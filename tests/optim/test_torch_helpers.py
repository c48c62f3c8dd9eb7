"""What torch's own suite asks of an optimizer, by its helpers (`torch.testing._internal.common_optimizers`).

Its test module itself is not shipped; the statements are its: the loss falls for every configuration and scheduler,
hooks are called, parameters without a gradient stay, copies are whole.
Refused, each with one sentence: complex parameters, and (in `test_everyday`) sparse gradients.
VOGN takes the losses of single examples in place of one loss, and is closed over below.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optim_cases import minimizing
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, LinearLR, PolynomialLR, StepLR

from fenchel.optim import BSAM, IVON, SAM, VOGN

common = pytest.importorskip("torch.testing._internal.common_optimizers")
# Its import forbids setting back-end flags for the rest of the process, which other tests do.
torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True
pytestmark = pytest.mark.filterwarnings("ignore")


def _inputs(*changes: dict[str, Any]) -> Callable[..., list[Any]]:
    def inputs(device: Any, dtype: Any = None) -> list[Any]:
        return [common.OptimizerInput(params=None, kwargs=kwargs, desc=str(kwargs)) for kwargs in changes]

    return inputs


class SamSGD(SAM):
    def __init__(self, params: Any, rho: float = 0.05, **kwargs: Any) -> None:
        super().__init__(params, torch.optim.SGD, rho, **kwargs)


_BSAM: dict[str, Any] = {"lr": 0.1, "num_data": 50, "rho": 0.01}
_IVON: dict[str, Any] = {"lr": 0.1, "num_data": 50}
INFOS = [
    common.OptimizerInfo(
        BSAM,
        optim_inputs_func=_inputs(
            _BSAM,
            _BSAM | {"weight_decay": 1e-3},
            _BSAM | {"betas": (0.0, 0.9)},
            _BSAM | {"precision_first": False, "noise": False},
        ),
        step_requires_closure=True,
    ),
    common.OptimizerInfo(
        SamSGD,
        optim_inputs_func=_inputs({"lr": 0.1}, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}),
        step_requires_closure=True,
    ),
    common.OptimizerInfo(
        IVON, optim_inputs_func=_inputs(_IVON, _IVON | {"weight_decay": 1e-3}), step_requires_closure=True
    ),
]
CONFIGURATIONS = [
    pytest.param(info.optim_cls, entry.kwargs, id=f"{info.optim_cls.__name__}-{entry.desc[:60]}")
    for info in INFOS
    for entry in info.optim_inputs_func("cpu")
]
FIRST = [pytest.param(i.optim_cls, i.optim_inputs_func("cpu")[0].kwargs, id=i.optim_cls.__name__) for i in INFOS]
SCHEDULERS = [
    lambda opt: StepLR(opt, gamma=0.9, step_size=5),
    lambda opt: LinearLR(opt, start_factor=0.4, total_iters=4),
    lambda opt: ExponentialLR(opt, gamma=0.99),
    lambda opt: PolynomialLR(opt, power=0.9, total_iters=40),
]


def _problem(dtype: torch.dtype = torch.float64) -> tuple[nn.Parameter, nn.Parameter, Tensor]:
    weight = nn.Parameter(torch.tensor([[0.23, -0.21, 0.13], [0.05, 0.3, -0.2]], dtype=dtype))
    bias = nn.Parameter(torch.tensor([0.0, 0.1], dtype=dtype))
    return weight, bias, torch.tensor([0.15, 0.35, 0.72], dtype=dtype)


def _closure(opt: Any, weight: nn.Parameter, bias: nn.Parameter, x: Tensor) -> Callable[[], Tensor]:
    target = torch.tensor([1.0, -1.0], dtype=x.dtype)
    return minimizing(opt, lambda: (weight.mv(x) + bias - target).pow(2).mean())


@pytest.mark.parametrize("scheduler", [None, *range(len(SCHEDULERS))])
@pytest.mark.parametrize(("kind", "kwargs"), CONFIGURATIONS)
def test_goes_in_the_right_direction(kind: Any, kwargs: dict[str, Any], scheduler: int | None) -> None:
    weight, bias, x = _problem()
    opt = kind([weight, bias], **kwargs)
    plan = None if scheduler is None else SCHEDULERS[scheduler](opt)
    closure = _closure(opt, weight, bias, x)
    first = float(closure())
    for _ in range(20):
        opt.step(closure)
        if plan is not None:
            plan.step()
    assert float(closure()) < first


@pytest.mark.parametrize(("kind", "kwargs"), CONFIGURATIONS)
def test_a_group_has_its_own_learning_rate(kind: Any, kwargs: dict[str, Any]) -> None:
    weight, bias, x = _problem()
    opt = kind([{"params": [weight]}, {"params": [bias], "lr": 0.0}], **kwargs)
    before = weight.detach().clone(), bias.detach().clone()
    opt.step(_closure(opt, weight, bias, x))
    assert not torch.equal(weight, before[0])
    assert torch.equal(bias, before[1])


@pytest.mark.parametrize(("kind", "kwargs"), FIRST)
def test_a_deep_copy_is_whole_and_its_own(kind: Any, kwargs: dict[str, Any]) -> None:
    weight, bias, x = _problem()
    opt = kind([weight, bias], **kwargs)
    opt.step(_closure(opt, weight, bias, x))
    twin = copy.deepcopy(opt)
    mine = twin.param_groups[0]["params"]
    assert all(torch.equal(a, b) and a is not b for a, b in zip(mine, (weight, bias), strict=True))
    before = weight.detach().clone()
    twin.step(_closure(twin, mine[0], mine[1], x))
    assert torch.equal(weight, before)
    opt.step(_closure(opt, weight, bias, x))
    assert torch.equal(weight, mine[0])


@pytest.mark.parametrize(("kind", "kwargs"), FIRST)
def test_hooks_around_the_step_are_called_once(kind: Any, kwargs: dict[str, Any]) -> None:
    weight, bias, x = _problem()
    opt = kind([weight, bias], **kwargs)
    calls: list[str] = []
    first = opt.register_step_pre_hook(lambda *_: calls.append("before"))
    last = opt.register_step_post_hook(lambda *_: calls.append("after"))
    assert not opt.step(_closure(opt, weight, bias, x)).requires_grad
    assert calls == ["before", "after"]
    first.remove()
    last.remove()
    opt.step(_closure(opt, weight, bias, x))
    assert calls == ["before", "after"]


@pytest.mark.parametrize(("kind", "kwargs"), FIRST)
def test_hooks_around_the_state_dict_see_it(kind: Any, kwargs: dict[str, Any]) -> None:
    weight, bias, x = _problem()
    opt = kind([weight, bias], **kwargs)
    opt.step(_closure(opt, weight, bias, x))

    def rename(_: Any, state: dict[str, Any]) -> None:
        state["note"] = 1

    handle = opt.register_state_dict_post_hook(rename)
    assert opt.state_dict()["note"] == 1
    handle.remove()
    assert "note" not in opt.state_dict()


@pytest.mark.parametrize(("kind", "kwargs"), FIRST)
def test_parameters_without_a_gradient_stay(kind: Any, kwargs: dict[str, Any]) -> None:
    weight, bias, x = _problem()
    idle = nn.Parameter(torch.ones(2, dtype=torch.float64))
    opt = kind([weight, bias, idle], **kwargs)
    for _ in range(3):
        opt.step(_closure(opt, weight, bias, x))
    assert torch.equal(idle, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "kwargs"), FIRST)
def test_an_added_group_is_trained(kind: Any, kwargs: dict[str, Any]) -> None:
    weight, bias, x = _problem()
    opt = kind([weight], **kwargs)
    opt.add_param_group({"params": [bias]})
    before = bias.detach().clone()
    opt.step(_closure(opt, weight, bias, x))
    assert not torch.equal(bias, before)


@pytest.mark.parametrize(("kind", "kwargs"), FIRST)
def test_torchs_error_inputs_are_errors(kind: Any, kwargs: dict[str, Any]) -> None:
    """Those that torch's suite asks of all optimizers."""
    for entry in common.get_error_inputs_for_all_optims("cpu", torch.float32):
        asked = entry.optimizer_error_input
        if issubclass(entry.error_type, Warning):
            with pytest.warns(entry.error_type, match=entry.error_regex):
                kind(asked.params, **(kwargs | asked.kwargs))
            continue
        with pytest.raises((TypeError, ValueError)):
            kind(asked.params, **(kwargs | asked.kwargs))


@pytest.mark.parametrize(("kind", "kwargs"), FIRST)
def test_what_is_not_supported_is_refused_with_a_reason(kind: Any, kwargs: dict[str, Any]) -> None:
    if kind is not SamSGD:  # its base decides
        with pytest.raises((TypeError, ValueError), match=r"complex|floating"):
            kind([nn.Parameter(torch.ones(2, dtype=torch.complex64))], **kwargs)
    with pytest.raises(TypeError):
        kind([nn.Parameter(torch.ones(2))], **(kwargs | {"no_such_setting": True}))


def test_vogn_takes_losses_of_single_examples_and_goes_the_same_ways() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2).double()
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.randint(0, 2, (12,))
    opt = VOGN(net.parameters(), 0.1, num_data=12)
    schedule = ExponentialLR(opt, 0.95)

    def losses() -> float:
        return float(nn.functional.cross_entropy(net(x), y))

    from fenchel.optim import functional_loss

    loss = functional_loss(net, lambda out, target: nn.functional.cross_entropy(out, target), opt.trainable())
    first = losses()
    for _ in range(30):
        opt.step(loss, (x, y))
        schedule.step()
    assert losses() < first
    state = copy.deepcopy(opt.state_dict())
    opt.load_state_dict(state)
