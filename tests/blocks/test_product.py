"""Products of block-scaled matrices against rationals, on operands that betray a wrong order, scale or rounding."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale.blocks import BLOCK_FORMATS, Blocks, block_matmul, get_block_cast, split_blocks
from refscale.errors import ArgumentError, CarrierError, ShapeError
from refscale.formats import Cast, round_exact
from refscale.testing.equality import assert_same_bits
from refscale.testing.strategies import block_casts

FLOAT32 = Cast("float32", "nearest_even", "nonsaturate")
OUTPUTS = [Cast(f, r, "nonsaturate") for f in ("float32", "bfloat16") for r in ("nearest_even", "toward_zero")]


def fl(x: Fraction) -> Fraction:
    return Fraction(round_exact(x, "float32", rounding="nearest_even", overflow="saturate"))


def along(cast, axis):
    return get_block_cast(cast, axis=axis if len(cast.block) == 1 else -1, overflow="saturate")


def operands(left, right, seed, m, k, n, spread, cancel):
    rng = np.random.default_rng(seed)
    a, b = (
        (rng.standard_normal(s) * 2.0 ** rng.integers(-spread, spread + 1, s)).astype(np.float32)
        for s in ((m, k), (k, n))
    )
    if cancel and k > 1:  # sums that vanish except for the last block
        half = k // 2
        a[:, half : 2 * half], b[half : 2 * half] = -a[:, :half], b[:half]
    return split_blocks(a, along(left, -1)), split_blocks(b, along(right, -2))


PAIRS = st.builds(
    operands,
    block_casts(),
    block_casts(),
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from([1, 8, 30]),
    st.booleans(),
)


def parts(x):
    to = np.vectorize(Fraction, otypes=[object])
    return to(x.elements.astype(np.float64)), to(x.scale_of_each(np.float64)), Fraction(x.tensor_scale)


@given(PAIRS, st.sampled_from(OUTPUTS))
def test_exact_is_the_real_sum_rounded_once(pair, cast):
    a, b = pair
    (ea, sa, ta), (eb, sb, tb) = parts(a), parts(b)
    expected = [
        [float(round_exact(ta * tb * sum(row * column, Fraction(0)), cast.format, rounding=cast.rounding,
                           overflow=cast.overflow)) for column in (eb * sb).T]
        for row in ea * sa
    ]  # fmt: skip
    assert np.array_equal(block_matmul(a, b, cast), np.float32(expected))


@given(PAIRS, st.sampled_from(["exact", "float32"]))
def test_block_sums_are_added_in_order(pair, inner):
    a, b = pair
    (ea, sa, ta), (eb, sb, tb) = parts(a), parts(b)
    k = a.shape[-1]
    cuts = sorted({*range(0, k, a.cast.block[-1]), *range(0, k, b.cast.block[0]), k})
    y = block_matmul(a, b, FLOAT32, f"blocks:{inner}")
    for i, j in np.ndindex(*y.shape):
        total = Fraction(0)
        for start, stop in pairwise(cuts):
            terms = [ea[i, p] * eb[p, j] for p in range(start, stop)]
            part = Fraction(0)
            for term in [sum(terms, Fraction(0))] if inner == "exact" else terms:
                part = fl(part + fl(term))
            total = fl(total + fl(part * fl(sa[i, start] * sb[start, j])))
        assert y[i, j] == float(fl(total * fl(ta * tb)))


EXTREMES = [2.0**-149, 2.0**-126 * 1.25, float(np.float32(3.7e-34)), 1.0, float(np.float32(1.3e33)), 2.0**127 * 1.5]


@pytest.mark.parametrize("mode", ["nearest_even", "nearest_away", "toward_zero", "up", "down"])
def test_every_pair_of_tensor_scales(mode):
    """Real products from 2^-298 to 2^256, times sums of both signs and zero, rounded once."""
    elements = np.float32([[6, 0.5, 3, 2], [-6, -0.5, 1, 1], [1, 1, 2, -2], [0, 0, -0.5, 0]])
    along, across = get_block_cast("nvfp4", block=4), get_block_cast("nvfp4", block=4, axis=-2)
    scales = np.float32([[448], [1], [1], [2.0**-9]])
    ones = np.float32([[1], [1], [1], [1]])
    sums = [Fraction(448 * 23, 2), Fraction(-9, 2), Fraction(2), Fraction(-1, 1024)]
    for output in ("float32", "bfloat16", "float8_e4m3fn"):
        cast = Cast(output, mode, "nonsaturate")
        for ta in EXTREMES:
            for tb in EXTREMES:
                a, b = Blocks(along, elements, scales, ta), Blocks(across, ones, np.float32([[1]]), tb)
                factor = Fraction(ta) * Fraction(tb)
                expected = [round_exact(s * factor, output, rounding=mode, overflow="nonsaturate") for s in sums]
                assert_same_bits(block_matmul(a, b, cast), np.float32(expected)[:, None])


def test_tensors_of_tiny_and_of_huge_numbers():
    """amax 1e-30: products of 1e-60 are zero in float32; amax 1e30: infinite; a sum of zero is zero in both."""

    def product(size, cast=FLOAT32, accumulate="exact"):
        x = np.float32([[size] * 4, [size, -size, size, -size], [-size] * 4])
        w = np.full((4, 1), size, np.float32)
        a, b = split_blocks(x, "nvfp4"), split_blocks(w, get_block_cast("nvfp4", axis=-2))
        return block_matmul(a, b, cast, accumulate)[:, 0]

    assert_same_bits(product(1e-30), np.float32([0.0, 0.0, -0.0]))
    assert_same_bits(product(1e-30, Cast("float32", "up", "nonsaturate")), np.float32([2.0**-149, 0.0, -0.0]))
    for size in (1e30, 3.4e33, 3e38):
        assert product(size).tolist() == [np.inf, 0.0, -np.inf]
        largest = float(np.finfo(np.float32).max)
        assert product(size, Cast("float32", "toward_zero", "nonsaturate")).tolist() == [largest, 0.0, -largest]
    # float32 has no 1e-67 and no 1e60: the models multiply by 0 and by infinity, as hardware does.
    assert_same_bits(product(1e-30, accumulate="float32"), np.float32([0.0, 0.0, -0.0]))
    huge = product(3e33, accumulate="blocks:float32")
    assert huge[0] == np.inf
    assert np.isnan(huge[1])


def test_the_order_shows():
    """Large, small, minus large: exact keeps the small one, float32 in order loses it, within a block or between."""
    large = np.float32([[448.0, 2.0**-9, -448.0]] * 1)
    ones = np.full((3, 1), 448.0, np.float32)
    cast = get_block_cast("mxfp8_e4m3", block=1)
    a = split_blocks(large * np.float32(2.0**12), cast)
    a = type(a)(a.cast, a.elements, a.scales * np.float32([[2.0**8, 2.0**-12, 2.0**8]]), 1.0)
    b = split_blocks(ones, get_block_cast(cast, axis=-2))
    real = block_matmul(a, b, FLOAT32).item()
    assert real == 448 * 2.0**-9
    assert block_matmul(a, b, FLOAT32, "blocks:exact").item() == 0.0
    assert block_matmul(a, b, FLOAT32, "float32").item() == 0.0


def test_promotion_keeps_what_tensor_cores_drop():
    """128 ones and 128 small terms: cut to 14 bits within a block, kept across blocks."""
    tiles = get_block_cast("fp8_1x128")
    x = np.concatenate([np.full((1, 128), 448.0), np.full((1, 128), 448.0 * 2.0**-14)], 1).astype(np.float32)
    w = np.ones((256, 1), np.float32)
    a, b = split_blocks(x, tiles), split_blocks(w, get_block_cast(tiles, axis=-2))
    real = block_matmul(a, b, FLOAT32).item()
    assert block_matmul(a, b, FLOAT32, "blocks:truncated:13:32").item() == pytest.approx(real, rel=2.0**-12)
    whole = block_matmul(a, b, FLOAT32, "truncated:8:32").item()
    assert whole < real * (1 - 2.0**-16)


@pytest.mark.parametrize("left", BLOCK_FORMATS)
def test_every_format_multiplies_every_other(left):
    for right in BLOCK_FORMATS.values():
        a, b = operands(BLOCK_FORMATS[left], right, 1, 3, 130, 2, 1, False)
        real = (a.wide(np.float64) @ b.wide(np.float64)).astype(np.float32)
        assert np.allclose(block_matmul(a, b, FLOAT32), real, rtol=2e-6, atol=1e-5)
        assert np.allclose(block_matmul(a, b, FLOAT32, "blocks:float32"), real, rtol=1e-4, atol=1e-4)


def test_leading_axes_broadcast():
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 40), (40, 5)))
    x, w = split_blocks(a, "mxfp8_e4m3"), split_blocks(b, get_block_cast("mxfp8_e4m3", axis=-2))
    for accumulate in ("exact", "blocks:exact", "float32"):
        y = block_matmul(x, w, FLOAT32, accumulate)
        assert y.shape == (2, 3, 5)
        one = block_matmul(split_blocks(a[1], "mxfp8_e4m3"), w, FLOAT32, accumulate)
        assert np.array_equal(y[1], one)


def test_errors():
    a = split_blocks(np.ones((2, 4), np.float32), "mxfp4")
    b = split_blocks(np.ones((4, 3), np.float32), get_block_cast("mxfp4", axis=-2))
    with pytest.raises(ShapeError, match=r"a \(2, 4\) and b \(2, 4\)"):
        block_matmul(a, a, FLOAT32)
    with pytest.raises(ShapeError, match="blocks of a along axis -1, of b along -1; expected those that are summed"):
        block_matmul(a, split_blocks(np.ones((4, 3), np.float32), "mxfp4"), FLOAT32)
    with pytest.raises(ArgumentError, match="does not define its sums, only a bound"):
        block_matmul(a, b, FLOAT32, "any-order")
    for name in ("blocks:float16", "blocks:", "blocks", None):
        with pytest.raises(ArgumentError, match="get_accumulator"):
            block_matmul(a, b, FLOAT32, name)
    with pytest.raises(CarrierError, match="block_matmul: b is an object of ndarray, expected Blocks"):
        block_matmul(a, np.ones((4, 3), np.float32), FLOAT32)
    with pytest.raises(ArgumentError, match="block_matmul: cast is 'float32', expected a Cast"):
        block_matmul(a, b, "float32")
    for name in ("exact", "float32"):
        with pytest.raises(ArgumentError, match="expected a deterministic rounding"):
            block_matmul(a, b, Cast("float32", "stochastic", "nonsaturate"), name)
