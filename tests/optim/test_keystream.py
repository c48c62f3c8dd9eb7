"""Normals from the AES keystream, against the published vector and scipy; the memory a step keeps."""

import copy
import math

import numpy as np
import pytest
import torch
from optim_cases import SETTINGS, closure_for, data, flat, network
from scipy import stats
from torch import nn

from fenchel.optim import BSAM
from fenchel.optim.keystream import TO_UNIT, KeyStream, is_fast
from fenchel.optim.workspace import Workspace

KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")


def test_the_bits_are_those_of_aes_in_counter_mode() -> None:
    """Counter, key and output blocks of NIST SP 800-38A, F.5.1."""
    counter = int.from_bytes(range(0xF0, 0x100), "big")
    words = np.frombuffer(
        bytes.fromhex("ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae"), dtype="<i4"
    ).astype(np.float64)
    expected = stats.norm.ppf(words / 2**32 + 0.5)
    drawn = KeyStream(KEY, counter).normal_(torch.empty(8)).double().numpy()
    np.testing.assert_allclose(drawn, expected, rtol=3e-6, atol=3e-7)


def test_the_draw_inverts_the_distribution_function_where_float32_can_resolve_it() -> None:
    z = KeyStream(KEY).normal_(torch.empty(400_000)).double().numpy()
    assert stats.kstest(z, "norm").pvalue > 1e-3
    for edge in (2.0, 3.0, 4.0):
        expected = 2 * stats.norm.sf(edge) * z.size
        assert abs((np.abs(z) > edge).sum() - expected) < 5 * math.sqrt(expected)


def test_the_largest_integers_stay_finite() -> None:
    ends = torch.tensor([-(2**31), 2**31 - 1, 2**31 - 64, 2**31 - 65, 0], dtype=torch.int32)
    z = ends.float().mul_(TO_UNIT).erfinv_().mul_(math.sqrt(2.0))
    assert torch.isfinite(z).all()
    assert 5.4 < float(z.abs().max()) < 5.42
    assert float(z[-1]) == 0.0


