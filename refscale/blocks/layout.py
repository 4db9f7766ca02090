"""Memory layouts of codes on hardware: two 4-bit codes in a byte, and scales in the tiles that cuBLAS reads.

Layouts only move codes. Each function has an inverse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.arguments import integer
from refscale.arrays import plain
from refscale.errors import CarrierError, FormatError, ShapeError

Bytes = NDArray[np.uint8]

ROWS, COLUMNS = 128, 4
"""Numbers of rows and of blocks per row of a tile of scales."""


def pack_nibbles(codes: ArrayLike) -> Bytes:
    """Pack two 4-bit codes into a byte along the last axis, the first in the low half.

        byte_i = codes_2i + 16·codes_(2i+1)

    Args:
        codes: uint8 below 16, (…, n), n even.

    Returns:
        uint8 (…, n/2).

    Raises:
        CarrierError: the codes are not uint8.
        FormatError: a code is ≥ 16.
        ShapeError: n is odd, or the array has no axis.

    Source: torch.float4_e2m1fn_x2; CUDA's ``__nv_fp4x2_storage_t``, first element in bits 0 to 3.
    """
    x = _bytes("pack_nibbles", codes)
    if x.ndim == 0 or x.shape[-1] % 2:
        raise ShapeError(f"pack_nibbles: shape {x.shape}, expected an even number along the last axis")
    if x.size and int(x.max()) > 15:
        raise FormatError(f"pack_nibbles: code {int(x.max()):#x}, expected below 0x10")
    return np.asarray(x[..., ::2] | (x[..., 1::2] << np.uint8(4)))


def unpack_nibbles(packed: ArrayLike) -> Bytes:
    """Unpack 4-bit codes, the inverse of ``pack_nibbles``: uint8 (…, n) to (…, 2n)."""
    x = _bytes("unpack_nibbles", packed)
    if x.ndim == 0:
        raise ShapeError("unpack_nibbles: a scalar, expected at least one axis")
    return np.stack([x & np.uint8(15), x >> np.uint8(4)], -1).reshape(*x.shape[:-1], 2 * x.shape[-1])


def tile_scales(scales: ArrayLike) -> Bytes:
    """Arrange codes of scales in the order in which cuBLAS reads them.

    A tile has the scales of 128 rows, 4 blocks each, in 512 bytes; scale (r, c) of a tile has the position
    ``(r mod 32)·16 + (r div 32)·4 + c``. Tiles are ordered along the blocks, then along the rows; missing scales of the
    last tiles are zero.

    Args:
        scales: uint8, (rows, blocks of a row): ``BlockCodes.scales`` of blocks along the last axis.

    Returns:
        A flat uint8 array, 512 bytes for each tile.

    Source: cuBLAS documentation, "1D Block Scaling Factors Layout"; PTX ISA, ``tcgen05.mma`` with block scaling.
    """
    x = _bytes("tile_scales", scales)
    if x.ndim != 2:
        raise ShapeError(f"tile_scales: shape {x.shape}, expected (rows, blocks)")
    rows, columns = -(-x.shape[0] // ROWS), -(-x.shape[1] // COLUMNS)
    filled = np.zeros((rows * ROWS, columns * COLUMNS), np.uint8)
    filled[: x.shape[0], : x.shape[1]] = x
    tiles = filled.reshape(rows, 4, 32, columns, COLUMNS)  # tile row, r div 32, r mod 32, tile column, c
    return tiles.transpose(0, 3, 2, 1, 4).reshape(-1)


def untile_scales(tiled: ArrayLike, shape: tuple[int, int]) -> Bytes:
    """Restore the order of the codes of scales, the inverse of ``tile_scales``.

    Args:
        tiled: flat uint8 array.
        shape: shape of the result, (rows, blocks of a row).
    """
    x = _bytes("untile_scales", tiled)
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise ShapeError(f"untile_scales: shape is {shape!r}, expected (rows, blocks)")
    shape = (integer("untile_scales", "shape[0]", shape[0], 0), integer("untile_scales", "shape[1]", shape[1], 0))
    rows, columns = -(-shape[0] // ROWS), -(-shape[1] // COLUMNS)
    if x.shape != (rows * columns * ROWS * COLUMNS,):
        raise ShapeError(f"untile_scales: shape {x.shape}, expected ({rows * columns * ROWS * COLUMNS},) for {shape}")
    tiles = x.reshape(rows, columns, 32, 4, COLUMNS).transpose(0, 3, 2, 1, 4)
    return tiles.reshape(rows * ROWS, columns * COLUMNS)[: shape[0], : shape[1]].copy()


def _bytes(call: str, codes: ArrayLike) -> NDArray[Any]:
    x = plain(call, "codes", codes)
    if x.dtype != np.uint8:
        raise CarrierError(f"{call}: an array of {x.dtype}, expected uint8")
    return x
