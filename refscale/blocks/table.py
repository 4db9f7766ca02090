"""Block-scaled formats as data: an element format, the blocks that share a scale, and the rule of the scale.

A value is T·s·e: an element e, the scale s of its block, and, in NVFP4, the scale T of its tensor. A ``BlockCast``
defines a conversion completely: conversions that differ in one field differ in their bits.

===============  ==============  ================  ============  ========  ===========================================
name             elements        block             scales        rule      source
===============  ==============  ================  ============  ========  ===========================================
``mxfp8_e4m3``   float8_e4m3fn   1 × 32            e8m0          floor     OCP MX 1.0
``mxfp8_e5m2``   float8_e5m2     1 × 32            e8m0          floor     OCP MX 1.0
``mxfp6_e3m2``   float6_e3m2fn   1 × 32            e8m0          floor     OCP MX 1.0
``mxfp6_e2m3``   float6_e2m3fn   1 × 32            e8m0          floor     OCP MX 1.0
``mxfp4``        float4_e2m1fn   1 × 32            e8m0          floor     OCP MX 1.0
``mxint8``       int8_q6         1 × 32            e8m0          floor     OCP MX 1.0
``nvfp4``        float4_e2m1fn   1 × 16            e4m3fn, T     amax      NVIDIA, arXiv 2509.25149
``nvfp4_16x16``  float4_e2m1fn   16 × 16           e4m3fn, T     amax      the same, for weights
``fp8_1x128``    float8_e4m3fn   1 × 128           float32       amax      DeepSeek-V3, arXiv 2412.19437
``fp8_128x128``  float8_e4m3fn   128 × 128         float32       amax      the same, for weights
===============  ==============  ================  ============  ========  ===========================================

A 1 × n block is along ``axis``; an r × c block covers the last two axes. The last block of an axis may be shorter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from refscale.arguments import flag, integer, number
from refscale.errors import FormatError
from refscale.formats import Format, FormatLike, Overflow, Rounding, get_format, round_exact
from refscale.formats.rounding import check_modes

ScaleRule = Literal["floor", "ceil", "rceil", "even", "nearest", "amax"]
Arithmetic = str
Nonfinite = Literal["nan", "saturate", "largest", "ignore"]

SCALE_RULES: tuple[ScaleRule, ...] = get_args(ScaleRule)
ARITHMETICS: tuple[Arithmetic, ...] = ("exact", "divide", "reciprocal")
"""Names of an arithmetic for both scales and elements."""

SCALE_ARITHMETICS: tuple[Arithmetic, ...] = (*ARITHMETICS, "inverse", "product")
ELEMENT_ARITHMETICS: tuple[Arithmetic, ...] = (*ARITHMETICS, "inverse", "steps")
NONFINITES: tuple[Nonfinite, ...] = get_args(Nonfinite)


@dataclass(frozen=True, init=False)
class BlockCast:
    """A record of a conversion to a block-scaled format.

    Args:
        element: format of the elements.
        block: n for blocks of 1 × n along ``axis``, or (r, c) for blocks over the last two axes.
        scale: format of the scales.
        rule: rule that computes a scale from amax, the largest magnitude of the block; see ``rounding``.
        axis: axis of 1 × n blocks.
        tensor_scale: True if the tensor has a float32 scale (NVFP4); for rule "amax" only, and scales of at most 16
            bits whose products with elements are representable in float32.
        arithmetic: arithmetic of rule "amax": "SCALES+ELEMENTS", one of ``SCALE_ARITHMETICS`` and one of
            ``ELEMENT_ARITHMETICS`` ("divide+inverse"), or a single name for both: "exact" (scale and element are real
            quotients, rounded once), "divide" or "reciprocal", in float32; see ``rounding``.
        least: smallest scale, a positive value of the scale format; 0: none, and a block whose scale rounds to zero is
            zero.
        nonfinite: treatment of a block with infinities or NaN. "nan": the whole block becomes NaN. "saturate": NaN as
            before, ±inf as ±float32's largest value. "largest": NaN as before, ±inf gives the largest scale of the
            format (e8m0: code 254, as PTX ``cvt.satfinite``). "ignore": the scale is that of the finite elements, and
            the cast of the elements treats the others.
        rounding, overflow: modes of the cast of elements, see ``formats.Cast``.

    Raises:
        FormatError: a name is unknown, the block is empty, ``least`` is not a value of the scale format, or fields
            contradict each other.
        ArgumentError: ``block``, ``axis``, ``tensor_scale`` or ``least`` has another type.
    """

    element: Format
    block: tuple[int, ...]
    scale: Format
    rule: ScaleRule
    axis: int
    tensor_scale: bool
    arithmetic: Arithmetic
    least: float
    nonfinite: Nonfinite
    rounding: Rounding
    overflow: Overflow

    def __init__(
        self,
        element: FormatLike,
        block: int | tuple[int, ...],
        scale: FormatLike = "float8_e8m0fnu",
        rule: ScaleRule = "floor",
        *,
        axis: int = -1,
        tensor_scale: bool = False,
        arithmetic: Arithmetic = "exact",
        least: float = 0.0,
        nonfinite: Nonfinite = "nan",
        rounding: Rounding = "nearest_even",
        overflow: Overflow = "saturate",
    ) -> None:
        lengths = block if isinstance(block, tuple | list) else (block,)
        shape = tuple(integer("BlockCast", "block", n) for n in lengths)
        fields = {
            "element": get_format(element),
            "block": shape,
            "scale": get_format(scale),
            "rule": rule,
            "axis": integer("BlockCast", "axis", axis),
            "tensor_scale": flag("BlockCast", "tensor_scale", tensor_scale),
            "arithmetic": _arithmetic(arithmetic),
            "least": number("BlockCast", "least", least) or 0.0,  # −0 is 0
            "nonfinite": nonfinite,
            "rounding": rounding,
            "overflow": overflow,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        check_modes(rounding, overflow, "BlockCast")
        for what, known in (("rule", SCALE_RULES), ("nonfinite", NONFINITES)):
            if fields[what] not in known:
                raise FormatError(f"BlockCast: unknown {what} {fields[what]!r}; known: {', '.join(known)}")
        if not 1 <= len(shape) <= 2 or any(n < 1 for n in shape) or (len(shape) == 2 and self.axis != -1):
            raise FormatError(f"BlockCast(block={block!r}, axis={axis}): expected n ≥ 1, or (rows, columns), axis -1")
        if not self.element.signed or self.element.bits > 8:
            raise FormatError(f"BlockCast: elements of {self.element}, expected a signed format of at most 8 bits")
        if not self.scale.has_nan or self.scale.emax - self.scale.emin < 4:
            raise FormatError(f"BlockCast: scales of {self.scale}, expected a format with NaN and some range")
        powers = rule != "amax"
        if powers and (self.tensor_scale or arithmetic != "exact" or least):
            raise FormatError(
                f"BlockCast(rule={rule!r}): powers of two are exact; no tensor_scale, arithmetic or least"
            )
        if self.tensor_scale and (self.scale.bits > 16 or self.scale.max * self.element.max >= 2.0**128):
            raise FormatError(
                f"BlockCast(scale={self.scale}): with a scale of the tensor, expected at most 16 bits, and products "
                "with elements within float32"
            )
        if not powers and not self.scale.has_zero:
            raise FormatError(f"BlockCast(rule='amax', scale={self.scale}): that format represents powers of two only")
        if self.least != 0 and not (0 < self.least < math.inf and is_value(self.least, self.scale)):
            raise FormatError(f"BlockCast(least={least!r}): expected 0 or a positive value of {self.scale}")

    @property
    def format(self) -> Format:
        """Format of the elements, shown in reports of casts."""
        return self.element

    @property
    def scale_arithmetic(self) -> Arithmetic:
        """Arithmetic of the scales, one of ``SCALE_ARITHMETICS``."""
        return self.arithmetic.partition("+")[0]

    @property
    def element_arithmetic(self) -> Arithmetic:
        """Arithmetic of the elements' division by their scales, one of ``ELEMENT_ARITHMETICS``."""
        return self.arithmetic.rpartition("+")[2]

    def __str__(self) -> str:
        where = " × ".join(map(str, self.block if len(self.block) == 2 else (1, *self.block)))
        scale = f"{self.scale}{' and float32' if self.tensor_scale else ''}"
        rounding = "" if self.rounding == "nearest_even" else f", {self.rounding}"
        return f"{self.element} in blocks of {where}, scales {scale} by {self.rule}{rounding}"


