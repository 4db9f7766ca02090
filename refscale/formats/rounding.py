"""What a cast is, one number at a time, in exact arithmetic: the specification.

    x  →  m · S  →  the format

S is the spacing of the format at x, a power of two; x/S lies between two integers; the rounding mode takes one of
them, m. The exponent is unbounded while it does so. If |m · S| is then beyond the largest value, the overflow rule
says what becomes of it. Everything is an integer or a ratio of two, nothing is approximate, and nothing is fast:
``cast`` has the array form, which the tests hold equal to this one.

Two sentences of IEEE 754-2019 decide the corner cases. Section 4.3.1: at a tie take the even significand, and where
there is none (a format without mantissa bits) the larger magnitude. Section 7.4: rounding to nearest carries overflow
to infinity; toward zero, to the largest value; up, to +inf or to the most negative value; down, the mirror image.
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
"""How many random bits decide one stochastic rounding."""


def check_modes(rounding: str, overflow: str, call: str) -> None:
    """Raise FormatError unless both names are known."""
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
    """One number, rounded once to a format.

        round_exact(x) = ± m · S,    S = 2^(max(⌊log2 |x|⌋, emin) - mantissa_bits),    m = ⌊|x|/S⌋ or ⌊|x|/S⌋ + 1

    Args:
        x: a float (so any value of float16, bfloat16, float32 or float64), an integer, each of Python or of NumPy, or
            any rational number as a Fraction.
        format: a name or a Format.
        rounding: which of the two neighbors. "nearest_even", "nearest_away": the nearer, ties to even or away from
            zero; "toward_zero", "up" (toward +inf), "down" (toward -inf): that side; "stochastic": the outer one with
            probability ⌊2^32 · rest⌋/2^32, where rest = |x|/S - ⌊|x|/S⌋.
        overflow: beyond the largest value, and for ±inf. "saturate": ±max. "nonsaturate": ±inf, in a format without
            inf NaN, in one without either ±max; finite x in directed roundings as IEEE 754 section 7.4 says.
        random_bits: for "stochastic" and only there, an integer in [0, 2^32).

    Returns:
        A float that the format holds. NaN and -0 keep their signs where the format has such; a NaN of an fnuz format
        is returned with the sign bit, that of float8_e8m0fnu without, as ml_dtypes does. In an unsigned format
        zero and negative numbers are NaN under either rule; positive ones below the smallest become the smallest,
        but NaN where rounded "down" or "toward_zero" and not saturating.

    Raises:
        FormatError: NaN to a format without one; an unknown name.
        ArgumentError: random_bits missing, superfluous, out of range or no integer.
        CarrierError: x of another type.

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
            raise FormatError(f"round_exact: NaN, which {format} cannot hold")
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
    """The exponent of the binade of x ≥ 0: ⌊log2 x⌋, in exact arithmetic; very small for zero."""
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
    """What stands for a number beyond the largest: its magnitude, or NaN."""
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
