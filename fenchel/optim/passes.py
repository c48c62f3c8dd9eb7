"""Passes over float32 memory, compiled by numba: each reads and writes every number once, for all parameters at once.

A pass is a C function of one address, where it finds its work as `fenchel.optim.native.run` lays it out. Each of the
threads that call it together takes an equal share of the numbers. They compute what
`fenchel.optim.functional` says.

Importing this module compiles the passes, or loads them from numba's cache; `fenchel.optim.native` does so when they
are first needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic
from numpy.polynomial import Chebyshev, Polynomial
from scipy.special import ndtri

from fenchel.optim.openmp import runtime

__all__ = ["GRAIN", "PASSES"]

HEAD, COLUMNS, CONSTANTS = 4, 6, 8
GRAIN = 1 << 15
"""Numbers that are worth a thread, as for torch's own kernels."""
BLOCK = 1024
"""Numbers that pass through several loops while they lie in the nearest cache."""

OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
ADDRESS = types.CPointer(types.int64)


def _cached(decorate: Callable[..., Any], *args: Any, **options: Any) -> Callable[[Any], Any]:
    def compile_(function: Any) -> Any:
        try:
            return decorate(*args, cache=True, **options)(function)
        except RuntimeError:  # there is no folder that numba may write to
            return decorate(*args, **options)(function)

    return compile_


inner = _cached(njit, inline="never", **OPTIONS)
compiled_pass = _cached(cfunc, types.void(ADDRESS), **OPTIONS)


# ---- threads and addresses -------------------------------------------------------------------------------------------

_OMP = runtime()
_alone = [cfunc(types.int32())(lambda: 0), cfunc(types.int32())(lambda: 1)]  # without OpenMP: thread 0 of 1
for _name, _entry, _own in zip(
    ("fenchel_thread", "fenchel_threads"), ("omp_get_thread_num", "omp_get_num_threads"), _alone, strict=True
):
    _place = _own.address if _OMP is None else ctypes.cast(getattr(_OMP, _entry), ctypes.c_void_p).value
    llvmlite.binding.add_symbol(_name, _place)
_thread = types.ExternalFunction("fenchel_thread", types.int32())
_threads = types.ExternalFunction("fenchel_threads", types.int32())


@intrinsic
def _reals(context: Any, address: Any) -> Any:
    kind = types.CPointer(types.float32)

    def generate(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], target.get_value_type(kind))

    return kind(types.int64), generate


@inner
def _opened(address):
    """(the work, the constants)."""
    rows = carray(address, HEAD)[0]
    work = carray(address, HEAD + (1 + COLUMNS) * rows)
    return work, carray(_reals(work[1]), CONSTANTS)


