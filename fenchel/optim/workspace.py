"""Memory that an optimizer keeps from step to step on a CPU.

A step needs a copy of the mean and a vector of noise. Allocated anew each time, they would be handed back to the
operating system after every step and paged in again, which on a CPU costs as much as the arithmetic on them.
Accelerators have caching allocators, and there nothing is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Workspace"]


class Workspace:
    """Named vectors, one for each name, device and precision; what they held before is not defined."""

    def __init__(self) -> None:
        self._vectors: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self._pieces: dict[tuple[str, torch.device, torch.dtype], tuple[list[torch.Size], list[Tensor]]] = {}

    def vector(self, name: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A vector of ``size`` numbers; the next call with the same name may return the same memory."""
        if device.type != "cpu":
            return torch.empty(size, dtype=dtype, device=device)
        key = (name, device, dtype)
        if key not in self._vectors or self._vectors[key].numel() != size:
            self._vectors[key] = torch.empty(size, dtype=dtype, device=device)
            self._pieces.pop(key, None)
        return self._vectors[key]

    def pieces(
        self, name: str, shapes: list[torch.Size], dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, list[Tensor]]:
        """A vector, and views of it of these shapes, one after the other."""
        vector = self.vector(name, sum(shape.numel() for shape in shapes), dtype, device)
        key = (name, device, dtype)
        if key in self._pieces and self._pieces[key][0] == shapes:
            return vector, self._pieces[key][1]
        flat = vector.split([shape.numel() for shape in shapes])
        views = [piece.view(shape) for piece, shape in zip(flat, shapes, strict=True)]
        if key in self._vectors:
            self._pieces[key] = shapes, views
        return vector, views

    def like(self, name: str, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        """Pieces like tensors of one device and precision; None where memory is not kept, or not in their layout."""
        if not tensors or tensors[0].device.type != "cpu" or not all(t.is_contiguous() for t in tensors):
            return None
        return self.pieces(name, [t.shape for t in tensors], tensors[0].dtype, tensors[0].device)[1]

    def copies(self, name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies of tensors of one device and precision."""
        pieces = self.like(name, tensors)
        if pieces is None:
            return [t.clone() for t in tensors]
        for piece, t in zip(pieces, tensors, strict=True):
            piece.copy_(t)
        return pieces

    def __getstate__(self) -> dict[str, Any]:
        return {"_vectors": {}, "_pieces": {}}  # a copied or sent optimizer has a workspace of its own
