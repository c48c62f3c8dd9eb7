"""Parameters of which a process holds a part: DTensor (FSDP2, tensor parallelism) and FSDP1's flattened ones.

An optimizer here works on the part at hand. What it needs of the rest are norms over all parts, and noise that depends
on the position in the whole parameter, so that a sharded run equals one of a single process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_dtensor(tensor: Any) -> bool:
    """Whether ``tensor`` is a DTensor (without importing the module that defines it)."""
    return hasattr(tensor, "_local_tensor")


def local(tensor: Tensor) -> Tensor:
    """The part at hand; it shares the memory of ``tensor``."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


class Shards:
    """How the parameters of an optimizer are divided over processes.

    Args:
        module: the network; FSDP1 keeps in its wrapper, not in the parameters, what part is where.
    """

    def __init__(self, module: nn.Module | None = None) -> None:
        self._module = module
        self._flat: dict[int, tuple[Any, int]] | None = None

    def gradient(self, param: Tensor) -> Tensor | None:
        """The part of the gradient that belongs to the part of ``param`` at hand.

        Raises:
            ValueError: it is sparse.
        """
        grad = param.grad
        if grad is None:
            return None
        if grad.is_sparse:
            raise ValueError("sparse gradients are not supported; use sparse=False in the embedding")
        if is_dtensor(grad) and grad.placements != param.placements:  # type: ignore[attr-defined]
            grad = grad.redistribute(placements=param.placements)  # type: ignore[attr-defined]
        return local(grad)

    def sharded(self, params: Iterable[Tensor]) -> bool:
        """Whether any of ``params`` is divided."""
        return any(is_dtensor(p) or self.flattened(p) for p in params)

    @staticmethod
    def flattened(param: Tensor) -> bool:
        """Whether it is one of FSDP1, whose shape is that of the part at hand."""
        return bool(getattr(param, "_fsdp_flattened", False))

    def changed(self, params: Sequence[Tensor], *, raw: bool = False) -> None:
        """To be called, on all processes, after weights were changed in place; ``raw``: past autograd.

        Autograd must be told that graphs of the old weights are void, and autocast, which keeps 16-bit copies for the
        rest of its region, that they are old; so must FSDP.
        """
        divided = self.sharded(params)
        if raw or divided:
            torch.autograd.graph.increment_version(list(params))
        torch.clear_autocast_cache()
        if divided:
            self._let_go()

    @torch.no_grad()
    def assign(self, params: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Give the parts of ``params`` at hand new ``values``."""
        if params:
            torch._foreach_copy_([local(p) for p in params], list(values))
        self.changed(params)

    def _let_go(self) -> None:
        """Have the whole weights gathered anew.

        FSDP keeps those of a forward pass until a backward pass, and would use them again after a forward pass that
        had none (an evaluation).
        """
        fsdp = sys.modules.get("torch.distributed.fsdp")
        if fsdp is not None:
            for module in list(sys.modules["torch.distributed._composable_state"]._module_state_mapping):
                if isinstance(module, fsdp.FSDPModule):
                    module.reshard()
        for handle in {id(handle): handle for handle, _ in (self._flat or {}).values()}.values():
            if handle.uses_sharded_strategy and hasattr(handle.flat_param, "_local_shard"):  # made by the first forward
                handle.reshard(True)

    def whole_shape(self, param: Tensor) -> torch.Size:
        """The shape of the whole parameter.

        Raises:
            ValueError: FSDP1 flattened the parameter, and the optimizer was not given the wrapped module.
        """
        if self.flattened(param):
            handle, i = self._place(param)
            return torch.Size(handle.flat_param._shapes[i])
        return param.shape

    def part(self, param: Tensor, whole: Tensor) -> Tensor:
        """Of a tensor as large as the whole parameter, the part at hand."""
        if is_dtensor(param):
            shape, offset = _place_in_mesh(param)
            for dim, (size, begin) in enumerate(zip(shape, offset, strict=True)):
                whole = whole.narrow(dim, min(begin, whole.shape[dim]), size)
            return whole
        if self.flattened(param):
            handle, i = self._place(param)
            info = handle.flat_param._shard_param_infos[i]
            if not info.in_shard:
                return whole.new_empty(param.shape)
            flat = whole.reshape(-1)[info.intra_param_start_idx : info.intra_param_end_idx + 1]
            return flat.view(param.shape)
        return whole

    def position(self, param: Tensor) -> int | None:
        """Where the part at hand begins in the whole parameter, in numbers; None if it is not contiguous there."""
        if is_dtensor(param):
            along = [place.dim for place in param.placements if place.is_shard()]  # type: ignore[attr-defined]
            if any(along) or not param.is_contiguous():
                return None
            _, offset = _place_in_mesh(param)
            return int(offset[0]) * (param.numel() // max(param.shape[0], 1)) if param.dim() else 0
        if self.flattened(param):
            handle, i = self._place(param)
            info = handle.flat_param._shard_param_infos[i]
            return int(info.intra_param_start_idx) if info.in_shard else 0
        return 0

    def _place(self, param: Tensor) -> tuple[Any, int]:
        if self._flat is None:
            if self._module is None:
                raise ValueError("parameters sharded by FSDP1 need module=, the wrapped network")
            from torch.distributed.fsdp import FullyShardedDataParallel

            self._flat = {
                id(p): (wrapper._handle, i)
                for wrapper in FullyShardedDataParallel.fsdp_modules(self._module)
                if wrapper._handle is not None
                for i, p in enumerate(wrapper._handle.flat_param._params or [])
            }
        if id(param) not in self._flat:
            raise ValueError(
                "a parameter sharded by FSDP1 is not one of module=, the network wrapped with use_orig_params=True"
            )
        return self._flat[id(param)]

    def norm(self, params: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
        """The Euclidean norm, 0-d, of ``tensors``, in float32 at least, and of what other processes hold of them.

        They are the parts at hand of something like ``params``, one for one.
        """
        squares: dict[tuple[Any, ...], list[Tensor]] = {}
        for p, t in zip(params, tensors, strict=True):
            squares.setdefault(self._groups(p), []).append(t)
        if set(squares) == {()}:
            return nn.utils.get_total_norm(tensors)
        norms = []
        for groups in sorted(squares, key=len):  # the same order on every process
            square = nn.utils.get_total_norm(squares[groups]).square()
            for group in groups:
                dist.all_reduce(square, group=group)
            norms.append(square.to(tensors[0].device))
        return torch.stack(norms).sum().sqrt()

    def clip(self, params: Sequence[Tensor], tensors: Sequence[Tensor], limit: float) -> None:
        """Scale ``tensors``, in place, to a `norm` of at most ``limit``."""
        factor = (limit / (self.norm(params, tensors) + 1e-6)).clamp(max=1.0)
        for t in tensors:
            t.mul_(factor.to(t))

    def _groups(self, param: Tensor) -> tuple[Any, ...]:
        """The process groups over which ``param`` is divided."""
        if is_dtensor(param):
            mesh, placements = param.device_mesh, param.placements  # type: ignore[attr-defined]
            return tuple(mesh.get_group(i) for i, place in enumerate(placements) if place.is_shard())
        if self.flattened(param):
            return (self._place(param)[0].process_group if self._module is not None else dist.group.WORLD,)
        return ()


def _place_in_mesh(param: Any) -> tuple[Sequence[int], Sequence[int]]:
    """The shape of the part of a DTensor at hand, and where it begins along each dimension of the whole."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    found: tuple[Sequence[int], Sequence[int]]
    found = compute_local_shape_and_global_offset(param.shape, param.device_mesh, param.placements)
    return found
