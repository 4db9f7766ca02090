"""Formats and rounding: the range of each format, and one rounding to the nearest value in every cast."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.claims.claim import Figures, claim, none_wrong, same
from refscale.engine import Array
from refscale.formats import (
    FORMATS,
    OVERFLOWS,
    ROUNDINGS,
    Cast,
    Format,
    Rounding,
    decode,
    encode,
    get_format,
    round_exact,
)
from refscale.testing.places import Place

PUBLISHED = {
    "float32": ((2 - 2**-23) * 2.0**127, 2.0**-126, 2.0**-149),
    "tf32": ((2 - 2**-10) * 2.0**127, 2.0**-126, 2.0**-136),
    "bfloat16": ((2 - 2**-7) * 2.0**127, 2.0**-126, 2.0**-133),
    "float16": (65504.0, 2.0**-14, 2.0**-24),
    "float8_e5m2": (57344.0, 2.0**-14, 2.0**-16),
    "float8_e4m3fn": (448.0, 2.0**-6, 2.0**-9),
    "float8_e5m2fnuz": (57344.0, 2.0**-15, 2.0**-17),
    "float8_e4m3fnuz": (240.0, 2.0**-7, 2.0**-10),
    "float8_e4m3b11fnuz": (30.0, 2.0**-10, 2.0**-13),
    "float8_e4m3": (240.0, 2.0**-6, 2.0**-9),
    "float8_e3m4": (15.5, 2.0**-2, 2.0**-6),
    "float8_e8m0fnu": (2.0**127, 2.0**-127, 2.0**-127),
    "float6_e2m3fn": (7.5, 1.0, 2.0**-3),
    "float6_e3m2fn": (28.0, 2.0**-2, 2.0**-4),
    "float4_e2m1fn": (6.0, 1.0, 0.5),
    "int8_q6": (127 / 64, 1.0, 2.0**-6),
}
"""Largest value, smallest normal, smallest positive: from the standards and papers that ``FORMATS`` names."""

BEYOND = {
    "top_exponent": math.inf,  # IEEE 754
    "all_ones": math.nan,  # OCP OFP8 1.0, non-saturating conversion
    "negative_zero": math.nan,  # Noune et al. 2022
}
"""Result of overflow without saturation; in a format with neither inf nor NaN, the largest value."""


@cache
def magnitudes(format: Format) -> NDArray[np.float64]:
    """Return the format's values ≥ 0, ascending, so that even and odd significands alternate; by ml_dtypes if it has
    it.

    float32 and tf32 have too many: only values from 1 to 2, and those around the smallest and the largest.
    """
    if format.bits > 16:
        step = 2.0**-format.mantissa_bits
        ends = np.arange(200.0)
        tiny, normal, top = ends * format.min_subnormal, 1 + ends * step, (2 - step - ends[::-1] * step) * 2.0**127
        return np.concatenate([tiny, normal, top])
    if format.name == "int8_q6":
        return np.arange(128) / 64
    codes: NDArray[Any] = np.arange(
        1 << (format.bits - format.signed), dtype=np.uint8 if format.bits <= 8 else np.uint16
    )
    if format.dtype is None:
        exponent, mantissa = codes >> format.mantissa_bits, codes & ((1 << format.mantissa_bits) - 1)
        implicit: NDArray[Any] = (exponent > 0) | (not format.has_zero)
        power = np.where(implicit, exponent, 1).astype(np.int64) - format.bias
        wide = np.ldexp(implicit + mantissa / 2.0**format.mantissa_bits, power)
        return np.asarray(wide[wide <= PUBLISHED[format.name][0]])
    with np.errstate(invalid="ignore"):  # signaling NaNs among them
        found = codes.view(format.dtype).astype(np.float64)
    return np.asarray(found[np.isfinite(found)])


def _pairs(format: Format) -> tuple[Array, Array, Array]:
    """Return neighbors (low, high), and whether the significand of low is even."""
    values = magnitudes(format)
    low, high = values[:-1], values[1:]
    near = high - low <= 1.0001 * format.spacing(high)  # the separate ranges of a wide format have gaps
    even = np.mod(low / format.spacing(low), 2) == 0
    if format.mantissa_bits == 0:
        even = np.zeros_like(even)  # without an even significand, the larger (IEEE 754-2019, 4.3.1)
    return low[near], high[near], even[near]


def _points(format: Format, carrier: type) -> Iterator[tuple[str, Array, Array, Array, Array]]:
    """Yield place, x, the neighbors of x, and the nearest of them (ties to even)."""
    low, high, even = _pairs(format)
    middle: Array = (low + (high - low) / 2).astype(carrier)
    fits = middle.astype(np.float64) == low + (high - low) / 2
    low, high, even, middle = low[fits], high[fits], even[fits], middle[fits]
    up, down = carrier(np.inf), carrier(0)
    yield "at midpoints", middle, low, high, np.where(even, low, high)
    for where, x, nearest in (
        ("below midpoints", np.nextafter(middle, down), low),
        ("above midpoints", np.nextafter(middle, up), high),
        ("above values", np.nextafter(low.astype(carrier), up), low),
        ("below values", np.nextafter(high.astype(carrier), down), high),
    ):
        inside = (x.astype(np.float64) > low) & (x.astype(np.float64) < high)
        tied = x == middle
        best = np.where(tied, np.where(even, low, high), nearest)
        yield where, x[inside], low[inside], high[inside], best[inside]


def _wrong(actual: Array, expected: Array) -> int:
    """Count differing elements, including the sign of zero and NaN."""
    a, e = np.asarray(actual, np.float32), np.asarray(expected, np.float32)
    differ = (a != e) & ~(np.isnan(a) & np.isnan(e))
    return int(np.count_nonzero(differ | ((a == 0) & (np.signbit(a) != np.signbit(e)))))


def _nearest(rounding: Rounding) -> Figures:
    for format in FORMATS.values():
        cast = Cast(format, rounding, "saturate")
        for carrier in (np.float32, np.float64):
            wrong = 0
            for _, x, low, high, nearest in _points(format, carrier):
                expected = {"toward_zero": low, "down": low, "up": high}.get(rounding, nearest)
                if rounding == "nearest_away":
                    expected = np.where(x.astype(np.float64) == low + (high - low) / 2, high, nearest)
                wrong += _wrong(cast(x), expected)
            yield none_wrong(f"{format}: wrong {rounding}, from {carrier.__name__}", wrong)


@claim("the standards and papers that refscale.formats.FORMATS names; ml_dtypes.finfo")
def claim_1_01_limits(place: Place) -> Figures:
    """Every format's largest value, smallest normal and smallest positive value are the published ones."""
    for name, published in PUBLISHED.items():
        f = FORMATS[name]
        for what, actual, expected in zip(
            ("max", "min_normal", "min_subnormal"), (f.max, f.min_normal, f.min_subnormal), published, strict=True
        ):
            yield same(f"{name}: {what}", actual, expected)
        yield same(f"{name}: min", f.min, -published[0] if f.signed else published[1])
    for name in sorted(FORMATS.keys() ^ PUBLISHED.keys()):
        yield none_wrong(f"{name}: published limits of no format, or a format without them", True)


