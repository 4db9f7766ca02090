"""Integers and the dtypes of ml_dtypes: what ``quantize`` takes, and what names a format."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import refscale as rs
from refscale.errors import CarrierError, FormatError
from refscale.formats import FORMATS, OVERFLOWS, ROUNDINGS, Cast, decode, get_format, quantize, round_exact
from refscale.testing import assert_same_bits

NARROW = [f for f in FORMATS.values() if f.dtype is not None and f.bits <= 16]
BY_HAND = [
    # float32 has spacing 2^30 at 2^53: a tie, and one more than it, which float64 does not hold
    (np.int64, 2**53 + 2**29, "float32", "nearest_even", "saturate", 2.0**53),
    (np.int64, 2**53 + 2**29 + 1, "float32", "nearest_even", "saturate", 2.0**53 + 2.0**30),
    (np.int64, -(2**53) - 2**29 - 1, "float32", "nearest_even", "saturate", -(2.0**53) - 2.0**30),
    (np.int64, 2**53 + 2**29, "float32", "nearest_away", "saturate", 2.0**53 + 2.0**30),
    (np.int64, 2**53 + 2**29 - 1, "float32", "nearest_away", "saturate", 2.0**53),
    (np.int64, 2**53 + 1, "float32", "up", "saturate", 2.0**53 + 2.0**30),
    (np.int64, -(2**53) - 1, "float32", "down", "saturate", -(2.0**53) - 2.0**30),
    # 2^64 − 1: float64 would make 2^64 of it
    (np.uint64, 2**64 - 1, "float32", "toward_zero", "saturate", 2.0**64 - 2.0**40),
    (np.uint64, 2**64 - 1, "float32", "nearest_even", "saturate", 2.0**64),
    (np.uint64, 2**64 - 1, "bfloat16", "down", "saturate", 2.0**64 - 2.0**56),
    (np.uint64, 2**64 - 1, "float16", "nearest_even", "nonsaturate", np.inf),
    (np.uint64, 2**64 - 1, "float16", "toward_zero", "nonsaturate", 65504.0),
    (np.uint64, 2**64 - 1, "e4m3fn", "nearest_even", "saturate", 448.0),
    (np.uint64, 2**64 - 1, "e4m3fn", "nearest_even", "nonsaturate", np.nan),
    (np.uint64, 2**64 - 1, "e8m0", "toward_zero", "saturate", 2.0**63),
    (np.int64, -(2**63), "float32", "nearest_even", "saturate", -(2.0**63)),
    (np.int64, -(2**63) + 1, "float32", "up", "saturate", -(2.0**63) + 2.0**39),
    (np.int64, -(2**63) + 1, "bfloat16", "toward_zero", "saturate", -(2.0**63) + 2.0**55),
    # within ±2^53
    (np.int64, 2**53, "float32", "nearest_even", "saturate", 2.0**53),
    (np.int32, 2**24 + 1, "float32", "nearest_even", "saturate", 2.0**24),
    (np.int32, 2**24 + 3, "float32", "nearest_even", "saturate", 2.0**24 + 4),
    (np.uint32, 2**32 - 1, "float32", "toward_zero", "saturate", 2.0**32 - 2.0**8),
    (np.int16, -17, "e5m2", "nearest_even", "saturate", -16.0),
    (np.uint8, 255, "e4m3fn", "nearest_even", "saturate", 256.0),
    (np.int8, -128, "e5m2", "nearest_even", "saturate", -128.0),
    (np.int64, 0, "e4m3fnuz", "nearest_even", "saturate", 0.0),
]
"""dtype, integer, format, rounding, overflow, and the result, by hand."""


def check(run):
    for dtype, n, name, rounding, overflow, expected in BY_HAND:
        y = run(np.array([n, 1], dtype), name, rounding=rounding, overflow=overflow)
        assert_same_bits(y, np.array([expected, 1], np.float32))


class TestIntegers:
    def test_by_hand(self):
        check(quantize)

    def test_an_implementation_that_goes_through_float64_is_rejected(self):
        with pytest.raises(AssertionError):
            check(lambda x, *format, **how: quantize(x.astype(np.float64), *format, **how))

    def test_one_that_clips_to_int64_is_rejected(self):
        with pytest.raises(AssertionError):
            check(lambda x, *format, **how: quantize(x.astype(np.int64), *format, **how))

    @pytest.mark.parametrize(("random", "expected"), [(2**32 - 2, 2.0**63), (2**32 - 1, 2.0**63 + 2.0**40)])
    def test_stochastic(self, random, expected):
        """2^63 + 2^8 in float32, of spacing 2^40: the rest is 2^-32 of it, and float64 would drop it."""
        x, bits = np.array([2**63 + 2**8], np.uint64), np.array([random], np.uint32)
        y = quantize(x, "float32", rounding="stochastic", overflow="saturate", random_bits=bits)
        assert y.tolist() == [expected]

    @pytest.mark.parametrize("rounding", ROUNDINGS)
    @pytest.mark.parametrize("overflow", OVERFLOWS)
    def test_as_in_exact_arithmetic(self, rounding, overflow):
        """Integers near powers of two and ties, small and large, in every format: 16 formats × 60 integers."""
        rng = np.random.default_rng(0)
        near = [2**e + d for e in (0, 5, 24, 52, 53, 54, 60, 62) for d in (-1, 0, 1, 2 ** max(0, e - 24))]
        x = np.array([*near, *(-n for n in near[8:]), *rng.integers(-(2**63), 2**63, 4)], np.int64)
        bits = rng.integers(0, 2**32, x.shape, np.uint32) if rounding == "stochastic" else None
        for format in FORMATS.values():
            y = quantize(x, format, rounding=rounding, overflow=overflow, random_bits=bits)
            words = [None] * x.size if bits is None else bits.tolist()
            expected = [
                round_exact(n, format, rounding=rounding, overflow=overflow, random_bits=w)
                for n, w in zip(x.tolist(), words, strict=True)
            ]
            assert_same_bits(y, np.array(expected, np.float32))

    def test_shapes_orders_and_places(self):
        n = 2**53 + 2**29 + 1
        x = np.asfortranarray(np.array([[n, 1, 2], [3, -n, 5]]))
        expected = np.array([[2.0**53 + 2.0**30, 1, 2], [3, -(2.0**53) - 2.0**30, 5]], np.float32)
        how = {"rounding": "nearest_even", "overflow": "saturate"}
        np.testing.assert_array_equal(quantize(x, "float32", **how), expected)
        np.testing.assert_array_equal(quantize(x[:, ::2], "float32", **how), expected[:, ::2])
        np.testing.assert_array_equal(quantize(x.astype(">i8"), "float32", **how), expected)
        assert quantize(n, "float32", **how) == expected[0, 0]
        assert quantize(np.int64(n), "float32", **how).shape == ()
        assert quantize(np.zeros(0, np.int64), "float32", **how).size == 0
        into = np.zeros((2, 3), np.float32)
        assert quantize(x, "float32", out=into, **how) is into
        np.testing.assert_array_equal(into, expected)

    def test_into_their_own_memory(self):
        buffer = np.array([2**53 + 2**29 + 1, 7, -(2**53) - 2**29 - 1, 9], np.int64)
        into = buffer.view(np.float32)[:4]
        Cast("float32", "nearest_even", "saturate")(buffer, out=into)
        assert into.tolist() == [2.0**53 + 2.0**30, 7, -(2.0**53) - 2.0**30, 9]

    def test_an_array_of_several_blocks(self):
        x = np.full(300_000, 3)
        x[[5, 299_999]] = 2**53 + 2**29 + 1
        y = quantize(x, "float32", rounding="nearest_even", overflow="saturate")
        assert np.flatnonzero(y != 3).tolist() == [5, 299_999]
        assert y[5] == y[-1] == 2.0**53 + 2.0**30

    @pytest.mark.parametrize("x", [[True, False], np.True_, [1j], ["1"], np.array([1], "m8[s]"), [np.longdouble(1)]])
    def test_what_is_no_real_number_is_refused(self, x):
        with pytest.raises(CarrierError, match="expected float64 or narrower floats, or integers"):
            quantize(x, "float16", rounding="nearest_even", overflow="saturate")

    def test_integers_beyond_64_bits_are_refused(self):
        with pytest.raises(CarrierError, match="expected a plain array of numbers"):
            quantize([2**64], "float32", rounding="nearest_even", overflow="saturate")


class TestNarrowArrays:
    @pytest.mark.parametrize("format", NARROW, ids=str)
    def test_every_value_of_every_dtype(self, format):
        """Its codes as an array of ml_dtypes, rounded to the format itself and to float32: the values."""
        codes = np.arange(format.code_count, dtype=format.code_dtype)
        x, expected = codes.view(format.dtype), decode(codes, format)
        for target in (format, "float32"):
            assert_same_bits(quantize(x, target, rounding="nearest_even", overflow="nonsaturate"), expected)

    def test_rounding_between_them(self):
        x = np.array([0.4375, 448, -0.0], ml_dtypes.float8_e4m3fn)  # 0.4375 is halfway between two of e2m1
        y = quantize(x, "e5m2", rounding="toward_zero", overflow="saturate")
        assert_same_bits(y, np.array([0.4375, 448, -0.0], np.float32))
        y = quantize(x, "e2m1", rounding="up", overflow="saturate")
        assert_same_bits(y, np.array([0.5, 6, -0.0], np.float32))

    @pytest.mark.parametrize(("name", "low", "high"), [("int4", -8, 7), ("uint4", 0, 15), ("int2", -2, 1)])
    def test_narrow_integers(self, name, low, high):
        x = np.arange(low, high + 1).astype(getattr(ml_dtypes, name))
        y = quantize(x, "float16", rounding="nearest_even", overflow="saturate")
        assert y.tolist() == list(range(low, high + 1))


class TestDtypesAsFormats:
    @pytest.mark.parametrize("format", [f for f in FORMATS.values() if f.dtype is not None], ids=str)
    def test_each_dtype_and_scalar_type_is_its_format(self, format):
        assert get_format(format.dtype) is get_format(format.dtype.type) is format
        assert Cast(format.dtype, "nearest_even", "saturate") == Cast(format, "nearest_even", "saturate")

    def test_in_a_call(self):
        y = rs.quantize([0.3], ml_dtypes.float8_e4m3fn, rounding="nearest_even", overflow="saturate")
        assert y.tolist() == [0.3125]
        assert rs.encode(y, ml_dtypes.float8_e4m3fn).tolist() == [0x2A]
        assert rs.decode(np.array([0x2A], np.uint8), np.dtype(ml_dtypes.float8_e4m3fn)).tolist() == [0.3125]
        assert round_exact(0.3, ml_dtypes.bfloat16, rounding="down", overflow="saturate") == 0.298828125

    @pytest.mark.parametrize("dtype", [np.float64, np.dtype(np.int8), ml_dtypes.int4, np.floating, np.dtype("f4,f4")])
    def test_other_dtypes_are_refused(self, dtype):
        with pytest.raises(FormatError, match=r"get_format: no format has the dtype .*; known: float32"):
            get_format(dtype)

    @pytest.mark.parametrize("what", [float, 16, None, ["e5m2"]])
    def test_what_is_neither_is_refused(self, what):
        with pytest.raises(FormatError, match="expected a name, a dtype or a Format"):
            get_format(what)
