"""The bitwise and ulp assertions accept equal arrays and reject arrays that differ by one bit, or one ulp."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale.errors import ArgumentError, CarrierError, FormatError
from refscale.formats import FORMATS, Format
from refscale.testing import assert_same_bits, assert_within_ulp

DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]
NARROW = [
    ml_dtypes.float8_e8m0fnu,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float4_e2m1fn,
]


def from_bits(code: int, dtype: type = np.float32) -> np.ndarray:
    return np.array([code], f"u{np.dtype(dtype).itemsize}").view(dtype)


# assert_same_bits


@pytest.mark.parametrize("dtype", [*DTYPES, *NARROW, np.int32, np.bool_, np.uint8])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_same_bits_accepts_a_copy(dtype, shape):
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    assert_same_bits(x, x.copy())


@given(st.binary(min_size=8, max_size=8), st.sampled_from([np.float16, np.float32, np.float64, np.uint8]))
def test_same_bits_accepts_every_pattern(raw, dtype):
    x = np.frombuffer(raw, dtype)
    assert_same_bits(x, x.copy())


@given(st.binary(min_size=8, max_size=8), st.integers(0, 63), st.sampled_from([*DTYPES, *NARROW]))
def test_same_bits_rejects_every_flipped_bit(raw, bit, dtype):
    x = np.frombuffer(raw, dtype)
    flipped = np.frombuffer((int.from_bytes(raw, "little") ^ 1 << bit).to_bytes(8, "little"), dtype)
    with pytest.raises(AssertionError, match=r"1 of \d elements has other bits"):
        assert_same_bits(flipped, x)


def test_same_bits_ignores_layout_but_not_position():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert_same_bits(np.asfortranarray(x), x)
    with pytest.raises(AssertionError, match=r"4 of 6 elements have other bits, first at index \(0, 1\)"):
        assert_same_bits(x.ravel(order="F").reshape(2, 3), x)


def test_same_bits_names_the_sign_of_zero():
    with pytest.raises(AssertionError) as error:
        assert_same_bits(np.float32([[1.0, -0.0]]), np.float32([[1.0, 0.0]]))
    assert str(error.value) == (
        "1 of 2 elements has other bits, first at index (0, 1):\n"
        "  actual   -0.0  0x80000000\n"
        "  expected  0.0  0x00000000\n"
        "  0 ulp apart on the line of float32: the sign of zero differs"
    )


def test_same_bits_names_the_nan_payload():
    with pytest.raises(AssertionError) as error:
        assert_same_bits(from_bits(0x7FC00001), from_bits(0x7FC00000))
    assert str(error.value) == (
        "1 of 1 elements has other bits, first at index (0,):\n"
        "  actual    nan  0x7fc00001\n"
        "  expected  nan  0x7fc00000\n"
        "  both are NaN: sign or payload differs"
    )


def test_same_bits_counts_ulp_in_narrow_formats():
    actual, expected = (from_bits(code, ml_dtypes.float8_e4m3fn) for code in (0x38, 0x3B))
    with pytest.raises(AssertionError, match=r"0x38\n.*0x3b\n  3 ulp apart on the line of float8_e4m3fn"):
        assert_same_bits(actual, expected)


def test_same_bits_infinity_has_no_distance():
    with pytest.raises(AssertionError, match="not both finite: no distance in ulp"):
        assert_same_bits(np.float16([np.inf]), np.float16([65504.0]))


def test_same_bits_of_integers_has_no_line():
    with pytest.raises(AssertionError) as error:
        assert_same_bits(np.int16([5]), np.int16([-5]))
    assert str(error.value).endswith("  actual    5  0x0005\n  expected -5  0xfffb")


def test_same_bits_reads_other_byte_orders():
    x = np.array([1.0], ">f4")
    assert_same_bits(x, x.copy())
    with pytest.raises(AssertionError, match="0x3f800000"):
        assert_same_bits(x, np.array([2.0], ">f4"))


@pytest.mark.parametrize(
    ("actual", "expected", "message"),
    [
        (np.float32([1]), np.float64([1]), "the dtype is float32, expected float64"),
        (np.float32([1]), np.float32(1), r"the shape is \(1,\), expected \(\)"),
        (np.zeros((2, 0)), np.zeros((0, 2)), r"the shape is \(2, 0\), expected \(0, 2\)"),
    ],
)
def test_nothing_is_promoted_or_broadcast(actual, expected, message):
    with pytest.raises(AssertionError, match=message):
        assert_same_bits(actual, expected)
    with pytest.raises(AssertionError, match=message):
        assert_within_ulp(actual, expected, 10)


@pytest.mark.parametrize("dtype", [np.complex128, np.longdouble, "U3"])
def test_same_bits_refuses_other_elements(dtype):
    x = np.array([1], dtype)
    with pytest.raises(CarrierError, match="expected elements of 1, 2, 4 or 8 bytes"):
        assert_same_bits(x, x)


# assert_within_ulp


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", [0.0, 1.0, -1.0, 2.0, 1e-3, -0.0])
def test_ulp_bound_is_sharp(dtype, start):
    x = np.array([start], dtype)
    off = x
    for ulps in range(1, 4):
        off = np.nextafter(off, np.array([9], dtype))
        assert_within_ulp(off, x, ulps)
        with pytest.raises(AssertionError, match=f"not within {ulps - 1} ulp"):
            assert_within_ulp(off, x, ulps - 1)


def test_a_format_without_a_sign_has_a_line_without_one():
    """E8M0: 2^-127 … 2^127 are 254 steps, and no code is the negative of another."""
    ends = np.array([2.0**-127, 2.0**127], ml_dtypes.float8_e8m0fnu)
    assert_within_ulp(ends[1:], ends[:1], 254)
    with pytest.raises(AssertionError, match="254 ulp apart on the line of float8_e8m0fnu"):
        assert_within_ulp(ends[1:], ends[:1], 253)
    one, two = np.array([1.0, 2.0], ml_dtypes.float8_e8m0fnu)
    assert_within_ulp(one, two, 1)
    with pytest.raises(AssertionError, match="not within 0 ulp"):
        assert_within_ulp(one, two, 0)


def test_ulp_crosses_zero_and_binades():
    tiny = np.float32(2.0**-149)
    assert_within_ulp(tiny, -tiny, 2)
    assert_within_ulp(np.float32(0.0), np.float32(-0.0), 0)
    with pytest.raises(AssertionError, match="2 ulp apart"):
        assert_within_ulp(tiny, -tiny, 1)
    with pytest.raises(AssertionError, match="8388608 ulp apart"):  # 2^23 from one binade to the next
        assert_within_ulp(np.float32(2.0), np.float32(1.0), 2**23 - 1)


def test_ulp_of_the_whole_float64_line_does_not_overflow():
    top = np.finfo(np.float64).max
    whole = 2 * 0x7FEF_FFFF_FFFF_FFFF
    assert_within_ulp(top, -top, whole)
    with pytest.raises(AssertionError, match=f"{whole} ulp apart"):
        assert_within_ulp(-top, top, whole - 1)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False))
def test_ulp_distance_is_the_number_of_steps(a, b):
    """Against the definition, in Python integers."""

    def line(x: float) -> int:
        code = int(np.float32(x).view(np.uint32))
        return -(code & 0x7FFFFFFF) if code >> 31 else code

    b = min(max(b, -3e38), 3e38)
    a32, b32 = np.float32(a), np.float32(b)
    distance = abs(line(a32) - line(b32))
    assert_within_ulp(a32, b32, distance)
    if distance:
        with pytest.raises(AssertionError, match=f" {distance} ulp apart"):
            assert_within_ulp(a32, b32, distance - 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ulp_specials_must_coincide(dtype):
    top = ml_dtypes.finfo(dtype).max
    x = np.array([np.nan, np.inf, -np.inf, top], dtype)
    assert_within_ulp(x, x, 0)
    assert_within_ulp(-x[:1], x[:1], 0)  # NaN of either sign
    wrong = [(np.inf, top), (top, np.inf), (np.inf, -np.inf), (np.nan, np.inf), (np.nan, 1), (1, np.nan)]
    for actual, expected in wrong:
        with pytest.raises(AssertionError, match="not both finite"):
            assert_within_ulp(np.array([actual], dtype), np.array([expected], dtype), 2**62)


def test_ulp_report_names_the_first_and_the_farthest():
    expected = np.ones((2, 3), np.float32)
    actual = expected.copy()
    actual[0, 1] += 2 * 2.0**-23
    actual[1, 2] += 7 * 2.0**-23
    with pytest.raises(AssertionError) as error:
        assert_within_ulp(actual, expected, 1)
    assert str(error.value) == (
        "2 of 6 elements are not within 1 ulp, first at index (0, 1):\n"
        "  actual    1.0000002  0x3f800002\n"
        "  expected  1.0        0x3f800000\n"
        "  2 ulp apart on the line of float32\n"
        "  farthest: 7 ulp at index (1, 2)"
    )


def test_of_two_as_far_the_first_is_the_farthest():
    expected = np.ones(6, np.float32)
    actual = expected + np.array([0, 2, 7, 3, 7, 2]) * np.float32(2.0**-23)
    with pytest.raises(
        AssertionError, match=r"5 of 6 .* first at index \(1,\):(.|\n)*\n  farthest: 7 ulp at index \(2,\)$"
    ):
        assert_within_ulp(actual.astype(np.float32), expected, 1)


@pytest.mark.parametrize("ulps", [-1, 0.5, 1.0, None, 2**64])
def test_ulps_must_be_a_count(ulps):
    with pytest.raises(ArgumentError, match="expected an integer >= 0"):
        assert_within_ulp(np.float32(1), np.float32(1), ulps)


@pytest.mark.parametrize("dtype", [np.int32, np.complex64, ml_dtypes.int4, np.longdouble])
def test_ulp_needs_a_line(dtype):
    with pytest.raises(CarrierError, match="has no line of ulp"):
        assert_within_ulp(np.array([1], dtype), np.array([1], dtype), 0)


# assert_within_ulp, in a format that wide arrays carry

STORED = [f for f in FORMATS.values() if f.dtype is not None and f.bits <= 16]


def line(code: int, format: Format) -> int:
    return -(code ^ format.sign_code) if code & format.sign_code else code


@pytest.mark.parametrize("format", STORED, ids=str)
@pytest.mark.parametrize("carrier", [np.float32, np.float64])
def test_every_value_of_a_format_lies_where_its_code_says(format, carrier):
    """Against ml_dtypes' codes: all of them for narrow formats, a sample of the wide; and sharp to one ulp."""
    rng = np.random.default_rng(0)
    codes = np.arange(format.code_count) if format.bits <= 8 else rng.integers(0, format.code_count, 512)
    values = codes.astype(format.code_dtype).view(format.dtype).astype(carrier)
    codes, values = codes[np.isfinite(values)], values[np.isfinite(values)]
    shuffle = rng.permutation(len(codes))
    for value, code, other, other_code in zip(values, codes, values[shuffle], codes[shuffle], strict=True):
        distance = abs(line(int(code), format) - line(int(other_code), format))
        assert_within_ulp(value, other, distance, format=format)
        if distance:
            with pytest.raises(AssertionError, match=f" {distance} ulp apart on the line of {format}"):
                assert_within_ulp(value, other, distance - 1, format=format)


