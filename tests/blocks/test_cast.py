"""Arrays equal the specification on every input; blocks along any axis; invalid input is refused by name."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refscale.blocks import (
    ARITHMETICS,
    BLOCK_FORMATS,
    SCALE_RULES,
    BlockCast,
    BlockCodes,
    Blocks,
    decode_blocks,
    encode_blocks,
    get_block_cast,
    quantize_blocks,
    split_blocks,
)
from refscale.errors import ArgumentError, CarrierError, FormatError, ShapeError
from refscale.formats import Format
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
    if cast.nonfinite == "ignore" and not cast.element.has_nan and np.isnan(x).any():
        for call in (by_block, split_blocks):
            with pytest.raises(FormatError, match="NaN"):
                call(x, cast, words)
        return
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


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_blocks_of_many_axes_in_any_order_in_memory(order):
    """A stack of matrices, whose axes lie in memory in each of six ways: lines along each axis, and squares."""
    x = near(4, (4, 5, 7))
    laid = x.transpose(order).copy().transpose(np.argsort(order))
    assert same(laid, x)
    for cast in (
        *(get_block_cast("mxfp4", block=3, axis=a) for a in range(3)),
        get_block_cast("nvfp4_16x16", block=(2, 3)),
    ):
        elements, scales, t = by_block(x, cast)
        parts = split_blocks(laid, cast)
        assert same(parts.elements, elements)
        assert same(parts.scales, scales)
        assert parts.tensor_scale == t


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_an_underflow_keeps_its_sign(arithmetic):
    """The largest float32 beside its smallest: the quotient is beyond float32."""
    cast = get_block_cast("fp8_1x128", arithmetic=arithmetic, block=2)
    x = np.float32([[-np.finfo(np.float32).max, 2.0**-149], [2.0**127, -(2.0**-149)]])
    assert same(split_blocks(x, cast).elements, [[-448.0, 0.0], [448.0, -0.0]])
    assert same(by_block(x, cast)[0], [[-448.0, 0.0], [448.0, -0.0]])


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
    """Longer than the internal batch, along both axes and in squares."""
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
    with pytest.raises(FormatError, match="get_block_cast: expected a name or a BlockCast, got 4"):
        quantize_blocks(x, 4)
    with pytest.raises(ArgumentError, match="quantize_blocks: random_bits given, but rounding is 'nearest_even'"):
        quantize_blocks(x, "mxfp4", np.zeros((2, 4), np.uint32))
    with pytest.raises(CarrierError, match="quantize_blocks: random_bits is list, expected an array of uint32"):
        quantize_blocks(x, get_block_cast("mxfp4", rounding="stochastic"), [0] * 8)
    for dtype in (np.float16, None, np.int32):
        with pytest.raises(CarrierError, match=r"quantize_blocks: dtype is .*, expected float32 or float64"):
            quantize_blocks(x, "mxfp4", dtype=dtype)
        with pytest.raises(CarrierError, match=r"decode_blocks: dtype is .*, expected float32 or float64"):
            decode_blocks(encode_blocks(x, "mxfp4"), dtype=dtype)
    with pytest.raises(CarrierError, match="decode_blocks: an object of ndarray, expected BlockCodes"):
        decode_blocks(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"element": "float16"}, "expected a signed format of at most 8 bits"),
        ({"element": "e8m0"}, "expected a signed format of at most 8 bits"),
        ({"block": 0}, "expected n ≥ 1, or"),
        ({"block": (2, 2, 2)}, "expected n ≥ 1, or"),
        ({"block": (2, 2), "axis": 0}, "axis -1"),
        ({"scale": "e2m1"}, "expected a format with NaN and some range"),
        ({"scale": Format("e2m3", 2, 3, 1, "all_ones")}, "expected a format with NaN and some range"),
        ({"rule": "round"}, "unknown rule 'round'; known: floor"),
        ({"arithmetic": "divide"}, "powers of two are exact"),
        ({"tensor_scale": True}, "powers of two are exact"),
        ({"rule": "amax"}, "that format represents powers of two only"),
        ({"rule": "amax", "scale": "float32", "tensor_scale": True}, "expected at most 16 bits"),
        ({"rule": "amax", "scale": "bfloat16", "tensor_scale": True}, "products with elements within float32"),
        ({"nonfinite": "zero"}, "unknown nonfinite 'zero'"),
        ({"rounding": "even"}, "unknown rounding 'even'"),
    ],
)
def test_records_that_make_no_format(arguments, message):
    with pytest.raises(FormatError, match=message):
        BlockCast(**{"element": "e4m3fn", "block": 32, **arguments})


@pytest.mark.parametrize("least", [math.nan, -1, math.inf, -math.inf, 0.3, 2.0**-10, 449, 480, 1e300])
def test_the_smallest_scale_is_a_value_of_the_scale_format(least):
    """Of e4m3fn: 2^-9 to 448."""
    with pytest.raises(FormatError, match=r"BlockCast\(least=.*\): expected 0 or a positive value of float8_e4m3fn"):
        get_block_cast("nvfp4", least=least)


@pytest.mark.parametrize("least", [2.0**-9, 0.3125, 448, np.float32(1), 0])
def test_the_smallest_scale_is_used(least):
    cast = get_block_cast("nvfp4", least=least, block=2)
    parts = split_blocks(np.float32([[2688.0, 0, 1e-3, 0]]), cast)  # T = 1
    assert parts.scales.tolist() == [[448.0, float(least)]]
    assert math.copysign(1, get_block_cast("nvfp4", least=-0.0).least) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": 1.5}, "BlockCast: block is 1.5, expected an integer"),
        ({"block": "32"}, "BlockCast: block is '32', expected an integer"),
        ({"block": (16, None)}, "BlockCast: block is None, expected an integer"),
        ({"block": True}, "BlockCast: block is True, expected an integer"),
        ({"axis": "a"}, "BlockCast: axis is 'a', expected an integer"),
        ({"axis": 1.5}, "BlockCast: axis is 1.5, expected an integer"),
        ({"tensor_scale": "row"}, "BlockCast: tensor_scale is 'row', expected True or False"),
        ({"tensor_scale": 1}, "BlockCast: tensor_scale is 1, expected True or False"),
        ({"least": "1"}, "BlockCast: least is '1', expected a number"),
    ],
)
def test_fields_of_another_type(arguments, message):
    with pytest.raises(ArgumentError) as caught:
        BlockCast(**{"element": "e2m1", "block": 16, "scale": "e4m3fn", "rule": "amax", **arguments})
    assert str(caught.value) == message


def test_integers_of_numpy_are_integers():
    cast = BlockCast("e4m3fn", np.int64(32), axis=np.int8(0))
    assert cast == get_block_cast("mxfp8_e4m3", axis=0)
    assert type(cast.block[0]) is type(cast.axis) is int
    assert BlockCast("e4m3fn", (np.uint8(2), 3)).block == BlockCast("e4m3fn", [2, 3]).block == (2, 3)
    nvfp4 = get_block_cast("nvfp4", tensor_scale=np.True_)
    assert nvfp4 == BLOCK_FORMATS["nvfp4"]
    assert nvfp4.tensor_scale is True


@pytest.mark.parametrize("record", [BlockCodes, Blocks])
def test_a_scale_of_the_tensor(record):
    def of(name, t):
        x = encode_blocks(np.ones((2, 4), np.float32), name)
        return record(name, x.codes, x.scales, t)

    for t in (0.5, np.float32(0.5), np.array(0.5, np.float32)):
        assert of("nvfp4", t).tensor_scale == 0.5
        assert type(of("nvfp4", t).tensor_scale) is float
    assert of("mxfp4", 1).cast is BLOCK_FORMATS["mxfp4"]
    with pytest.raises(ArgumentError, match=r"tensor_scale is 0.5, expected 1: .* by floor has no scale of the tensor"):
        of("mxfp4", 0.5)
    for t in (0.0, -1.0, math.nan, math.inf, 0.1, 2.0**-150, 1e300):
        with pytest.raises(ArgumentError, match="expected a positive value of float32"):
            of("nvfp4", t)
    for t in ("row", None, np.ones((2, 1), np.float32), [1.0]):
        with pytest.raises(ArgumentError, match=r"tensor_scale is .*, expected a number"):
            of("nvfp4", t)
    with pytest.raises(FormatError, match="unknown block format 'mxfp5'"):
        record("mxfp5", None, None, 1.0)


def test_an_infinity_beside_nothing_finite():
    """Ignored, it leaves a scale of zero, which its element does not see: a zero in all, by the specification."""
    for name, top in (("nvfp4", 6.0), ("fp8_1x128", 448.0)):
        cast = get_block_cast(name, nonfinite="ignore", block=4)
        x = np.float32([[np.inf, -np.inf, 0.0, -0.0]])
        for arithmetic in ARITHMETICS:
            parts = split_blocks(x, get_block_cast(cast, arithmetic=arithmetic))
            assert same(parts.elements, [[top, -top, 0.0, -0.0]])
            assert parts.scales.tolist() == [[0.0]]
            assert same(parts.wide(), [[0.0, -0.0, 0.0, -0.0]])


@pytest.mark.parametrize(("dtype", "tiny"), [(np.float32, 2.0**-149), (np.float64, 5e-324)])
def test_a_quotient_below_the_carrier_is_rounded_up(dtype, tiny):
    """amax 2^18: s = 2^10. tiny/2^10 is not a carrier number, but above 0: up from there is e4m3fn's 2^-9."""
    for rounding, expected in (("up", [2.0**18, 2.0, -0.0]), ("down", [2.0**18, 0.0, -2.0])):
        cast = get_block_cast("mxfp8_e4m3", rounding=rounding)
        assert same(quantize_blocks(np.array([[2.0**18, tiny, -tiny]], dtype), cast), [expected])


