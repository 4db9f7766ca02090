"""The references of the tests of ``formats``, and their inputs.

Three oracles, by kind of evidence:

* ``by_ml_dtypes``: another implementation, fast enough for every pattern of a type; nearest even only.
* ``by_search``: bisection in the sorted list of all values, with Fractions; every mode, formats of up to 8 bits.
* ``round_exact``: the package's own specification, itself held to the other two.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from refscale.formats import FORMATS, Format, round_exact

Quantizer = Callable[..., np.ndarray]
"""Called as quantize(x, format, rounding=..., overflow=...)."""

DETERMINISTIC = ("nearest_even", "toward_zero", "up", "down", "nearest_away")
OVERFLOWS = ("saturate", "nonsaturate")
WITH_DTYPE = [f for f in FORMATS.values() if f.dtype is not None and f.name != "float32"]
OWN = Format("float6_e4m1fn", 4, 1, 7, "none", source="a format that no table has")
NARROW = [f for f in FORMATS.values() if f.bits <= 8]
WIDE = [f for f in FORMATS.values() if f.bits > 8]
SOURCES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}


def bits(x: np.ndarray) -> np.ndarray:
    """Bits of a float32 array, the payload of NaN replaced by the quiet one with the same sign.

    The payload is the one thing in which NumPy's float16 (it keeps it) and ml_dtypes (it does not) differ.
    """
    if x.dtype != np.float32:  # no AssertionError: a wrong quantizer is to be rejected for its values
        raise TypeError(f"expected float32, got {x.dtype}")
    code = x.view(np.uint32)
    return np.where(np.isnan(x), (code & 0x80000000) | 0x7FC00000, code)


def widened(x: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """x in a wider type. Whether widening a signaling NaN counts as an invalid operation is up to the processor."""
    with np.errstate(invalid="ignore"):
        return x.astype(dtype)


def first_difference(x: np.ndarray, actual: np.ndarray, expected: np.ndarray) -> str | None:
    """The first element in which two results differ by a bit, for a message; None if there is none."""
    assert actual.shape == expected.shape == x.shape
    wrong = np.flatnonzero(bits(actual) != bits(expected))
    if not wrong.size:
        return None
    i = wrong[0]
    value = float(x.ravel()[i])
    return f"{wrong.size} differ, first {value!r} ({value.hex()}): {actual.ravel()[i]}, expected {expected.ravel()[i]}"


# --- the oracles -----------------------------------------------------------------------------------------------------


def by_formula(code: int, format: Format) -> Fraction:
    """The value of a code that is neither infinity nor NaN, from the formula of the table, in rational numbers."""
    sign, rest = divmod(code, 1 << (format.exponent_bits + format.mantissa_bits))
    exponent, mantissa = divmod(rest, 1 << format.mantissa_bits)
    normal = exponent > 0 or not format.has_zero
    value = Fraction(mantissa, 1 << format.mantissa_bits) + normal
    return (-1) ** sign * value * Fraction(2) ** ((exponent if normal else 1) - format.bias)


def by_ml_dtypes(x: np.ndarray, format: Format, overflow: str) -> np.ndarray:
    """x rounded by ml_dtypes (float16: by NumPy) to nearest even.

    Its casts do not saturate. Saturation is clipping before the cast: max is a value of the format, and rounding to
    nearest is monotone, so clipping before and after give the same. NaN is not clipped, nor is what an unsigned format
    cannot hold at all. x is float32, float16 or bfloat16; ml_dtypes rounds float64 twice.
    """
    assert format.dtype is not None
    assert x.dtype != np.float64
    with np.errstate(all="ignore"):
        wide = x.astype(np.float32)
        if overflow == "saturate":
            wide = np.clip(wide, -np.float32(format.max) if format.signed else None, np.float32(format.max))
        narrow = wide.astype(format.dtype).astype(np.float32)
        if not format.has_zero:
            # Between its two smallest values float8_e8m0fnu has subnormal float32, all of which ml_dtypes 0.6 rounds
            # up (1.01 · 2^-127 → 2^-126, but 1.01 · 2^-126 → 2^-126). There the next binade, halved, is the oracle.
            lowest = (wide > np.float32(2.0**-127)) & (wide < np.float32(2.0**-126))
            narrow[lowest] = (wide[lowest] * 2).astype(format.dtype).astype(np.float32) / 2
        return narrow


def by_specification(
    x: np.ndarray, format: Format, rounding: str, overflow: str, random_bits: np.ndarray | None = None
) -> np.ndarray:
    """x rounded by ``round_exact``, element by element."""
    flat = x.astype(np.float64).ravel().tolist()
    random = [None] * len(flat) if random_bits is None else random_bits.ravel().tolist()
    exact = [
        round_exact(v, format, rounding=rounding, overflow=overflow, random_bits=r)
        for v, r in zip(flat, random, strict=True)
    ]
    return np.array(exact, np.float64).astype(np.float32).reshape(x.shape)


def by_search(table: list[Fraction], x: Fraction, negative: bool, rounding: str) -> tuple[int, bool]:
    """Position of |x|, rounded, in the sorted magnitudes of a format; and whether it is beyond their end.

    ``table`` ends with the value that would come next if the exponent had no bound. A position has the parity of the
    code, and for formats with a mantissa that is the parity of the significand.
    """
    low = bisect_right(table, x) - 1
    if low >= len(table) - 1:
        return len(table) - 1, True
    if x == table[low]:
        return low, low == len(table) - 1
    middle = (table[low] + table[low + 1]) / 2
    outward = {
        "toward_zero": False,
        "up": not negative,
        "down": negative,
        "nearest_away": x >= middle,
        "nearest_even": x > middle or (x == middle and low % 2 == 1),
    }[rounding]
    return low + outward, low + outward == len(table) - 1


# --- the inputs ------------------------------------------------------------------------------------------------------


def all_patterns(source: str) -> np.ndarray:
    """Every value of float16 or bfloat16, infinities and all NaNs included."""
    return np.arange(1 << 16, dtype=np.uint16).view(SOURCES[source])  # no arithmetic: signaling NaNs among them


def magnitudes(format: Format, limit: int = 4096) -> list[float]:
    """Values ≥ 0 in order, one more past max (unless float32 ends there), by repeated addition of the spacing.

    All of them if they are fewer than ``limit``; otherwise both ends of each binade, and a regular sample between.
    """
    result = [0.0] if format.has_zero else []
    per_binade = 1 << format.mantissa_bits
    stride = max(1, (format.emax - format.emin + 1) * per_binade // limit)
    chosen = sorted({*range(0, per_binade, stride), *range(1, per_binade, stride), *range(per_binade)[-2:]})
    if format.has_zero:
        result += [i * format.min_subnormal for i in chosen if i]
    result += [(1 + i / per_binade) * 2.0**e for e in range(format.emin, format.emax + 1) for i in chosen]
    result = [v for v in result if v <= format.max]
    return [*result, format.max + 2.0 ** (format.emax - format.mantissa_bits)]


def edge_points(format: Format, source: str, limit: int = 4096) -> np.ndarray:
    """Each value, each midpoint of neighbors, and both neighbors of these in the source type; both signs; specials."""
    dtype = np.dtype(SOURCES[source])
    values = np.array(magnitudes(format, limit))
    with np.errstate(all="ignore"):
        points = np.concatenate([values, (values[:-1] + values[1:]) / 2]).astype(dtype)
        near = [points, np.nextafter(points, dtype.type(np.inf)), np.nextafter(points, dtype.type(-np.inf))]
    tiny = np.nextafter(dtype.type(0), dtype.type(1))
    special = [0.0, np.inf, tiny, np.finfo(dtype).max, np.finfo(dtype).tiny]
    if format.has_nan:
        special.append(np.nan)
    one_sign = np.unique(np.concatenate([*near, np.array(special, dtype)]))
    return np.concatenate([one_sign, -one_sign])


@lru_cache(maxsize=256)
def exact_edges(format: Format, source: str, rounding: str, overflow: str, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The edge points, and what ``round_exact`` makes of them: kept, as many quantizers are asked the same."""
    x = edge_points(format, source, limit)
    expected = by_specification(x, format, rounding, overflow)
    x.flags.writeable = expected.flags.writeable = False
    return x, expected