def test_format_counts_its_own_ulp_and_names_its_own_codes():
    with pytest.raises(AssertionError) as error:
        assert_within_ulp(np.float32([1.0, 1.25]), np.float64([1.0, -0.015625]), 2, format="e4m3fn")
    assert str(error.value) == (
        "1 of 2 elements is not within 2 ulp, first at index (1,):\n"
        "  actual    1.25      0x3a\n"
        "  expected -0.015625  0x88\n"
        "  66 ulp apart on the line of float8_e4m3fn"
    )


def test_format_specials_must_coincide():
    specials = np.float32([np.nan, np.inf, -np.inf, -0.0])
    assert_within_ulp(specials, specials.astype(np.float64), 0, format="float16")
    with pytest.raises(AssertionError, match=r"inf  0x7c00\n.* -inf  0xfc00\n  not both finite"):
        assert_within_ulp(specials[1], specials[2], 2**20, format="float16")


@pytest.mark.parametrize(
    ("stranger", "format"),
    [
        *((x, "e4m3fn") for x in (1.03, 449.0, 480.0, np.inf, 2.0**-10)),
        *((x, "e8m0") for x in (0.0, -1.0, 3.0)),
        (np.nan, "e2m1"),
        (1 + 2.0**-11, "tf32"),
        (1 + 2.0**-24, "float32"),
    ],
)
def test_format_must_hold_the_values(stranger, format):
    held, stranger = np.array([1.0, 1.0]), np.array([1.0, stranger])
    with pytest.raises(AssertionError, match=r"actual does not hold values of \w+: .*\(1,\)"):
        assert_within_ulp(stranger, held, 9, format=format)
    with pytest.raises(FormatError):
        assert_within_ulp(held, stranger, 9, format=format)