def test_a_reciprocal_beyond_float32_saturates():
    """T = 2^-128, s = 2^-9: 1/(s·T) is the largest float32, not 2^137, and elements of 2^-7 are 0."""
    x = np.float32([[2.0**-135, -(2.0**-136)]])
    elements, scales, t = by_block(x, get_block_cast("nvfp4", block=2))
    parts = split_blocks(x, get_block_cast("nvfp4", block=2))
    assert t == parts.tensor_scale == 2.0**-128
    assert scales.item() == parts.scales.item() == 2.0**-9
    assert same(elements, [[0.0, -0.0]])
    assert same(parts.elements, elements)


@pytest.mark.parametrize(
    ("arithmetic", "t", "s", "element"),
    [
        ("exact", 2.0**-149, 11 / 64, 6.0),  # a sixth is 11/64 in e4m3fn; 64/11 is 6 in e2m1
        ("divide", 2.0**-149, 0.0, 0.0),  # float32 has no sixth of its smallest number
        ("reciprocal", 2.0**-128, 0.0, 0.0),  # E = 2688·2^149 saturates, and T is the reciprocal of the largest float32
    ],
)
def test_the_smallest_tensor(arithmetic, t, s, element):
    """amax 2^-149: amax/2688 is zero in float32, and T is its smallest number instead."""
    cast = get_block_cast("nvfp4", arithmetic=arithmetic, block=2)
    parts = split_blocks(np.float32([[2.0**-149, -0.0]]), cast)
    assert (parts.tensor_scale, parts.scales.item()) == (t, s)
    assert same(parts.elements, [[element, -0.0]])


