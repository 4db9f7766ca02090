"""Family ``block-matmul``: products of block-scaled matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.blocks import BLOCK_FORMATS, BlockCast, Blocks, block_matmul, get_block_cast, split_blocks
from refscale.formats import OVERFLOWS, Cast, get_format
from refscale.golden.dequantize import end_scales, random_blocks, with_scales, with_specials
from refscale.golden.inputs import Words, cast_for
from refscale.golden.schema import Codes, Vector

Array = NDArray[Any]

PAIRS = (
    ("mxfp8_e4m3", "mxfp8_e4m3"),
    ("mxfp8_e4m3", "mxfp8_e5m2"),
    ("mxfp6_e2m3", "mxfp6_e3m2"),
    ("mxfp8_e4m3", "mxfp4"),
    ("mxfp4", "mxfp4"),
    ("mxint8", "mxint8"),
    ("nvfp4", "nvfp4"),
    ("nvfp4", "nvfp4_16x16"),
    ("fp8_1x128", "fp8_1x128"),
    ("fp8_1x128", "fp8_128x128"),
)
"""Block formats of a and of b that hardware multiplies."""


def generate() -> Iterator[Vector]:
    """Yield products of the pairs of formats that hardware multiplies, to float32 and bfloat16."""
    for i, (left, right) in enumerate(PAIRS):
        words, where = Words(10000 + i), f"block-matmul/{left}.{right}"
        first, second = BLOCK_FORMATS[left], BLOCK_FORMATS[right]
        second = second if len(second.block) == 2 else get_block_cast(second, axis=-2)
        n = max(first.block[-1], second.block[0])
        k = 2 * n + n // 2
        a, b = words.normal(5, k), words.normal(k, 3)
        distinct = np.ldexp(1.0, words.below(13, 5, k) - 6), np.ldexp(1.0, words.below(13, k, 3) - 6)
        half = k // 2
        cancelling = np.concatenate([a[:, :half], -a[:, :half], a[:, -n:] / 64], 1)
        against = np.concatenate([b[:half], b[:half], b[-n:]])
        cases = {
            "usual": (a, b, ("accumulator", "block-short", "block-scale-once"), "two blocks and a half"),
            "scales": (
                a * distinct[0],
                b * distinct[1],
                ("block-scale-index", "block-scale-once", "non-square"),
                "blocks of different scales",
            ),
            "cancellation": (
                cancelling,
                against,
                ("cancellation", "accumulator"),
                "the remainder is in the last blocks",
            ),
        }
        for what, (x, w, flags, comment) in cases.items():
            for output in ("float32", "bfloat16"):
                yield _product(f"{where}/{output}/{what}", x, w, first, second, output, flags, comment)
        x = a.copy()
        x[1, 0], x[3, k - 1] = np.nan, np.inf
        yield _product(f"{where}/float32/nan", x, b, first, second, "float32", ("block-nan",), "two blocks are NaN")
    for i, (left, right) in enumerate(PAIRS):
        yield from _contents(Words(15000 + i), left, right)


def _contents(words: Words, left: str, right: str) -> Iterator[Vector]:
    """Yield codes that no conversion produces together, narrow outputs, sizes beside tiles, leading axes."""
    where = f"block-matmul/{left}.{right}"
    first, second = BLOCK_FORMATS[left], BLOCK_FORMATS[right]
    second = second if len(second.block) == 2 else get_block_cast(second, axis=-2)
    n = max(first.block[-1], second.block[0])
    t = [0.7 if cast.tensor_scale else 1.0 for cast in (first, second)]

    def pair(m: int, k: int, columns: int, *batch: int) -> tuple[Blocks, Blocks]:
        a = random_blocks(words, first, (*batch, m, k), t[0])
        return a, random_blocks(words, second, (*batch, k, columns), t[1])

    a, b = pair(5, 3 * n, 4)
    for side, end in (("low", 0), ("high", 1)):
        # The other scales bring the products back into the range of float32, which E8M0 and float32 exceed.
        lift = np.float32(2.0 ** (0 if first.tensor_scale else 64 if side == "low" else -64))
        lifted = with_scales(b, np.array([lift, 2 * lift, 4 * lift], np.float32)), with_scales(a, np.array([lift]))
        flags: tuple[str, ...] = ("scale-ends",)
        comment = f"scales at the {side} end of their format"
        x, w = with_scales(a, end_scales(first)[end]), with_scales(b, end_scales(second)[end])
        for output in ("float32", "bfloat16"):
            yield product_of(f"{where}/{output}/scale-{side}", x, lifted[0], cast_for(output), flags, comment)
        yield product_of(f"{where}/float32/scale-{side}-b", lifted[1], w, cast_for("float32"), flags, comment)
    flags = ("block-nan", "element-special")
    comment = "a NaN scale over numbers; subnormal, infinite and NaN elements"
    special = with_specials(a)
    start, stop = first.block[-1], 2 * first.block[-1]  # of the NaN scale: all its products with column 0 are positive
    special.elements[0, start:stop] = np.copysign(special.elements[0, start:stop], b.elements[start:stop, 0])
    yield product_of(f"{where}/float32/special", special, b, cast_for("float32"), flags, comment)
    yield product_of(f"{where}/float32/special-b", a, with_specials(b), cast_for("float32"), flags, comment)
    usual = float(np.median(np.abs(a.scaled() @ b.scaled())))
    for output in ("float16", "float8_e4m3fn", "float8_e5m2"):
        f = get_format(output)
        for overflow in OVERFLOWS:
            cast = Cast(output, "nearest_even", overflow)
            flags = ("factor-before-rounding",)
            comment = "the scales of both tensors multiply before the only rounding"
            x = _of_size(a, 1 / (usual * t[1]))
            yield product_of(f"{where}/{output}/{overflow}/usual", x, b, cast, flags, comment)
            flags, comment = ("output-saturate",), "results about the largest value and beyond"
            x = _of_size(a, f.max / (usual * t[1]))
            yield product_of(f"{where}/{output}/{overflow}/overflow", x, b, cast, flags, comment)
    sizes = {
        "17x33": (*pair(17, n + 1, 33), ("tile-edge", "block-short"), "one more than a tile in every dimension"),
        "31x15": (*pair(31, 2 * n - 1, 15), ("tile-edge", "block-short"), "one less than a tile in every dimension"),
        "batch": (*pair(3, n, 2, 2, 2), ("batch",), "four matrices on two leading axes"),
    }
    for name, (x, w, more, text) in sizes.items():
        yield product_of(f"{where}/float32/{name}", x, w, cast_for("float32"), more, text)


def _of_size(x: Blocks, factor: float) -> Blocks:
    """Return an array times about a factor: by the scale of its tensor, or by powers of two on its block scales."""
    power = 2.0 ** np.floor(np.log2(factor))
    if x.cast.tensor_scale:
        return Blocks(x.cast, x.elements, x.scales, float(np.float32(power * 1.3)))
    return Blocks(x.cast, x.elements, x.scales * np.float32(power), 1.0)


def _product(
    where: str,
    x: Array,
    w: Array,
    first: BlockCast,
    second: BlockCast,
    output: str,
    flags: tuple[str, ...],
    comment: str,
) -> Vector:
    a, b = split_blocks(np.float32(x), first), split_blocks(np.float32(w), second)
    if first.tensor_scale or second.tensor_scale:
        flags = (*flags, "block-tensor-scale")
    return product_of(where, a, b, cast_for(output), flags, comment)


def product_of(
    where: str,
    a: Blocks,
    b: Blocks,
    cast: Cast,
    flags: tuple[str, ...],
    comment: str,
    conventions: Mapping[str, str] | None = None,
) -> Vector:
    """Return the vector of a product of two given arrays, with its expected result."""
    unsigned = conventions == {"scale_sign": "ignored"}
    left, right = (x.without_scale_signs() if unsigned else x for x in (a, b))
    output = cast.format.name
    inputs: dict[str, Codes] = {}
    attributes: dict[str, Any] = {}
    for name, part in (("a", a), ("b", b)):
        inputs[name] = Codes.of(part.elements, part.cast.element.name)
        inputs[f"{name}_scales"] = Codes.of(part.scales, part.cast.scale.name)
        attributes |= {f"{name}_format": part.cast.element.name, f"{name}_block": list(part.cast.block)}
        attributes[f"{name}_scale_format"] = part.cast.scale.name
        if part.cast.tensor_scale:
            inputs[f"{name}_tensor_scale"] = Codes.of(np.float32(part.tensor_scale), "float32")
    attributes |= {"format": output, "rounding": cast.rounding, "overflow": cast.overflow}
    y = {"y": Codes.of(block_matmul(left, right, cast), output)}
    return Vector(where, "block_matmul", attributes, inputs, y, flags, comment, conventions=conventions or {})
