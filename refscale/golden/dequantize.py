"""Family ``block-dequantize``: the values of block-scaled codes, rounded to a format.

Elements and scales are codes that no conversion produces together: every element code, and scales at both ends of their
format, so that a backend that reads one of them wrongly fails there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from refscale.blocks import BLOCK_FORMATS, BlockCast, Blocks, dequantize_blocks, get_block_cast
from refscale.blocks.parts import scale_shape
from refscale.formats import Cast, decode, get_format
from refscale.golden.conventions import of_dequantize
from refscale.golden.inputs import Words, cast_for
from refscale.golden.schema import Codes, Vector

OUTPUTS = ("float32", "bfloat16", "float16")


def generate() -> Iterator[Vector]:
    """Yield every named format: usual scales, scales at both ends, NaN; another axis, leading axes, odd lengths."""
    for i, (name, cast) in enumerate(BLOCK_FORMATS.items()):
        words, where = Words(12000 + i), f"block-dequantize/{name}"
        n = cast.block[-1]
        square = len(cast.block) == 2
        t = 0.0078125 if cast.tensor_scale else 1.0
        usual = random_blocks(words, cast, (6, 3 * n), t)
        for output in OUTPUTS:
            yield dequantized(f"{where}/{output}/usual", usual, cast_for(output), (), "every scale near 1")
        ends = with_scales(usual, np.concatenate(end_scales(cast)))
        for output in ("float32", "bfloat16"):
            yield dequantized(f"{where}/{output}/ends", ends, cast_for(output), ("scale-ends",), "scales at both ends")
        special = with_specials(random_blocks(words, cast, (6, 2 * n), t))
        flags: tuple[str, ...] = ("block-nan", "element-special")
        comment = "a NaN scale over numbers; subnormal, infinite and NaN elements"
        yield dequantized(f"{where}/float32/special", special, cast_for("float32"), flags, comment)
        short = random_blocks(words, cast, (1, n + 1, n + 3) if square else (2, 7, n + n // 2 + 1), t)
        flags = ("block-short", "batch", "tail")
        yield dequantized(f"{where}/float32/short", short, cast_for("float32"), flags, "leading axes, odd lengths")
        if not square:
            across = random_blocks(words, get_block_cast(cast, axis=0), (n + 3, 5), t)
            comment = "blocks down the columns"
            yield dequantized(f"{where}/float32/axis-0", across, cast_for("float32"), ("block-axis",), comment)
        if cast.tensor_scale:
            scaled = random_blocks(words, cast, (6, 2 * n), 1.3e-3)
            for output in ("float32", "float16"):
                flags, comment = ("block-tensor-scale",), "the tensor's scale is not a power of two"
                yield dequantized(f"{where}/{output}/tensor-scale", scaled, cast_for(output), flags, comment)


def random_blocks(words: Words, cast: BlockCast, shape: tuple[int, ...], tensor_scale: float) -> Blocks:
    """Return finite non-zero elements of every code, and finite scales within a few binades of 1."""
    element, scale = cast.element, cast.scale
    codes = decode(np.arange(element.code_count, dtype=element.code_dtype), element)
    codes = codes[np.isfinite(codes) & (codes != 0)]
    e = codes[words.below(codes.size, *shape)]
    s = (1 + words.below(8, *scale_shape(cast, shape)) / 8) * np.ldexp(
        1.0, words.below(7, *scale_shape(cast, shape)) - 3
    )
    return Blocks(cast, e, Cast(scale, "nearest_even", "saturate")(s), float(np.float32(tensor_scale)))


def end_scales(cast: BlockCast) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the scales at the lower end of their format, subnormals among them, and at the upper end."""
    f = get_format(cast.scale)
    low = [0, 1, 2, (1 << f.mantissa_bits) - 1, 1 << f.mantissa_bits] if f.has_zero else [0, 1, 2]
    top = (f.inf_code or f.nan_code or f.code_count) - 1
    found = [decode(np.array(codes, f.code_dtype), f) for codes in (low, [top, top - 1, top - 2])]
    return found[0], found[1]


def with_scales(x: Blocks, scales: NDArray[np.float32]) -> Blocks:
    """Return the same elements, with these scales in turn."""
    size = x.scales.size
    return Blocks(x.cast, x.elements, np.resize(scales, size).reshape(x.scales.shape), x.tensor_scale)


def with_specials(x: Blocks) -> Blocks:
    """Return blocks with NaN in the second scale over non-zero elements, then subnormal, infinite and NaN elements."""
    scales, elements, f = x.scales.copy(), x.elements.copy(), x.cast.element
    scales.reshape(-1)[1] = np.nan
    flat = elements.reshape(-1)
    flat[:3] = f.min_subnormal, -f.min_subnormal, 0.0
    if f.has_inf:
        flat[3:5] = np.inf, -np.inf
    if f.has_nan:
        flat[5] = np.nan
    return Blocks(x.cast, elements, scales, x.tensor_scale)


def dequantized(
    where: str,
    x: Blocks,
    cast: Cast,
    flags: tuple[str, ...],
    comment: str,
    conventions: Mapping[str, str] | None = None,
) -> Vector:
    """Return the vector of one array, with its expected values.

    Args:
        where: id of the vector.
        x: array by its parts.
        cast: cast to the format of the result.
        flags: flags of the vector.
        comment: comment of the vector.
        conventions: conventions that the values follow; None: those of ``blocks``.
    """
    attributes = {
        "element_format": x.cast.element.name,
        "block": list(x.cast.block),
        "scale_format": x.cast.scale.name,
        "axis": x.cast.axis,
        "format": cast.format.name,
        "rounding": cast.rounding,
        "overflow": cast.overflow,
    }
    inputs = {
        "elements": Codes.of(x.elements, x.cast.element.name),
        "scales": Codes.of(x.scales, x.cast.scale.name),
    }
    if x.cast.tensor_scale:
        inputs["tensor_scale"] = Codes.of(np.float32(x.tensor_scale), "float32")
    names = of_dequantize(attributes, x) if conventions is None else conventions
    known = x.without_scale_signs() if names.get("scale_sign") == "ignored" else x
    y = Codes.of(dequantize_blocks(known, cast, names.get("dequantize", "exact")), cast.format.name)
    return Vector(where, "block_dequantize", attributes, inputs, {"y": y}, flags, comment, conventions=names)
