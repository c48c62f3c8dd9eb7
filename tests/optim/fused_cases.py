"""The fused kernels against torch's: on a CUDA device, or, run as a script, on a CPU through Triton's interpreter."""

from __future__ import annotations

import os
import sys
from typing import Any

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"  # must be set before Triton is imported

import pytest
import torch
from torch import Tensor, nn

from fenchel.optim import BSAM
from fenchel.optim.kernels import bucket

SETTINGS: dict[str, Any] = {"num_data": 200, "rho": 0.05, "damping": 0.1, "seed": 0}


def parameters(dtype: torch.dtype, device: str) -> list[nn.Parameter]:
    """Odd sizes, several blocks, a channels-last weight, and one that no loss reaches."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(5000,), (7,), (64, 64), (4, 3, 3, 3), (11,), (1,)]
    tensors = [torch.randn(shape, generator=generator).to(device=device, dtype=dtype) for shape in shapes]
    tensors[3] = tensors[3].to(memory_format=torch.channels_last)
    return [nn.Parameter(t) for t in tensors]


def run(dtype: torch.dtype, device: str, parts: int, *, scale: float | None = None, **kwargs: Any) -> list[Tensor]:
    """Weights, s and momentum after a few steps on a smooth loss; the first scaled step may overflow."""
    ps = parameters(dtype, device)
    groups = [{"params": ps[:3]}, {"params": ps[3:], "weight_decay": 0.02, "rho": 0.1, "betas": (0.8, 0.99)}]
    optimizer = BSAM(groups, 0.2, weight_decay=1e-3, **{**SETTINGS, **kwargs})
    scaler = None if scale is None else torch.amp.GradScaler(device, init_scale=scale, growth_interval=1000)

    def closure_of(part: int) -> Any:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = sum((p.float() - 0.1 * part).cosh().log().mean() for p in ps[:5])  # type: ignore[assignment]
            (loss if scaler is None else scaler.scale(loss)).backward()
            return loss

        return closure

    for _ in range(3):
        optimizer.step([closure_of(k) for k in range(parts)], grad_scaler=scaler)
        if scaler is not None:
            scaler.update()
    states = [optimizer.state[p] for p in ps]
    return [t.detach().float().cpu() for p, s in zip(ps, states, strict=True) for t in (p, *s.values())]


CASES: list[tuple[torch.dtype, int, dict[str, Any]]] = [
    (torch.float32, 1, {}),
    (torch.float32, 3, {"precision_first": False}),
    (torch.float32, 1, {"maximize": True, "sqrt_num_data": True}),
    (torch.float32, 2, {"max_grad_norm": 0.01}),
    (torch.float32, 2, {"scale": 2.0**10}),
    (torch.float32, 1, {"scale": 2.0**127}),
    (torch.bfloat16, 1, {}),
    (torch.bfloat16, 2, {}),
    (torch.float32, 1, {"lr_tensor": True}),
]


def check_case(dtype: torch.dtype, device: str, parts: int, kwargs: dict[str, Any]) -> None:
    """Without noise both kernels make the same step."""
    kwargs = dict(kwargs)
    extra = {"capturable": True} if kwargs.pop("lr_tensor", False) else {}
    ends = [run(dtype, device, parts, noise=False, fused=fused, **extra, **kwargs) for fused in (None, False)]
    tolerance = 2e-6 if dtype is torch.float32 else 2e-2
    for fused, eager in zip(*ends, strict=True):
        torch.testing.assert_close(fused, eager, rtol=tolerance, atol=tolerance)


def noise_of(device: str, sizes: list[int], seed: int, step: int = 1) -> Tensor:
    """The noise of one step on zero weights with s = 1 and N = 1."""
    ps = [nn.Parameter(torch.zeros(n, device=device)) for n in sizes]
    optimizer = BSAM(ps, 0.1, num_data=1, rho=0.0, seed=seed)
    optimizer.param_groups[0]["step"] = step - 1
    optimizer.begin()
    optimizer.first_point()
    found = torch.cat([p.detach().clone() for p in ps])
    assert not any(isinstance(moves, bucket.Bucket) for moves in optimizer._moves)
    optimizer.restore()
    assert not torch.cat([p.detach() for p in ps]).any()
    return found.double().cpu()


def check_noise(device: str, size: int) -> None:
    """Standard normal, fresh in every step and parameter, and a function of seed and step."""
    z = noise_of(device, [size, size], 3)
    for k, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        error = (float((z ** (2 * k)).mean()) / z.numel()) ** 0.5
        assert abs(float((z**k).mean()) - moment) < 5 * error
    others = [noise_of(device, [size, size], 3, step=2), noise_of(device, [size, size], 4)]
    rows = torch.stack([*z.split(size), *(piece for other in others for piece in other.split(size))])
    rows = torch.cat([rows, z[:size].roll(1)[None]])
    correlations = torch.corrcoef(rows) - torch.eye(len(rows), dtype=torch.float64)
    assert correlations.abs().max() < 5 / size**0.5
    assert torch.equal(z, noise_of(device, [size, size], 3))
    assert torch.equal(z[:size], noise_of(device, [size, 5], 3)[:size])


def check_versions(device: str) -> None:
    """Autograd refuses a graph of weights that a fused step has changed."""
    p = nn.Parameter(torch.ones(5, device=device))
    optimizer = BSAM([p], 0.1, num_data=10, rho=0.1)
    old = p.square().sum()
    optimizer.begin()
    optimizer.first_point()
    optimizer.restore()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        old.backward()


def main() -> None:
    """All checks on a CPU."""
    true_reason = bucket.reason_against

    def reason_against(asked: Any, *, own_noise: bool) -> str | None:
        reason = true_reason(asked, own_noise=own_noise)
        return None if reason is not None and "CUDA device" in reason else reason

    bucket.reason_against = reason_against
    for dtype, parts, kwargs in CASES:
        check_case(dtype, "cpu", parts, kwargs)
    check_noise("cpu", 6001)
    check_versions("cpu")
    print("fused kernels checked")


if __name__ == "__main__":
    sys.exit(main())
