"""Arrays equal the specification on every input; blocks along any axis; what is wrong is refused by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refscale.blocks import (
    BLOCK_FORMATS,
    SCALE_RULES,
    BlockCast,
    BlockCodes,
    decode_blocks,
    encode_blocks,
    get_block_cast,
    quantize_blocks,
    split_blocks,
)
from refscale.errors import CarrierError, FormatError, ShapeError
from refscale.testing.strategies import block_casts, float_arrays
from tests.blocks.oracles import by_block, same

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)
ANY = float_arrays(np.float32, SHAPES)
FINITE = float_arrays(np.float32, SHAPES, allow_nan=False, allow_infinity=False)


def near(seed, shape, spread=6):
    """Normal numbers over some binades, of one float32 array."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(-spread, spread, shape)).astype(np.float32)


NEAR = st.builds(near, st.integers(0, 2**32), SHAPES, st.sampled_from([1, 6, 40]))


def check(x, cast, words=None):
    elements, scales, t = by_block(x, cast, words)
    parts = split_blocks(x, cast, words)
    assert same(parts.elements, elements)
    assert same(parts.scales, scales)
    assert parts.tensor_scale == t
    with np.errstate(all="ignore"):
        wide = quantize_blocks(x, cast, words)
        assert same(wide, parts.wide(np.float64).astype(np.float32))
    assert same(quantize_blocks(x, cast, words, dtype=np.float64), parts.wide(np.float64))
    assert same(decode_blocks(encode_blocks(x, cast, words)), wide)


@given(ANY | NEAR, block_casts())
def test_equal_to_the_specification(x, cast):
    check(x, cast)


@given(NEAR, block_casts(), st.integers(0, 2**32 - 1))
def test_stochastic_equals_the_specification(x, cast, seed):
    words = np.random.default_rng(seed).integers(0, 2**32, x.shape, np.uint32)
    check(x, get_block_cast(cast, rounding="stochastic"), words)


@given(float_arrays(np.float64, SHAPES), block_casts(st.just(BLOCK_FORMATS["mxfp8_e4m3"])))
def test_float64_is_rounded_once(x, cast):
    check(x, cast)


@given(float_arrays(np.float16, SHAPES, allow_nan=False), block_casts())
def test_half_precision_is_what_it_is_in_float32(x, cast):
    assert same(quantize_blocks(x, cast), quantize_blocks(x.astype(np.float32), cast))


