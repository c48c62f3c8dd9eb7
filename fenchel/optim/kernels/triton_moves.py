"""The moves of Algorithm 1 as Triton kernels: each is one launch for all parameters of a device and precision.

A launch reads a table of addresses: row r of column t is where the memory of role r of tensor t begins. Every number is
read and written once a move. The noise is drawn inside the kernel by a counter-based generator: it is a function of a
seed, the number of the parameter and the position in it, so it does not depend on how the work is divided, nor on how a
parameter is sharded; the seed lies on the device, so that a captured step draws afresh in each replay.

`fenchel.optim.kernels.fused` makes the tables and launches; arithmetic is in float32, as in `fenchel.optim.functional`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language import constexpr

BLOCK = constexpr(2048)
COLUMNS = constexpr(12)

# rows of the table of addresses, and of the table of whole numbers
WEIGHTS, MEAN, S, MOMENTUM, GRADIENT, ABSOLUTE = map(constexpr, range(6))
SIZE, POSITION, NUMBER, GROUP = map(constexpr, range(4))
# columns of the table of hyperparameters, a row for each group
NOISE, RHO, LR, BETA1, BETA2, REST1, REST2, DECAY, OFFSET, SIGN, FACTOR, FIRST = map(constexpr, range(12))


@triton.jit
def _tile(table, numbers, blocks, hyper, count):
    """Of the tensor at hand the columns in both tables, the row of its group, and its size; where the tile begins."""
    place = tl.load(blocks + tl.program_id(0))
    tensor = (place >> 32).to(tl.int32)
    known = numbers + tensor
    row = hyper + tl.load(known + GROUP * count) * COLUMNS
    return table + tensor, known, row, tl.load(known + SIZE * count), (place & 0xFFFFFFFF) * BLOCK


@triton.jit
def _at(memory, row: constexpr, count, offsets, kind: constexpr, aligned: constexpr):
    """Pointers to ``offsets`` in the memory of one role; ``aligned`` to 16 bytes, so that loads are wide."""
    begin = tl.load(memory + row * count).to(tl.pointer_type(kind))
    if aligned:
        begin = tl.multiple_of(begin, 16)
    return begin + offsets


@triton.jit
def _load(pointers, mask, other: constexpr):
    """Load as float32; ``mask`` is None within a tensor."""
    if mask is None:  # noqa: SIM108 - Triton compiles one branch only of this form
        value = tl.load(pointers)
    else:
        value = tl.load(pointers, mask, other)
    return value.to(tl.float32)


@triton.jit
def _four_normals(seed, number, counter):
    """Four standard normal numbers for each counter."""
    low, high = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    a, b, c, d = tl.philox(seed, low, high, low * 0 + number.to(tl.uint32), low * 0)
    p, q = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(a), tl.uint_to_uniform_float(b))
    r, s = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(c), tl.uint_to_uniform_float(d))
    return p, q, r, s


@triton.jit
def _normals(seed, number, begin, size: constexpr, quads: constexpr):
    """Standard normal numbers of the positions begin ... begin + size - 1; ``quads``: begin is a multiple of four."""
    if quads:
        p, q, r, s = _four_normals(seed, number, begin // 4 + tl.arange(0, size // 4))
        noise = tl.reshape(tl.join(tl.join(p, r), tl.join(q, s)), (size,))
    else:
        position = begin + tl.arange(0, size)
        p, q, r, s = _four_normals(seed, number, position // 4)
        lane = position % 4
        noise = tl.where(lane == 0, p, tl.where(lane == 1, q, tl.where(lane == 2, r, s)))
    return noise


@triton.jit
def noisy_point(
    table, numbers, blocks, hyper, seed, count,
    KIND: constexpr, MASTER: constexpr, KEEP: constexpr, ALIGNED: constexpr, QUADS: constexpr,
):  # fmt: skip
    """Line 3. With KEEP the mean is first taken from the weights (MASTER: where these were changed from outside)."""
    memory, known, row, size, begin = _tile(table, numbers, blocks, hyper, count)
    offsets = begin + tl.arange(0, BLOCK)
    first = tl.load(known + POSITION * count) + begin
    noise = tl.load(row + NOISE) * _normals(tl.load(seed), tl.load(known + NUMBER * count), first, BLOCK, QUADS)
    if begin + BLOCK <= size:
        _noisy_tile(memory, count, offsets, None, noise, KIND, MASTER, KEEP, ALIGNED)
    else:
        _noisy_tile(memory, count, offsets, offsets < size, noise, KIND, MASTER, KEEP, ALIGNED)


@triton.jit
def _noisy_tile(
    memory, count, offsets, mask, noise, KIND: constexpr, MASTER: constexpr, KEEP: constexpr, ALIGNED: constexpr
):
    weights = _at(memory, WEIGHTS, count, offsets, KIND, ALIGNED)
    kept = _at(memory, MEAN, count, offsets, tl.float32, ALIGNED)
    if KEEP:
        mean = _load(weights, mask, 0.0)
        if MASTER:
            master = _load(kept, mask, 0.0)
            mean = tl.where(master.to(KIND).to(tl.float32) == mean, master, mean)
        tl.store(kept, mean, mask)
    else:
        mean = _load(kept, mask, 0.0)
    s = _load(_at(memory, S, count, offsets, tl.float32, ALIGNED), mask, 1.0)
    tl.store(weights, (mean + noise / tl.sqrt(s)).to(KIND), mask)


@triton.jit
def adversarial_point(
    table, numbers, blocks, hyper, unscale, found_inf, count,
    KIND: constexpr, ADD: constexpr, SCALED: constexpr, ALIGNED: constexpr,
):  # fmt: skip
    """Line 5, and |g| to its sum (ADD) or as its first term; under a loss scale, no step where g is not finite."""
    memory, _, row, size, begin = _tile(table, numbers, blocks, hyper, count)
    offsets = begin + tl.arange(0, BLOCK)
    step = tl.load(row + RHO)
    if begin + BLOCK <= size:
        _adversarial_tile(memory, count, offsets, None, step, unscale, found_inf, KIND, ADD, SCALED, ALIGNED)
    else:
        mask = offsets < size
        _adversarial_tile(memory, count, offsets, mask, step, unscale, found_inf, KIND, ADD, SCALED, ALIGNED)


@triton.jit
def _adversarial_tile(
    memory, count, offsets, mask, step, unscale, found_inf,
    KIND: constexpr, ADD: constexpr, SCALED: constexpr, ALIGNED: constexpr,
):  # fmt: skip
    there = tl.load(memory + GRADIENT * count) != 0
    gradients = _at(memory, GRADIENT, count, offsets, KIND, ALIGNED)
    g = _load(gradients, there if mask is None else mask & there, 0.0)
    mean = _load(_at(memory, MEAN, count, offsets, tl.float32, ALIGNED), mask, 0.0)
    s = _load(_at(memory, S, count, offsets, tl.float32, ALIGNED), mask, 1.0)
    if SCALED:
        g *= tl.load(unscale)
    absolute = tl.abs(g)
    move = step * g / s
    if SCALED:
        finite = absolute < float("inf")
        move = tl.where(finite, move, 0.0)
        if tl.min(finite.to(tl.int32), axis=0) == 0:
            tl.store(found_inf, 1.0)
    point = mean + move
    tl.store(_at(memory, WEIGHTS, count, offsets, KIND, ALIGNED), point.to(KIND), mask)
    sums = _at(memory, ABSOLUTE, count, offsets, tl.float32, ALIGNED)
    if ADD:
        absolute += _load(sums, mask, 0.0)
    tl.store(sums, absolute, mask)


@triton.jit
def update(
    table, numbers, blocks, hyper, found_inf, inverse_parts, count,
    KIND: constexpr, SUM_KIND: constexpr, MASTER: constexpr, SCALED: constexpr, ALIGNED: constexpr,
):  # fmt: skip
    """Lines 7 to 9; where there is no gradient, or one was not finite, the weights just become the mean."""
    memory, _, row, size, begin = _tile(table, numbers, blocks, hyper, count)
    offsets = begin + tl.arange(0, BLOCK)
    skip = tl.load(memory + GRADIENT * count) == 0
    if SCALED:
        skip = skip | (tl.load(found_inf) != 0)
    if begin + BLOCK <= size:
        _update_tile(memory, count, offsets, None, row, inverse_parts, skip, KIND, SUM_KIND, MASTER, ALIGNED)
    else:
        mask = offsets < size
        _update_tile(memory, count, offsets, mask, row, inverse_parts, skip, KIND, SUM_KIND, MASTER, ALIGNED)


@triton.jit
def _update_tile(
    memory, count, offsets, mask, row, scale, skip,
    KIND: constexpr, SUM_KIND: constexpr, MASTER: constexpr, ALIGNED: constexpr,
):  # fmt: skip
    weights = _at(memory, WEIGHTS, count, offsets, KIND, ALIGNED)
    kept = _at(memory, MEAN, count, offsets, tl.float32, ALIGNED)
    mean = _load(kept, mask, 0.0)
    if skip:
        tl.store(weights, mean.to(KIND), mask)
    else:
        states = _at(memory, S, count, offsets, tl.float32, ALIGNED)
        momenta = _at(memory, MOMENTUM, count, offsets, tl.float32, ALIGNED)
        g = _load(_at(memory, GRADIENT, count, offsets, SUM_KIND, ALIGNED), mask, 0.0)
        absolute = _load(_at(memory, ABSOLUTE, count, offsets, tl.float32, ALIGNED), mask, 0.0)
        s = _load(states, mask, 1.0)
        g = (scale * tl.load(row + SIGN)) * g + tl.load(row + DECAY) * mean
        momentum = tl.load(row + BETA1) * _load(momenta, mask, 0.0) + tl.load(row + REST1) * g
        curvature = (scale * tl.load(row + FACTOR)) * absolute * tl.sqrt(s)
        new_s = tl.load(row + BETA2) * s + tl.load(row + REST2) * (curvature + tl.load(row + OFFSET))
        mean -= tl.load(row + LR) * momentum / tl.where(tl.load(row + FIRST) != 0, new_s, s)
        tl.store(states, new_s, mask)
        tl.store(momenta, momentum, mask)
        tl.store(weights, mean.to(KIND), mask)
        if MASTER:
            tl.store(kept, mean, mask)
