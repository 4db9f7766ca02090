"""The values of block-scaled codes by hand: scales, orders of multiplication, signs of scales."""

import numpy as np
import pytest

from refscale.blocks import BLOCK_FORMATS, Blocks, dequantize_blocks, get_block_cast
from refscale.errors import ArgumentError
from refscale.formats import Cast

FLOAT32 = Cast("float32", "nearest_even", "nonsaturate")
BF16 = Cast("bfloat16", "nearest_even", "nonsaturate")


def test_values_by_hand():
    cast = get_block_cast("mxfp4", block=2)
    x = Blocks(cast, np.float32([[1.0, -6.0, 0.5]]), np.float32([[2.0**-127, 2.0**127]]), 1.0)
    assert dequantize_blocks(x, FLOAT32).tolist() == [[2.0**-127, -6 * 2.0**-127, 2.0**126]]
    dead = Blocks(cast, np.float32([[1.0, -6.0, 0.5]]), np.float32([[np.nan, 1.0]]), 1.0)
    assert np.isnan(dequantize_blocks(dead, FLOAT32)).tolist() == [[True, True, False]]


def test_the_order_of_multiplication_decides():
    """T = 1 + 3·2^-23, s = 1.125, e = 3: fl(s·T)·3 is a tie, 4.5 units above 3.375; the real product is 5.06 units."""
    t, s, e = np.float32(1 + 3 * 2.0**-23), np.float32(1.125), np.float32(3)
    x = Blocks(get_block_cast("nvfp4", block=1), np.float32([e]), np.float32([s]), float(t))
    assert dequantize_blocks(x, FLOAT32)[0] == np.float32(np.float64(t) * np.float64(s) * np.float64(e))
    assert dequantize_blocks(x, FLOAT32, "scale_first")[0] == (s * t) * e
    assert dequantize_blocks(x, FLOAT32, "element_first")[0] == (s * e) * t
    assert (s * t) * e == 3.375 + 4 * 2.0**-22
    assert (s * e) * t == 3.375 + 5 * 2.0**-22


def test_a_value_is_rounded_once():
    """s·e lies just above a tie of bfloat16; float32 rounds it to the tie."""
    s = np.float32(1 + 2.0**-8 / 1.75 + 2.0**-20)
    found = set()
    for _ in range(200):
        s = np.nextafter(s, np.float32(2))
        x = Blocks(BLOCK_FORMATS["fp8_1x128"], np.float32([1.75]), np.float32([s]), 1.0)
        once, twice = dequantize_blocks(x, BF16), dequantize_blocks(x, BF16, "scale_first")
        right = Cast("bfloat16", "nearest_even", "nonsaturate")(np.float64([np.float64(s) * 1.75]))
        assert once == right
        found.add(bool(once == twice))
    assert True in found


def test_signs_of_scales():
    x = Blocks(get_block_cast("nvfp4", block=1), np.float32([3.0, 3.0]), np.float32([-0.5, np.nan]), 1.0)
    assert dequantize_blocks(x, FLOAT32)[0] == -1.5
    y = dequantize_blocks(x.without_scale_signs(), FLOAT32)
    assert y[0] == 1.5
    assert np.isnan(y[1])


def test_an_unknown_order_is_named():
    x = Blocks(get_block_cast("nvfp4", block=1), np.float32([3.0]), np.float32([0.5]), 1.0)
    with pytest.raises(ArgumentError, match="arithmetic='both'"):
        dequantize_blocks(x, FLOAT32, "both")
