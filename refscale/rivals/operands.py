"""A scale factor for every operand of a contraction: the powers of two that per-tensor scaling puts before a cast.

    operand  →  cast(x · s) / s,        s = 2^(⌊log2(max/amax)⌋ − margin)

max is the largest value of the format, amax the largest magnitude of the tensor: of this one ("current" scaling), or
of what stood at this place in earlier steps ("delayed"). s is a power of two, so the product and the quotient are
exact and the cast is the only rounding. The tape multiplies, rounds and divides; here stands what s is.

Source: Micikevicius et al. 2022 (arXiv 2209.05433), section 3; NVIDIA Transformer Engine, recipes
``Float8CurrentScaling`` and ``DelayedScaling``, whose factors are powers of two here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from refscale.errors import ArgumentError
from refscale.formats import Format, FormatLike, get_format


def largest_magnitude(x: NDArray[Any]) -> float:
    """max |x_i|; 0 of an empty array, NaN if there is one."""
    return max(float(x.max()), -float(x.min())) if x.size else 0.0


def operand_scale(format: FormatLike, amax: float, margin: int = 0) -> float:
    """The largest power of two that keeps amax within the format, halved ``margin`` times.

        s = 2^(⌊log2(max/amax)⌋ − margin), the exponent clipped to [emax − 127, 126 + emin − mantissa_bits]

    Within these bounds no value of the format, divided by s, leaves float32's normal range. (A format with the
    exponents of float32, such as bfloat16, is therefore never scaled.) 1 where amax says nothing: 0, inf or NaN.
    """
    format = get_format(format)
    if not 0 < amax < math.inf:
        return 1.0
    (top, top_exponent), (size, exponent) = math.frexp(format.max), math.frexp(amax)  # 1/2 ≤ top, size < 1
    k = top_exponent - exponent - (size > top) - margin
    lowest, highest = format.emax - 127, max(0, 126 + format.emin - format.mantissa_bits)
    return math.ldexp(1.0, min(max(k, lowest), highest))


class Measured(NamedTuple):
    """What one operand was in one step: the format it was cast to, its largest magnitude, its size, its factor."""

    format: Format
    amax: float
    elements: int
    scale: float


class OperandScales:
    """The scale factors of one step, made fresh for it: ``Tape(operand_scales=...)`` asks, and what it shows is noted.

    Args:
        margin: binades left free below the format's largest value.
        former: the largest magnitude that each operand had in earlier steps; None: that of the operand itself.

    Attributes:
        measured: by key, in the order asked.
    """

    def __init__(self, margin: int = 0, former: Mapping[str, float] | None = None) -> None:
        self.margin, self.former = margin, former
        self.measured: dict[str, Measured] = {}

    def scale(self, key: str, x: NDArray[Any], format: Format) -> float:
        """The factor s of an operand that is about to be cast.

        Args:
            key: its place in the program, the same in every step: "12.matmul.0", "12.matmul.gradient".
            x: the operand; its largest magnitude is measured.
            format: what it will be cast to.

        Raises:
            ArgumentError: asked before for the same place, by another tape or in another step.
        """
        if key in self.measured:
            raise ArgumentError(
                f"OperandScales.scale({key!r}): asked twice, expected once; each tape needs operand_scales(state) anew"
            )
        amax = largest_magnitude(x)
        s = operand_scale(format, amax if self.former is None else self.former.get(key, 0.0), self.margin)
        self.measured[key] = Measured(format, amax, x.size, s)
        return s
