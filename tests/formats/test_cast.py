"""``quantize`` and ``Cast``: the same bits as ml_dtypes, as exact arithmetic, and as the specification."""

import copy
import dataclasses
import pickle
import warnings

import ml_dtypes
import numpy as np
import pytest

from refscale.errors import ArgumentError, CarrierError, FormatError, ShapeError
from refscale.formats import FORMATS, Cast, Format, get_format, quantize
from refscale.formats.cast import _BLOCK
from tests.formats import oracles
from tests.formats.oracles import DETERMINISTIC, NARROW, OVERFLOWS, WIDE, WITH_DTYPE, bits, by_specification

EVEN = {"rounding": "nearest_even", "overflow": "saturate"}


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("source", ["float16", "bfloat16"])
@pytest.mark.parametrize("format", WITH_DTYPE, ids=str)
def test_every_16_bit_pattern_rounds_as_ml_dtypes(format: Format, source: str, overflow: str) -> None:
    oracles.check_patterns(quantize, format, source, overflow)


@pytest.mark.parametrize("source", ["float16", "bfloat16"])
@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
def test_the_result_depends_on_the_value_and_not_on_the_dtype(format: Format, source: str) -> None:
    narrow = oracles.all_patterns(source)
    with np.errstate(all="ignore"):
        wide = narrow.astype(np.float32)
        if not format.has_nan:
            narrow, wide = narrow[~np.isnan(wide)], wide[~np.isnan(wide)]
        double = wide.astype(np.float64)
    random = np.random.default_rng(0).integers(0, 2**32, wide.size, np.uint32)
    for rounding in (*DETERMINISTIC, "stochastic"):
        for overflow in OVERFLOWS:
            cast = Cast(format, rounding, overflow)
            r = random if rounding == "stochastic" else None
            expected = bits(cast(double, r))
            assert np.array_equal(bits(cast(narrow, r)), expected), str(cast)
            assert np.array_equal(bits(cast(wide, r)), expected), str(cast)


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("source", ["float32", "float64"])
@pytest.mark.parametrize("format", NARROW, ids=str)
def test_narrow_formats_at_every_midpoint(format: Format, source: str, rounding: str) -> None:
    for overflow in OVERFLOWS:
        oracles.check_edges(quantize, format, source, rounding, overflow, 4096)


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("source", ["float32", "float64"])
@pytest.mark.parametrize("format", WIDE, ids=str)
def test_wide_formats_at_sampled_midpoints(format: Format, source: str, rounding: str) -> None:
    overflow = OVERFLOWS[(DETERMINISTIC.index(rounding) + (source == "float64")) % 2]
    oracles.check_edges(quantize, format, source, rounding, overflow, 64)


def test_float64_to_float16_at_every_midpoint() -> None:
    """All 63 488 midpoints, with NumPy's own single rounding from float64 as the oracle."""
    table = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middle = (table[:-1] + table[1:]) / 2
    x = np.concatenate([middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf)])
    x = np.concatenate([x, -x])
    actual = quantize(x, "float16", rounding="nearest_even", overflow="nonsaturate")
    assert np.array_equal(bits(actual), bits(x.astype(np.float16).astype(np.float32)))


def test_float64_to_float32_is_the_narrowing_of_numpy() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**64, 1 << 18, np.uint64).view(np.float64)
    small = np.ldexp(rng.standard_normal(1 << 16), rng.integers(-155, 130, 1 << 16))
    x = np.concatenate([x, small])
    with np.errstate(all="ignore"):
        expected = x.astype(np.float32)
    actual = quantize(x, "float32", rounding="nearest_even", overflow="nonsaturate")
    assert np.array_equal(bits(actual), bits(expected))


@pytest.mark.parametrize(
    ("format", "x", "expected"),
    [
        ("e4m3fn", 1.0625 + 2.0**-40, 1.125),
        ("e4m3fn", -(1.0625 + 2.0**-40), -1.125),
        ("e4m3fn", 1.1875 - 2.0**-40, 1.125),
        ("e5m2", 1.125 + 2.0**-45, 1.25),
        ("float16", 1 + 2.0**-11 + 2.0**-50, 1 + 2.0**-10),
        ("bfloat16", 1 + 2.0**-8 + 2.0**-50, 1 + 2.0**-7),
        ("e4m3fn", 2.0**-10 + 2.0**-60, 2.0**-9),
        ("e4m3fn", 464 + 2.0**-30, float("nan")),
        ("e8m0", 1.5 - 2.0**-40, 1.0),
    ],
)
def test_float64_is_rounded_once(format: str, x: float, expected: float) -> None:
    result = quantize(np.float64(x), format, rounding="nearest_even", overflow="nonsaturate")
    assert oracles.same(float(result), expected)


