"""The trajectories of the authors' code: omega, s, g_m and the loss after every step, by every way of making a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optim_cases import FedBSAM, Trajectory, flat, relative, state
from torch import nn

from fenchel.optim import SAM, functional_loss
from fenchel.optim.functional import adversarial_point, bsam_update, curvature_estimate, noisy_point

BSAM_FILES = ["logreg_bsam_m1", "logreg_bsam_m4", "mlp_bsam_m1", "mlp_bsam_m4"]
SAM_FILES = ["logreg_sam_m1", "logreg_sam_m4", "mlp_sam_m1", "mlp_sam_m4"]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-6}


def by_closures(ref: Trajectory, net: nn.Module, opt: Any, t: int) -> Any:
    closures = ref.closures(net, opt, t)
    return opt.step(closures[0] if len(closures) == 1 else closures)


def by_moves(ref: Trajectory, net: nn.Module, opt: Any, t: int) -> Any:
    losses = []
    opt.begin()
    for closure in ref.closures(net, opt, t):
        opt.first_point()
        closure()
        opt.second_point()
        losses.append(closure().detach())
        opt.collect()
    opt.update()
    return torch.stack(losses).mean()


def by_vmap(ref: Trajectory, net: nn.Module, opt: Any, t: int) -> Any:
    def criterion(out: Any, y: Any) -> Any:
        return nn.functional.binary_cross_entropy_with_logits(out.squeeze(-1), y)

    rows = torch.stack(ref.rows(t))
    return opt.step_vectorized(functional_loss(net, criterion, opt.trainable()), (ref.x[rows], ref.y[rows]))


CASES = [
    (name, order, dtype, by_closures)
    for name in BSAM_FILES
    for order in ("official", "paper")
    for dtype in (torch.float64, torch.float32)
] + [(name, "paper", torch.float64, way) for name in BSAM_FILES[1::2] for way in (by_moves, by_vmap)]


@pytest.mark.parametrize(("name", "order", "dtype", "way"), CASES)
def test_bsam(name: str, order: str, dtype: torch.dtype, way: Any) -> None:
    ref = Trajectory(name, dtype)
    net = ref.model()
    opt = ref.bsam(net, order)
    worst = 0.0
    for t in range(ref.steps):
        ref.set_lr(opt, t)
        opt.feed = ref.noise(t)
        loss = way(ref, net, opt, t)
        assert opt.feed.numel() == 0
        worst = max(
            worst,
            relative(flat(net), ref[f"{order}_omega"][t]),
            relative(state(opt, "s"), ref[f"{order}_s"][t]),
            relative(state(opt, "momentum"), ref[f"{order}_gm"][t]) * (1.0 if dtype is torch.float64 else 0.1),
            abs(float(loss) - ref[f"{order}_loss"][t]),
        )
    assert worst < TOLERANCE[dtype]


@pytest.mark.parametrize("order", ["official", "paper"])
@pytest.mark.parametrize("name", BSAM_FILES)
def test_pure_functions(name: str, order: str) -> None:
    """The pure functions alone make the same trajectory, with a leading axis of sub-batches."""
    ref = Trajectory(name)
    net = ref.model()
    names = [n for n, _ in net.named_parameters()]
    sizes = [p.numel() for p in net.parameters()]
    shapes = [p.shape for p in net.parameters()]

    def gradient(point: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        values = [v.view(s).requires_grad_() for v, s in zip(point.split(sizes), shapes, strict=True)]
        out = torch.func.functional_call(net, dict(zip(names, values, strict=True)), (ref.x[rows],)).squeeze(-1)
        loss = nn.functional.binary_cross_entropy_with_logits(out, ref.y[rows])
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, values)])

    mean = torch.tensor(ref["omega0"])
    s, momentum = torch.full_like(mean, ref.number("s_init")), torch.zeros_like(mean)
    num_data, rho = ref.number("N"), ref.number("rho")
    for t in range(ref.steps):
        rows = ref.rows(t)
        theta = noisy_point(mean, torch.tensor(ref["noise"][t]), s, num_data)
        g = torch.stack([gradient(point, r) for point, r in zip(theta, rows, strict=True)])
        adversarial = adversarial_point(mean, g, s, rho)
        g_eps = torch.stack([gradient(point, r) for point, r in zip(adversarial, rows, strict=True)])
        if t == 0:
            for mine, key in ((theta, "step0_theta"), (g, "step0_g"), (g_eps, "step0_g_eps")):
                assert relative(mine, ref[key]) < 1e-12
            assert relative(adversarial - mean, ref["step0_eps"]) < 1e-12
        mean, s, momentum = bsam_update(
            mean,
            s,
            momentum,
            g_eps.mean(0),
            curvature_estimate(g, s).mean(0),
            lr=ref.number("lr") * float(ref["lrfactor"][t]),
            beta1=ref.number("beta1"),
            beta2=ref.number("beta2"),
            weight_decay=ref.number("weight_decay"),
            damping=ref.number("damping"),
            precision_first=order == "paper",
        )
    assert relative(mean, ref[f"{order}_omega"][-1]) < 1e-10
    assert relative(s, ref[f"{order}_s"][-1]) < 1e-10
    assert relative(momentum, ref[f"{order}_gm"][-1]) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SAM_FILES)
def test_sam_over_sgd(name: str, dtype: torch.dtype) -> None:
    ref = Trajectory(name, dtype)
    net = ref.model()
    opt = SAM(
        net.parameters(),
        torch.optim.SGD,
        ref.number("rho"),
        lr=ref.number("lr"),
        momentum=ref.number("momentum"),
        weight_decay=ref.number("weight_decay"),
    )
    worst = 0.0
    for t in range(ref.steps):
        ref.set_lr(opt, t)
        loss = by_closures(ref, net, opt, t)
        worst = max(worst, relative(flat(net), ref["official_omega"][t]), abs(float(loss) - ref["official_loss"][t]))
        if dtype is torch.float64:
            worst = max(worst, relative(state(opt, "momentum_buffer"), ref["official_gm"][t]))
    assert worst < TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["logreg_sgd", "mlp_sgd"])
def test_sam_without_radius_is_the_base_optimizer(name: str) -> None:
    ref = Trajectory(name)
    net = ref.model()
    opt = SAM(
        net.parameters(),
        torch.optim.SGD,
        0.0,
        lr=ref.number("lr"),
        momentum=ref.number("momentum"),
        weight_decay=ref.number("weight_decay"),
    )
    for t in range(ref.steps):
        ref.set_lr(opt, t)
        opt.step(ref.closures(net, opt, t))
        assert relative(flat(net), ref["official_omega"][t]) < 1e-10


def test_the_two_orders_differ() -> None:
    """The tolerance can tell the orders apart: they move omega by more than 1e-3 of its size."""
    ref = Trajectory("mlp_bsam_m4")
    assert relative(torch.tensor(ref["official_omega"][-1]), ref["paper_omega"][-1]) > 1e-3


def test_fed_noise_is_consumed_once_per_parameter_and_sub_batch() -> None:
    ref = Trajectory("mlp_bsam_m4")
    net = ref.model()
    opt = ref.bsam(net, "paper", cls=Recording)
    by_closures(ref, net, opt, 0)
    assert opt.asked == list(net.parameters()) * 4


class Recording(FedBSAM):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: list[Any] = []

    def standard_normal_like(self, param: torch.Tensor) -> torch.Tensor:
        self.asked.append(param)
        return torch.zeros_like(param)
