"""Precision policies: a ``Precision`` defines which arrays are rounded, and to which formats; ``POLICIES`` lists names.

>>> from refscale.precision import get_precision
>>> print(get_precision("bf16"))
bf16 (store=bfloat16/nearest_even/nonsaturate, operand=carrier, operand_gradient=carrier)
"""

from typing import TYPE_CHECKING

from refscale.names import lazily
from refscale.precision.policy import (
    POLICIES,
    Precision,
    Rule,
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
from refscale.precision.rounder import CastRecord, OperandScaling, Remembering, Rounder

__all__ = [
    "POLICIES",
    "CastRecord",
    "OperandScaling",
    "Precision",
    "Remembering",
    "Rounder",
    "Rule",
    "bf16",
    "fp8",
    "fp8_fnuz",
    "fp8_hidden",
    "fp8_sr",
    "fp16",
    "fp16_sr",
    "fp32",
    "get_precision",
    "random_bits",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, {}, {"OperandScales": "OperandScaling"})