# Results of each format for these without saturation.
SPECIALS = np.float32([np.nan, -np.nan, np.inf, -np.inf, 1e38, -1e38, 0.0, -0.0, 1e-45, -1e-45])
INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("format", "nonsaturate"),
    [
        ("float16", [NAN, -NAN, INF, -INF, INF, -INF, 0.0, -0.0, 0.0, -0.0]),
        ("float8_e5m2", [NAN, -NAN, INF, -INF, INF, -INF, 0.0, -0.0, 0.0, -0.0]),
        ("float8_e4m3", [NAN, -NAN, INF, -INF, INF, -INF, 0.0, -0.0, 0.0, -0.0]),
        ("float8_e3m4", [NAN, -NAN, INF, -INF, INF, -INF, 0.0, -0.0, 0.0, -0.0]),
        ("float8_e4m3fn", [NAN, -NAN, NAN, -NAN, NAN, -NAN, 0.0, -0.0, 0.0, -0.0]),
        ("float8_e4m3fnuz", [-NAN, -NAN, -NAN, -NAN, -NAN, -NAN, 0.0, 0.0, 0.0, 0.0]),
        ("float8_e5m2fnuz", [-NAN, -NAN, -NAN, -NAN, -NAN, -NAN, 0.0, 0.0, 0.0, 0.0]),
        ("float8_e4m3b11fnuz", [-NAN, -NAN, -NAN, -NAN, -NAN, -NAN, 0.0, 0.0, 0.0, 0.0]),
        ("float8_e8m0fnu", [NAN, NAN, NAN, NAN, 2.0**126, NAN, NAN, NAN, 2.0**-127, NAN]),
    ],
)
def test_specials(format: str, nonsaturate: list[float]) -> None:
    expected = np.float32(nonsaturate)
    actual = quantize(SPECIALS, format, rounding="nearest_even", overflow="nonsaturate")
    assert np.array_equal(bits(actual), bits(expected))
    largest = get_format(format).max
    if get_format(format).signed:
        expected[2:6] = [largest, -largest, largest, -largest]
    else:
        expected[2] = largest
    assert np.array_equal(bits(quantize(SPECIALS, format, **EVEN)), bits(expected))


@pytest.mark.parametrize("format", ["e2m3", "e3m2", "e2m1"])
@pytest.mark.parametrize("rounding", DETERMINISTIC)
def test_a_format_without_inf_and_nan_saturates_either_way(format: str, rounding: str) -> None:
    x, largest = SPECIALS[2:6], get_format(format).max
    for overflow in OVERFLOWS:
        assert quantize(x, format, rounding=rounding, overflow=overflow).tolist() == [largest, -largest] * 2


@pytest.mark.parametrize(
    ("rounding", "finite"),
    [("toward_zero", [57344, -57344]), ("up", [INF, -57344]), ("down", [57344, -INF]), ("nearest_away", [INF, -INF])],
)
def test_directed_overflow_follows_ieee_754_section_7_4(rounding: str, finite: list[float]) -> None:
    actual = quantize([1e9, -1e9, INF, -INF], "e5m2", rounding=rounding, overflow="nonsaturate")
    assert actual.tolist() == [*finite, INF, -INF]


# --- stochastic rounding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["float32", "float64"])
@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
def test_stochastic_equals_the_specification(format: Format, source: str) -> None:
    rng = np.random.default_rng(3)
    x = oracles.edge_points(format, source, 40)
    x = x[rng.integers(0, x.size, 1000)]
    random = rng.integers(0, 2**32, x.size, np.uint32)
    random[::7] = 2**32 - 1
    random[::11] = 0
    for overflow in OVERFLOWS:
        actual = quantize(x, format, rounding="stochastic", overflow=overflow, random_bits=random)
        assert oracles.first_difference(x, actual, by_specification(x, format, "stochastic", overflow, random)) is None


