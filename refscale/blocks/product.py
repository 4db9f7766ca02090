"""Products of block-scaled matrices, bit-exact, with models of the accumulators of hardware, by name.

    y_ij = T_a·T_b · Σ over blocks of s_a·s_b · Σ_k a_ik·b_kj            a, b elements

=====================  =============================================================================================
accumulate             the sum
=====================  =============================================================================================
``exact``              the real number, rounded once, by ``cast``
``blocks:NAME``        of each block by the accumulator of that name (``exact``: rounded once to float32), on elements;
                       block sums times fl(s_a·s_b), rounded to float32, are added in order to a float32; then
                       ``cast(total · fl(T_a·T_b))``
NAME                   by that accumulator on scaled elements, as if there were no blocks; then as above
=====================  =============================================================================================

NAME is any of ``exact.get_accumulator``. fl() is IEEE float32, as on hardware: fl(T_a·T_b) is zero or infinite where
the scales of both tensors are very small or large, and infinity times a sum of zero is NaN. ``exact`` takes the real
T_a·T_b.

``blocks:truncated:13:32`` of FP8 tiles models the 14 significant bits that DeepSeek-V3 (arXiv 2412.19437, section
3.3.2) found inside tensor cores, with its remedy, a promotion to float32 every 128 terms. If the blocks of a and b
differ, block sums end at the boundaries of both.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.blocks.parts import Blocks, block_axes
from refscale.errors import CarrierError, ShapeError
from refscale.exact import get_accumulator, matmul
from refscale.exact.accumulators import Accumulator
from refscale.exact.product import check_deterministic
from refscale.formats import Cast

Array = NDArray[Any]
Float32 = NDArray[np.float32]

_FLOAT32 = Cast("float32", "nearest_even", "nonsaturate")


def block_matmul(a: Blocks, b: Blocks, cast: Cast, accumulate: str = "exact") -> Float32:
    """Compute the product of two block-scaled matrices.

    Args:
        a: (…, M, K), in blocks along the last axis, or over the last two.
        b: (…, K, N), in blocks along the last axis but one, or over the last two; leading axes broadcast.
        cast: deterministic cast to the format of the output.
        accumulate: the accumulator, see the table of this module.

    Returns:
        float32 (…, M, N), values of the output format.

    Raises:
        CarrierError: an operand is not a ``Blocks``.
        ShapeError: the shapes do not fit, or blocks are not along the axis that is summed over.
        ArgumentError: the accumulator is unknown or does not define a sum, or the cast is stochastic.
    """
    for name, x in (("a", a), ("b", b)):
        if not isinstance(x, Blocks):
            raise CarrierError(
                f"block_matmul: {name} is an object of {type(x).__name__}, expected Blocks (split_blocks)"
            )
    check_deterministic("block_matmul", cast)
    _check(a, b)
    kind, colon, name = accumulate.partition(":") if isinstance(accumulate, str) else ("", "", "")
    if kind == "blocks" and colon:
        total = _by_block(a, b, name)
    elif accumulate == "exact":
        return matmul(a.scaled(), b.scaled(), cast, a.tensor_scale * b.tensor_scale)
    else:
        total = get_accumulator(accumulate).matmul(a.scaled(), b.scaled())
    with np.errstate(all="ignore"):
        alpha = np.float32(a.tensor_scale) * np.float32(b.tensor_scale)
        return cast(total.astype(np.float64) * np.float64(alpha))


def _check(a: Blocks, b: Blocks) -> None:
    left, right = (block_axes(x.cast, x.shape) for x in (a, b))
    if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"block_matmul: a {a.shape} and b {b.shape}, expected (…, M, K) and (…, K, N)")
    if left[-1] != len(a.shape) - 1 or right[0] != len(b.shape) - 2:
        raise ShapeError(
            f"block_matmul: blocks of a along axis {left[-1] - len(a.shape)}, of b along {right[0] - len(b.shape)}; "
            "expected those that are summed over, -1 and -2"
        )


def _by_block(a: Blocks, b: Blocks, name: str) -> Float32:
    """Block sums, scaled, added in order."""
    accumulator = get_accumulator(name)
    inner = a.shape[-1]
    at_a, at_b = a.cast.block[-1], b.cast.block[0]
    cuts = sorted({*range(0, inner, at_a), *range(0, inner, at_b), inner})
    rows, columns = _each(a.scales, a, -2), _each(b.scales, b, -1)
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    total = np.zeros(shape, np.float32)
    with np.errstate(all="ignore"):
        for start, stop in pairwise(cuts):
            part = _sum(accumulator, a.elements[..., start:stop], b.elements[..., start:stop, :])
            scale = rows[..., :, start // at_a, None] * columns[..., None, start // at_b, :]
            total = total + part * scale
    return total


def _each(scales: Float32, x: Blocks, axis: int) -> Float32:
    """The scales of squares, one to each index of the axis that is not summed over."""
    if len(x.cast.block) == 1:
        return scales
    n = x.cast.block[0] if axis == -2 else x.cast.block[1]
    return np.repeat(scales, n, axis).take(np.arange(x.shape[axis]), axis)


def _sum(accumulator: Accumulator, a: Array, b: Array) -> Float32:
    return matmul(a, b, _FLOAT32) if accumulator.name == "exact" else accumulator.matmul(a, b)
