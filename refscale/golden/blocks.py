"""Families ``block-scale`` and ``block-cast``: scales and codes of conversions.

Scales are tested at every point where one of the rules changes, in every element format. All rules have the same
inputs, so a backend with another rule fails where the two differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.blocks import (
    ARITHMETICS,
    BLOCK_FORMATS,
    BlockCast,
    Blocks,
    encode_blocks,
    get_block_cast,
    pack_nibbles,
    split_blocks,
    tile_scales,
)
from refscale.golden.conventions import of_blocks
from refscale.golden.inputs import Words, cast_for
from refscale.golden.records import attributes_of, cast_of
from refscale.golden.schema import Codes, Vector

Array = NDArray[Any]
Float32 = NDArray[np.float32]

POWER_RULES = ("floor", "ceil", "rceil", "even", "nearest")
_MX = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4", "mxint8")


# --- scales -----------------------------------------------------------------------------------------------------------


def generate_scales() -> Iterator[Vector]:
    """Yield every rule at every boundary of every rule, in blocks of 32."""
    for name in _MX:
        element = BLOCK_FORMATS[name].element
        groups = {
            "powers": (("scale-power", "scale-low"), "amax an exact power of two", _powers()),
            "thresholds": (
                ("scale-threshold", "scale-rule"),
                "amax where a rule changes, and one ulp to each side",
                _thresholds(element.max, element.emax, element.mantissa_bits),
            ),
            "edges": (("scale-zero", "scale-range"), "zeros; amax too small for a scale, or the largest", _edges()),
        }
        for rule in POWER_RULES:
            cast = get_block_cast(name, rule=rule)
            for group, (flags, comment, amax) in groups.items():
                x = Codes.of(_rows(amax), "float32")
                yield quantized(f"block-scale/{name}/{rule}/{group}", x, cast, flags, comment)
        for nonfinite in ("nan", "saturate"):
            cast = get_block_cast(name, rule="rceil", nonfinite=nonfinite)
            x = Codes.of(_nonfinite_rows(), "float32")
            flags = ("scale-nonfinite", "block-nan")
            yield quantized(
                f"block-scale/{name}/rceil/nonfinite-{nonfinite}", x, cast, flags, "an infinity or a NaN among 32"
            )


def _powers() -> Float32:
    return np.ldexp(np.float32(1), np.arange(-100, 128, 3))


def _thresholds(top: float, emax: int, mantissa_bits: int) -> Float32:
    """Return points where a rule changes, in a few binades: floor and ceil; rceil; even; nearest."""
    fraction = top / 2.0**emax
    root = math.sqrt(2) * fraction
    marks = [1.0, fraction, 2 - 2.0 ** -(mantissa_bits + 1), root if root < 2 else root / 2]
    found = []
    for mark in marks:
        for binade in (0, emax, -30, 60):
            x = np.float32(mark) * np.float32(2.0**binade)
            found += [np.nextafter(x, np.float32(0)), x, np.nextafter(x, np.float32(np.inf))]
    return np.array(found, np.float32)


def _edges() -> Float32:
    tiny = [0.0, 2.0**-149, 3 * 2.0**-149, 2.0**-127, 2.0**-126, 1.5 * 2.0**-126, 2.0**-120]
    largest = np.finfo(np.float32).max
    return np.array([*tiny, largest, 2.0**127, np.nextafter(np.float32(2.0**127), np.float32(0))], np.float32)


def _rows(amax: Float32) -> Float32:
    """Return blocks of 32 with that amax, each at another place and of another sign, beside smaller numbers."""
    words = Words(9000 + len(amax))
    with np.errstate(under="ignore"):
        x = (amax[:, None] * (words.normal(len(amax), 32) / 8).astype(np.float32)).astype(np.float32)
    at = np.arange(len(amax))
    x[at, at % 32] = np.where(at % 2, -amax, amax)
    return x


def _nonfinite_rows() -> Float32:
    x = Words(9500).normal(8, 32).astype(np.float32)
    for i, value in enumerate([np.inf, -np.inf, np.nan, -np.nan]):
        x[i, 3 * i] = value
    x[4, [1, 2]] = np.inf, np.nan
    return x


# --- conversions ------------------------------------------------------------------------------------------------------


def generate_casts() -> Iterator[Vector]:
    """Yield every named format on usual and unusual numbers, along both axes, with short blocks; then edge cases."""
    for i, (name, cast) in enumerate(BLOCK_FORMATS.items()):
        words = Words(9600 + i)
        n = cast.block[-1]
        casts = {"": cast}
        if cast.rule != "amax":
            casts |= {f"/{rule}": get_block_cast(cast, rule=rule) for rule in ("rceil", "even")}
        usual = words.normal(2 * n if len(cast.block) == 2 else 8, 2 * n)
        binades = np.ldexp(1.0, words.below(24, *usual.shape) - 12)
        inputs = {
            "usual": (usual, ("block-elements", "block-saturate"), "nearly normal numbers"),
            "spread": (usual * binades, ("block-elements", "block-low-end"), "over 24 binades"),
            "short": (
                usual[: n + 3, : n + n // 2 - 1],
                ("block-short",),
                "an axis that the block does not divide",
            ),
        }
        for suffix, c in casts.items():
            for what, (x, flags, comment) in inputs.items():
                yield quantized(f"block-cast/{name}{suffix}/{what}", _float32(x), c, flags, comment)
        if len(cast.block) == 1:
            x = (usual * binades).T[: n + 5]
            across = get_block_cast(cast, axis=0)
            yield quantized(
                f"block-cast/{name}/axis-0", _float32(x), across, ("block-axis",), "blocks down the columns"
            )
        else:
            flags = ("block-square",)
            yield quantized(f"block-cast/{name}/square", _float32(usual * binades), cast, flags, "blocks are squares")
        random = get_block_cast(cast, rounding="stochastic")
        bits = Codes("uint32", words.words(*usual.shape))
        flags = ("block-stochastic",)
        yield quantized(f"block-cast/{name}/stochastic", _float32(usual), random, flags, "random bits given", bits)
    yield from _tensor_scales()
    yield from _arithmetics()
    yield from _layouts()
    yield from _sources()


def _sources() -> Iterator[Vector]:
    """Yield conversions from float16 and bfloat16, of odd lengths and leading axes, and of strided arrays."""
    for i, (name, cast) in enumerate(BLOCK_FORMATS.items()):
        words, n = Words(9950 + i), cast.block[-1]
        square = len(cast.block) == 2
        for source in ("float16", "bfloat16"):
            spread = words.normal(6, 2 * n + 1) * np.ldexp(1.0, words.below(12, 6, 2 * n + 1) - 8)
            x, more = Codes.of(cast_for(source)(spread), source), ("source-16", "tail", "block-short")
            yield quantized(f"block-cast/{name}/{source}", x, cast, more, f"from {source}, an odd length")
        for length in (1, n - 1, n + 1, 3 * n - 1):
            x = Codes.of(cast_for("float32")(words.normal(3 if square else 2, length)), "float32")
            comment = f"{length} elements to a row"
            yield quantized(f"block-cast/{name}/length-{length}", x, cast, ("tail", "block-short"), comment)
        x = Codes.of(cast_for("float32")(words.normal(2, 3, 2, n + 1)), "float32")
        yield quantized(f"block-cast/{name}/batch", x, cast, ("batch", "block-short"), "leading axes")
        x = Codes.of(cast_for("float32")(words.normal(65, n)), "float32")
        yield quantized(f"block-cast/{name}/rows-65", x, cast, ("tile-edge",), "65 rows")
        wide = words.normal(4, 2 * n) * np.ldexp(1.0, words.below(40, 4, 2 * n) - 32)
        x, flags = Codes.of(wide.astype(np.float32), "float32"), ("block-low-end", "block-elements")
        yield quantized(f"block-cast/{name}/spread-40", x, cast, flags, "over 40 binades")
        top = words.normal(4, 2 * n) / 8
        top[:, ::n] = 2 - 2.0**-9
        x, comment = Codes.of(top.astype(np.float32), "float32"), "amax just below a power of two"
        yield quantized(f"block-cast/{name}/largest", x, cast, ("block-saturate",), comment)
        x = Codes.of(cast_for("float32")(words.normal(4, n + 2)), "float32")
        comment = "not contiguous, where a backend receives arrays in memory"
        yield quantized(f"block-cast/{name}/strided", x, cast, ("strides",), comment)


def _float32(x: Array) -> Codes:
    return Codes.of(np.ascontiguousarray(x, np.float32), "float32")


def _tensor_scales() -> Iterator[Vector]:
    """Yield tensors of sizes other than 1, whose blocks differ: T belongs to the tensor, s to the block."""
    x = Words(9700).normal(6, 48) * np.ldexp(1.0, np.arange(6) * 3 - 9)[:, None]
    zero = np.zeros((2, 32))
    zero[0, 5] = 2.0**-20
    for name, flags, values, comment in (
        ("large", ("block-tensor-scale",), x * 2.0**40, "far above 1"),
        ("small", ("block-tensor-scale",), x * 2.0**-40, "far below 1"),
        ("lost", ("block-tensor-scale", "scale-zero"), np.concatenate([x, x * 2.0**-30]), "blocks whose s is zero"),
        ("zeros", ("block-tensor-scale", "scale-zero"), zero * 0, "T of a tensor of zeros is 1"),
        ("one", ("block-tensor-scale",), zero, "a single element"),
    ):
        yield quantized(f"block-cast/nvfp4/tensor-{name}", _float32(values), BLOCK_FORMATS["nvfp4"], flags, comment)


def _arithmetics() -> Iterator[Vector]:
    """Yield blocks, found by search, for which the order of float32 operations decides an element or a scale."""
    for name, rows in (("fp8_1x128", 16384), ("nvfp4", 16384)):
        casts = {a: get_block_cast(name, arithmetic=a) for a in ARITHMETICS}
        n = casts["exact"].block[0]
        x = Words(9800 + n).normal(rows, n).astype(np.float32)
        x[0, 0] = 7.5  # the tensor's amax
        parts = [split_blocks(x, c) for c in casts.values()]
        differ = np.zeros(len(x), bool)
        for other in parts[1:]:
            differ |= (other.elements != parts[0].elements).any(-1) | (other.scales != parts[0].scales)[:, 0]
        hits = np.flatnonzero(differ)[:12]
        chosen = x[np.concatenate([[0], hits[hits > 0]])]
        for arithmetic, cast in casts.items():
            where = f"block-cast/{name}/arithmetic-{arithmetic}"
            yield quantized(where, _float32(chosen), cast, ("block-arithmetic",), "near ties of the quotient")


def _layouts() -> Iterator[Vector]:
    words = Words(9900)
    nibbles = words.below(16, 3, 32).astype(np.uint8)
    yield _layout("nibbles", "nibbles", nibbles, pack_nibbles(nibbles), "nibble-order", "two codes in a byte")
    for rows, columns in ((128, 4), (160, 6), (32, 1)):
        scales = words.below(255, rows, columns).astype(np.uint8)
        comment = f"scales of {rows} rows of {columns} blocks, in tiles of 128 × 4"
        tiled = tile_scales(scales)
        yield _layout(f"tiles-{rows}x{columns}", "cublas-scales", scales, tiled, "scale-tiles", comment)


def _layout(name: str, layout: str, codes: Array, y: Array, flag: str, comment: str) -> Vector:
    inputs, outputs = {"codes": Codes("uint8", codes)}, {"y": Codes("uint8", y)}
    return Vector(f"block-cast/layout/{name}", "block_layout", {"layout": layout}, inputs, outputs, (flag,), comment)


def quantized(
    where: str, x: Codes, cast: BlockCast, flags: tuple[str, ...], comment: str, bits: Codes | None = None
) -> Vector:
    """Return the vector of one conversion, with its expected parts."""
    y = encode_blocks(x.values, cast, None if bits is None else bits.codes)
    outputs = {"elements": Codes(cast.element.name, y.codes), "scales": Codes(cast.scale.name, y.scales)}
    if cast.tensor_scale:
        outputs["tensor_scale"] = Codes.of(np.float32(y.tensor_scale), "float32")
    inputs = {"x": x} if bits is None else {"x": x, "random_bits": bits}
    conventions = of_blocks(x, cast)
    return Vector(
        where, "block_quantize", attributes_of(cast), inputs, outputs, flags, comment, conventions=conventions
    )


def in_nan_blocks(vector: Vector) -> NDArray[np.bool_]:
    """Return the elements of a ``block_quantize`` that are arbitrary, because the scale of their block is NaN."""
    elements, scales = vector.outputs["elements"], vector.outputs["scales"]
    parts = Blocks(cast_of(**vector.attributes), elements.values, scales.values, 1.0)
    return np.isnan(parts.scale_of_each())
