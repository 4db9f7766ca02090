"""Scale factors of operands of contractions: the powers of two that per-tensor scaling applies before a cast.

    operand  →  cast(x · s) / s,        s = 2^(⌊log2(max/amax)⌋ − margin)

max is the largest value of the format. amax is the largest magnitude of the tensor ("current" scaling), or of the
tensors at the same place of the program in earlier steps ("delayed" scaling). s is a power of two, so the product and
the quotient are exact, and the cast is the only rounding. The tape multiplies, rounds and divides; this module computes
s.

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
    """Compute max |x_i|; 0 for an empty array, NaN if x has a NaN."""
    return max(float(x.max()), -float(x.min())) if x.size else 0.0


def operand_scale(format: FormatLike, amax: float, margin: int = 0) -> float:
    """Compute the largest power of two that keeps amax within the format, halved ``margin`` times.

        s = 2^(⌊log2(max/amax)⌋ − margin), the exponent clipped to [emax − 127, 126 + emin − mantissa_bits]

    Within these bounds every value of the format divided by s is in float32's normal range. (A format with the
    exponents of float32, such as bfloat16, is therefore never scaled.) For amax = 0, inf or NaN, s = 1.
    """
    format = get_format(format)
    if not 0 < amax < math.inf:
        return 1.0
    (top, top_exponent), (size, exponent) = math.frexp(format.max), math.frexp(amax)  # 1/2 ≤ top, size < 1
    k = top_exponent - exponent - (size > top) - margin
    lowest, highest = format.emax - 127, max(0, 126 + format.emin - format.mantissa_bits)
    return math.ldexp(1.0, min(max(k, lowest), highest))


class Measured(NamedTuple):
    """The measurements of one operand in one step: format of the cast, largest magnitude, size, factor."""

    format: Format
    amax: float
    elements: int
    scale: float


class OperandScales:
    """The scale factors of one step, for one ``Tape(operand_scales=...)``, which records each operand's amax.

    Args:
        margin: number of unused binades below the format's largest value.
        former: amax of each operand in earlier steps, by key; None: use the amax of the operand itself.

    Attributes:
        measured: measurements of the operands, by key, in the order of the casts.
    """

    def __init__(self, margin: int = 0, former: Mapping[str, float] | None = None) -> None:
        self.margin, self.former = margin, former
        self.measured: dict[str, Measured] = {}

    def scale(self, key: str, x: NDArray[Any], format: Format) -> float:
        """Return the factor s of an operand before its cast, and record its amax.

        Args:
            key: place of the operand in the program, the same in every step: "12.matmul.0", "12.matmul.gradient".
            x: the operand.
            format: format of the cast.

        Raises:
            ArgumentError: the factor of this place was already requested, by another tape or in another step.
        """
        if key in self.measured:
            raise ArgumentError(
                f"OperandScales.scale({key!r}): called twice, expected once; each tape needs operand_scales(state) anew"
            )
        amax = largest_magnitude(x)
        s = operand_scale(format, amax if self.former is None else self.former.get(key, 0.0), self.margin)
        self.measured[key] = Measured(format, amax, x.size, s)
        return s