# --- the checks, as functions of the quantizer they judge ------------------------------------------------------------


def check_patterns(quantize: Quantizer, format: Format, source: str, overflow: str) -> None:
    """Equal to ml_dtypes on every pattern of a 16-bit type."""
    x = all_patterns(source)
    if not format.has_nan:
        x = x[~np.isnan(widened(x))]
    actual = quantize(x, format, rounding="nearest_even", overflow=overflow)
    problem = first_difference(x, actual, by_ml_dtypes(x, format, overflow))
    assert problem is None, f"{format}/{overflow} from {source}: {problem}"


def check_edges(quantize: Quantizer, format: Format, source: str, rounding: str, overflow: str, limit: int) -> None:
    """Equal to exact arithmetic at every value, every midpoint, and one ulp of the source type to either side."""
    x, expected = exact_edges(format, source, rounding, overflow, limit)
    actual = quantize(x, format, rounding=rounding, overflow=overflow)
    problem = first_difference(x, actual, expected)
    assert problem is None, f"{format}/{rounding}/{overflow} from {source}: {problem}"


def check_all(quantize: Quantizer, format: Format) -> None:
    """Both checks, nearest even, both rules, every source: the requirements of a quantizer."""
    for overflow in OVERFLOWS:
        for source in ("float16", "bfloat16"):
            check_patterns(quantize, format, source, overflow)
        for source in ("float32", "float64"):
            check_edges(quantize, format, source, "nearest_even", overflow, 256)


def is_rejected(quantize: Quantizer, format: Format) -> bool:
    """Whether ``check_all`` finds the quantizer wrong."""
    try:
        check_all(quantize, format)
    except AssertionError:
        return True
    return False


def same(a: Any, b: Any) -> bool:
    """Whether two floats are the same, the signs of zero and NaN included."""
    return math.copysign(1, a) == math.copysign(1, b) and (a == b or (math.isnan(a) and math.isnan(b)))
