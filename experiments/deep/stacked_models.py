"""MLP and LeNet-5 for many weight vectors at once: every layer is one batched matrix product.

Weights are flat vectors in the order of ``torch.nn.utils.parameters_to_vector``, stacked as (parts, seeds, configs,
P). Features come before examples, (groups, features, examples), so that a layer's output is the next layer's right
factor without a copy. The single-network modules of `models` define the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["STACKED", "Layer", "gradients", "logits", "mean_losses", "parameter_shapes", "squared_gradients"]


@dataclass(frozen=True)
class Layer:
    """One affine map of a forward pass: its input matrix, its output, and how many columns belong to one example."""

    inputs: Tensor
    outputs: Tensor
    columns: int


def parameter_shapes(model: str, shape: tuple[int, int, int], classes: int) -> list[tuple[int, ...]]:
    """Shapes of the weights in parameter order."""
    if model == "mlp":
        sizes = (prod(shape), 500, 300, classes - 1)
        return [s for a, b in pairwise(sizes) for s in ((b, a), (b,))]
    side = ((shape[1] // 2 - 4) // 2) * ((shape[2] // 2 - 4) // 2)
    sizes = (16 * side, 120, 84, classes - 1)
    dense = [s for a, b in pairwise(sizes) for s in ((b, a), (b,))]
    return [(6, shape[0] * 25), (6,), (16, 150), (16,), *dense]


def logits(model: str, weights: Tensor, images: Tensor, classes: int) -> tuple[Tensor, list[Layer]]:
    """Class scores (parts * seeds * configs, classes, examples) of stacked weights.

    ``weights``: (parts, seeds, configs, P); ``images``: (parts, seeds, examples, channels, height, width), shared by
    the configurations; either of the first two axes of the images may be 1.
    """
    forward = STACKED[model]
    scores, layers = forward(weights, images, classes)
    return F.pad(scores, (0, 0, 0, 1)), layers


def mean_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of every group: scores (groups, classes, examples), labels (groups, examples)."""
    picked = scores.gather(1, labels[:, None])[:, 0]
    return (scores.logsumexp(1) - picked).mean(1)


