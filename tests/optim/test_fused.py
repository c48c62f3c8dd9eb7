"""The compiled passes: against the pure functions in double precision, against the loop, and where they are used."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optim_cases import SETTINGS, FedBSAM, closure_for, closures_for, data, flat, network, state
from scipy.special import erfinv
from torch import Tensor, nn

from fenchel.optim import BSAM, functional, native
from fenchel.optim.kernels import foreach, fused, loop
from fenchel.optim.kernels.coefficients import Coefficients
from fenchel.optim.keystream import TO_UNIT, KeyStream
from fenchel.optim.openmp import runtime

pytestmark = pytest.mark.skipif(not native.available(), reason="numba is not installed")
SIZES = st.lists(st.sampled_from([0, 1, 3, 17, 1023, 1025, 40_000]), min_size=1, max_size=4)


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def lists(sizes: list[int], seed: int, count: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(n, generator=generator) for n in sizes] for _ in range(count)]


def double(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1).double() for t in tensors])


def close(actual: list[Tensor], expected: Tensor, scale: Tensor) -> None:
    """Within four roundings, as many as the longest of the expressions has, of the sum of the terms."""
    assert bool(((double(actual) - expected).abs() <= 4 * 2.0**-24 * scale).all())


@given(SIZES, st.integers(0, 99), st.floats(1e-3, 1.0), st.booleans(), st.sampled_from([1, 2]))
def test_points_are_those_of_the_pure_functions(
    sizes: list[int], seed: int, scale: float, adding: bool, count: int
) -> None:
    mean, direction, s, total = lists(sizes, seed, 4)
    s = [t.square() + 0.01 for t in s]
    out = [torch.empty_like(t) for t in mean]
    before, scale = double(total), float(np.float32(scale))
    torch.set_num_threads(count)
    fused.noisy_point(out, mean, direction, s, scale)
    exact = functional.noisy_point(double(mean), double(direction), double(s), scale**-2)
    close(out, exact, double(mean).abs() + (exact - double(mean)).abs())
    returned = fused.adversarial_point(out, mean, direction, s, scale, total=total if adding else None, room=None)
    exact = functional.adversarial_point(double(mean), double(direction), double(s), scale)
    close(out, exact, double(mean).abs() + (exact - double(mean)).abs())
    magnitude = double(direction).abs()
    close(returned, magnitude + before if adding else magnitude, magnitude + before.abs())
    assert not adding or all(a is b for a, b in zip(returned, total, strict=True))
    sums = double(returned)
    fused.accumulate(returned, direction)
    close(returned, sums + double(direction), sums.abs() + magnitude)


@given(SIZES, st.integers(0, 99), st.booleans(), st.sampled_from([1, 2]), st.sampled_from([0.0, 1e-3]))
def test_the_update_is_that_of_the_pure_functions(
    sizes: list[int], seed: int, precision_first: bool, count: int, decay: float
) -> None:
    mean, s, momentum, gradient, absolute = lists(sizes, seed, 5)
    s, absolute = [t.square() + 0.01 for t in s], [t.abs() for t in absolute]
    old = [double(t) for t in (mean, s, momentum, gradient, absolute)]
    settings: dict[str, Any] = {
        "lr": 0.3,
        "beta1": 0.9,
        "beta2": 0.99,
        "weight_decay": decay,
        "precision_first": precision_first,
    }
    exact = functional.bsam_update(*old[:3], old[3] * 0.25, old[1].sqrt() * old[4] * 0.25, damping=0.1, **settings)
    out = [torch.empty_like(t) for t in mean]
    torch.set_num_threads(count)
    by = Coefficients(offset=decay + 0.1, gradient_scale=0.25, absolute_scale=0.25, **settings)
    fused.update(out, mean, s, momentum, gradient, absolute, by)
    momentum_scale = old[2].abs() + old[3].abs() + decay * old[0].abs()
    close(momentum, exact[2], momentum_scale)
    close(s, exact[1], exact[1])
    divisor = exact[1] if precision_first else old[1]
    close(out, exact[0], 2 * (old[0].abs() + 0.3 * momentum_scale / divisor))
    assert torch.equal(double(mean), old[0])


def ends(parts: int, kernels: dict[str, Any], **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, s and momentum after five steps with the same noise."""
    x, y = data(dtype=torch.float32)
    net = network(dtype=torch.float32)
    opt = FedBSAM(net.parameters(), **{"lr": 0.2, **SETTINGS, **kwargs, **kernels})
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        opt.feed = torch.randn(1000, generator=generator)
        opt.step(closures_for(net, opt, x, y, parts))
    return flat(net), state(opt, "s"), state(opt, "momentum")


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"precision_first": False},
        {"lr": torch.tensor(0.2)},
        {"maximize": True},
        {"noise": False},
        {"max_grad_norm": 0.1},
        {"sqrt_num_data": True, "lr": 0.01},
        {"weight_decay": 0.0},
    ],
)
@pytest.mark.parametrize("parts", [1, 3])
def test_all_kernels_agree(parts: int, kwargs: dict[str, Any]) -> None:
    base = ends(parts, {"fused": True}, **kwargs)
    for kernels in ({"foreach": False}, {"foreach": True}):
        for one, other in zip(base, ends(parts, kernels, **kwargs), strict=True):
            torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)


