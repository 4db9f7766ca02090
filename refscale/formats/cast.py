"""Rounding of arrays: the fast form of ``rounding``, equal to it on every input.

The idea, for x in a carrier (float32, or float64 where the format's spacing needs it):

    E = the exponent field of x, alone         bits & mask: the bits of 2^⌊log2 |x|⌋
    S = max(E, emin) - mantissa_bits           integers again: the bits of the spacing at x
    q = rint(x / S) · S                        two exact steps around the only rounding

S is a power of two, so the quotient and the product are exact, and only ``rint`` rounds; the clipping at emin gives the
spacing of subnormals. Arrays are processed in blocks that stay in cache. The largest E of a block shows whether it may
have elements near the largest value, infinities or NaN; only then a slower path sets such elements by rule. bfloat16,
whose subnormals are float32's, is rounded as an integer: see ``integers.nearest_even_bits``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.arrays import freeze, plain
from refscale.errors import ArgumentError, CarrierError, FormatError, ShapeError
from refscale.formats.integers import TO_INTEGER, nearest_even_bits, nearest_power
from refscale.formats.rounding import Overflow, Rounding, check_modes, round_exact
from refscale.formats.table import FORMATS, Format, FormatLike, get_format

Array = NDArray[Any]
Random = NDArray[np.uint32]

_BLOCK = 1 << 16  # elements: three or four arrays of this length stay in cache, and ten calls cost little beside them
_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)
_INPUTS = (_F32, _F64, np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_IN_FLOAT32 = {f.dtype for f in FORMATS.values() if f.dtype is not None} | {
    np.dtype(getattr(ml_dtypes, name)) for name in ("int2", "int4", "uint2", "uint4")
}
"""Dtypes of ml_dtypes whose values float32 holds."""


@dataclass(frozen=True, init=False, repr=False)
class Cast:
    """A record of a cast: format, rounding mode, overflow rule.

        Cast(format, rounding, overflow)(x) = quantize(x, format, rounding=rounding, overflow=overflow)

    Args:
        format: a name, an alias, a dtype or a Format; the attribute is the Format.
        rounding: "nearest_even", "toward_zero", "up", "down", "nearest_away" or "stochastic".
        overflow: "saturate" or "nonsaturate".

    Raises:
        FormatError: a name is unknown or ambiguous.

    Example:
        >>> print(Cast("e4m3fn", "nearest_even", "saturate"))
        float8_e4m3fn/nearest_even/saturate
    """

    format: Format
    rounding: Rounding
    overflow: Overflow

    def __init__(self, format: FormatLike, rounding: Rounding, overflow: Overflow) -> None:
        """Check the names, and look the format up."""
        check_modes(rounding, overflow, "Cast")
        object.__setattr__(self, "format", get_format(format))
        object.__setattr__(self, "rounding", rounding)
        object.__setattr__(self, "overflow", overflow)

    def __call__(
        self, x: ArrayLike, random_bits: Random | None = None, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Round an array: ``quantize`` with this record's format and modes."""
        return _quantize(x, self.format, self.rounding, self.overflow, random_bits, out)

    def __str__(self) -> str:
        """``float8_e4m3fn/nearest_even/saturate``."""
        return f"{self.format}/{self.rounding}/{self.overflow}"

    def __repr__(self) -> str:
        """``Cast('float8_e4m3fn', 'nearest_even', 'saturate')``."""
        return f"Cast({self.format.name!r}, {self.rounding!r}, {self.overflow!r})"


