"""exp, expm1, log, log1p and tanh from basic operations: the same bits on every machine.

NumPy chooses its exponentials and logarithms by the SIMD level at run time, and their last bits differ between levels.
The results of + − × ÷ √, rint, comparisons and integer operations do not; these functions use only such operations, in
float64. The coefficients are those of the series,

    exp(r) = Σ rⁿ/n!,    log((1 + s)/(1 − s)) = 2·atanh(s) = 2·Σ s^(2k+1)/(2k + 1),

each rational number rounded once; the arguments are so small (|r| ≤ ½·ln 2, |s| ≤ 0.172) that a dozen terms suffice.

The errors in the docstrings are in ulp of float64 of the exact result, the largest over 40 000 values of every
magnitude; tests check them. A NaN gives the same NaN, no input gives a warning, and a float32 result is the float64
result, rounded.

Source: the reductions and the compensated sums are those of fdlibm (Ng, 1993, ``e_exp.c``, ``e_log.c``, ``s_log1p.c``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.arrays import plain
from refscale.errors import CarrierError

Array = NDArray[Any]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_BLOCK = 1 << 14  # elements per pass: the dozen temporaries stay in cache

_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
"""ln 2 in its upper 32 bits: its products with integers below 2^21 are exact."""
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
"""ln 2 minus ``_LN2_HIGH``; together they err by less than 2^-87."""
_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
_ROOT_HALF = 0x3FE6A09E667F3BCD  # the bits of √½

# (exp(r) − 1 − r)/r², up to r¹³/13!: what follows is below 2^-57 at r = ½·ln 2.
_EXP = tuple(1 / math.factorial(n) for n in range(2, 14))
# 2·atanh(s)/s − 2 = z·(2/3 + 2/5·z + …) with z = s², up to z¹¹: what follows is below 2^-64.
_LOG = tuple(2 / (2 * k + 1) for k in range(1, 12))


def _horner(coefficients: tuple[float, ...], z: Float64) -> Float64:
    """Σ c_k z^k."""
    total = z * coefficients[-1]
    total += coefficients[-2]
    for c in reversed(coefficients[:-2]):
        total *= z
        total += c
    return total


def _power(k: Int64) -> Float64:
    """2^k for −1022 ≤ k ≤ 1023, put together from its bits."""
    return ((k + 1023) << 52).view(np.float64)


def _reduce(x: Float64) -> tuple[Int64, Float64, Float64]:
    """(k, r, rest) with exp(x) = 2^k·(1 + r + rest), |r| ≤ ½·ln 2, rest about r²/2."""
    k = np.rint(x * _LOG2_E)
    high, low = x - k * _LN2_HIGH, k * _LN2_LOW
    r = high - low
    rest = _horner(_EXP, r)
    rest *= r * r
    rest += (high - r) - low
    return k.astype(np.int64), r, rest


def _scaled(a: Float64 | float, k: Int64, r: Float64, rest: Float64) -> Float64:
    """2^k·(a + r + rest), rounded to a subnormal or to infinity where that is due."""
    s = a + r
    b = s - a
    rest = rest + ((a - (s - b)) + (r - b))  # the rounding error of the sum s
    half = k >> 1
    return (s + rest) * _power(half) * _power(k - half)


def _exp(x: Float64) -> Float64:
    return _scaled(1.0, *_reduce(np.clip(x, -746.0, 710.0)))


def _expm1(x: Float64) -> Float64:
    k, r, rest = _reduce(np.clip(x, -40.0, 710.0))
    y = _scaled(1 - _power(-np.minimum(k, 60)), k, r, rest)
    return np.where(x == 0, x, y)  # −0


def _log_near_one(f: Float64, k: Int64, correction: Float64 | float) -> Float64:
    """k·ln 2 + log(1 + f) + correction for √½ ≤ 1 + f < √2.

    With s = f/(2 + f), log(1 + f) = 2·atanh(s) = f − (f²/2 − s·(f²/2 + R)), R = 2·atanh(s)/s − 2: the first term is
    exact, the rest is small.
    """
    s = f / (2 + f)
    z = s * s
    series = _horner(_LOG, z)
    series *= z
    half_square = 0.5 * f * f
    low = s * (half_square + series) + (k * _LN2_LOW + correction)
    return k * _LN2_HIGH - ((half_square - low) - f)


def _binade(x: Float64) -> tuple[Int64, Float64]:
    """(k, m) with x = 2^k·m, √½ ≤ m < √2, for normal x > 0."""
    bits = x.view(np.int64)
    k = (bits - _ROOT_HALF) >> 52
    return k, (bits - (k << 52)).view(np.float64)


def _log_edges(argument: Float64, y: Float64) -> Float64:
    """A logarithm of an argument that is not positive and finite."""
    y = np.where(argument > 0, y, np.where(argument == 0, -np.inf, np.nan))
    return np.where(argument == np.inf, np.inf, y)


def _log(x: Float64) -> Float64:
    subnormal = x < 2.0**-1022
    k, m = _binade(np.where(subnormal, x * 2.0**54, x))
    y = _log_edges(x, _log_near_one(m - 1, k - 54 * subnormal, 0.0))
    return np.where(np.isnan(x), x, y)


def _log1p(x: Float64) -> Float64:
    u = 1 + x
    b = u - 1
    lost = (1 - (u - b)) + (x - b)  # 1 + x = u + lost
    k, m = _binade(u)
    near = k == 0
    y = _log_near_one(np.where(near, x, m - 1), k, np.where(near, 0.0, lost / u))
    return np.where(np.isnan(x) | (x == 0), x, _log_edges(u, y))


def _tanh(x: Float64) -> Float64:
    t = _expm1(2 * np.clip(np.abs(x), 0.0, 22.0))
    return np.copysign(t / (t + 2), x)


def _apply(name: str, kernel: Callable[[Float64], Float64], x: ArrayLike, out: Array | None) -> Array:
    """Walk an array through a kernel, block by block."""
    x = plain(f"elementary.{name}", "argument", x)
    if x.dtype not in (np.float32, np.float64):
        raise CarrierError(f"elementary.{name}: argument is {x.dtype}, expected float32 or float64")
    flat = x.reshape(-1)
    y = np.empty(flat.size, x.dtype)
    with np.errstate(all="ignore"):
        for start in range(0, flat.size, _BLOCK):
            part = flat[start : start + _BLOCK].astype(np.float64, copy=False)
            result = np.where(np.isnan(part), part, kernel(part))
            np.copyto(y[start : start + _BLOCK], result, casting="same_kind")
    if out is None:
        return y.reshape(x.shape)
    np.copyto(out, y.reshape(x.shape))
    return out


def exp(x: ArrayLike, out: Array | None = None) -> Array:
    """Exponential.

        exp(x) = 2^k·(1 + r + r²/2! + … + r¹³/13!),    k = rint(x/ln 2),    r = x − k·ln 2

    Args:
        x: float32 or float64, any shape, any value.
        out: array for the result; may be x itself.

    Returns:
        Array of the same shape and dtype, ≥ 0; inf above 709.78. Error at most 0.6 ulp; where the result is
        subnormal, one spacing.

    Raises:
        CarrierError: the dtype is not float32 or float64.

    Source:
        Series; see the module.
    """
    return _apply("exp", _exp, x, out)


def expm1(x: ArrayLike, out: Array | None = None) -> Array:
    """Compute exp(x) − 1 without cancellation.

        expm1(x) = 2^k·((1 − 2^-k) + r + r²/2! + …),    k and r as in ``exp``

    Args:
        x: float32 or float64, any shape, any value.
        out: array for the result; may be x itself.

    Returns:
        Array of the same shape and dtype, ≥ −1; ±0 gives ±0. Error at most 0.9 ulp.

    Raises:
        CarrierError: the dtype is not float32 or float64.

    Source:
        Series; see the module.
    """
    return _apply("expm1", _expm1, x, out)


def log(x: ArrayLike, out: Array | None = None) -> Array:
    """Natural logarithm.

        log(x) = k·ln 2 + 2·atanh(s),    x = 2^k·m,    √½ ≤ m < √2,    s = (m − 1)/(m + 1)

    Args:
        x: float32 or float64, any shape, any value.
        out: array for the result; may be x itself.

    Returns:
        Array of the same shape and dtype; ±0 gives −inf, x < 0 NaN. Error at most 0.9 ulp.

    Raises:
        CarrierError: the dtype is not float32 or float64.

    Source:
        Series; see the module.
    """
    return _apply("log", _log, x, out)


def log1p(x: ArrayLike, out: Array | None = None) -> Array:
    """Compute log(1 + x) without the rounding of 1 + x.

        log1p(x) = log(u) + (1 + x − u)/u,    u = fl(1 + x)

    Args:
        x: float32 or float64, any shape, any value.
        out: array for the result; may be x itself.

    Returns:
        Array of the same shape and dtype; ±0 gives ±0, −1 gives −inf, x < −1 NaN. Error at most 0.9 ulp.

    Raises:
        CarrierError: the dtype is not float32 or float64.

    Source:
        Series; see the module.
    """
    return _apply("log1p", _log1p, x, out)


def tanh(x: ArrayLike, out: Array | None = None) -> Array:
    """Hyperbolic tangent.

        tanh(x) = ±t/(t + 2),    t = expm1(2·|x|)

    Args:
        x: float32 or float64, any shape, any value.
        out: array for the result; may be x itself.

    Returns:
        Array of the same shape and dtype, in [−1, 1]; ±0 gives ±0. Error at most 1.6 ulp.

    Raises:
        CarrierError: the dtype is not float32 or float64.

    Source:
        Definition.
    """
    return _apply("tanh", _tanh, x, out)


class Elementary(NamedTuple):
    """The elementary functions that ``refscale.special`` uses, each called as f(x, out=None).

    Attributes:
        exp: exponential.
        log1p: log(1 + x).
    """

    exp: Callable[..., Array]
    log1p: Callable[..., Array]


NUMPY = Elementary(np.exp, np.log1p)
"""NumPy's functions: fast, but the last bits depend on the SIMD level."""

BASIC = Elementary(exp, log1p)
"""The functions of this module: the same bits on every machine."""
