"""Block-scaled casts and operands as the attributes of a vector, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from refscale.blocks import BlockCast, Blocks
from refscale.formats import get_format

Array = NDArray[Any]


def attributes_of(cast: BlockCast) -> dict[str, Any]:
    """Return a record as the attributes of a vector."""
    return {
        "format": cast.element.name,
        "block": list(cast.block),
        "scale_format": cast.scale.name,
        "rule": cast.rule,
        "axis": cast.axis,
        "tensor_scale": cast.tensor_scale,
        "arithmetic": cast.arithmetic,
        "least": cast.least,
        "nonfinite": cast.nonfinite,
        "rounding": cast.rounding,
        "overflow": cast.overflow,
    }


def cast_of(format: str, block: list[int], scale_format: str, rule: Any, **rest: Any) -> BlockCast:
    """Return the record that the attributes of a vector define."""
    return BlockCast(format, tuple(block), scale_format, rule, **rest)


def block_operands(
    attributes: Mapping[str, Any], elements: Sequence[Array], scales: Sequence[Array], tensor_scales: Sequence[float]
) -> tuple[Blocks, Blocks]:
    """Return both operands of a ``block_matmul`` from the arguments of a backend."""
    sides = []
    for name, axis, e, s, t in zip("ab", (-1, -2), elements, scales, tensor_scales, strict=True):
        format, block, scale = (attributes[f"{name}_{what}"] for what in ("format", "block", "scale_format"))
        rule: Any = "amax" if get_format(scale).has_zero else "floor"
        along = axis if len(block) == 1 else -1
        cast = BlockCast(format, tuple(block), scale, rule, axis=along, tensor_scale=t != 1)
        sides.append(Blocks(cast, e, s, t))
    return sides[0], sides[1]


def dequantize_operand(attributes: Mapping[str, Any], elements: Array, scales: Array, tensor_scale: float) -> Blocks:
    """Return the array of a ``block_dequantize`` from the arguments of a backend."""
    scale, block = attributes["scale_format"], tuple(attributes["block"])
    rule: Any = "amax" if get_format(scale).has_zero else "floor"
    cast = BlockCast(
        attributes["element_format"], block, scale, rule, axis=attributes["axis"], tensor_scale=tensor_scale != 1
    )
    return Blocks(cast, elements, scales, tensor_scale)
