"""Family ``convention``: cases that no standard defines, once for each convention in ``conventions.TOPICS``.

The vectors of one topic have the same inputs, and a different expected result for each convention, so that a backend
that claims one convention and follows another fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from refscale.blocks import (
    BLOCK_FORMATS,
    DEQUANTIZE_ARITHMETICS,
    ELEMENT_ARITHMETICS,
    NONFINITES,
    SCALE_ARITHMETICS,
    Blocks,
    dequantize_blocks,
    get_block_cast,
    split_blocks,
)
from refscale.formats import CONVENTIONS, FORMATS, OVERFLOWS, ROUNDINGS, Cast, encode_by, get_format
from refscale.formats.conventions import without_subnormals
from refscale.golden.block_products import product_of
from refscale.golden.blocks import quantized
from refscale.golden.dequantize import dequantized, random_blocks
from refscale.golden.inputs import Words, cast_for, positive_values
from refscale.golden.schema import Codes, Vector

Float32 = NDArray[np.float32]

_MX = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4", "mxint8")
_ONE_LEVEL = ("fp8_1x128",)
_TWO_LEVELS = ("nvfp4", "nvfp4_16x16")
_FLAGS = ("convention",)


def generate() -> Iterator[Vector]:
    """Yield casts, then conversions, products and values of block-scaled formats."""
    yield from _powers()
    yield from _nan_codes()
    yield from _flushed()
    yield from _zero_blocks()
    yield from _flushed_blocks()
    yield from _nonfinite_blocks()
    yield from _nvfp4()
    yield from _signed_scales()
    yield from _dequantized()


# --- casts ------------------------------------------------------------------------------------------------------------


def _cast(topic: str, name: str, x: Codes, cast: Cast, comment: str) -> Vector:
    """Return one cast by one convention; its elements do not depend on other topics."""
    with np.errstate(all="ignore"):
        y = Codes(cast.format.name, np.asarray(encode_by(x.native, cast, {topic: name})))
    attributes = {"format": cast.format.name, "rounding": cast.rounding, "overflow": cast.overflow}
    where = f"convention/{topic}/{name}/{cast}/{x.format}"
    return Vector(where, "cast", attributes, {"x": x}, {"y": y}, _FLAGS, comment, conventions={topic: name})


def _powers() -> Iterator[Vector]:
    """Yield casts of zero, negative and tiny numbers to powers of two."""
    tiny = np.array([2.0**-149, 2.0**-133, 2.0**-130, 2.0**-128, 1.5 * 2.0**-128])
    negative = np.array([-1.0, -1.5, -3.0, -(2.0**100), -0.0, -(2.0**-126)])
    groups = {
        "e8m0_zero": (np.array([0.0]), "+0", OVERFLOWS),
        "e8m0_negative": (negative, "negative numbers and -0", OVERFLOWS),
        "e8m0_small": (tiny, "below the smallest value", ("nonsaturate",)),
    }
    for topic, (x, comment, overflows) in groups.items():
        for source in ("float32", "bfloat16"):
            held = _held(x, source)
            for name in CONVENTIONS[topic]:
                for rounding in ROUNDINGS[:-1]:
                    for overflow in overflows:
                        cast = Cast("float8_e8m0fnu", rounding, overflow)
                        yield _cast(topic, name, Codes.of(held, source), cast, comment)


def _held(x: NDArray[np.float64], source: str) -> Float32:
    """Return the numbers that a source represents."""
    near = Cast(source, "nearest_even", "saturate")(x)
    return np.asarray(near[near == x])


def _nan_codes() -> Iterator[Vector]:
    """Yield casts of NaN of both signs and several payloads."""
    for format in FORMATS.values():
        topic = "nan_code" if format.has_signed_nan else "nan_without"
        if topic == "nan_without" and format.has_nan:
            continue  # one code
        for source in ("float32", "bfloat16"):
            x = _nans(source)
            for name in CONVENTIONS[topic]:
                for overflow in OVERFLOWS:
                    if name != "error":
                        yield _cast(topic, name, x, Cast(format, "nearest_even", overflow), "NaN of several payloads")


def _nans(source: str) -> Codes:
    upper = np.array([0x7FC0, 0xFFC0, 0x7FF0, 0xFFE0, 0x7FFF, 0xFFFF], np.uint16)
    if source == "bfloat16":
        return Codes(source, upper)
    return Codes(source, upper.astype(np.uint32) << 16 | np.array([0, 0, 1, 0x4000, 0xFFFF, 0xFFFF], np.uint32))


def _flushed() -> Iterator[Vector]:
    """Yield casts that read subnormal numbers of float32 and bfloat16 as zero."""
    x = np.array([2.0**-149, 2.0**-133, 2.0**-130, 3 * 2.0**-133, 2.0**-127])
    x = np.stack([x, -x], -1).reshape(-1)
    for format in FORMATS.values():
        if format.has_zero:
            for source in ("float32", "bfloat16"):
                held = Codes.of(_held(x, source), source)
                for rounding in ("nearest_even", "up", "down"):
                    cast = Cast(format, rounding, "saturate")
                    yield _cast("float32_subnormals", "flushed", held, cast, "subnormal numbers of the source")


# --- conversions ------------------------------------------------------------------------------------------------------


def _zero_blocks() -> Iterator[Vector]:
    x = Codes.of(np.zeros((3, 64), np.float32), "float32")
    for name in _MX:
        for rule in ("floor", "rceil"):
            for convention, code in (("smallest", 0), ("one", 127)):
                where = f"convention/block_zero/{convention}/{name}/{rule}"
                vector = quantized(where, x, get_block_cast(name, rule=rule), _FLAGS, "blocks of zeros")
                scales = Codes("float8_e8m0fnu", np.full_like(vector.outputs["scales"].codes, code))
                outputs = {**vector.outputs, "scales": scales}
                yield Vector(
                    where,
                    vector.op,
                    vector.attributes,
                    vector.inputs,
                    outputs,
                    _FLAGS,
                    vector.comment,
                    conventions={"block_zero": convention},
                )


def _flushed_blocks() -> Iterator[Vector]:
    """Yield blocks whose amax is a normal number of float32, and most of whose elements are not."""
    sizes = np.array([1.25 * 2.0**-126, 2.0**-127, -(2.0**-127), 1.5 * 2.0**-127, -(2.0**-128), 2.0**-133, 0.0])
    for name, cast in BLOCK_FORMATS.items():
        x = np.resize(sizes, (2, 2 * cast.block[-1]))
        x[:, :: cast.block[-1]] = sizes[0]
        for source in ("float32", "bfloat16"):
            given = Codes.of(cast_for(source)(x), source)
            for convention in CONVENTIONS["float32_subnormals"]:
                read = Codes.of(without_subnormals(given.native), source) if convention == "flushed" else given
                where = f"convention/float32_subnormals/{convention}/{name}/{source}"
                vector = quantized(where, read, cast, _FLAGS, "subnormal numbers of the source")
                names = {k: n for k, n in vector.conventions.items() if k != "float32_subnormals"}
                names["float32_subnormals"] = convention
                yield replace(vector, inputs={"x": given}, conventions=names)


def _nonfinite_blocks() -> Iterator[Vector]:
    """Yield an infinity, or a NaN, or both, in blocks of every format, of float32 and of bfloat16."""
    for i, (name, cast) in enumerate(BLOCK_FORMATS.items()):
        n = cast.block[-1]
        usual = Words(13000 + i).normal(4, 2 * n)
        for source in ("float32", "bfloat16"):
            for kind, values in (("block_infinity", (np.inf, -np.inf)), ("block_nan", (np.nan, -np.nan))):
                x = cast_for(source)(usual)
                x[0, 1], x[1, n], x[2, n - 1] = values[0], values[1], values[0]  # NaN in either half of a pair
                names = NONFINITES if kind == "block_infinity" else ("nan", "ignore")
                for nonfinite in names if kind == "block_infinity" or cast.element.has_nan else ("nan",):
                    changed = get_block_cast(cast, nonfinite=nonfinite)
                    where = f"convention/{kind}/{nonfinite}/{name}/{source}"
                    flags = (*_FLAGS, "scale-nonfinite", *(("block-nan",) if kind == "block_nan" else ()))
                    comment = "blocks with an infinity" if kind == "block_infinity" else "blocks with a NaN"
                    yield quantized(where, Codes.of(x, source), changed, flags, comment)


def _nvfp4() -> Iterator[Vector]:
    """Yield every arithmetic of scales with every one of elements, on blocks where any two of them differ."""
    names = [f"{s}+{e}" for s in SCALE_ARITHMETICS for e in ELEMENT_ARITHMETICS]
    ties = Codes.of(_separating(Words(13100).normal(16384, 16).astype(np.float32)), "float32")
    witness = np.zeros((2, 16), np.float32)
    witness[:, 0] = 2688, 42 / 512  # T = 1, s = 7/512
    witness[1, 1:3] = 0.02392577938735485, -0.02392577938735485
    usual = Words(13101).normal(5, 39) * np.ldexp(1.0, np.arange(5) * 4 - 8)[:, None]
    groups = {
        "ties": (ties, "near ties of scales and of elements"),
        "witness": (Codes.of(witness, "float32"), "s = 7/512: 1.5 by a quotient, 2 by a reciprocal"),
        "usual": (Codes.of(cast_for("bfloat16")(usual), "bfloat16"), "blocks of several sizes, short ones among them"),
        "large": (Codes.of((usual * 2.0**100).astype(np.float32), "float32"), "far above 1"),
        "small": (Codes.of((usual * 2.0**-100).astype(np.float32), "float32"), "far below 1"),
    }
    for name in names:
        cast = get_block_cast("nvfp4", arithmetic=name)
        for group, (x, comment) in groups.items():
            where = f"convention/nvfp4/{cast.scale_arithmetic}/{cast.element_arithmetic}/{group}"
            yield quantized(where, x, cast, (*_FLAGS, "block-arithmetic"), comment)


def _separating(x: Float32) -> Float32:
    """Return rows, found by search, on which any two arithmetics of scales, and any two of elements, differ.

    With 8.75 = 7·1.25 the largest of the tensor, blocks whose scale is exactly a tie of E4M3 have a float32 amax.
    """
    scale = get_format("float8_e4m3fn")
    values = positive_values(scale)
    tied = np.zeros((values.size - 1, 16), np.float32)
    tied[:, 5] = (values[:-1] + values[1:]) / 2 * 8.75 / scale.max
    x = np.concatenate([x, tied, *(_near_ties(values, np.float32(t)) for t in (8.75 / 2688, 1 / (2688 / 8.75)))])
    x[0, 0] = 8.75
    found: list[int] = [0]
    for name in ("divide", "reciprocal"):
        by_element = [split_blocks(x, get_block_cast("nvfp4", arithmetic=f"{name}+{e}")) for e in ELEMENT_ARITHMETICS]
        found += _differing([p.elements for p in by_element])
    by_scale = [split_blocks(x, get_block_cast("nvfp4", arithmetic=f"{s}+divide")) for s in SCALE_ARITHMETICS]
    found += _differing([p.scales for p in by_scale])
    return x[list(dict.fromkeys(found))]


def _near_ties(scales: NDArray[np.float64], t: np.float32) -> Float32:
    """Return a row for each scale s: the largest, 6·s·T, then ties of E2M1 times s·T and their float32 neighbors."""
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5])
    unit = (scales[:, None] * np.float64(t))[:, :, None]
    middle = (unit * ties[:, None]).astype(np.float32)
    near = [np.nextafter(middle, np.float32(0)), middle, np.nextafter(middle, np.float32(np.inf))]
    largest = (6 * unit[:, :, 0]).astype(np.float32)
    return np.concatenate([largest, np.concatenate(near, -1).reshape(len(scales), -1)], -1)


def _differing(arrays: Sequence[NDArray[np.float32]]) -> list[int]:
    return [int(i) for a, b in combinations(arrays, 2) for i in np.flatnonzero((a != b).any(-1))[:3]]


# --- products and values ----------------------------------------------------------------------------------------------


def _signed_scales() -> Iterator[Vector]:
    """Yield products and values with E4M3 scales whose sign bit is set."""
    first, second = BLOCK_FORMATS["nvfp4"], get_block_cast("nvfp4", axis=-2)
    words = Words(13200)
    a, b = random_blocks(words, first, (3, 40), 0.25), random_blocks(words, second, (40, 2), 0.5)
    a = Blocks(first, a.elements, -a.scales, a.tensor_scale)
    for name in ("signed", "ignored"):
        where, names, comment = f"convention/scale_sign/{name}", {"scale_sign": name}, "negative scales of E4M3"
        yield product_of(f"{where}/block_matmul", a, b, cast_for("float32"), _FLAGS, comment, names)
        yield dequantized(f"{where}/block_dequantize", a, cast_for("float32"), _FLAGS, comment, names)


def _dequantized() -> Iterator[Vector]:
    """Yield blocks, found by search, in which the order of two multiplications decides a value."""
    for i, (name, output) in enumerate((("nvfp4", "float32"), ("fp8_1x128", "bfloat16"))):
        cast = cast_for(output)
        words, n = Words(13300 + i), BLOCK_FORMATS[name].block[0]
        x = random_blocks(words, BLOCK_FORMATS[name], (4096, n), 1.3e-3 if name == "nvfp4" else 1.0)
        if name != "nvfp4":
            tied = (
                1 + (2 * np.arange(4096) % 256 + 1) / 256
            )  # of bfloat16; times 4/7, so that elements of 1.75 give them
            x = Blocks(x.cast, x.elements, (tied[:, None] * 4 / 7).astype(np.float32), 1.0)
        by_order = [dequantize_blocks(x, cast, order) for order in DEQUANTIZE_ARITHMETICS]
        rows = sorted({int(r) for r in _differing(by_order)})
        chosen = Blocks(x.cast, x.elements[rows], x.scales[rows], x.tensor_scale)
        for order in DEQUANTIZE_ARITHMETICS:
            where = f"convention/dequantize/{order}/{name}/{output}"
            yield dequantized(where, chosen, cast, _FLAGS, "near ties of the product", {"dequantize": order})