@claim("ml_dtypes, every code")
def claim_1_02_codes(place: Place) -> Figures:
    """Every code of up to 16 bits decodes to the value of ml_dtypes and encodes back to itself, NaN to NaN."""
    for f in FORMATS.values():
        if f.dtype is None or f.bits > 16:
            continue
        codes = np.arange(f.code_count, dtype=f.code_dtype)
        ours = decode(codes, f)
        with np.errstate(invalid="ignore"):  # signaling NaNs among them
            theirs = codes.view(f.dtype).astype(np.float32)
        yield none_wrong(f"{f}: codes decoded wrong", _wrong(ours, theirs))
        numbers = ~np.isnan(ours)
        yield none_wrong(f"{f}: codes not encoded back", np.count_nonzero(encode(ours, f)[numbers] != codes[numbers]))


@claim("IEEE 754-2019, 4.3.1; OCP OFP8 1.0")
def claim_1_03_nearest_even(place: Place) -> Figures:
    """A cast to nearest returns the nearest value; at a midpoint, the value of even significand.

    Numbers one bit beside each midpoint are checked, too.
    """
    yield from _nearest("nearest_even")


@claim("IEEE 754-2019, 4.3.1 and 4.3.2")
def claim_1_04_other_roundings(place: Place) -> Figures:
    """The roundings ties away from zero, toward zero, up and down each return the neighbor that they define."""
    for rounding in ROUNDINGS:
        if rounding not in ("nearest_even", "stochastic"):
            yield from _nearest(rounding)