def test_ignored_specials_leave_the_scale_to_the_finite():
    """amax 3: 2^⌊log2 3⌋·2^-2 = 2^-1 for e2m1, and 448·2^-7 for e4m3fn, where NaN is an element."""
    four = get_block_cast("mxfp4", nonfinite="ignore", block=4)
    assert quantize_blocks([[3.0, np.inf, -np.inf, 1.0]], four).tolist() == [[3.0, 3.0, -3.0, 1.0]]
    eight = get_block_cast("mxfp8_e4m3", nonfinite="ignore", block=4)
    assert same(quantize_blocks([[3.0, np.inf, np.nan, 1.0]], eight), [[3.0, 3.5, np.nan, 1.0]])
    assert encode_blocks([[3.0, np.inf, np.nan, 1.0]], eight).scales.tolist() == [[127 - 7]]


def test_the_table():
    assert set(SCALE_RULES) == {"floor", "ceil", "rceil", "even", "nearest", "amax"}
    assert str(BLOCK_FORMATS["nvfp4"]) == (
        "float4_e2m1fn in blocks of 1 × 16, scales float8_e4m3fn and float32 by amax"
    )
    assert get_block_cast("MXFP4") is BLOCK_FORMATS["mxfp4"]
    assert get_block_cast("mxfp4", axis=0).axis == 0
