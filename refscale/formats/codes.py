"""Codes of values: encode, decode, and the table of all values.

The value of a code is a formula over its fields. Its inverse, with S the spacing at x and e the exponent of x, is

    code = (max(e, emin) - emin) · 2^mantissa_bits + |x|/S,     without the sign bit

for normal values and subnormals alike: in a binade above the lowest, |x|/S starts at 2^mantissa_bits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.arrays import plain
from refscale.errors import CarrierError, FormatError
from refscale.formats.table import Format, FormatLike, get_format

Codes = NDArray[np.unsignedinteger[Any]]

_INPUTS = tuple(np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16))
_BLOCK = 1 << 15


def decode(codes: ArrayLike, format: FormatLike) -> NDArray[np.float32]:
    """Convert codes to their values, as float32.

        value = (-1)^s · 2^(max(E, 1) - bias) · ([E > 0] + M/2^mantissa_bits)

    Args:
        codes: unsigned integers of the format's ``code_dtype``, each below its ``code_count``; any shape.
        format: a name, an alias or a Format.

    Returns:
        float32 of the shape of the codes, exact. NaN is the canonical quiet NaN, with the sign bit of its code; an fnuz
        NaN, whose code is the sign bit, is negative.

    Raises:
        CarrierError: the codes have another dtype.
        FormatError: a code is out of range.

    Source: the format's own, see ``Format.source``.
    """
    format = get_format(format)
    codes = plain("decode", "codes", codes)
    if codes.dtype != format.code_dtype:
        raise CarrierError(f"decode from {format}: codes is an array of {codes.dtype}, expected {format.code_dtype}")
    if format.bits < 8 * format.itemsize:
        wrong = codes >= format.code_count
        if wrong.any():
            index = _first(wrong)
            raise FormatError(
                f"decode from {format}: code {codes[index]:#x} at index {index}, expected below {format.code_count:#x}"
            )
    flat = codes.reshape(-1)
    return (values(format)[flat] if format.bits <= 16 else _decode(flat, format)).reshape(codes.shape)


def values(format: FormatLike) -> NDArray[np.float32]:
    """Return all values of a format of at most 16 bits, in the order of their codes.

        values(format)[c] = decode(c, format)

    Args:
        format: a name, an alias or a Format.

    Returns:
        A read-only float32 array, one element per code.

    Raises:
        FormatError: the format has more than 16 bits.
    """
    format = get_format(format)
    if format.bits > 16:
        raise FormatError(f"values: {format} has 2^{format.bits} codes, expected a format of at most 16 bits")
    return _table(format)


@lru_cache(maxsize=64)
def _table(format: Format) -> NDArray[np.float32]:
    table = _decode(np.arange(format.code_count, dtype=format.code_dtype), format)
    table.flags.writeable = False
    return table


def _decode(codes: Codes, format: Format) -> NDArray[np.float32]:
    """The formula for a row of codes, field by field; in float64, where no intermediate is subnormal."""
    code = codes.astype(np.int64)
    if format.nan == "twos_complement":
        code -= (code & format.sign_code) << 1
        return np.asarray(code * format.min_subnormal, np.float32)
    mantissa = code & ((1 << format.mantissa_bits) - 1)
    exponent = (code >> format.mantissa_bits) & ((1 << format.exponent_bits) - 1)
    negative = (code & format.sign_code) != 0

    if format.has_zero:
        mantissa += (exponent > 0) * (1 << format.mantissa_bits)  # the implicit bit
        exponent = np.maximum(exponent, 1)
    else:
        mantissa += 1 << format.mantissa_bits
    value = np.ldexp(mantissa.astype(np.float64), exponent - format.bias - format.mantissa_bits)

    magnitude = code & ~format.sign_code
    if format.inf_code is not None:
        value[magnitude == format.inf_code] = np.inf
        value[magnitude > format.inf_code] = np.nan
    elif format.nan == "all_ones":
        value[magnitude == format.nan_code] = np.nan
    elif format.nan == "negative_zero":
        value[code == format.nan_code] = np.nan
    np.negative(value, out=value, where=negative)  # NaN, too: a product with -1 would leave its sign
    return np.asarray(value, np.float32)


def encode(x: ArrayLike, format: FormatLike) -> Codes:
    """Convert values of a format to their codes, without rounding.

        decode(encode(x, format), format) = x, the same bits

    Args:
        x: float16, bfloat16, float32 or float64, any shape, every element a value of the format. Any NaN is encoded
            as the canonical NaN, with its sign if the format has signed NaN.
        format: a name, an alias or a Format.

    Returns:
        Unsigned integers of the format's ``code_dtype`` and the shape of x. Codes of 6 and 4 bits take a byte each.

    Raises:
        CarrierError: x has another dtype.
        FormatError: an element is not representable, such as -0 in a format without it; the message names the first.

    Source: the format's own, see ``Format.source``.
    """
    format = get_format(format)
    x = plain("encode", "x", x)
    if x.dtype not in _INPUTS:
        raise CarrierError(
            f"encode to {format}: x is an array of {x.dtype}, expected float16, bfloat16, float32 or float64"
        )
    flat = x.reshape(-1)
    codes = np.empty(flat.size, format.code_dtype)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        wrong = _encode(block, codes[start : start + _BLOCK], format)
        if wrong is not None:
            index = tuple(int(i) for i in np.unravel_index(start + wrong, x.shape))
            raise FormatError(f"encode to {format}: x is {float(x[index])!r} at index {index}, which it cannot hold")
    return codes.reshape(x.shape)


def _encode(x: NDArray[Any], codes: Codes, format: Format) -> int | None:
    """Encode a block; the position of the first value that is none of the format's, or None.

    In float64, where the exponent field of every value of every format is a normal one.
    """
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        negative = np.signbit(wide)
        magnitude = np.abs(wide)
        bits = magnitude.view(np.int64)
        exponent = np.maximum(bits >> 52, format.emin + 1023)
        quotient = magnitude / ((exponent - format.mantissa_bits) << 52).view(np.float64)
        significand = quotient.astype(np.int64)
        code = ((exponent - (format.emin + 1023)) << format.mantissa_bits) + significand
        if not format.has_zero:
            code -= 1 << format.mantissa_bits
    good = (significand == quotient) & (magnitude <= format.max)
    if format.has_zero:
        if not format.has_signed_zero:
            good &= ~(negative & (magnitude == 0))
    else:
        good &= (magnitude >= format.min_normal) & ~negative
    if format.nan == "twos_complement":
        good |= negative & (magnitude == 2 * format.min_normal)
        code = np.where(negative, -code, code) & (format.code_count - 1)
    else:
        code |= negative * format.sign_code

    if format.inf_code is not None or format.nan_code is not None:
        special = ~np.isfinite(magnitude)
        if special.any():
            nan = np.isnan(magnitude)
            if format.inf_code is not None:
                infinite = special & ~nan
                code[infinite] = format.inf_code | (negative[infinite] * format.sign_code)
                good |= infinite
            if format.nan_code is not None:
                code[nan] = format.nan_code | (negative[nan] * (format.sign_code if format.has_signed_nan else 0))
                good |= nan
    np.copyto(codes, code, casting="unsafe")
    return None if good.all() else int(np.argmin(good))


def _first(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))