def _arithmetic(name: Arithmetic) -> Arithmetic:
    """The shortest form of a name, checked: "divide" for "divide+divide".

    Raises:
        FormatError: an unknown name.
    """
    parts = name.split("+") if isinstance(name, str) else []
    scales, elements = (parts * 2)[:2] if len(parts) == 1 else parts if len(parts) == 2 else ("", "")
    if scales not in SCALE_ARITHMETICS or elements not in ELEMENT_ARITHMETICS:
        raise FormatError(
            f"BlockCast: unknown arithmetic {name!r}; known: {', '.join(ARITHMETICS)}, and SCALES+ELEMENTS of "
            f"{', '.join(SCALE_ARITHMETICS)} and {', '.join(ELEMENT_ARITHMETICS)}"
        )
    return scales if scales == elements and scales in ARITHMETICS else f"{scales}+{elements}"


def is_value(x: float, format: FormatLike) -> bool:
    """Return whether the finite number x is a value of a format."""
    return round_exact(x, format, rounding="toward_zero", overflow="saturate") == x


_NVFP4 = BlockCast("e2m1fn", 16, "e4m3fn", "amax", tensor_scale=True, arithmetic="reciprocal")
_TILES = BlockCast("e4m3fn", 128, "float32", "amax", arithmetic="divide")

