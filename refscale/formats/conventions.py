"""Casts in cases that no standard defines: the conventions of libraries and hardware, by name.

``quantize`` follows the first convention of each row; ``encode_by`` follows the named conventions.

======================  ==========================================================================================
topic                   names
======================  ==========================================================================================
``e8m0_zero``           +0 to an unsigned format of powers of two: ``nan``; ``smallest``, the smallest value;
                        ``saturating``, the smallest value if the cast saturates, else NaN
``e8m0_negative``       negative numbers and -0 to such a format: ``nan``; ``magnitude``, the code of |x|, and the
                        smallest value for -0; ``smallest``, the smallest value
``e8m0_small``          positive numbers below the smallest value, if the cast does not saturate: ``nan_inward``, NaN if
                        rounded down or toward zero, else the smallest value; ``smallest``; ``nan``
``nan_code``            the code of a NaN, if the format has several: ``canonical``, quiet, the first payload, with
                        the sign of x; ``positive``, the same without sign; ``ones``, all mantissa bits set, with the
                        sign of x; ``positive_ones``, the same without sign; ``payload``, the upper bits of x's payload,
                        quiet, with the sign of x
``nan_without``         a NaN to a format without NaN: ``error``; ``largest``, the largest value, positive; ``zero``,
                        +0; ``opposite_zero``, zero with the opposite sign
``float32_subnormals``  subnormal numbers of a float32 or bfloat16 array: ``kept``; ``flushed``, zero with their sign
======================  ==========================================================================================

``golden.conventions`` lists the conventions of each library.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.arrays import plain
from refscale.errors import FormatError
from refscale.formats.cast import Cast, Random
from refscale.formats.codes import encode
from refscale.formats.table import Format

Array = NDArray[Any]

CONVENTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "e8m0_zero": ("nan", "smallest", "saturating"),
        "e8m0_negative": ("nan", "magnitude", "smallest"),
        "e8m0_small": ("nan_inward", "smallest", "nan"),
        "nan_code": ("canonical", "positive", "ones", "positive_ones", "payload"),
        "nan_without": ("error", "largest", "zero", "opposite_zero"),
        "float32_subnormals": ("kept", "flushed"),
    }
)
"""Names by topic; the first is that of ``quantize``."""


def encode_by(x: ArrayLike, cast: Cast, conventions: Mapping[str, str], random_bits: Random | None = None) -> Array:
    """Round numbers to a format by named conventions, and return their codes.

        encode_by(x, cast, {}) = encode(cast(x), cast.format)

    Args:
        x: float16, bfloat16, float32 or float64, any shape.
        cast: format, rounding mode and overflow rule.
        conventions: names by topic, see the table of the module.
        random_bits: uint32 of the shape of x, for stochastic rounding only; see ``quantize``.

    Returns:
        Unsigned integers of the format's ``code_dtype`` and the shape of x.

    Raises:
        FormatError: a topic or name is unknown; or x has a NaN, the format has none, and ``nan_without`` is "error".
        CarrierError, ShapeError, ArgumentError: the dtype of x or the random bits are not valid; see ``quantize``.
    """
    names = {topic: known[0] for topic, known in CONVENTIONS.items()}
    for topic, name in conventions.items():
        if name not in CONVENTIONS.get(topic, ()):
            known = ", ".join(CONVENTIONS.get(topic, tuple(CONVENTIONS)))
            raise FormatError(f"encode_by: unknown convention {topic}={name!r}; known: {known}")
        names[topic] = name
    x, format = plain("encode_by", "x", x), cast.format
    if names["float32_subnormals"] == "flushed":
        x = without_subnormals(x)
    nan = np.isnan(x)
    if nan.any() and not format.has_nan and names["nan_without"] != "error":
        codes = encode(cast(np.where(nan, x.dtype.type(0), x), random_bits), format)
        return np.where(nan, _instead_of_nan(np.signbit(x), names["nan_without"], format), codes)
    codes = encode(cast(x, random_bits), format)
    if not format.has_zero:
        return _of_powers(x, codes, cast, names, random_bits)
    if nan.any() and format.has_signed_nan:
        codes = np.where(nan, _nan_codes(x, format, names["nan_code"]), codes)
    return codes


def without_subnormals(x: Array) -> Array:
    """Flush subnormal numbers of a float32 or bfloat16 array to zeros of their sign; other arrays do not change."""
    if x.dtype not in (np.float32, ml_dtypes.bfloat16):
        return x
    return np.where(np.abs(x) < 2.0**-126, np.copysign(x.dtype.type(0), x), x)


def _instead_of_nan(negative: NDArray[np.bool_], name: str, format: Format) -> Array:
    """Codes for NaN in a format without one."""
    if name == "largest":
        largest = encode(np.float32(format.max), format)
        return np.broadcast_to(largest, negative.shape)
    opposite = name == "opposite_zero" and format.has_signed_zero
    return np.where(negative | (not opposite), 0, format.sign_code).astype(format.code_dtype)


def _of_powers(x: Array, codes: Array, cast: Cast, names: Mapping[str, str], random_bits: Random | None) -> Array:
    """Codes of an unsigned format without zero."""
    format = cast.format
    nan = np.asarray(format.nan_code, format.code_dtype)
    zero = (x == 0) & ~np.signbit(x)
    negative = np.signbit(x) & ~np.isnan(x)
    with np.errstate(invalid="ignore"):  # a signaling NaN is one
        small = (x > 0) & (x.astype(np.float64) < format.min_normal)
    if names["e8m0_zero"] == "smallest" or (names["e8m0_zero"] == "saturating" and cast.overflow == "saturate"):
        codes = np.where(zero, 0, codes)
    if names["e8m0_negative"] == "smallest":
        codes = np.where(negative, 0, codes)
    elif names["e8m0_negative"] == "magnitude" and negative.any():
        size = np.where(negative & (x != 0), np.abs(x), x.dtype.type(format.min_normal))
        of_size = encode_by(size, cast, {"e8m0_small": names["e8m0_small"]}, random_bits)
        codes = np.where(negative, np.where(x == 0, 0, of_size), codes)
    if cast.overflow == "nonsaturate" and names["e8m0_small"] != "nan_inward":
        codes = np.where(small, 0 if names["e8m0_small"] == "smallest" else nan, codes)
    return np.asarray(codes, format.code_dtype)


def _nan_codes(x: Array, format: Format, name: str) -> Array:
    """The code of a NaN for each element; that of other elements is undefined."""
    canonical, ones = format.nan_code or 0, (1 << format.mantissa_bits) - 1
    sign = np.where(np.signbit(x), format.sign_code, 0)
    match name:
        case "canonical":
            return (canonical | sign).astype(format.code_dtype)
        case "positive":
            return np.broadcast_to(np.asarray(canonical, format.code_dtype), x.shape)
        case "ones":
            return (canonical | ones | sign).astype(format.code_dtype)
        case "positive_ones":
            return np.broadcast_to(np.asarray(canonical | ones, format.code_dtype), x.shape)
    width = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}[x.dtype.name]
    integer = np.dtype(f"u{x.dtype.itemsize}")
    payload = (x.view(integer) & integer.type((1 << width) - 1)).astype(np.uint64)
    shift = format.mantissa_bits - width
    kept = payload << np.uint64(shift) if shift >= 0 else payload >> np.uint64(-shift)
    return np.asarray(canonical | kept.astype(np.int64) | sign, format.code_dtype)