def large_run(**kwargs: Any) -> Tensor:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 400), nn.Tanh(), nn.Linear(400, 300), nn.Tanh(), nn.Linear(300, 3))
    opt = BSAM(net.parameters(), 0.1, seed=2, **SETTINGS, **kwargs)
    gradients = [torch.randn_like(p) * 0.1 for p in net.parameters()]

    def closure() -> None:  # no forward pass, whose sums depend on the number of threads
        for p, g in zip(net.parameters(), gradients, strict=True):
            p.grad = g + 0.01 * p.detach()

    for parts in (1, 2, 1):
        opt.step([closure] * parts)
    return flat(net)


def test_the_number_of_threads_changes_nothing() -> None:
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(large_run(fused=True))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.skipif(runtime() is None, reason="needs an OpenMP runtime")
@pytest.mark.parametrize("size", [10, 100_000])
def test_within_a_parallel_region_every_thread_does_its_own_work(size: int) -> None:
    """As when a library calls back from its threads."""
    openmp, totals = runtime(), [torch.zeros(size) for _ in range(2)]
    assert openmp is not None

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def region(_: Any) -> None:
        assert openmp is not None
        fused.accumulate([totals[openmp.omp_get_thread_num()]], [torch.ones(size)])

    openmp.GOMP_parallel(ctypes.cast(region, ctypes.c_void_p), None, 2, 0)
    assert all(torch.equal(t, torch.ones(size)) for t in totals)