BLOCK_FORMATS: Mapping[str, BlockCast] = MappingProxyType(
    {
        "mxfp8_e4m3": BlockCast("e4m3fn", 32),
        "mxfp8_e5m2": BlockCast("e5m2", 32),
        "mxfp6_e3m2": BlockCast("e3m2", 32),
        "mxfp6_e2m3": BlockCast("e2m3", 32),
        "mxfp4": BlockCast("e2m1", 32),
        "mxint8": BlockCast("int8_q6", 32),
        "nvfp4": _NVFP4,
        "nvfp4_16x16": BlockCast("e2m1fn", (16, 16), "e4m3fn", "amax", tensor_scale=True, arithmetic="reciprocal"),
        "fp8_1x128": _TILES,
        "fp8_128x128": BlockCast("e4m3fn", (128, 128), "float32", "amax", arithmetic="divide"),
    }
)
"""Block-scaled formats by name; the table of this module lists them."""


def get_block_cast(format: str | BlockCast, **changes: Any) -> BlockCast:
    """Return the block format of a name, with some fields changed.

        get_block_cast("mxfp8_e4m3", rule="rceil", axis=0)

    Raises:
        FormatError: ``format`` is not a known name or a BlockCast, or fields contradict each other.
        TypeError: a field is unknown.
    """
    if not isinstance(format, str | BlockCast):
        raise FormatError(f"get_block_cast: expected a name or a BlockCast, got {format!r}")
    if isinstance(format, str):
        if format.lower() not in BLOCK_FORMATS:
            raise FormatError(f"unknown block format {format!r}; known: {', '.join(BLOCK_FORMATS)}")
        format = BLOCK_FORMATS[format.lower()]
    return replace(format, **changes) if changes else format
