"""Where rounding happens.

In reading order:

1. ``policy``: a ``Precision`` says which arrays are rounded, and to what; ``POLICIES`` are the named ones.
2. ``operands``: the powers of two that per-tensor scaling puts around the cast of an operand.

    >>> from refscale.precision import get_precision
    >>> print(get_precision("bf16"))
    bf16 (store=bfloat16/nearest_even/nonsaturate, operand=carrier, operand_gradient=carrier)
"""

from refscale.precision.operands import Measured, OperandScales, operand_scale
from refscale.precision.policy import (
    POLICIES,
    Precision,
    bf16,
    fp8,
    fp8_fnuz,
    fp8_hidden,
    fp8_sr,
    fp16,
    fp16_sr,
    fp32,
    get_precision,
    random_bits,
)

__all__ = [
    "POLICIES",
    "Measured",
    "OperandScales",
    "Precision",
    "bf16",
    "fp8",
    "fp8_fnuz",
    "fp8_hidden",
    "fp8_sr",
    "fp16",
    "fp16_sr",
    "fp32",
    "get_precision",
    "operand_scale",
    "random_bits",
]