def gradients(model: str, weights: Tensor, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Every group's gradient of its mean loss, (parts, seeds, configs, P), and the losses (parts, seeds, configs).

    ``labels``: (parts, seeds, examples).
    """
    weights = weights.detach().requires_grad_()
    scores, _ = logits(model, weights, images, classes)
    losses = mean_losses(scores, _grouped_labels(labels, weights))
    (gradient,) = torch.autograd.grad(losses.sum(), weights)
    return gradient, losses.detach().view(weights.shape[:3])


def squared_gradients(
    model: str, weights: Tensor, images: Tensor, labels: Tensor, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `gradients`, with each group's mean over examples of the squared per-example gradients in between."""
    weights = weights.detach().requires_grad_()
    scores, layers = logits(model, weights, images, classes)
    losses = mean_losses(scores, _grouped_labels(labels, weights))
    examples = labels.shape[-1]
    gradient, *deltas = torch.autograd.grad(losses.sum(), [weights, *(layer.outputs for layer in layers)])
    squares = []
    for layer, delta in zip(layers, deltas, strict=True):
        # Gradients of the mean loss: an example's own gradient is `examples` times its share.
        delta = delta.detach() * examples
        inputs = layer.inputs.detach()
        if layer.columns == 1:
            weight, bias = torch.bmm(delta.square(), inputs.square().mT), delta.square().sum(2)
        else:
            weight, bias = _convolution_squares(delta, inputs, layer.columns)
        squares += [weight.flatten(1), bias]
    mean = torch.cat(squares, 1).view(weights.shape) / examples
    return gradient, mean, losses.detach().view(weights.shape[:3])


def _convolution_squares(delta: Tensor, inputs: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    groups, outputs, total = delta.shape
    examples = total // columns
    rows = inputs.shape[1]
    left = delta.view(groups, outputs, examples, columns).transpose(1, 2)
    right = inputs.view(-1, rows, examples, columns).permute(0, 2, 3, 1)
    if len(right) != groups:
        right = right.repeat_interleave(groups // len(right), 0)
    per_example = torch.matmul(left, right)
    return per_example.square().sum(1), left.sum(3).square().sum(1)


def _grouped_labels(labels: Tensor, weights: Tensor) -> Tensor:
    parts, seeds, configs, _ = weights.shape
    return labels[:, :, None].expand(parts, seeds, configs, labels.shape[-1]).reshape(-1, labels.shape[-1])


def _mlp(weights: Tensor, images: Tensor, classes: int) -> tuple[Tensor, list[Layer]]:
    parts, seeds, configs, _ = weights.shape
    shapes = parameter_shapes("mlp", tuple(images.shape[3:]), classes)  # type: ignore[arg-type]
    flat = images.flatten(3).mT[:, :, None]
    hidden = flat.expand(parts, seeds, configs, *flat.shape[3:]).reshape(-1, *flat.shape[3:])
    return _dense(_pieces(weights, shapes), hidden, [])


def _lenet5(weights: Tensor, images: Tensor, classes: int) -> tuple[Tensor, list[Layer]]:
    parts, seeds, configs, _ = weights.shape
    examples, channels, height, width = images.shape[2:]
    shapes = parameter_shapes("lenet5", (channels, height, width), classes)
    pieces = _pieces(weights, shapes)
    # The patches of the images do not depend on the weights: one product serves all configurations of a seed.
    patches = F.pad(images, (2, 2, 2, 2)).unfold(4, 5, 1).unfold(5, 5, 1)
    patches = patches.permute(0, 1, 3, 6, 7, 2, 4, 5).reshape(-1, channels * 25, examples * height * width)
    patches = patches if len(patches) == parts * seeds else patches.expand(parts * seeds, -1, -1)
    filters = pieces[0].reshape(parts * seeds, configs * 6, -1)
    out = torch.baddbmm(pieces[1].reshape(parts * seeds, configs * 6, 1), filters, patches)
    groups = parts * seeds * configs
    first = Layer(patches, out.view(groups, 6, -1), height * width)
    hidden = F.relu(F.max_pool2d(first.outputs.view(groups * 6, examples, height, width), 2))
    hidden = hidden.view(groups, 6, examples, height // 2, width // 2)
    columns = hidden.unfold(3, 5, 1).unfold(4, 5, 1)
    rows, cols = columns.shape[3:5]
    columns = columns.permute(0, 1, 5, 6, 2, 3, 4).reshape(groups, 150, examples * rows * cols)
    out = torch.baddbmm(pieces[3][:, :, None], pieces[2], columns)
    second = Layer(columns, out, rows * cols)
    hidden = F.relu(F.max_pool2d(out.view(groups * 16, examples, rows, cols), 2))
    hidden = hidden.view(groups, 16, examples, -1).transpose(2, 3).reshape(groups, -1, examples)
    return _dense(pieces[4:], hidden, [first, second])


def _dense(pieces: list[Tensor], hidden: Tensor, layers: list[Layer]) -> tuple[Tensor, list[Layer]]:
    last = len(pieces) // 2 - 1
    for position in range(last + 1):
        out = torch.baddbmm(pieces[2 * position + 1][:, :, None], pieces[2 * position], hidden)
        layers.append(Layer(hidden, out, 1))
        hidden = F.relu(out) if position < last else out
    return hidden, layers


def _pieces(weights: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    # One split: its backward is one concatenation, where slices would each fill a vector of zeros.
    groups = prod(weights.shape[:3])
    parts = weights.reshape(groups, -1).split([prod(s) for s in shapes], 1)
    return [part.view(groups, *shape) for part, shape in zip(parts, shapes, strict=True)]


STACKED: dict[str, Callable[[Tensor, Tensor, int], tuple[Tensor, list[Layer]]]] = {"mlp": _mlp, "lenet5": _lenet5}
