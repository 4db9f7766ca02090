"""Layouts: where each code goes, by the formula, and back again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refscale.blocks.layout import pack_nibbles, tile_scales, unpack_nibbles, untile_scales
from refscale.errors import ArgumentError, CarrierError, FormatError, ShapeError

NIBBLES = hnp.arrays(
    np.uint8, hnp.array_shapes(max_dims=3).map(lambda s: (*s[:-1], 2 * s[-1])), elements=st.integers(0, 15)
)


def test_nibbles_by_hand():
    assert pack_nibbles(np.uint8([[1, 2, 0xF, 0]])).tolist() == [[0x21, 0x0F]]


@given(NIBBLES)
def test_nibbles_come_back(codes):
    packed = pack_nibbles(codes)
    assert packed.shape == (*codes.shape[:-1], codes.shape[-1] // 2)
    assert np.array_equal(unpack_nibbles(packed), codes)


@pytest.mark.parametrize("shape", [(1, 1), (128, 4), (130, 3), (300, 9), (31, 64)])
def test_every_scale_stands_where_the_formula_says(shape):
    rng = np.random.default_rng(0)
    scales = rng.integers(1, 256, shape, np.uint8)
    tiled = tile_scales(scales)
    across = -(-shape[1] // 4)
    assert tiled.size == 512 * across * -(-shape[0] // 128)
    used = np.zeros(tiled.size, bool)
    for r, c in np.ndindex(*shape):
        tile = (r // 128) * across + c // 4
        offset = 512 * tile + (r % 32) * 16 + (r % 128 // 32) * 4 + c % 4
        assert tiled[offset] == scales[r, c]
        used[offset] = True
    assert (tiled[~used] == 0).all()
    assert np.array_equal(untile_scales(tiled, shape), scales)


def test_errors():
    with pytest.raises(ShapeError, match="expected an even number"):
        pack_nibbles(np.uint8([1, 2, 3]))
    with pytest.raises(FormatError, match="code 0x10, expected below 0x10"):
        pack_nibbles(np.uint8([16, 0]))
    with pytest.raises(CarrierError, match="an array of int64, expected uint8"):
        pack_nibbles(np.int64([1, 0]))
    with pytest.raises(ShapeError, match="a scalar"):
        unpack_nibbles(np.uint8(1))
    with pytest.raises(ShapeError, match=r"expected \(rows, blocks\)"):
        tile_scales(np.zeros(3, np.uint8))
    with pytest.raises(ShapeError, match=r"expected \(512,\) for \(3, 2\)"):
        untile_scales(np.zeros(3, np.uint8), (3, 2))
    tiled = tile_scales(np.ones((3, 2), np.uint8))
    assert untile_scales(tiled, (np.int64(3), np.uint8(2))).tolist() == [[1, 1]] * 3
    for shape in (3, (3,), (3, 2, 1), None):
        with pytest.raises(ShapeError, match=r"untile_scales: shape is .*, expected \(rows, blocks\)"):
            untile_scales(tiled, shape)
    for shape in ((3, 2.0), (-3, 2)):
        with pytest.raises(ArgumentError, match=r"untile_scales: shape\[\d\] is .*, expected an integer ≥ 0"):
            untile_scales(tiled, shape)