@pytest.mark.parametrize("format", ["e4m3fn", "e4m3fnuz", "e5m2", "e2m1", "e3m4"])
def test_the_expectation_of_stochastic_rounding_is_exact(format: str) -> None:
    """bfloat16 values from 2^-4 spacings to max: the dropped part has at most 12 bits, and all 2^12 are enumerated."""
    f = get_format(format)
    x = oracles.all_patterns("bfloat16").astype(np.float32, copy=True)[: 1 << 15]
    with np.errstate(invalid="ignore"):
        x = x[(x >= f.min_subnormal / 16) & (x <= f.max)]
    x = x[:: max(1, x.size // 150)]
    random = np.arange(1 << 12, dtype=np.uint32) << np.uint32(20)
    grid, r = np.broadcast_arrays(x[:, None], random)
    total = quantize(grid, f, rounding="stochastic", overflow="saturate", random_bits=np.ascontiguousarray(r))
    assert np.array_equal(total.astype(np.float64).mean(axis=1), x.astype(np.float64))  # sums of ≤ 28 bits: exact


@pytest.mark.parametrize("source", [np.float32, np.float64])
def test_the_expectation_falls_short_by_less_than_2_to_the_minus_32_spacings(source: type) -> None:
    """The number of random words that round outward is exactly ⌊2^32 · rest⌋: the threshold is found at that word."""
    x = np.abs(np.random.default_rng(5).standard_normal(500)).astype(source) * source(2.0**-9)
    f = get_format("e4m3fn")
    rest = x.astype(np.float64) / f.spacing(x) % 1
    outward = np.floor(rest * 2.0**32).astype(np.int64)  # of 2^32 words
    x, outward = x[outward > 0], outward[outward > 0]
    low = quantize(x, f, rounding="toward_zero", overflow="saturate")
    high = quantize(x, f, rounding="up", overflow="saturate")
    first_up = (2**32 - outward).astype(np.uint32)
    for random, expected in ((first_up, high), (first_up - np.uint32(1), low)):
        actual = quantize(x, f, rounding="stochastic", overflow="saturate", random_bits=random)
        assert np.array_equal(actual, expected)


# --- blocks, shapes, out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("format", ["e4m3fn", "e5m2fnuz", "bf16", "tf32", "e8m0", "fp32"])
def test_special_values_in_one_block_leave_others_alone(format: str, overflow: str) -> None:
    x = np.random.default_rng(0).standard_normal(200_001).astype(np.float32)
    x[[0, 65535, 65536, 131072, 200_000]] = [np.nan, np.inf, -np.inf, 1e38, -np.nan]
    whole = quantize(x, format, rounding="nearest_even", overflow=overflow)
    parts = [quantize(p, format, rounding="nearest_even", overflow=overflow) for p in np.split(x, [1, 65530, 70000])]
    assert np.array_equal(bits(whole), bits(np.concatenate(parts)))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 7), (2, 3, 4)])
def test_shapes_are_kept(shape: tuple[int, ...]) -> None:
    y = quantize(np.full(shape, 0.3, np.float32), "e4m3fn", **EVEN)
    assert (y.shape, y.dtype) == (shape, np.float32)
    assert (y == np.float32(0.3125)).all()


def test_strided_and_transposed_inputs() -> None:
    x = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
    expected = quantize(x, "e4m3fn", **EVEN)
    assert np.array_equal(quantize(x.T, "e4m3fn", **EVEN), expected.T)
    assert np.array_equal(quantize(x[::-2, ::3], "e4m3fn", **EVEN), expected[::-2, ::3])
    reversed_ = quantize(x[::-1], "e4m3fn", **EVEN)
    assert np.array_equal(reversed_, expected[::-1])


@pytest.mark.parametrize("format", ["e4m3fn", "e4m3fnuz", "bf16", "e8m0", "fp32"])
def test_out_may_be_the_input_or_overlap_it(format: str) -> None:
    n = _BLOCK + 20_000  # so that a block is written before another is read
    x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    x[5:9] = [np.nan, -np.nan, np.inf, -1e38]
    expected = bits(quantize(x, format, rounding="nearest_even", overflow="nonsaturate"))
    same = x.copy()
    result = quantize(same, format, rounding="nearest_even", overflow="nonsaturate", out=same)
    assert result is same
    assert np.array_equal(bits(same), expected)
    every_other = np.repeat(x, 2)
    quantize(every_other[::2], format, rounding="nearest_even", overflow="nonsaturate", out=every_other[:n])
    assert np.array_equal(bits(every_other[:n]), expected)
    shifted = np.concatenate([x, np.zeros(1, np.float32)])
    quantize(shifted[:-1], format, rounding="nearest_even", overflow="nonsaturate", out=shifted[1:])
    assert np.array_equal(bits(shifted[1:]), expected)


def test_the_input_is_left_alone_and_nothing_warns() -> None:
    x = np.array([0x7F800001, 0xFF800001, 0x7F800000, 0x7F7FFFFF, 1], np.uint32).view(np.float32)  # signaling NaN, ...
    before = x.copy().view(np.uint32)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        for format in [f for f in FORMATS.values() if f.has_nan]:
            for rounding in DETERMINISTIC:
                quantize(x, format, rounding=rounding, overflow="nonsaturate")
    assert np.array_equal(x.view(np.uint32), before)


