"""The specification of a cast: rounding of one number in exact arithmetic.

    x  →  m · S  →  the format

S is the spacing of the format at x, a power of two; x/S lies between two integers; the rounding mode chooses one of
them, m, with an unbounded exponent. If |m · S| is beyond the largest value, the overflow rule defines the result. All
numbers are integers or ratios of integers, without approximation. ``cast`` is the fast form for arrays; tests check
that both agree.

Two rules of IEEE 754-2019 define the corner cases. Section 4.3.1: a tie is rounded to the even significand, and, if
there is none (a format without mantissa bits), to the larger magnitude. Section 7.4: on overflow, rounding to nearest
gives infinity; toward zero, the largest value; up, +inf or the most negative value; down, the mirror image.
"""

from __future__ import annotations

import math
from numbers import Rational
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from refscale.arguments import integer
from refscale.errors import ArgumentError, CarrierError, FormatError
from refscale.formats.table import Format, FormatLike, get_format

if TYPE_CHECKING:
    from fractions import Fraction

Rounding = Literal["nearest_even", "toward_zero", "up", "down", "nearest_away", "stochastic"]
Overflow = Literal["saturate", "nonsaturate"]

ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

RANDOM_BITS = 32
"""Number of random bits of one stochastic rounding."""


def check_modes(rounding: str, overflow: str, call: str) -> None:
    """Raise FormatError unless the rounding mode and the overflow rule are known names."""
    if rounding not in ROUNDINGS:
        raise FormatError(f"{call}: unknown rounding {rounding!r}; known: {', '.join(ROUNDINGS)}")
    if overflow not in OVERFLOWS:
        raise FormatError(f"{call}: unknown overflow {overflow!r}; known: {', '.join(OVERFLOWS)}")


def round_exact(
    x: float | Fraction,
    format: FormatLike,
    *,
    rounding: Rounding,
    overflow: Overflow,
    random_bits: int | None = None,
) -> float:
    """Round one number once to a format.

        round_exact(x) = ± m · S,    S = 2^(max(⌊log2 |x|⌋, emin) - mantissa_bits),    m = ⌊|x|/S⌋ or ⌊|x|/S⌋ + 1

    Args:
        x: a float or an integer, of Python or NumPy (any value of float16, bfloat16, float32 or float64), or a
            Fraction.
        format: a name or a Format.
        rounding: the choice of one of the two neighbors. "nearest_even", "nearest_away": the nearer one, ties to even
            or away from zero; "toward_zero", "up" (toward +inf), "down" (toward -inf): the one on that side;
            "stochastic": the one of larger magnitude with probability ⌊2^32 · rest⌋/2^32, rest = |x|/S - ⌊|x|/S⌋.
        overflow: the result beyond the largest value and for ±inf. "saturate": ±max. "nonsaturate": ±inf, NaN in a
            format without inf, ±max in a format without inf and NaN; directed roundings of finite x follow IEEE 754
            section 7.4.
        random_bits: an integer in [0, 2^32), for "stochastic" only.

    Returns:
        A value of the format, as a float. NaN and -0 keep their signs if the format has signed NaN and signed zero; a
        NaN of an fnuz format is returned with the sign bit, a NaN of float8_e8m0fnu without, as in ml_dtypes. In an
        unsigned format zero and negative numbers become NaN under both overflow rules; positive numbers below the
        smallest value become the smallest value, or NaN if rounded "down" or "toward_zero" and not saturating.

    Raises:
        FormatError: a name is unknown, or x is NaN and the format has none.
        ArgumentError: ``random_bits`` is missing, superfluous, out of range or not an integer.
        CarrierError: x has another type.

    Source: IEEE 754-2019, sections 4.3 and 7.4; OCP OFP8 1.0 (its two conversion modes).
    """
    format = get_format(format)
    check_modes(rounding, overflow, "round_exact")
    if (random_bits is not None) != (rounding == "stochastic"):
        raise ArgumentError(f"round_exact: random_bits is {random_bits!r} with rounding {rounding!r}")
    if random_bits is not None:
        random_bits = integer("round_exact", "random_bits", random_bits)
        if not 0 <= random_bits < 2**RANDOM_BITS:
            raise ArgumentError(f"round_exact: random_bits is {random_bits}, expected within [0, 2^{RANDOM_BITS})")
    if isinstance(x, np.generic):
        x = x.item()
    if not isinstance(x, float | Rational):
        raise CarrierError(f"round_exact: x is {x!r}, expected a float, an integer or a Fraction")

    negative = math.copysign(1.0, x) < 0 if isinstance(x, float) else x < 0
    if isinstance(x, float) and math.isnan(x):
        if not format.has_nan:
            raise FormatError(f"round_exact: x is NaN, not representable in {format}")
        return _nan(format, negative)
    if not format.has_zero and x <= 0:
        return _nan(format, negative)
    if isinstance(x, float) and math.isinf(x):
        return _signed(_beyond(format, overflow), negative, format)

    magnitude: float | Fraction = -x if negative else x
    numerator, denominator = magnitude.as_integer_ratio()
    exponent = floor_log2(magnitude)
    if not format.has_zero and exponent < format.emin:
        lost = overflow == "nonsaturate" and rounding in ("down", "toward_zero")
        return _nan(format, negative) if lost else format.min_normal

    place = max(exponent, format.emin) - format.mantissa_bits  # S = 2^place
    whole = denominator << place if place > 0 else denominator  # |x|/S = (m · whole + rest) / whole
    m, rest = divmod(numerator << -place if place < 0 else numerator, whole)
    m += _outward(m, rest, whole, negative, rounding, random_bits)
    rounded = math.ldexp(m, place) if exponent <= format.emax else math.inf
    if rounded > format.max:
        inward = rounding == "toward_zero" or rounding == ("up" if negative else "down")
        return _signed(format.max if inward else _beyond(format, overflow), negative, format)
    return _signed(rounded, negative, format)