@pytest.mark.parametrize("sizes", [[7, 64, 1], [300_000, 5, 262_145]])
def test_a_stream_continues_bit_for_bit_where_it_was_saved(sizes: list[int]) -> None:
    stream = KeyStream(KEY)
    stream.normal_(torch.empty(sizes[0]))
    others = [KeyStream.from_state(stream.state()), copy.deepcopy(stream), copy.copy(stream)]
    for size in sizes[1:]:
        z = stream.normal_(torch.empty(size))
        for other in others:
            assert torch.equal(z, other.normal_(torch.empty(size)))
    assert stream.block == sum(-(-4 * size // 16) for size in sizes)


def test_draws_do_not_overlap_and_do_not_depend_on_threads() -> None:
    stream, threads = KeyStream(KEY), torch.get_num_threads()
    first, second = (stream.normal_(torch.empty(100_002)) for _ in range(2))
    assert len(np.intersect1d(first.numpy(), second.numpy())) < 1500  # 32 bits, rounded to 24: some coincide
    torch.set_num_threads(1)
    try:
        assert torch.equal(KeyStream(KEY).normal_(torch.empty(100_002)), first)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("out", [torch.empty(4, dtype=torch.float64), torch.empty(2, 2), torch.empty(8)[::2]])
def test_other_memory_is_refused(out: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="contiguous float32 vector"):
        KeyStream(KEY).normal_(out)


def big(seed: int = 0) -> tuple[nn.Sequential, BSAM]:
    """A network whose noise is large enough to come from the keystream."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 300), nn.Tanh(), nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 3))
    return net, BSAM(net.parameters(), 0.1, seed=5, **SETTINGS)


@pytest.mark.parametrize("parts", [1, 3])
def test_state_and_copies_of_an_optimizer_continue_the_keystream(parts: int) -> None:
    x, y = data(dtype=torch.float32)
    net, opt = big()

    def train(model: nn.Module, optimizer: BSAM) -> torch.Tensor:
        for _ in range(3):
            optimizer.step([closure_for(model, optimizer, x, y) for _ in range(parts)])
        return flat(model)

    train(net, opt)
    assert opt.state_dict()["noise"]["stream"].dtype == torch.uint8
    assert (opt._noise.stream.block > 0) == is_fast()
    copied_net, copied = copy.deepcopy((net, opt))
    loaded_net, loaded = big(1)
    loaded_net.load_state_dict(net.state_dict())
    loaded.load_state_dict(opt.state_dict())
    end = train(net, opt)
    assert torch.equal(train(copied_net, copied), end)
    assert torch.equal(train(loaded_net, loaded), end)


def test_ranks_and_seeds_have_keys_of_their_own() -> None:
    from fenchel.optim.noise import NoiseSource

    sources = [NoiseSource(1), NoiseSource(2), NoiseSource(1, rank=1)]
    loaded = NoiseSource(1, rank=1)
    loaded.load_state_dict(sources[0].state_dict())
    assert len({s.stream.key for s in [*sources, loaded]}) == 4


def test_a_step_allocates_no_copy_of_the_weights_twice() -> None:
    """The memory of the mean and the noise is that of the step before, and not shared between optimizers."""
    x, y = data(dtype=torch.float32)
    (net, opt), (_, other) = big(), big()
    opt.begin(None, 1)
    mean = [t.data_ptr() for t in opt._buckets[0].mean]
    opt.restore()
    other.begin(None, 1)
    assert not set(mean) & {t.data_ptr() for t in other._buckets[0].mean}
    other.restore()
    opt.step(closure_for(net, opt, x, y))
    opt.begin(None, 1)
    assert [t.data_ptr() for t in opt._buckets[0].mean] == mean
    opt.restore()


def test_a_workspace_follows_changing_shapes_and_layouts() -> None:
    space, p = Workspace(), torch.arange(6.0)
    (first,) = space.copies("mean", [p])
    (second,) = space.copies("mean", [p.view(2, 3)])
    assert second.shape == (2, 3)
    assert second.data_ptr() == first.data_ptr()
    (third,) = space.copies("mean", [torch.arange(8.0)])
    assert torch.equal(third, torch.arange(8.0))
    transposed = p.view(2, 3).t()
    (fourth,) = space.copies("mean", [transposed])
    assert fourth.stride() == transposed.stride()
    assert torch.equal(fourth, transposed)
    assert not copy.deepcopy(space)._vectors


def test_weights_replaced_between_steps_are_trained() -> None:
    x, y = data(dtype=torch.float32)
    ends = []
    for layout in (torch.clone, lambda t: t.t().contiguous().t() if t.ndim == 2 else t.clone()):
        net = network(dtype=torch.float32)
        opt = BSAM(net.parameters(), 0.1, seed=1, **SETTINGS)
        opt.step(closure_for(net, opt, x, y))
        for p in net.parameters():
            p.data = layout(p.data)
        for _ in range(2):
            opt.step([closure_for(net, opt, x, y)] * 2)
        ends.append(flat(net))
    torch.testing.assert_close(ends[0], ends[1])


def test_noise_handed_in_is_not_overwritten() -> None:
    """|g| goes to the memory of the noise, but only where that is the optimizer's own."""
    x, y = data(dtype=torch.float32)
    net = network(dtype=torch.float32)
    opt = BSAM(net.parameters(), 0.1, **SETTINGS)
    kept = {p: torch.randn_like(p) for p in net.parameters()}
    before = {p: z.clone() for p, z in kept.items()}
    opt.standard_normal_like = kept.__getitem__  # type: ignore[method-assign]
    for parts in (1, 2):
        opt.step([closure_for(net, opt, x, y)] * parts)
    assert all(torch.equal(kept[p], before[p]) for p in kept)