# --- Cast, and its refusals -------------------------------------------------------------------------------------------


def test_a_cast_is_a_record() -> None:
    cast = Cast("e4m3fn", "nearest_even", "saturate")
    assert cast.format is FORMATS["float8_e4m3fn"]
    assert str(cast) == "float8_e4m3fn/nearest_even/saturate"
    assert repr(cast) == "Cast('float8_e4m3fn', 'nearest_even', 'saturate')"
    assert {cast: 1}[Cast("float8_e4m3fn", "nearest_even", "saturate")] == 1
    assert pickle.loads(pickle.dumps(cast)) == copy.deepcopy(cast) == cast
    assert dataclasses.replace(cast, rounding="up") == Cast("e4m3fn", "up", "saturate") != cast
    with pytest.raises(dataclasses.FrozenInstanceError):
        cast.rounding = "up"
    x = np.float32([0.3, 500])
    assert cast(x).tolist() == quantize(x, "e4m3fn", **EVEN).tolist() == [0.3125, 448.0]
    random = np.full(2, 2**32 - 1, np.uint32)
    assert Cast("e4m3fn", "stochastic", "saturate")(x, random).tolist() == [0.3125, 448.0]


def _message(error: type[Exception], f, *args, **kwargs) -> str:
    with pytest.raises(error) as caught:
        f(*args, **kwargs)
    return str(caught.value)


SWAPPED = np.dtype("float32").newbyteorder().str


@pytest.mark.parametrize("dtype", ["bool", "complex64", "longdouble", SWAPPED, "M8[s]", "U3"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    x = np.zeros(3, getattr(ml_dtypes, dtype, dtype))
    expected = f"quantize to float16: x is an array of {x.dtype}, expected float64 or narrower floats, or integers"
    assert _message(CarrierError, quantize, x, "fp16", **EVEN) == expected


def test_error_texts() -> None:
    x = np.zeros((2, 3), np.float32)
    nan = x.copy()
    nan[1, 2] = np.nan
    stochastic = {"rounding": "stochastic", "overflow": "saturate"}
    assert _message(FormatError, quantize, nan, "e2m1", **EVEN) == (
        "quantize to float4_e2m1fn: x is NaN at index (1, 2), and float4_e2m1fn has no NaN"
    )
    assert _message(FormatError, quantize, x, "fp16", rounding="nearest", overflow="saturate") == (
        "quantize: unknown rounding 'nearest'; known: nearest_even, toward_zero, up, down, nearest_away, stochastic"
    )
    assert _message(FormatError, Cast, "fp16", "up", "clip") == (
        "Cast: unknown overflow 'clip'; known: saturate, nonsaturate"
    )
    assert _message(ArgumentError, quantize, x, "fp16", **stochastic) == (
        "quantize: rounding 'stochastic' needs random_bits, uint32 of shape (2, 3)"
    )
    assert _message(ArgumentError, quantize, x, "fp16", **EVEN, random_bits=np.zeros((2, 3), np.uint32)) == (
        "quantize: random_bits given, but rounding is 'nearest_even', which uses none"
    )
    assert _message(CarrierError, quantize, x, "fp16", **stochastic, random_bits=np.zeros((2, 3), np.int64)) == (
        "quantize: random_bits is int64, expected an array of uint32"
    )
    assert _message(CarrierError, quantize, x, "fp16", **stochastic, random_bits=7) == (
        "quantize: random_bits is int, expected an array of uint32"
    )
    assert _message(ShapeError, quantize, x, "fp16", **stochastic, random_bits=np.zeros(6, np.uint32)) == (
        "quantize: random_bits has shape (6,), expected that of x, (2, 3)"
    )
    assert _message(CarrierError, quantize, x, "fp16", **EVEN, out=np.zeros((2, 3))) == (
        "quantize: out is float64, expected an array of float32"
    )
    assert _message(ShapeError, quantize, x, "fp16", **EVEN, out=np.zeros(3, np.float32)) == (
        "quantize: out has shape (3,), expected that of x, (2, 3)"
    )
    assert _message(ArgumentError, quantize, x, "fp16", **EVEN, out=np.zeros((2, 6), np.float32)[:, ::2]) == (
        "quantize: out must be writeable, and contiguous, its axes in any order"
    )


def test_rounding_and_overflow_have_no_default() -> None:
    with pytest.raises(TypeError):
        quantize(np.zeros(3), "fp16")
    with pytest.raises(TypeError):
        Cast("fp16")