def floor_log2(x: float | Fraction) -> int:
    """Return the exponent of the binade of x ≥ 0, ⌊log2 x⌋, in exact arithmetic; a large negative number for zero."""
    numerator, denominator = x.as_integer_ratio()
    if numerator == 0:
        return -(2**30)
    guess = numerator.bit_length() - denominator.bit_length()  # right, or one too large
    right = numerator >= denominator << guess if guess >= 0 else numerator << -guess >= denominator
    return guess if right else guess - 1


def _outward(integer: int, rest: int, whole: int, negative: bool, rounding: Rounding, random_bits: int | None) -> bool:
    """Return whether the neighbor farther from zero is taken, given |x|/S = integer + rest/whole."""
    match rounding:
        case "nearest_even":
            return 2 * rest > whole or (2 * rest == whole and integer % 2 == 1)
        case "nearest_away":
            return 2 * rest >= whole
        case "toward_zero":
            return False
        case "up":
            return rest > 0 and not negative
        case "down":
            return rest > 0 and negative
        case "stochastic":
            # As hardware does: add random bits below the last place, and truncate.
            assert random_bits is not None
            return (rest << RANDOM_BITS) // whole + random_bits >= 1 << RANDOM_BITS


def _beyond(format: Format, overflow: Overflow) -> float:
    """The magnitude that replaces a number beyond the largest value, or NaN."""
    if overflow == "saturate" or not format.has_nan:
        return format.max
    return math.inf if format.has_inf else math.nan


def _signed(value: float, negative: bool, format: Format) -> float:
    if math.isnan(value):
        return _nan(format, negative)
    if value == 0 and not format.has_signed_zero:
        return 0.0
    return -value if negative else value


def _nan(format: Format, negative: bool) -> float:
    """NaN with the sign that it has when decoded from the format."""
    return math.copysign(math.nan, -1.0 if (negative if format.has_signed_nan else format.signed) else 1.0)