@given(NEAR, block_casts())
def test_order_in_memory_does_not_matter(x, cast):
    assert same(quantize_blocks(np.asfortranarray(x), cast), quantize_blocks(x, cast))
    strided = np.repeat(x, 2, 1)[:, ::2]
    assert same(quantize_blocks(strided, cast), quantize_blocks(x, cast))


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_an_axis_is_the_last_one_of_an_array_turned(name, axis):
    cast = BLOCK_FORMATS[name]
    if len(cast.block) == 2:
        pytest.skip("squares have no axis")
    x = near(3, (5, 70, 130))
    turned = quantize_blocks(np.moveaxis(x, axis, -1).copy(), cast)
    assert same(quantize_blocks(x, get_block_cast(cast, axis=axis)), np.moveaxis(turned, -1, axis))


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 4), (1, 1), (300, 517), (2, 3, 200)])
def test_shapes(name, shape):
    cast = BLOCK_FORMATS[name]
    x = near(1, shape)
    if len(shape) < len(cast.block):
        with pytest.raises(ShapeError, match="has no axis"):
            quantize_blocks(x, cast)
        return
    parts = split_blocks(x, cast)
    assert parts.elements.shape == shape
    lead = shape[: -len(cast.block)]
    assert parts.scales.shape == lead + tuple(
        -(-n // b) for n, b in zip(shape[-len(cast.block) :], cast.block, strict=True)
    )
    assert same(quantize_blocks(x, cast), parts.wide())


def test_many_parts_at_a_time_are_one_array():
    """Longer than what is taken at a time, along both axes and in squares."""
    x = near(2, (700, 600))
    for cast in (get_block_cast("mxfp8_e5m2", axis=0), get_block_cast("mxfp4"), BLOCK_FORMATS["fp8_128x128"]):
        whole = quantize_blocks(x, cast)
        n = 128 if len(cast.block) == 2 else 32
        for start in (0, n, 640 // n * n):
            rows = slice(start, start + n)
            if len(cast.block) == 2 or cast.axis == 0:
                assert same(whole[rows], quantize_blocks(x[rows], cast))
            else:
                assert same(whole[:, rows.start : min(rows.stop, 600)], quantize_blocks(x[:, rows], cast))


@given(FINITE, block_casts(st.sampled_from([c for c in BLOCK_FORMATS.values() if c.rule != "amax"])))
def test_powers_of_two_scale_with_the_input(x, cast):
    """Four times the input is four times the result, where no scale is clipped."""
    x = np.where(np.abs(x) < 2.0**-60, 0, np.where(np.abs(x) > 2.0**60, 1, x)).astype(np.float32)
    one, four = (split_blocks(y, cast) for y in (x, 4 * x))
    assert same(one.elements, four.elements)
    moved = np.where(one.scales > 2.0**-127, one.scales * 4, four.scales)
    assert same(moved, four.scales)


@given(NEAR)
def test_rceil_never_saturates_and_floor_may(x):
    for name in ("mxfp8_e4m3", "mxfp4"):
        cast = get_block_cast(name, rule="rceil", block=2)
        parts = split_blocks(x, cast)
        assert (np.abs(x) <= parts.scale_of_each() * np.float32(cast.element.max)).all()


def test_codes_of_scales():
    codes = encode_blocks(np.float32([[1.0, 0.0], [np.nan, 1.0]]), get_block_cast("mxfp8_e4m3", block=2))
    assert codes.scales.tolist() == [[127 - 8], [0xFF]]
    assert codes.codes.tolist() == [[0x78, 0], [0, 0]]
    assert np.isnan(decode_blocks(codes)[1]).all()
    with pytest.raises(ShapeError, match=r"scales of shape \(1, 2\), expected \(2, 1\)"):
        decode_blocks(BlockCodes(codes.cast, codes.codes, codes.scales.T))


def test_errors_name_what_is_wrong():
    x = np.ones((2, 4), np.float32)
    with pytest.raises(FormatError, match="unknown block format 'mxfp5'; known: mxfp8_e4m3"):
        quantize_blocks(x, "mxfp5")
    with pytest.raises(CarrierError, match=r"x is an array of float64, expected float16, bfloat16 or float32$"):
        quantize_blocks(x.astype(np.float64), "nvfp4")
    with pytest.raises(CarrierError, match="x is an array of int64"):
        quantize_blocks(x.astype(np.int64), "mxfp4")
    with pytest.raises(ShapeError, match="has no axis 2"):
        quantize_blocks(x, get_block_cast("mxfp4", axis=2))
    with pytest.raises(ShapeError, match=r"random_bits has shape \(3,\)"):
        quantize_blocks(x, get_block_cast("mxfp4", rounding="stochastic"), np.zeros(3, np.uint32))
    with pytest.raises(FormatError, match="x is NaN"):
        quantize_blocks(x * np.nan, get_block_cast("mxfp4", nonfinite="ignore"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"element": "float16"}, "expected a signed format of at most 8 bits"),
        ({"element": "e8m0"}, "expected a signed format of at most 8 bits"),
        ({"block": 0}, "expected n ≥ 1, or"),
        ({"block": (2, 2, 2)}, "expected n ≥ 1, or"),
        ({"block": (2, 2), "axis": 0}, "axis -1"),
        ({"scale": "e2m1"}, "expected a format with NaN and some range"),
        ({"rule": "round"}, "unknown rule 'round'; known: floor"),
        ({"arithmetic": "divide"}, "powers of two are exact"),
        ({"tensor_scale": True}, "powers of two are exact"),
        ({"rule": "amax"}, "that format holds powers of two only"),
        ({"rule": "amax", "scale": "float32", "tensor_scale": True}, "at most 16 bits beside a scale of the tensor"),
        ({"nonfinite": "zero"}, "unknown nonfinite 'zero'"),
        ({"rounding": "even"}, "unknown rounding 'even'"),
    ],
)
def test_records_that_make_no_format(arguments, message):
    with pytest.raises(FormatError, match=message):
        BlockCast(**{"element": "e4m3fn", "block": 32, **arguments})


def test_the_table():
    assert set(SCALE_RULES) == {"floor", "ceil", "rceil", "even", "nearest", "amax"}
    assert str(BLOCK_FORMATS["nvfp4"]) == (
        "float4_e2m1fn in blocks of 1 × 16, scales float8_e4m3fn and float32 by amax"
    )
    assert get_block_cast("MXFP4") is BLOCK_FORMATS["mxfp4"]
    assert get_block_cast("mxfp4", axis=0).axis == 0