def quantize(
    x: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding,
    overflow: Overflow,
    random_bits: Random | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Round every element once to a format; the result has values of the format in a float32 array.

        quantize(x)_i = round_exact(x_i)

    Args:
        x: float64, float32, integers, or a dtype of ml_dtypes; any shape. Each element is rounded once: float64 is not
            first converted to float32, nor integers of 64 bits to float64 (those beyond 2^53 are rounded one by one, by
            ``round_exact``). Lists are converted by ``np.asarray``. Booleans raise an error.
        format: a name, an alias, a dtype of NumPy or ml_dtypes, or a Format.
        rounding: "nearest_even", "toward_zero", "up", "down", "nearest_away" or "stochastic".
        overflow: result beyond the largest value and for ±inf: "saturate" gives ±max; "nonsaturate" gives ±inf, NaN in
            a format without inf, ±max in a format without inf and NaN. Directed roundings of finite x follow IEEE 754,
            7.4.
        random_bits: independent uniform uint32 of the shape of x, for "stochastic" only. An element is rounded
            away from zero if ⌊2^32 · rest⌋ + random_bits ≥ 2^32, with ``rest`` the part of |x| that rounding drops, in
            units of the spacing S. Within ±max, the expected result is exactly x if 2^32 · rest is an integer: for
            float32 if |x| ≥ 2^-9 S, for float16 if |x| ≥ 2^-22 S, for bfloat16 if |x| ≥ 2^-25 S. Otherwise it is nearer
            to zero than x, by less than 2^-32 S.
        out: contiguous float32 array of the shape of x, axes in any order, for the result; may be x itself.

    Returns:
        float32 of the shape of x. NaN is the canonical quiet NaN. NaN and -0 keep their signs if the format has signed
        NaN and signed zero; see ``round_exact`` for other formats.

    Raises:
        CarrierError: ``x``, ``random_bits`` or ``out`` has another dtype.
        ShapeError: ``random_bits`` or ``out`` has another shape.
        ArgumentError: ``random_bits`` is missing or superfluous, or ``out`` is not contiguous or not writable.
        FormatError: a name is unknown, or x has a NaN and the format has none (``out`` is then undefined).

    Source: IEEE 754-2019, sections 4.3 and 7.4; OCP OFP8 1.0 (its two conversion modes).

    Example:
        >>> quantize([1.0625 + 2.0**-40, 1e9], "e4m3fn", rounding="nearest_even", overflow="saturate")
        array([  1.125, 448.   ], dtype=float32)
    """
    check_modes(rounding, overflow, "quantize")
    return _quantize(x, get_format(format), rounding, overflow, random_bits, out)


def _quantize(
    x: ArrayLike, format: Format, rounding: Rounding, overflow: Overflow, random_bits: Random | None, out: Array | None
) -> NDArray[np.float32]:
    """Check the arrays, then round them block by block."""
    x = plain("quantize", "x", x)
    check_random("quantize", random_bits, x.shape, rounding)
    beyond = _beyond_float64(x)
    exact = None if beyond is None else _one_by_one(x, beyond, format, rounding, overflow, random_bits)
    if x.dtype not in _INPUTS:
        x = _as_float(x, format)
    if out is None:
        out = np.empty_like(x, _F32, subok=False)  # laid out as x is
    else:
        _check_out(out, x.shape)
        if x is not out and np.may_share_memory(x, out) and not _is_same(x, out):
            x = x.copy()  # a block's result would be written over input that is yet to be read
    plan = _plan(format, rounding, overflow, x.dtype == _F64)
    flat, flat_out = _in_memory_order(x, out)
    flat_random = None if random_bits is None else _in_memory_order(random_bits, out)[0]
    size = flat.size
    buffers = plan.buffers(min(size, _BLOCK), x.dtype)
    with np.errstate(all="ignore"):  # NaN and overflow are part of the work, set by rule
        if size <= _BLOCK:
            bad = plan.run(flat, flat_out, buffers, flat_random) if size else None
            if bad is not None:
                raise _no_nan(format, bad, out)
        else:
            for start in range(0, size, _BLOCK):
                stop = min(start + _BLOCK, size)
                random = None if flat_random is None else flat_random[start:stop]
                scratch = buffers if stop - start == _BLOCK else [b[: stop - start] for b in buffers]
                bad = plan.run(flat[start:stop], flat_out[start:stop], scratch, random)
                if bad is not None:
                    raise _no_nan(format, start + bad, out)
    if exact is not None:
        out[beyond] = exact
    return out


def _as_float(x: Array, format: Format) -> Array:
    """Narrow floats and integers in a float dtype; exact up to 2^53."""
    if x.dtype in _IN_FLOAT32:
        return x.astype(np.float32)
    if x.dtype.kind in "iu":
        return x.astype(np.float64)
    raise CarrierError(
        f"quantize to {format}: x is an array of {x.dtype}, expected float64 or narrower floats, or integers"
    )


def _beyond_float64(x: Array) -> NDArray[np.bool_] | None:
    """A mask of integers beyond ±2^53, which float64 may not represent; None if there are none."""
    if x.dtype.kind not in "iu" or x.dtype.itemsize < 8:
        return None
    beyond = (x > 2**53) | (x < -(2**53)) if x.dtype.kind == "i" else x > 2**53
    return np.asarray(beyond) if beyond.any() else None


def _one_by_one(
    x: Array,
    where: NDArray[np.bool_],
    format: Format,
    rounding: Rounding,
    overflow: Overflow,
    random_bits: Random | None,
) -> list[float]:
    """Some elements, rounded in exact arithmetic: about 4 µs each."""
    bits = repeat(None) if random_bits is None else random_bits[where].tolist()
    return [
        round_exact(n, format, rounding=rounding, overflow=overflow, random_bits=r)
        for n, r in zip(x[where].tolist(), bits, strict=False)
    ]


def _axes(out: Array) -> list[int]:
    """Axes of an array without gaps, the one with the largest steps first."""
    return sorted(range(out.ndim), key=lambda axis: out.strides[axis], reverse=True)


def _in_memory_order(x: Array, out: Array) -> tuple[Array, Array]:
    """Both as flat arrays, in the order in which ``out`` lies in memory; ``out`` as a view."""
    if not out.flags.c_contiguous:
        axes = _axes(out)
        x, out = x.transpose(axes), out.transpose(axes)
    return x.reshape(-1), out.reshape(-1)


def _no_nan(format: Format, position: int, out: Array) -> FormatError:
    """The error for the NaN at a position in memory order."""
    axes = list(range(out.ndim)) if out.flags.c_contiguous else _axes(out)
    found = np.unravel_index(position, [out.shape[axis] for axis in axes])
    index = tuple(int(found[axes.index(axis)]) for axis in range(out.ndim))
    return FormatError(f"quantize to {format}: x is NaN at index {index}, and {format} has no NaN")


def check_random(call: str, random_bits: Random | None, shape: tuple[int, ...], rounding: Rounding) -> None:
    """Raise an error unless random bits are given for stochastic rounding only, as uint32 of the shape of x."""
    if random_bits is not None:
        plain(call, "random_bits", random_bits)
    if rounding != "stochastic":
        if random_bits is not None:
            raise ArgumentError(f"{call}: random_bits given, but rounding is {rounding!r}, which uses none")
        return
    if random_bits is None:
        raise ArgumentError(f"{call}: rounding 'stochastic' needs random_bits, uint32 of shape {shape}")
    if not isinstance(random_bits, np.ndarray) or random_bits.dtype != np.uint32:
        what = random_bits.dtype if isinstance(random_bits, np.ndarray) else type(random_bits).__name__
        raise CarrierError(f"{call}: random_bits is {what}, expected an array of uint32")
    if random_bits.shape != shape:
        raise ShapeError(f"{call}: random_bits has shape {random_bits.shape}, expected that of x, {shape}")


def _check_out(out: Array, shape: tuple[int, ...]) -> None:
    plain("quantize", "out", out)
    if not isinstance(out, np.ndarray) or out.dtype != _F32:
        what = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise CarrierError(f"quantize: out is {what}, expected an array of float32")
    if out.shape != shape:
        raise ShapeError(f"quantize: out has shape {out.shape}, expected that of x, {shape}")
    flags = out.flags
    if not (flags.writeable and (flags.c_contiguous or out.transpose(_axes(out)).flags.c_contiguous)):
        raise ArgumentError("quantize: out must be writeable, and contiguous, its axes in any order")


def _is_same(x: Array, out: Array) -> bool:
    return x.dtype == out.dtype and x.strides == out.strides and x.ctypes.data == out.ctypes.data


# --- one block -----------------------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """The constants of a cast of a block, computed once for a format, its modes and a carrier."""

    format: Format
    carrier: np.dtype[Any]
    integer: np.dtype[Any]  # of the carrier's width
    # Operands of integer ufuncs are arrays: a Python integer takes a microsecond to become one.
    exponent_mask: Array  # of the carrier
    lowest: Array  # emin, as the carrier's exponent field in place
    shift: Array  # mantissa_bits, likewise
    watch: int  # blocks whose largest exponent field is smaller hold nothing special
    bounds: tuple[float, float]  # finite x is clipped to these before rounding
    beyond: float | None  # what replaces a magnitude larger than max; None if nothing can be
    vanishes: bool  # whether numbers below the smallest value of an unsigned format become NaN
    to_integer: Callable[[Array, Array, Random | None], Any]
    as_bits: bool
    as_powers: bool

    def buffers(self, length: int, source: np.dtype[Any]) -> list[Array]:
        """Buffers of the spacing, of the quotient unless it is in the float32 result, and of x if it is widened."""
        return [np.empty(length, self.carrier) for _ in range(1 + (self.carrier == _F64) + (source != self.carrier))]

    def widened(self, x: Array, scratch: list[Array]) -> Array:
        """x in the carrier."""
        if x.dtype == self.carrier:
            return x
        np.copyto(scratch[-1], x, casting="unsafe")  # exact
        return scratch[-1]

    def run(self, x: Array, out: Array, scratch: list[Array], random: Random | None) -> int | None:
        """Round x into out; return the position of a NaN if the format has none, else None."""
        if self.as_powers and nearest_power(x, out, scratch[0], self.beyond):
            return None
        x = self.widened(x, scratch)
        exponent = scratch[0].view(self.integer)
        np.bitwise_and(x.view(self.integer), self.exponent_mask, out=exponent)
        top = exponent.max()
        if top >= self.watch:
            if top == self.exponent_mask or self.beyond is not None or not self.format.signed:
                return self.run_special(x, out, scratch, random)
            clipped = out if self.carrier == _F32 else scratch[1]  # finite, and saturating: nothing else is special
            x = np.clip(x, *self.bounds, out=clipped)
            np.bitwise_and(x.view(self.integer), self.exponent_mask, out=exponent)
        self.round(x, out, scratch, random)
        return None

    def round(self, x: Array, out: Array, scratch: list[Array], random: Random | None) -> None:
        """Round x, whose exponent fields stand in scratch[0], with unbounded exponent."""
        if self.as_bits:
            nearest_even_bits(x, out, scratch[0], 23 - self.format.mantissa_bits)
            return
        spacing, quotient = scratch[0], scratch[1] if self.carrier == _F64 else out
        bits = spacing.view(self.integer)
        np.maximum(bits, _filled(int(self.lowest), self.integer)[: bits.size], out=bits)
        np.subtract(bits, self.shift, out=bits)
        np.divide(x, spacing, out=quotient)
        self.to_integer(quotient, quotient, random)
        np.multiply(quotient, spacing, out=out, casting="same_kind")
        if not self.format.has_signed_zero:
            np.add(out, 0.0, out=out)  # -0 + 0 = +0

    def run_special(self, x: Array, out: Array, scratch: list[Array], random: Random | None) -> int | None:
        """Round a block that may hold NaN, infinities or values beyond the largest."""
        format = self.format
        nan, infinite, negative = np.isnan(x), np.isinf(x), np.signbit(x)
        if not format.signed:
            nan |= ~(x > 0)
            if self.vanishes:
                nan |= x < format.min_normal
        if not format.has_nan and nan.any():
            return int(np.argmax(nan))
        x = np.clip(x, *self.bounds)
        exponent = scratch[0].view(self.integer)
        np.bitwise_and(x.view(self.integer), self.exponent_mask, out=exponent)
        self.round(x, out, scratch, random)
        if self.beyond is not None:
            beyond = infinite | (np.abs(out) > format.max)
            if format.has_inf:
                out[beyond] = np.where(negative[beyond], -self.beyond, self.beyond)
            else:
                nan |= beyond
        if nan.any():
            sign = negative[nan] if format.has_signed_nan else format.signed
            out[nan] = np.copysign(np.float32(math.nan), np.where(sign, np.float32(-1), np.float32(1)))
        return None


@lru_cache(maxsize=16)
def _filled(value: int, dtype: np.dtype[Any]) -> Array:
    """A block of one integer: ``np.maximum`` of two arrays takes 0.16 ns per element, with a scalar 0.73."""
    return freeze(np.full(_BLOCK, value, dtype))


@lru_cache(maxsize=1024)
def _plan(format: Format, rounding: Rounding, overflow: Overflow, is_float64: bool) -> _Plan:
    """The plan for a cast, from float64 or from one of the narrower inputs."""
    # Arithmetic in float32 needs every spacing to be a normal float32, quotients that do not underflow, and room in
    # the significand for doubled integers. Formats with float32's exponent range are rounded as bits or in float64.
    smallest = format.emin - format.mantissa_bits
    as_bits = not is_float64 and rounding == "nearest_even" and _has_exponents_of_float32(format)
    narrow = not is_float64 and (as_bits or (-126 <= smallest <= 0 and format.mantissa_bits <= 20))
    carrier, integer, mantissa, bias = (_F32, np.int32, 23, 127) if narrow else (_F64, np.int64, 52, 1023)

    saturates = overflow == "saturate" or not format.has_nan
    low = format.min if saturates or not format.signed or rounding in ("toward_zero", "up") else -math.inf
    high = format.max if saturates or rounding in ("toward_zero", "down") else math.inf
    return _Plan(
        format=format,
        carrier=carrier,
        integer=np.dtype(integer),
        exponent_mask=np.array((2 * bias + 1) << mantissa, integer),
        lowest=np.array((format.emin + bias) << mantissa, integer),
        shift=np.array(format.mantissa_bits << mantissa, integer),
        watch=(format.emax + bias) << mantissa if format.signed else 0,
        bounds=(low, high),
        beyond=None if saturates else math.inf if format.has_inf else math.nan,
        vanishes=not saturates and rounding in ("toward_zero", "down"),
        to_integer=TO_INTEGER[rounding],
        as_bits=as_bits,
        as_powers=format == get_format("float8_e8m0fnu")
        and not is_float64
        and rounding in ("nearest_even", "nearest_away"),
    )


def _has_exponents_of_float32(format: Format) -> bool:
    return (format.exponent_bits, format.bias, format.nan, format.signed) == (8, 127, "top_exponent", True)