@inner
def _share(work):
    """What this thread is to do of all the numbers, from here to there."""
    total = work[3]
    if work[2] == 1:
        return np.int64(0), total
    threads = min(_threads(), (total + GRAIN - 1) // GRAIN)
    thread = _thread()
    return min(total, total * thread // threads), min(total, total * (thread + 1) // threads)


@inner
def _blocks(work):
    """The blocks of this thread's share: (row, start, stop)."""
    share, offset = _share(work), 0
    for row in range(work[0]):
        size = work[HEAD + row]
        last = min(share[1] - offset, size)
        for start in range(max(share[0] - offset, 0), last, BLOCK):
            yield row, start, min(start + BLOCK, last)
        offset += size


@inner
def _piece(work, column, block):
    row, start, stop = block
    return carray(_reals(work[HEAD + (1 + column) * work[0] + row]), stop)[start:stop]


# ---- loops, one array written by each, so that the compiler can make them vector code --------------------------------


@inner
def _point(out, mean, direction, s, scale):
    for i in range(out.size):
        out[i] = mean[i] + scale * direction[i] / s[i]


@inner
def _noisy(out, mean, noise, s, scale):
    for i in range(out.size):
        out[i] = mean[i] + scale * noise[i] / np.sqrt(s[i])


@inner
def _magnitude(out, gradient):
    for i in range(out.size):
        out[i] = abs(gradient[i])


@inner
def _add_magnitude(out, gradient):
    for i in range(out.size):
        out[i] += abs(gradient[i])


@inner
def _add(out, term):
    for i in range(out.size):
        out[i] += term[i]


@inner
def _momentum(out, gradient, mean, keep, new, decay):
    for i in range(out.size):
        out[i] = keep * out[i] + new * gradient[i] + decay * mean[i]


@inner
def _precision(s, absolute, keep, new, constant):
    for i in range(s.size):
        s[i] = keep * s[i] + (constant + new * np.sqrt(s[i]) * absolute[i])


# ---- standard normals from integers ----------------------------------------------------------------------------------


def _fitted(function: Callable[[np.ndarray], np.ndarray], low: float, high: float, degree: int, at: float) -> Any:
    """Coefficients, in powers of x - ``at``, of the polynomial through the values at the Chebyshev points."""
    through = Chebyshev.interpolate(function, degree, domain=[low, high]).convert(kind=Polynomial)
    return tuple(np.float32(c) for c in through(Polynomial([at, 1.0])).coef)


def _normal_over_uniform(w: np.ndarray) -> np.ndarray:
    """sqrt(2) erfinv(u) / u where w = -log(1 - u^2)."""
    u = np.sqrt(-np.expm1(-w))
    return np.asarray(-ndtri(np.exp(-w) / (1 + u) / 2) / u)


def _log1p_over(t: np.ndarray) -> np.ndarray:
    return np.asarray(np.log1p(t) / np.where(t == 0, 1.0, t) + (t == 0))


_TO_UNIT = np.float32(2.0**-31 * (1 - 2.0**-24))  # as `fenchel.optim.keystream.TO_UNIT`
_CUT, _MIDDLE, _FAR = np.float32(6.0), np.float32(3.0), np.float32(3.2)
_C = _fitted(_normal_over_uniform, 1e-9, 6.0, 9, 3.0)
_F = _fitted(lambda v: _normal_over_uniform(v * v), 6.0**0.5, 4.0, 7, 3.2)
_L = _fitted(_log1p_over, 0.5**0.5 - 1, 2.0**0.5 - 1, 9, 0.0)
_ONE, _LOG2 = np.float32(1.0), np.float32(np.log(2.0))
_ROOT_HALF = int(np.float32(0.5**0.5).view(np.int32))
_MANTISSA = 0x7FFFFF


@_cached(njit, inline="never", error_model="numpy", fastmath={"contract", "nnan", "ninf", "nsz"})
def _normals(out):
    """z = sqrt(2) erfinv(u), by polynomials in w = -log(1 - u^2), and in its root beyond |u| = .9988."""
    for i in range(out.size):
        u = np.float32(np.float32(out[i]).view(np.int32)) * _TO_UNIT
        v = (_ONE - u) * (_ONE + u)
        # v = 2^e (1 + t) with 1 + t between the roots of 1/2 and 2
        bits = np.int32(np.float32(v).view(np.int32) - np.int32(_ROOT_HALF))
        e = np.int32(bits >> np.int32(23))
        t = np.int32(np.int32(bits & np.int32(_MANTISSA)) + np.int32(_ROOT_HALF)).view(np.float32) - _ONE
        log = _L[9]
        log = log * t + _L[8]
        log = log * t + _L[7]
        log = log * t + _L[6]
        log = log * t + _L[5]
        log = log * t + _L[4]
        log = log * t + _L[3]
        log = log * t + _L[2]
        log = log * t + _L[1]
        log = log * t + _L[0]
        w = -(log * t + np.float32(e) * _LOG2)
        a = w - _MIDDLE
        near = _C[9]
        near = near * a + _C[8]
        near = near * a + _C[7]
        near = near * a + _C[6]
        near = near * a + _C[5]
        near = near * a + _C[4]
        near = near * a + _C[3]
        near = near * a + _C[2]
        near = near * a + _C[1]
        near = near * a + _C[0]
        b = np.sqrt(w) - _FAR
        far = _F[7]
        far = far * b + _F[6]
        far = far * b + _F[5]
        far = far * b + _F[4]
        far = far * b + _F[3]
        far = far * b + _F[2]
        far = far * b + _F[1]
        far = far * b + _F[0]
        out[i] = u * (near if w < _CUT else far)


# ---- the passes ------------------------------------------------------------------------------------------------------


@compiled_pass
def normals(address):
    """Columns: 32-bit integers, which become standard normals."""
    work, _ = _opened(address)
    for block in _blocks(work):
        _normals(_piece(work, 0, block))


@compiled_pass
def noisy_point(address):
    """Line 3 of Algorithm 1. Columns: out, mean, noise, s. Constants: 1/sqrt(N)."""
    work, c = _opened(address)
    for block in _blocks(work):
        out, mean, noise, s = (
            _piece(work, 0, block),
            _piece(work, 1, block),
            _piece(work, 2, block),
            _piece(work, 3, block),
        )
        _noisy(out, mean, noise, s, c[0])


@compiled_pass
def adversarial_point(address):
    """Line 5. Columns: out, mean, gradient, s, sum of |g|. Constants: rho, whether |g| is added or begins the sum."""
    work, c = _opened(address)
    for block in _blocks(work):
        gradient, total = _piece(work, 2, block), _piece(work, 4, block)
        if c[1] > 0:
            _add_magnitude(total, gradient)
        else:
            _magnitude(total, gradient)
        _point(_piece(work, 0, block), _piece(work, 1, block), gradient, _piece(work, 3, block), c[0])


@compiled_pass
def accumulate(address):
    """Line 6 over the sub-batches. Columns: total, term."""
    work, _ = _opened(address)
    for block in _blocks(work):
        _add(_piece(work, 0, block), _piece(work, 1, block))


@compiled_pass
def update(address):
    """Lines 7 to 9. Columns: out, mean, s, momentum, sum of g_eps, sum of |g|.

    Constants: -alpha; what the momentum keeps, and takes of g_eps and omega; what s keeps, and takes of sqrt(s)|g|
    and of one; whether s comes before omega.
    """
    work, c = _opened(address)
    for block in _blocks(work):
        out, mean, s = _piece(work, 0, block), _piece(work, 1, block), _piece(work, 2, block)
        momentum = _piece(work, 3, block)
        _momentum(momentum, _piece(work, 4, block), mean, c[1], c[2], c[3])
        if c[7] > 0:
            _precision(s, _piece(work, 5, block), c[4], c[5], c[6])
            _point(out, mean, momentum, s, c[0])
        else:
            _point(out, mean, momentum, s, c[0])
            _precision(s, _piece(work, 5, block), c[4], c[5], c[6])


PASSES: dict[str, Any] = {task.__name__: task for task in (normals, noisy_point, adversarial_point, accumulate, update)}
