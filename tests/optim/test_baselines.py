"""SAM, uncorrected Adam, VOGN, IVON and SWAG against independent numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from optim_cases import closure_for, closures_for, data, flat, minimizing, network
from torch import Tensor, nn

from fenchel.optim import IVON, SAM, SWAG, VOGN, UncorrectedAdam, functional_loss, per_example_loss, split_batch


def test_sam_adam_is_the_right_hand_column_of_algorithm_1() -> None:
    """1/2 h w^2 - b w in numpy: no bias correction, gamma added to the root, delta omega in both moments."""
    h, b, w = np.array([1.0, 3.0]), np.array([0.5, -1.0]), np.array([2.0, -1.0])
    rho, lr, beta1, beta2, delta, gamma = 0.1, 0.05, 0.8, 0.95, 0.02, 0.3
    p = nn.Parameter(torch.tensor(w))
    opt = SAM([p], UncorrectedAdam, rho, lr=lr, betas=(beta1, beta2), weight_decay=delta, eps=gamma)
    closure = minimizing(opt, lambda: (0.5 * torch.tensor(h) * p**2 - torch.tensor(b) * p).sum())
    m, s = np.zeros(2), np.zeros(2)
    for _ in range(8):
        opt.step(closure)
        g = h * w - b
        g_eps = h * (w + rho * g / np.linalg.norm(g)) - b + delta * w
        m, s = beta1 * m + (1 - beta1) * g_eps, beta2 * s + (1 - beta2) * g_eps**2
        w = w - lr * m / (np.sqrt(s) + gamma)
    np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12)


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_sam_feeds_any_base_the_adversarial_gradient(base: Any) -> None:
    net, plain = network(), network()
    x, y = data()
    opt, reference = SAM(net.parameters(), base, 0.1, lr=0.01), base(plain.parameters(), lr=0.01)
    for _ in range(4):
        opt.step(closure_for(net, opt, x, y))
        loss = nn.functional.cross_entropy(plain(x), y)
        g = torch.autograd.grad(loss, list(plain.parameters()))
        norm = torch.cat([t.flatten() for t in g]).norm()
        kept = [p.detach().clone() for p in plain.parameters()]
        with torch.no_grad():
            for p, t in zip(plain.parameters(), g, strict=True):
                p.add_(0.1 * t / norm)
        closure_for(plain, reference, x, y)()
        with torch.no_grad():
            for p, w in zip(plain.parameters(), kept, strict=True):
                p.copy_(w)
        reference.step()
    torch.testing.assert_close(flat(net), flat(plain), rtol=0, atol=1e-12)


def test_sam_at_a_zero_gradient_stays() -> None:
    p = nn.Parameter(torch.zeros(3))
    opt = SAM([p], torch.optim.SGD, 0.1, lr=0.5)
    closure = minimizing(opt, lambda: (p**2).sum())
    assert float(opt.step(closure)) == 0.0
    assert torch.equal(p.detach(), torch.zeros(3))


def test_sam_groups_have_their_own_radius() -> None:
    a, b = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))
    opt = SAM([{"params": [a]}, {"params": [b], "rho": 2.0, "lr": 0.5}], torch.optim.SGD, 1.0, lr=1.0)
    points: list[tuple[float, float]] = []

    def closure() -> Tensor:
        opt.zero_grad()
        points.append((float(a.detach()), float(b.detach())))
        loss = (a**2 + b**2).sum() / 2
        loss.backward()
        return loss

    opt.step(closure)
    assert points == [(3.0, 4.0), pytest.approx((3.6, 5.6))]
    assert (float(a.detach()), float(b.detach())) == pytest.approx((3.0 - 3.6, 4.0 - 0.5 * 5.6))
    opt.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert opt.base_optimizer is not None
    assert opt.base_optimizer.param_groups[2]["rho"] == 1.0


def test_sam_restores_after_an_exception_and_rejects_bad_input() -> None:
    net = network()
    x, y = data()
    opt = SAM(net.parameters(), torch.optim.SGD, 0.1, lr=0.1)
    before = flat(net)

    def failing() -> Any:
        closure_for(net, opt, x, y)()
        if not torch.equal(flat(net), before):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opt.step([closures_for(net, opt, x, y, 2)[0], failing])
    assert torch.equal(flat(net), before)
    with pytest.raises(ValueError, match=r"SAM\.step needs a closure"):
        opt.step()
    with pytest.raises(ValueError, match="rho"):
        SAM(net.parameters(), torch.optim.SGD, -0.1, lr=0.1)
    with pytest.raises(TypeError, match="base_optimizer"):
        SAM(net.parameters(), torch.optim.SGD(net.parameters(), lr=0.1), 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("kwargs", [{}, {"adaptive": True}, {"maximize": True}, {"max_grad_norm": 0.1}])
def test_sam_vectorized_equals_sequential(base: Any, kwargs: dict[str, Any]) -> None:
    ends = []
    for vectorized in (False, True):
        net = network()
        x, y = data()
        opt = SAM(net.parameters(), base, 0.2, lr=0.05, **kwargs)
        loss = functional_loss(net, nn.functional.cross_entropy, opt.trainable())
        for _ in range(4):
            if vectorized:
                value = opt.step_vectorized(loss, split_batch((x, y), 4))
            else:
                value = opt.step(closures_for(net, opt, x, y, 4))
        ends.append((flat(net), value))
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("split", "damped"), [(False, False), (True, False), (False, True), (True, True)])
def test_vogn_against_numpy_on_a_linear_regression(split: bool, damped: bool) -> None:
    rng = np.random.default_rng(0)
    features, targets, w = rng.normal(size=(6, 3)), rng.normal(size=6), rng.normal(size=3)
    p = nn.Parameter(torch.tensor(w))
    n, lr, beta1, beta2, delta, gamma = 20, 0.1, 0.8, 0.9, 0.05, 0.1
    settings: dict[str, Any] = {"betas": (beta1, beta2), "weight_decay": delta, "damping": gamma, "h_init": 0.5}
    opt = VOGN([p], lr, num_data=n, samples=2, split=split, damped_variance=damped, **settings)
    draws = rng.normal(size=(4, 2, 3))
    feed = iter(torch.tensor(draws.reshape(-1, 3)))
    opt.standard_normal_like = lambda _: next(feed)  # type: ignore[method-assign]

    def loss(values: Any, example: Any) -> Tensor:
        row, target = example
        return (row @ values[0] - target) ** 2 / 2

    m, h = np.zeros(3), np.full(3, 0.5)
    for t in range(4):
        value = opt.step(loss, (torch.tensor(features), torch.tensor(targets)))
        mean, square, total = np.zeros(3), np.zeros(3), 0.0
        for z, half in zip(draws[t], (slice(0, 3), slice(3, 6)), strict=True):
            rows = half if split else slice(0, 6)
            residual = features[rows] @ (w + z / np.sqrt(n * (h + delta + damped * gamma))) - targets[rows]
            g = residual[:, None] * features[rows]
            mean, square, total = mean + g.mean(0) / 2, square + (g**2).mean(0) / 2, total + (residual**2).mean() / 4
        m = beta1 * m + (1 - beta1) * (mean + delta * w)
        h = beta2 * h + (1 - beta2) * square
        w = w - lr * m / (h + delta + gamma)
        assert float(value) == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12)
    variance = 1 / (n * (h + delta + damped * gamma))
    np.testing.assert_allclose(opt.posterior_variance()[0].numpy(), variance, rtol=1e-12)


def test_vogn_per_example_gradients_of_a_network() -> None:
    """mean g_i^2 of a network by vmap equals the loop over examples."""
    net = network()
    x, y = data(rows=5)
    opt = VOGN(net.parameters(), 0.0, num_data=5, betas=(0.0, 0.0), weight_decay=1e-3)
    opt.standard_normal_like = torch.zeros_like  # type: ignore[method-assign]
    opt.step(per_example_loss(net, nn.functional.cross_entropy, opt.trainable()), (x, y))
    squares = []
    for i in range(5):
        net.zero_grad()
        nn.functional.cross_entropy(net(x[i : i + 1]), y[i : i + 1]).backward()
        squares.append([p.grad.square() for p in net.parameters()])
    for p, same in zip(net.parameters(), zip(*squares, strict=True), strict=True):
        torch.testing.assert_close(opt.state[p]["h"], torch.stack(same).mean(0))
    with pytest.raises(ValueError, match="per-example loss"):
        opt.step(lambda: None)


def test_ivon_against_numpy() -> None:
    rng = np.random.default_rng(1)
    w = rng.normal(size=4)
    p = nn.Parameter(torch.tensor(w))
    lam, lr, beta1, beta2, delta, h0 = 30, 0.1, 0.9, 0.95, 0.02, 0.4
    opt = IVON([p], lr, num_data=lam, betas=(beta1, beta2), weight_decay=delta, h_init=h0)
    draws = rng.normal(size=(5, 2, 4))
    feed = iter(torch.tensor(draws.reshape(-1, 4)))
    opt.standard_normal_like = lambda _: next(feed)  # type: ignore[method-assign]
    closure = minimizing(opt, lambda: torch.cosh(p - 0.5).sum())
    m, h = np.zeros(4), np.full(4, h0)
    for t in range(1, 6):
        opt.step([closure, closure])
        sigma = 1 / np.sqrt(lam * (h + delta))
        g = [np.sinh(w + sigma * z - 0.5) for z in draws[t - 1]]
        h_hat = np.mean([gi * z / sigma for gi, z in zip(g, draws[t - 1], strict=True)], axis=0)
        m = beta1 * m + (1 - beta1) * np.mean(g, axis=0)
        h = beta2 * h + (1 - beta2) * h_hat + 0.5 * (1 - beta2) ** 2 * (h - h_hat) ** 2 / (h + delta)
        w = w - lr * (h0 + delta) * (m / (1 - beta1**t) + delta * w) / (h + delta)
        assert (h + delta > 0).all()
    np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12)


def test_ivon_finds_the_gaussian_posterior_of_a_quadratic() -> None:
    """l = 1/2 a w^2 - b w for each of N data: the exact posterior N(b/(a + delta), 1/(N (a + delta)))."""
    torch.manual_seed(0)
    a, b, n, delta = 2.0, 1.0, 50, 0.1
    p = nn.Parameter(torch.zeros(2000, dtype=torch.float64))
    opt = IVON([p], 0.02, num_data=n, betas=(0.9, 0.995), weight_decay=delta, h_init=1.0, rescale_lr=False, seed=0)

    def closure() -> None:
        p.grad = a * p.detach() - b

    for _ in range(1500):
        opt.step(closure)
    assert float(p.detach().mean()) == pytest.approx(b / (a + delta), rel=0.01)
    assert float(opt.posterior_variance()[0].mean()) == pytest.approx(1 / (n * (a + delta)), rel=0.03)


def test_swag_moments_are_those_of_its_samples() -> None:
    rng = np.random.default_rng(0)
    iterates = torch.tensor(rng.normal(size=(7, 4)) * np.array([1.0, 2.0, 0.5, 3.0]) + 1)
    p, frozen = nn.Parameter(torch.zeros(4, dtype=torch.float64)), nn.Parameter(torch.ones(1), requires_grad=False)
    swag = SWAG([p, frozen], max_rank=3, seed=0)
    with pytest.raises(RuntimeError, match="no iterate"):
        swag.posterior_variance()
    deviations = []
    for i, w in enumerate(iterates):
        p.data = w.clone()
        swag.collect()
        deviations.append(w - iterates[: i + 1].mean(0))
    low_rank = torch.stack(deviations[-3:])
    diagonal = iterates.var(0, correction=0)
    covariance = 0.5 * torch.diag(diagonal) + low_rank.T @ low_rank / (2 * 2)
    torch.testing.assert_close(swag.posterior_variance()[0], covariance.diag())
    samples = []
    for _ in range(6000):
        with swag.sampled_params():
            samples.append(p.detach().clone())
    drawn = torch.stack(samples)
    error = 5 * (covariance.diag() / 6000).sqrt()
    assert ((drawn.mean(0) - iterates.mean(0)).abs() < error).all()
    scale = covariance.diag().sqrt()
    assert ((drawn.T.cov() - covariance).abs() < 0.08 * scale[:, None] * scale[None]).all()
    with swag.mean_params():
        torch.testing.assert_close(p.detach(), iterates.mean(0))
    assert torch.equal(p.detach(), iterates[-1])


def test_vogn_and_swag_take_whole_numbers_of_any_kind_and_refuse_the_rest() -> None:
    net, (x, y) = network(), data()
    SWAG(net, max_rank=np.int64(3), scale=np.float32(0.5))  # type: ignore[arg-type]
    VOGN(net.parameters(), 0.1, num_data=60, samples=np.int64(2))  # type: ignore[arg-type]
    for samples in (1.5, None):
        with pytest.raises(ValueError, match="samples must be a whole number"):
            VOGN(net.parameters(), 0.1, num_data=60, samples=samples)  # type: ignore[arg-type]
    opt = VOGN(net.parameters(), 0.1, num_data=60)
    loss, before = per_example_loss(net, nn.functional.cross_entropy, opt.trainable()), flat(net)
    for batch, error in (
        ((x[:0], y[:0]), ValueError),
        ((x, y[:3]), ValueError),
        (x, TypeError),
        ((x.numpy(), y), TypeError),
    ):
        with pytest.raises(error, match="batch must"):
            opt.step(loss, batch)  # type: ignore[arg-type]
    assert torch.equal(flat(net), before)


def test_swag_without_low_rank() -> None:
    p = nn.Parameter(torch.zeros(2))
    swag = SWAG([p], max_rank=0, scale=2.0)
    for value in (0.0, 2.0):
        p.data = torch.full((2,), value)
        swag.collect()
    torch.testing.assert_close(swag.posterior_variance()[0], torch.full((2,), 4.0))
    with pytest.raises(ValueError, match="no parameter"):
        SWAG([])
    for wrong in ({"max_rank": -1}, {"max_rank": 2.5}, {"scale": "1"}, {"scale": float("nan")}):
        with pytest.raises(ValueError, match="max_rank and scale"):
            SWAG([p], **wrong)
    p.data = torch.zeros(3)
    with pytest.raises(ValueError, match="changed its shape"):
        swag.collect()
    assert swag.count == 2


@pytest.mark.parametrize("name", ["SAM", "IVON", "VOGN"])
def test_steps_within_a_compiled_function(name: str) -> None:
    found = []
    for compiled in (False, True):
        net = network()
        x, y = data()
        opt: Any
        if name == "VOGN":
            opt = VOGN(net.parameters(), 0.01, num_data=24, seed=0)
            loss = per_example_loss(net, nn.CrossEntropyLoss(), opt.trainable())
            step = partial(opt.step, loss, (x, y))
        else:
            opt = (
                SAM(net.parameters(), UncorrectedAdam, 0.05, lr=0.01)
                if name == "SAM"
                else IVON(net.parameters(), 0.01, num_data=24, seed=0)
            )
            step = partial(opt.step, closure_for(net, opt, x, y))

        def train(step: Any = step) -> Tensor:
            loss: Tensor = step()
            return loss + 1

        run = torch.compile(train, backend="aot_eager") if compiled else train
        losses = [float(run()) for _ in range(3)]
        found.append((flat(net), torch.tensor(losses)))
    torch.testing.assert_close(found[0], found[1])