@claim("IEEE 754-2019, 7.4; OCP OFP8 1.0, its two conversion modes")
def claim_1_05_overflow(place: Place) -> Figures:
    """Up to half a spacing beyond the largest value, a number rounds to it; beyond that it saturates, or is inf or NaN.

    The overflow rule decides which. At exactly half a spacing the result is the largest value if its significand is
    even.
    """
    for f in FORMATS.values():
        top, step = PUBLISHED[f.name][0], float(f.spacing(f.max))
        if f.mantissa_bits == 0:
            step = top  # the next power of two
        half, odd = top + step / 2, (top / step) % 2 == 1 or f.mantissa_bits == 0
        x = np.array([np.nextafter(half, 0), half, np.nextafter(half, math.inf), 2 * half, math.inf])
        beyond = BEYOND.get(f.nan, top)
        for overflow in OVERFLOWS:
            outside = top if overflow == "saturate" else beyond
            expected = np.array([top, outside if odd else top, outside, outside, outside])
            yield none_wrong(
                f"{f}: wrong beyond max, {overflow}", _wrong(Cast(f, "nearest_even", overflow)(x), expected)
            )


@claim("IEEE 754-2019, 4.3: one rounding of the exact value")
def claim_1_06_once(place: Place) -> Figures:
    """float64 is rounded once, not through float32: 1.0625 + 2^-40 is 1.125 in float8_e4m3fn, not 1."""
    cast = Cast("e4m3fn", "nearest_even", "saturate")
    yield same("1.0625 + 2^-40", float(cast(np.float64(1.0625 + 2**-40))[()]), 1.125)
    rng = place.rng()
    for f in FORMATS.values():
        low, high, _ = _pairs(f)
        some = rng.integers(0, len(low), 64)
        x = low[some] + (high - low)[some] / 2
        x = x * (1 + rng.choice([-1, 1], 64) * 2.0**-45)  # nearer to the midpoint than float32 can represent
        expected = [round_exact(float(v), f, rounding="nearest_even", overflow="saturate") for v in x]
        cast = Cast(f, "nearest_even", "saturate")
        yield none_wrong(f"{f}: float64 rounded wrong", _wrong(cast(x), np.array(expected)))


@claim("refscale.formats.rounding; ml_dtypes; Noune et al. 2022 (no -0)")
def claim_1_07_zero_and_nan(place: Place) -> Figures:
    """-0 stays -0 if the format has it, NaN stays NaN; a format without NaN refuses it."""
    for f in FORMATS.values():
        cast = Cast(f, "nearest_even", "saturate")
        if f.has_zero:
            zero = cast(np.array([-0.0, 0.0, -f.min_subnormal / 4]))
            negative = f.nan not in ("negative_zero", "twos_complement")
            yield none_wrong(
                f"{f}: wrong zeros", _wrong(zero, np.array([-0.0, 0.0, -0.0]) if negative else np.zeros(3))
            )
        if f.nan not in ("none", "twos_complement"):
            yield none_wrong(f"{f}: NaN lost", not np.isnan(cast(np.array([np.nan]))[0]))
        else:
            try:
                cast(np.array([np.nan]))
            except ValueError:
                continue
            yield none_wrong(f"{f}: NaN accepted", True)


@claim("Noune et al. 2022; E round(x) = x")
def claim_1_08_stochastic(place: Place) -> Figures:
    """Stochastic rounding: over all random words, enumerated, the mean of the results is exactly the number itself."""
    rng = place.rng()
    words = np.arange(1 << 10, dtype=np.uint32) << np.uint32(22)
    for name in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float4_e2m1fn"):
        low, high, _ = _pairs(get_format(name))
        some = rng.integers(0, len(low), 16)
        parts = rng.integers(0, 1 << 10, 16)
        x = (low[some] + (high - low)[some] * parts / 1024).astype(np.float64)
        table = np.repeat(x[:, None], len(words), 1)
        cast = Cast(name, "stochastic", "saturate")
        mean = cast(table, np.tile(words, (16, 1))).astype(np.float64).mean(1)
        yield none_wrong(f"{name}: wrong expectations", np.count_nonzero(mean != x))


@claim("definition of a rounding")
def claim_1_09_order(place: Place) -> Figures:
    """Every cast is idempotent and monotone. Casts are odd functions, except that up and down mirror each other."""
    mirror: dict[str, Rounding] = {"up": "down", "down": "up"}
    x = np.sort(place.rng().standard_normal(512) * np.exp2(place.rng().uniform(-20, 20, 512)))
    for f in FORMATS.values():
        if not f.signed:
            continue
        for rounding in ROUNDINGS:
            if rounding == "stochastic":
                continue
            y = Cast(f, rounding, "saturate")(x)
            other = Cast(f, mirror.get(rounding, rounding), "saturate")
            wrong = _wrong(Cast(f, rounding, "saturate")(y), y) + int(np.count_nonzero(np.diff(y) < 0))
            yield none_wrong(f"{f}: {rounding} breaks the order", wrong + _wrong(np.abs(other(-x)), np.abs(y)))
