"""An array in a block-scaled format, by its parts or by its bits, and its values from either."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.arguments import number
from refscale.arrays import plain
from refscale.blocks.table import BlockCast, get_block_cast, is_value
from refscale.errors import ArgumentError, CarrierError, ShapeError
from refscale.formats import Cast, decode

Array = NDArray[Any]

DEQUANTIZE_ARITHMETICS = ("exact", "scale_first", "element_first")
"""Orders of the two multiplications of ``dequantize_blocks``."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """An array in a block-scaled format, by its parts: tensor_scale · scales · elements.

    Attributes:
        cast: the format; a name becomes its record.
        elements: float32 or float64, of the array's shape, values of the element format.
        scales: float32, values of the scale format, one to a block: the array's shape with each blocked axis divided
            by the length of a block, rounded up.
        tensor_scale: T, a positive float32 value; 1 in formats without.

    Raises:
        FormatError: no such format.
        ArgumentError: another tensor_scale.
    """

    cast: BlockCast
    elements: Array
    scales: NDArray[np.float32]
    tensor_scale: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "cast", get_block_cast(self.cast))
        object.__setattr__(self, "tensor_scale", _tensor_scale("Blocks", self.cast, self.tensor_scale))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.elements.shape

    def scale_of_each(self, dtype: Any = np.float32) -> Array:
        """The scales, one to each element."""
        s: Array = self.scales.astype(dtype)
        for axis, n in zip(block_axes(self.cast, self.shape), self.cast.block, strict=True):
            s = np.repeat(s, n, axis)
            s = s[(slice(None),) * axis + (slice(self.shape[axis]),)]
        return s

    def scaled(self) -> NDArray[np.float64]:
        """scales · elements, without T: exact."""
        with np.errstate(all="ignore"):
            return np.asarray(self.elements * self.scale_of_each(np.float64))

    def without_scale_signs(self) -> Blocks:
        """The same with the magnitude of every scale: E4M3 scales read as UE4M3, as cuBLAS does."""
        return replace(self, scales=np.abs(self.scales))

    def wide(self, dtype: Any = np.float32) -> Array:
        """The values: exact in float64; in float32 rounded once, which only a scale that is no power of two needs.

        What is beyond the largest float32 is infinite there; a block whose scale is NaN is NaN.
        """
        with np.errstate(all="ignore"):
            y = self.elements * self.scale_of_each(dtype)
            return np.asarray(y * np.asarray(self.tensor_scale, dtype) if self.tensor_scale != 1 else y, dtype)


@dataclass(frozen=True, eq=False)
class BlockCodes:
    """An array in a block-scaled format, by its bits.

    Attributes:
        cast: the format; a name becomes its record.
        codes: unsigned integers of the element format's ``code_dtype``, of the array's shape, one to an element.
        scales: codes of the scale format, of the shape of ``Blocks.scales``.
        tensor_scale: T, a positive float32 value; 1 in formats without.

    Raises:
        FormatError: no such format.
        ArgumentError: another tensor_scale.
    """

    cast: BlockCast
    codes: Array
    scales: Array
    tensor_scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "cast", get_block_cast(self.cast))
        object.__setattr__(self, "tensor_scale", _tensor_scale("BlockCodes", self.cast, self.tensor_scale))


def _tensor_scale(call: str, cast: BlockCast, value: Any) -> float:
    """T, checked."""
    t = number(call, "tensor_scale", value)
    if not (0 < t < math.inf and is_value(t, "float32")):
        raise ArgumentError(f"{call}: tensor_scale is {t}, expected a positive value of float32")
    if t != 1 and not cast.tensor_scale:
        raise ArgumentError(f"{call}: tensor_scale is {t}, expected 1: {cast} has no scale of the tensor")
    return t


def decode_blocks(blocks: BlockCodes, *, dtype: Any = np.float32) -> Array:
    """The values of codes: exact in float64; see ``Blocks.wide``.

    Raises:
        ShapeError: scales of another shape than the codes' blocks.
        CarrierError, FormatError: no such codes; a dtype but float32 and float64.
    """
    return from_codes(blocks).wide(carrier("decode_blocks", dtype))


def dequantize_blocks(blocks: Blocks, cast: Cast, arithmetic: str = "exact") -> NDArray[np.float32]:
    """The values of an array in a block-scaled format, rounded to a format.

        y = cast(T · s · e)

    Args:
        blocks: the array by its parts.
        cast: to the format of the result, deterministic.
        arithmetic: "exact", the real product, rounded once; "scale_first", cast(fl(fl(s·T)·e)); "element_first",
            cast(fl(fl(s·e)·T)); fl() is a float32 operation. Only scales that are no powers of two distinguish them.

    Returns:
        float32 of the array's shape; a block whose scale is NaN is NaN.

    Raises:
        ArgumentError: an unknown arithmetic.
        FormatError: a NaN to a format without one.
    """
    if arithmetic not in DEQUANTIZE_ARITHMETICS:
        raise ArgumentError(
            f"dequantize_blocks(arithmetic={arithmetic!r}): expected one of {', '.join(DEQUANTIZE_ARITHMETICS)}"
        )
    with np.errstate(all="ignore"):
        if arithmetic == "exact":
            return cast(blocks.wide(np.float64))
        t, s, e = np.float32(blocks.tensor_scale), blocks.scale_of_each(), blocks.elements.astype(np.float32)
        return cast((s * t) * e if arithmetic == "scale_first" else (s * e) * t)


def from_codes(blocks: BlockCodes) -> Blocks:
    """Codes by the parts that they stand for."""
    if not isinstance(blocks, BlockCodes):
        raise CarrierError(f"decode_blocks: an object of {type(blocks).__name__}, expected BlockCodes")
    cast, codes = blocks.cast, plain("decode_blocks", "codes", blocks.codes)
    shape = scale_shape(cast, codes.shape)
    if np.shape(blocks.scales) != shape:
        raise ShapeError(f"decode_blocks: scales of shape {np.shape(blocks.scales)}, expected {shape}")
    return Blocks(cast, decode(codes, cast.element), decode(blocks.scales, cast.scale), blocks.tensor_scale)


def carrier(call: str, dtype: Any) -> np.dtype[Any]:
    """The dtype of wide values."""
    try:
        found: np.dtype[Any] = np.dtype(dtype if dtype is not None else object)  # None would be float64
    except TypeError:
        found = np.dtype(object)
    if found not in (np.float32, np.float64):
        raise CarrierError(f"{call}: dtype is {dtype!r}, expected float32 or float64")
    return found


def scale_shape(cast: BlockCast, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the scales of an array: each blocked axis divided by the length of a block, rounded up."""
    length = dict(zip(block_axes(cast, shape), cast.block, strict=True))
    return tuple(-(-n // length.get(axis, 1)) for axis, n in enumerate(shape))


def block_axes(cast: BlockCast, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that are cut into blocks, from 0.

    Raises:
        ShapeError: an axis that there is not.
    """
    axes = (cast.axis,) if len(cast.block) == 1 else (-2, -1)
    if not all(-len(shape) <= axis < len(shape) for axis in axes):
        raise ShapeError(f"{cast}: shape {shape} has no axis {' and '.join(map(str, axes))}")
    return tuple(axis % len(shape) for axis in axes)
