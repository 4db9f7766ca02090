"""Arrays in block-scaled formats, as values of elements and scales or as their codes; conversion to values."""

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
    """An array in a block-scaled format, as values: tensor_scale · scales · elements.

    Attributes:
        cast: the format, as a ``BlockCast`` or its name.
        elements: values of the element format, float32 or float64 of the shape of the array.
        scales: values of the scale format, float32, one per block: the shape of the array, with each blocked axis
            divided by the length of a block, rounded up.
        tensor_scale: T, a positive float32 value; 1 in formats without tensor scale.

    Raises:
        FormatError: the format is unknown.
        ArgumentError: ``tensor_scale`` is not a positive float32 value, or not 1 in a format without it.
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
        """Shape of the array."""
        return self.elements.shape

    def scale_of_each(self, dtype: Any = np.float32) -> Array:
        """Return the scales, repeated for each element."""
        s: Array = self.scales.astype(dtype)
        for axis, n in zip(block_axes(self.cast, self.shape), self.cast.block, strict=True):
            s = np.repeat(s, n, axis)
            s = s[(slice(None),) * axis + (slice(self.shape[axis]),)]
        return s

    def scaled(self) -> NDArray[np.float64]:
        """Return scales · elements, without T, exactly."""
        with np.errstate(all="ignore"):
            return np.asarray(self.elements * self.scale_of_each(np.float64))

    def without_scale_signs(self) -> Blocks:
        """Return the array with the magnitude of every scale: cuBLAS reads E4M3 scales as UE4M3."""
        return replace(self, scales=np.abs(self.scales))

    def wide(self, dtype: Any = np.float32) -> Array:
        """Return the values: in float64 exact, in float32 rounded once (exact if scales are powers of two).

        In float32 values may overflow to infinity. A block whose scale is NaN is NaN.
        """
        with np.errstate(all="ignore"):
            y = self.elements * self.scale_of_each(dtype)
            return np.asarray(y * np.asarray(self.tensor_scale, dtype) if self.tensor_scale != 1 else y, dtype)


@dataclass(frozen=True, eq=False)
class BlockCodes:
    """An array in a block-scaled format, as codes.

    Attributes:
        cast: the format, as a ``BlockCast`` or its name.
        codes: codes of the elements, unsigned integers of the element format's ``code_dtype``, of the array's shape.
        scales: codes of the scales, of the shape of ``Blocks.scales``.
        tensor_scale: T, a positive float32 value; 1 in formats without tensor scale.

    Raises:
        FormatError: the format is unknown.
        ArgumentError: ``tensor_scale`` is not a positive float32 value, or not 1 in a format without it.
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
    """Convert codes to values, exactly in float64; see ``Blocks.wide``.

    Raises:
        ShapeError: the shape of the scales does not fit the blocks of the codes.
        CarrierError: the codes do not have the ``code_dtype`` of their format, or ``dtype`` is not float32 or float64.
        FormatError: a code is out of range.
    """
    return from_codes(blocks).wide(carrier("decode_blocks", dtype))


def dequantize_blocks(blocks: Blocks, cast: Cast, arithmetic: str = "exact") -> NDArray[np.float32]:
    """Dequantize an array in a block-scaled format: its values, rounded to a format.

        y = cast(T · s · e)

    Args:
        blocks: the array as values of elements and scales.
        cast: deterministic cast to the format of the result.
        arithmetic: "exact", the real product, rounded once; "scale_first", cast(fl(fl(s·T)·e)); "element_first",
            cast(fl(fl(s·e)·T)); fl() is a float32 operation. For scales that are powers of two all give the same.

    Returns:
        float32 of the shape of the array; a block whose scale is NaN is NaN.

    Raises:
        ArgumentError: ``arithmetic`` is unknown.
        FormatError: a value is NaN, and the format of the result has none.
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
    """Decode the codes of elements and scales separately."""
    if not isinstance(blocks, BlockCodes):
        raise CarrierError(f"decode_blocks: an object of {type(blocks).__name__}, expected BlockCodes")
    cast, codes = blocks.cast, plain("decode_blocks", "codes", blocks.codes)
    shape = scale_shape(cast, codes.shape)
    if np.shape(blocks.scales) != shape:
        raise ShapeError(f"decode_blocks: scales of shape {np.shape(blocks.scales)}, expected {shape}")
    return Blocks(cast, decode(codes, cast.element), decode(blocks.scales, cast.scale), blocks.tensor_scale)


def carrier(call: str, dtype: Any) -> np.dtype[Any]:
    """Return a dtype of wide values; raise CarrierError unless it is float32 or float64."""
    try:
        found: np.dtype[Any] = np.dtype(dtype if dtype is not None else object)  # None would be float64
    except TypeError:
        found = np.dtype(object)
    if found not in (np.float32, np.float64):
        raise CarrierError(f"{call}: dtype is {dtype!r}, expected float32 or float64")
    return found


def scale_shape(cast: BlockCast, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the scales of an array: each blocked axis divided by the length of a block, rounded up."""
    length = dict(zip(block_axes(cast, shape), cast.block, strict=True))
    return tuple(-(-n // length.get(axis, 1)) for axis, n in enumerate(shape))


def block_axes(cast: BlockCast, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes that are divided into blocks, counted from 0.

    Raises:
        ShapeError: the shape lacks such an axis.
    """
    axes = (cast.axis,) if len(cast.block) == 1 else (-2, -1)
    if not all(-len(shape) <= axis < len(shape) for axis in axes):
        raise ShapeError(f"{cast}: shape {shape} has no axis {' and '.join(map(str, axes))}")
    return tuple(axis % len(shape) for axis in axes)