def test_without_numba_the_same_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the loop, and with normals by MKL: the same up to rounding."""
    compiled = large_run()
    monkeypatch.setattr(native, "_compiled", lambda: None)
    assert not native.available()
    torch.testing.assert_close(large_run(), compiled, rtol=0, atol=3e-6)
    with pytest.raises(RuntimeError, match="numba"):
        native.run("normals", ([torch.zeros(3)],))


def test_without_openmp_one_thread_computes_the_same(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from fenchel.optim import native, openmp; native.runtime = openmp.runtime = lambda: None\n"
        "sys.path.insert(0, 'tests/optim'); import test_fused as t\n"
        "torch.set_num_threads(2); assert not native.available()\n"
        "torch.set_num_threads(1); assert native.available()\n"
        "torch.save(t.large_run(fused=True), sys.argv[1])"
    )
    path = tmp_path / "weights.pt"
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[2], check=True)
    assert torch.equal(torch.load(path, weights_only=True), large_run(fused=True))


# ---- normals ---------------------------------------------------------------------------------------------------------


def test_normals_are_the_inverse_distribution_function_to_four_roundings() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.cat(
        [
            torch.randint(-(2**31), 2**31, (1_000_000,), generator=generator),
            torch.arange(-3000, 3000),
            *(sign * torch.arange(2**31 - 400_000, 2**31 - 1, 7) for sign in (1, -1)),  # both sides of the cut
            torch.tensor([-(2**31), 2**31 - 1]),
        ]
    ).to(torch.int32)
    out = bits.clone().view(torch.float32)
    native.run("normals", ([out],))
    u = (bits.numpy().astype(np.float32) * np.float32(TO_UNIT)).astype(np.float64)
    expected = np.sqrt(2.0) * erfinv(u)
    np.testing.assert_allclose(out.numpy(), expected, rtol=4.5 * 2.0**-24, atol=0)
    assert 5.4 < float(out.abs().max()) < 5.42


def test_keystream_agrees_with_torch_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    z = KeyStream(b"k" * 16).normal_(torch.empty(100_001))
    monkeypatch.setattr(native, "available", lambda: False)
    other = KeyStream(b"k" * 16).normal_(torch.empty(100_001))
    torch.testing.assert_close(z, other, rtol=5e-7, atol=0)


# ---- where they are used ---------------------------------------------------------------------------------------------


def chosen(params: list[nn.Parameter], **kwargs: Any) -> set[Any]:
    opt = BSAM(params, 0.1, **SETTINGS, **kwargs)
    opt.begin()
    found = {b.kernels for b in opt._buckets}
    opt.restore()
    return found


def parameter(dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.ones(3, 4, dtype=dtype))


def test_chosen_for_plain_float32_weights_only() -> None:
    transposed = nn.Parameter(torch.ones(4, 3).t())
    assert chosen([parameter()]) == {fused}
    for params in ([parameter(torch.float64)], [parameter(torch.bfloat16)], [parameter(), transposed]):
        assert chosen(params) == {loop}
    assert chosen([parameter(), parameter(torch.float64)]) == {fused, loop}
    assert chosen([parameter()], foreach=True) == {foreach}
    for kwargs in ({"foreach": False}, {"fused": False}, {"compiled": True}):
        assert chosen([parameter()], **kwargs) == {loop}


def test_refused_where_they_cannot_work() -> None:
    with pytest.raises(ValueError, match="fused=True needs numba"):
        chosen([parameter(torch.float64)], fused=True)
    for other in ({"foreach": True}, {"compiled": True}):
        with pytest.raises(ValueError, match="fused=True excludes"):
            BSAM([parameter()], 0.1, fused=True, **other, **SETTINGS)


@pytest.mark.parametrize(
    "gradient",
    [
        lambda p: torch.ones(()).expand(3, 4),
        lambda p: torch.arange(12.0).view(4, 3).t(),
        lambda p: torch._neg_view(torch.arange(12.0).view(3, 4)),
        lambda p: torch.complex(torch.zeros(3, 4), torch.arange(12.0).view(3, 4)).conj().imag,
    ],
)
@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_of_any_layout(gradient: Any, parts: int) -> None:
    found = []
    for use in (True, False):
        p = parameter()
        opt = BSAM([p], 0.1, seed=0, fused=use, **SETTINGS)

        def closure(p: nn.Parameter = p) -> None:
            p.grad = gradient(p)

        for _ in range(2):
            opt.step([closure] * parts)
        found.append(p.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_noise_handed_in_may_have_any_layout() -> None:
    found = []
    for use in (True, False):
        p = parameter()
        opt = BSAM([p], 0.1, fused=use, **SETTINGS)
        opt.standard_normal_like = lambda _: torch.arange(12.0).view(4, 3).t()  # type: ignore[method-assign]

        def closure(p: nn.Parameter = p, opt: BSAM = opt) -> None:
            opt.zero_grad()
            p.square().sum().backward()

        opt.step(closure)
        found.append(p.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_state_of_another_size_is_refused_before_memory_is_touched() -> None:
    p = parameter()
    opt = BSAM([p], 0.1, **SETTINGS)
    opt.step(closure_for_square(opt, p))
    opt.state[p]["s"] = torch.ones(2, 4)
    before = p.detach().clone()
    with pytest.raises(ValueError, match="differ in size"):
        opt.step(closure_for_square(opt, p))
    assert torch.equal(p, before)


def closure_for_square(opt: BSAM, p: nn.Parameter) -> Any:
    def closure() -> Tensor:
        opt.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("other", [torch.ones(4), torch.ones(3, dtype=torch.float64), torch.ones(6)[::2]])
def test_no_pass_reads_other_memory(other: Tensor) -> None:
    total = torch.ones(3)
    with pytest.raises(ValueError, match=r"contiguous float32 tensors|differ in size"):
        fused.accumulate([total], [other])
    assert torch.equal(total, torch.ones(3))


def test_a_held_column_keeps_the_memory_it_works_on() -> None:
    t, total = torch.ones(1000), torch.zeros(1000)
    column = native.Column([t], held=True)
    t.data = torch.full((1000,), 5.0)
    assert [kept.data_ptr() for kept in column.memory] == list(column.addresses) != [t.data_ptr()]
    fused.accumulate([total], column)
    assert torch.equal(total, torch.ones(1000))


@pytest.mark.parametrize("parts", [1, 2])
def test_weights_a_closure_replaces_and_gradients_it_leaves_out(parts: int) -> None:
    found = []
    for use in (True, False):
        a, b, unused = parameter(), parameter(), parameter()
        opt = BSAM([a, b, unused], 0.1, seed=0, fused=use, **SETTINGS)

        def closure(opt: BSAM = opt, a: nn.Parameter = a, b: nn.Parameter = b) -> None:
            opt.zero_grad()
            a.data = a.data.clone()
            (a.square() * b.detach() + (b.sin() if opt._parts == 0 else 0)).sum().backward()

        for _ in range(3):
            opt.step([closure] * parts)
        found.append(flat([a, b, unused]))
        assert torch.equal(unused, torch.ones(3, 4))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_vectorized_steps_agree() -> None:
    found = []
    for use in (True, False):
        p = parameter()
        opt = BSAM([p], 0.1, seed=0, fused=use, **SETTINGS)
        x = torch.arange(24.0).view(2, 4, 3)

        def loss(params: list[Tensor], batch: tuple[Tensor]) -> Tensor:
            return (params[0].t() * batch[0]).square().sum()

        opt.step_vectorized(loss, (x,))
        found.append(p.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_states_saved_before_there_was_a_choice_are_loaded() -> None:
    net = network(dtype=torch.float32)
    x, y = data(dtype=torch.float32)
    opt = BSAM(net.parameters(), 0.1, **SETTINGS)
    opt.step(closure_for(net, opt, x, y))
    saved = opt.state_dict()
    for group in saved["param_groups"]:
        del group["fused"]
    again = BSAM(net.parameters(), 0.1, **SETTINGS)
    again.load_state_dict(saved)
    again.step(closure_for(net, again, x, y))
    assert again.param_groups[0]["fused"] is None
