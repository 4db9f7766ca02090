"""Where rounding happens, and the rivals of unit scaling.

In reading order:

1. ``policy``: a ``Precision`` says which arrays are rounded, and to what; ``POLICIES`` are the named ones.
2. ``operands``: the powers of two that per-tensor scaling puts around the cast of an operand.
3. ``scaling``: what a technique is, what a step of it took, and a table of them.
4. ``rivals``: no, static and automatic loss scaling and per-tensor scaling, as records; ``get_scaling`` by name.

    >>> from refscale.precision import get_precision, get_scaling
    >>> print(get_precision("bf16"))
    bf16 (store=bfloat16/nearest_even/nonsaturate, operand=carrier, operand_gradient=carrier)
    >>> get_scaling("static:2^15")
    StaticLossScale(scale=32768.0)
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
from refscale.precision.rivals import (
    SCALINGS,
    AutomaticLossScale,
    NoScaling,
    StaticLossScale,
    TensorScaling,
    get_scaling,
)
from refscale.precision.scaling import Outcome, Scaling, State, all_finite

__all__ = [
    "POLICIES",
    "SCALINGS",
    "AutomaticLossScale",
    "Measured",
    "NoScaling",
    "OperandScales",
    "Outcome",
    "Precision",
    "Scaling",
    "State",
    "StaticLossScale",
    "TensorScaling",
    "all_finite",
    "bf16",
    "fp8",
    "fp8_fnuz",
    "fp8_hidden",
    "fp8_sr",
    "fp16",
    "fp16_sr",
    "fp32",
    "get_precision",
    "get_scaling",
    "operand_scale",
    "random_bits",
]
