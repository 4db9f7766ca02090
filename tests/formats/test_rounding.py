"""``round_exact``, held to bisection in the list of all values."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale.errors import ArgumentError, CarrierError, FormatError
from refscale.formats import FORMATS, Format, get_format, round_exact
from refscale.formats.rounding import floor_log2
from tests.formats.oracles import (
    DETERMINISTIC,
    NARROW,
    OVERFLOWS,
    OWN,
    by_formula,
    by_ml_dtypes,
    by_search,
    edge_points,
    same,
    widened,
)

SEARCHED = [*(f for f in NARROW if f.has_zero), OWN, FORMATS["float16"]]


def magnitudes_by_dtype(format: Format) -> list[Fraction]:
    """The finite magnitudes as ml_dtypes decodes them (int8: over 64), and the one that would follow."""
    codes = np.arange(1 << (format.bits - 1), dtype=format.code_dtype)
    if format.dtype is None:
        table = [by_formula(int(c), format) for c in codes]
        return [*table, 2 * table[-1] - table[-2]]
    values = widened(codes.view(format.dtype), np.float64)
    table = [Fraction(v) for v in values[np.isfinite(values)].tolist()]
    return [*table, 2 * table[-1] - table[-2]]


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("format", SEARCHED, ids=str)
def test_equal_to_bisection(format: Format, rounding: str) -> None:
    table = magnitudes_by_dtype(format)
    x = edge_points(format, "float64", 128)
    for value in x[np.isfinite(x)].tolist():
        negative = math.copysign(1, value) < 0
        position, beyond = by_search(table, abs(Fraction(value)), negative, rounding)
        for overflow in OVERFLOWS:
            actual = round_exact(value, format, rounding=rounding, overflow=overflow)
            if not beyond:
                expected = float(table[position])
            elif (
                overflow == "saturate"
                or not format.has_nan
                or rounding in ("toward_zero", "down" if not negative else "up")
            ):
                expected = float(table[-2])
            else:
                expected = math.inf if format.has_inf else math.nan
            sign = negative
            if not format.has_signed_zero and (math.isnan(expected) or expected == 0):
                sign = math.isnan(expected)
            assert same(actual, math.copysign(expected, -1 if sign else 1)), (value, overflow)


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_e8m0_equals_ml_dtypes(overflow: str) -> None:
    format = get_format("e8m0")
    x = edge_points(format, "float32", 1000)
    expected = by_ml_dtypes(x, format, overflow)
    for value, want in zip(x.tolist(), expected.tolist(), strict=True):
        assert same(round_exact(value, format, rounding="nearest_even", overflow=overflow), want), value


@pytest.mark.parametrize(
    ("x", "rounding", "saturated", "nonsaturated"),
    [
        (2.0**-130, "nearest_even", 2.0**-127, 2.0**-127),
        (2.0**-130, "up", 2.0**-127, 2.0**-127),
        (2.0**-130, "down", 2.0**-127, math.nan),
        (2.0**-130, "toward_zero", 2.0**-127, math.nan),
        (3.0, "nearest_even", 4.0, 4.0),  # no mantissa, no even significand: the larger (IEEE 754, 4.3.1)
        (2.0**127 * 1.5, "nearest_even", 2.0**127, math.nan),
        (2.0**127 * 1.5, "down", 2.0**127, 2.0**127),
        (0.0, "up", math.nan, math.nan),
        (-1.0, "up", math.nan, math.nan),
        (math.inf, "down", 2.0**127, math.nan),
    ],
)
def test_e8m0_has_neither_zero_nor_sign(x: float, rounding: str, saturated: float, nonsaturated: float) -> None:
    for overflow, expected in zip(OVERFLOWS, (saturated, nonsaturated), strict=True):
        assert same(round_exact(x, "e8m0", rounding=rounding, overflow=overflow), expected)


def test_a_rational_number_is_rounded_as_it_is() -> None:
    third = Fraction(1, 3)
    assert round_exact(third, "e4m3fn", rounding="down", overflow="saturate") == 0.3125
    assert round_exact(third, "e4m3fn", rounding="up", overflow="saturate") == 0.34375
    assert round_exact(-third, "float32", rounding="nearest_even", overflow="saturate") == float(np.float32(-1 / 3))
    hair = Fraction(17, 16) + Fraction(1, 10**100)  # a float64 could not tell this from a tie
    assert round_exact(hair, "e4m3fn", rounding="nearest_even", overflow="saturate") == 1.125


@pytest.mark.parametrize("kind", [float, np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_numbers_of_numpy_are_those_of_python(kind: type) -> None:
    """Signs of zero and NaN, infinities; a word of 32 bits beside the 2^32 that it is added to."""
    even = {"format": "e5m2", "rounding": "nearest_even", "overflow": "nonsaturate"}
    for x in (0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 2.5, -1e4):
        assert same(round_exact(kind(x), **even), round_exact(float(kind(x)), **even))
    assert round_exact(np.int64(-7), **even) == -7.0
    assert round_exact(np.uint8(9), "e4m3fn", rounding="toward_zero", overflow="saturate") == 9.0
    for word, expected in ((2**30 - 1, 8.0), (2**30, 10.0)):  # the rest is ¾
        bits = {"rounding": "stochastic", "overflow": "saturate", "random_bits": np.uint32(word)}
        assert round_exact(kind(9.5), "e5m2", **bits) == expected


@given(st.fractions(min_value=Fraction(1, 10**60), max_value=10**60))
def test_floor_log2(x: Fraction) -> None:
    e = floor_log2(x)
    assert Fraction(2) ** e <= x < Fraction(2) ** (e + 1)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"x": math.nan, "format": "e2m1"}, FormatError, "round_exact: x is NaN, not representable in float4_e2m1fn"),
        ({"rounding": "even"}, FormatError, "round_exact: unknown rounding 'even'; known: nearest_even, toward_zero, "),
        ({"overflow": "wrap"}, FormatError, "round_exact: unknown overflow 'wrap'; known: saturate, nonsaturate"),
        ({"rounding": "stochastic"}, ArgumentError, "round_exact: random_bits is None with rounding 'stochastic'"),
        ({"random_bits": 1}, ArgumentError, "round_exact: random_bits is 1 with rounding 'nearest_even'"),
        (
            {"rounding": "stochastic", "random_bits": 2**32},
            ArgumentError,
            "round_exact: random_bits is 4294967296, expected within [0, 2^32)",
        ),
        (
            {"rounding": "stochastic", "random_bits": 1.5},
            ArgumentError,
            "round_exact: random_bits is 1.5, expected an integer",
        ),
        ({"x": "1"}, CarrierError, "round_exact: x is '1', expected a float, an integer or a Fraction"),
        ({"x": np.ones(1)}, CarrierError, "round_exact: x is array([1.]), expected a float, an integer or a Fraction"),
    ],
)
def test_error_texts(arguments: dict, error: type[Exception], text: str) -> None:
    arguments = {"x": 1.0, "format": "fp16", "rounding": "nearest_even", "overflow": "saturate"} | arguments
    with pytest.raises(error) as caught:
        round_exact(**arguments)
    assert str(caught.value).startswith(text)
