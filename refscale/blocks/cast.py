"""Conversion of arrays to block-scaled formats: the fast form of ``rounding``, equal to it on every input.

Every rule with powers of two is one addition and one shift of the bits of amax, in float64: if the fraction of amax
exceeds a threshold, the sum carries into the exponent.

    k = (bits(amax) + 2^52 − threshold) >> 52   less the bias, emax, and 1 for "nearest"

The other steps are casts of ``formats``, between a division by the scales and, for a wide array, a multiplication by
them. Incomplete blocks at the end of an axis are filled with zeros, which do not change a scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.arrays import plain
from refscale.blocks.parts import BlockCodes, Blocks, block_axes, carrier
from refscale.blocks.rounding import FLOAT32_MAX, tensor_scale_exact
from refscale.blocks.table import BlockCast, ScaleRule, get_block_cast
from refscale.errors import CarrierError
from refscale.formats import Cast, Format, encode
from refscale.formats.cast import check_random

Array = NDArray[Any]
Random = NDArray[np.uint32]

_INPUTS = tuple(np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16))
_CHUNK = 1 << 17  # elements at a time, as many as a cast takes


def quantize_blocks(
    x: ArrayLike, cast: str | BlockCast, random_bits: Random | None = None, *, dtype: Any = np.float32
) -> Array:
    """Round every block to a block-scaled format; the result has values of the format in a wide array.

        quantize_blocks(x) = T · s · cast(x / (s·T))

    Args:
        x: float16, bfloat16, float32 or float64, of at least one axis; float64 only for rules other than "amax".
        cast: a name in ``BLOCK_FORMATS``, or a ``BlockCast``.
        random_bits: independent uniform uint32 of the shape of x, for stochastic rounding only.
        dtype: dtype of the result, float32 or float64; see ``Blocks.wide``.

    Returns:
        An array of the shape of x.

    Raises:
        CarrierError: ``x``, ``random_bits`` or ``dtype`` is another dtype.
        ShapeError: x lacks the axis, or ``random_bits`` has another shape.
        ArgumentError: ``random_bits`` is missing or superfluous.
        FormatError: the name is unknown; or x has a NaN, the elements have none, and ``nonfinite`` is "ignore".

    Source: see ``BLOCK_FORMATS`` and ``rounding``.

    Example:
        >>> quantize_blocks([1.0, 3.3, 0.06, -9.0], get_block_cast("mxfp4", block=2)).tolist()
        [1.0, 3.0, 0.0, -8.0]
    """
    return _convert(x, get_block_cast(cast), random_bits, carrier("quantize_blocks", dtype), wide=True)[0]


def encode_blocks(x: ArrayLike, cast: str | BlockCast, random_bits: Random | None = None) -> BlockCodes:
    """Convert an array to a block-scaled format, and return codes of elements, codes of scales, and T.

    For the arguments see ``quantize_blocks``. A block whose scale is NaN has elements of code 0.
    """
    b = split_blocks(x, cast, random_bits)
    return BlockCodes(b.cast, encode(b.elements, b.cast.element), encode(b.scales, b.cast.scale), b.tensor_scale)


def split_blocks(x: ArrayLike, cast: str | BlockCast, random_bits: Random | None = None) -> Blocks:
    """Convert an array to a block-scaled format, and return values of elements and scales, and T.

    For the arguments see ``quantize_blocks``.
    """
    cast = get_block_cast(cast)
    elements, scales, t = _convert(x, cast, random_bits, np.dtype(np.float32), wide=False)
    return Blocks(cast, elements, scales, t)


def _convert(
    x: ArrayLike, cast: BlockCast, random_bits: Random | None, dtype: np.dtype[Any], wide: bool
) -> tuple[Array, NDArray[np.float32], float]:
    """(elements or wide values, scales, T)."""
    x = plain("quantize_blocks", "x", x)
    if x.dtype not in _INPUTS or (x.dtype == np.float64 and cast.rule == "amax"):
        known = "float16, bfloat16 or float32" + ("" if cast.rule == "amax" else " or float64")
        raise CarrierError(f"quantize_blocks to {cast}: x is an array of {x.dtype}, expected {known}")
    check_random("quantize_blocks", random_bits, x.shape, cast.rounding)
    if x.dtype.itemsize == 2:
        x = x.astype(np.float32)
    with np.errstate(all="ignore"):  # NaN and overflow are part of the work, set by rule
        tiling = _Tiling.of(cast, x)
        rows = tiling.rows(x)
        words = None if random_bits is None else tiling.rows(random_bits)
        amax = _amax(rows, tiling, cast)
        tensor = tensor_scale_exact(float(np.max(amax, initial=0.0, where=np.isfinite(amax))), cast)
        scales = _scales(amax, cast, tensor)
        out = np.empty(rows.shape, dtype if wide else np.float32)
        narrow = Cast(cast.element, cast.rounding, cast.overflow)
        divisor, dead = _divisor(scales, cast, tensor[0], x.dtype), np.isnan(scales)
        value = scales.astype(dtype)
        for part, blocks in tiling.parts():
            y = out[part]
            each = tiling.spread(divisor[blocks])
            q = _quotient(rows[part], each, cast, tensor[0], y if y.dtype == divisor.dtype else None)
            if dead[blocks].any():
                np.copyto(q, 0, where=tiling.spread(dead[blocks]))
            elements = narrow(q, None if words is None else words[part], out=y if y.dtype == np.float32 else None)
            if wide:
                np.multiply(elements, tiling.spread(value[blocks]), out=y)
                if tensor[0] != 1:
                    y *= dtype.type(tensor[0])
    return tiling.array(out), tiling.scales(scales.astype(np.float32)), tensor[0]


def _amax(rows: Array, tiling: _Tiling, cast: BlockCast) -> NDArray[np.float64]:
    """Largest magnitude of each block, as ``nonfinite`` has it: NaN for a block that becomes NaN, inf for "largest"."""
    found = np.empty(tiling.blocks, rows.dtype)
    integer = np.dtype(f"i{rows.dtype.itemsize}")
    mask, infinity = np.iinfo(integer).max, np.asarray(np.inf, rows.dtype).view(integer)
    for part, blocks in tiling.parts():
        bits = np.bitwise_and(rows[part].view(integer), mask)  # magnitudes in the order of their bits: NaN the largest
        if cast.nonfinite == "ignore":
            bits[bits >= infinity] = 0
        found[blocks] = tiling.largest(bits).view(rows.dtype)
    amax = found.astype(np.float64)
    if cast.nonfinite not in ("ignore", "largest"):
        amax[np.isinf(amax)] = np.nan if cast.nonfinite == "nan" else FLOAT32_MAX
    return amax


def _scales(amax: NDArray[np.float64], cast: BlockCast, tensor: tuple[float, float]) -> NDArray[np.float64]:
    """The scale of each block: ``rounding.scale_exact`` of arrays."""
    if cast.rule != "amax":
        step, less = _threshold(cast.rule, cast.element)
        k = ((amax.view(np.int64) + step) >> 52) - (1023 + cast.element.emax + less)
        s = ((np.clip(k, cast.scale.emin, cast.scale.emax) + 1023) << 52).view(np.float64)
        s[np.isnan(amax)] = np.nan
        return np.asarray(s)
    (t, e), top = tensor, cast.element.max
    # Of float32 operands float64 holds a quotient or a product so well that rounding it is rounding the real one.
    match cast.scale_arithmetic:
        case "divide":
            s = _float32(_float32(amax / top) / t)
        case "reciprocal":
            s = _float32(_float32(amax / top) * e)
        case "inverse":
            s = _float32(e * _float32(amax * _float32(np.asarray(1 / top))))
        case "product":
            s = _float32(_float32(amax * e) / top)
        case _:
            s = amax / (top * t)
    s = Cast(cast.scale, "nearest_even", "saturate")(s).astype(np.float64)
    s[np.isinf(amax)] = cast.scale.max
    return np.asarray(np.maximum(s, cast.least))


@lru_cache(maxsize=64)
def _threshold(rule: ScaleRule, element: Format) -> tuple[int, int]:
    """(2^52 − threshold, less): k is one larger where the fraction of amax, times 2^52, reaches the threshold."""
    one = 1 << 52
    top = int(math.ldexp(element.max, 52 - element.emax))  # M·2^52
    match rule:
        case "floor":
            return 0, 0
        case "ceil":
            return one - 1, 0
        case "rceil":
            return 2 * one - (top + 1), 0
        case "even":
            return one >> (element.mantissa_bits + 1), 0
        case "nearest":  # f > M·2^½, or, where that is beyond 2, f > M·2^-½
            up, down = math.isqrt(2 * top * top) + 1, math.isqrt(top * top // 2) + 1
            return (2 * one - up, 0) if up < 2 * one else (2 * one - down, 1)
    raise ValueError(rule)


def _divisor(scales: NDArray[np.float64], cast: BlockCast, t: float, dtype: np.dtype[Any]) -> Array:
    """The divisor of the elements of each block, or their factor; see ``_quotient``."""
    directed = cast.rounding in ("up", "down")  # there even what float32 loses of a tiny quotient counts
    arithmetic = cast.element_arithmetic
    exact = arithmetic == "exact"
    wide = np.dtype(np.float64) if exact and (directed or cast.rule == "amax") else dtype
    if arithmetic == "inverse":
        return np.where(scales > 0, _float32(_float32(np.asarray(1 / t)) / scales), 0).astype(wide)
    if arithmetic == "steps":
        return np.where(scales > 0, scales, np.inf).astype(wide)
    total = scales * t if exact else _float32(scales * t)
    if arithmetic == "reciprocal":
        return np.where(total > 0, _float32(1 / total), 0).astype(wide)
    return np.where(total > 0, total, np.inf).astype(wide)


def _quotient(x: Array, divisor: Array, cast: BlockCast, t: float, out: Array | None) -> Array:
    """x over the scales, to be rounded to elements."""
    if cast.element_arithmetic == "steps" and t != 1:
        q = np.divide(np.divide(x, x.dtype.type(t)), divisor, out=out)
    else:
        multiplied = cast.element_arithmetic in ("reciprocal", "inverse")
        q = (np.multiply if multiplied else np.divide)(x, divisor, out=out)
    if cast.nonfinite == "ignore":  # an infinity stays one where the scale is zero, too
        np.copyto(q, x, where=~np.isfinite(x))
    if x.dtype == np.float64 and cast.rounding in ("up", "down"):
        np.copyto(q, np.copysign(2.0**-1000, x), where=(q == 0) & (x != 0) & np.isfinite(divisor))
    return np.asarray(q)


def _float32(x: Array) -> NDArray[np.float64]:
    """A float32 operation on arrays, saturating."""
    return np.clip(x, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32).astype(np.float64)


class _Tiling(NamedTuple):
    """An array as (k, r, m): k rows of blocks, each r high and m wide, of m/c blocks side by side.

    Blocks along the last axis are one to a row; along another, as many as elements come after it. The axes are taken
    in the order in which they lie in memory, so that nothing is moved but into the filling of short blocks.
    """

    order: tuple[int, ...]  # of axes
    whole: tuple[int, ...]  # shape in that order
    padded: tuple[int, ...]
    form: tuple[int, int, int]
    c: int
    scale_shape: tuple[int, ...]

    @classmethod
    def of(cls, cast: BlockCast, x: Array) -> _Tiling:
        """The tiling of one array.

        Raises:
            ShapeError: the array lacks an axis of the blocks.
        """
        axes = block_axes(cast, x.shape)
        order = tuple(sorted(range(x.ndim), key=lambda axis: x.strides[axis], reverse=True))
        if set(order[-len(axes) :]) != set(axes) and len(axes) == 2:
            order = tuple(range(x.ndim))
        length = dict(zip(axes, cast.block, strict=True))
        whole = tuple(x.shape[axis] for axis in order)
        count = tuple(-(-n // length.get(axis, 1)) for n, axis in zip(whole, order, strict=True))
        padded = tuple(n * length.get(axis, 1) for n, axis in zip(count, order, strict=True))
        first = min(order.index(axis) for axis in axes)
        c = length.get(order[-1], 1)
        if first == x.ndim - 1:
            form = (math.prod(count), 1, c)
        else:
            form = (math.prod(count[: first + 1]), length[order[first]], math.prod(padded[first + 1 :]))
        return cls(order, whole, padded, form, c, count)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return math.prod(self.scale_shape)

    def rows(self, x: Array) -> Array:
        """(k, r, m)."""
        x = x.transpose(self.order)
        if self.padded != self.whole:
            filled = np.zeros(self.padded, x.dtype)
            filled[tuple(map(slice, self.whole))] = x
            x = filled
        return x.reshape(self.form)

    def array(self, rows: Array) -> Array:
        """The inverse of ``rows``."""
        x = rows.reshape(self.padded)[tuple(map(slice, self.whole))]
        return x.transpose(np.argsort(self.order))

    def scales(self, s: Array) -> Array:
        """One scale per block, in the order of the array's axes."""
        return np.ascontiguousarray(s.reshape(self.scale_shape).transpose(np.argsort(self.order)))

    def parts(self) -> Iterator[tuple[slice, slice]]:
        """Slices of some rows at a time, and of their blocks."""
        k, r, m = self.form
        step = max(1, _CHUNK // max(1, r * m))
        for start in range(0, k if r * m else 0, step):
            stop = min(start + step, k)
            yield slice(start, stop), slice(start * (m // self.c), stop * (m // self.c))

    def largest(self, bits: Array) -> Array:
        """The largest magnitude of each block of some rows, as bits."""
        columns = bits[:, 0] if bits.shape[1] == 1 else np.maximum.reduce(bits, 1)
        flat = columns.reshape(-1)
        return flat if self.c == 1 else np.maximum.reduceat(flat, np.arange(0, flat.size, self.c))

    def spread(self, per_block: Array) -> Array:
        """Values per block, repeated for each column of their rows."""
        return (per_block if self.c == 1 else np.repeat(per_block, self.c)).reshape(-1, 1, self.form[2])
